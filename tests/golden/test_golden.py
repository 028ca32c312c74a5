from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from segue import Workspace
from segue.harmonic.bridges import Bridge
from segue.images import read_faces
from segue.index import Probe
from segue.migrations import Plan
from segue.networks import save_weights
from segue.synthetic import write_faces
from segue.train import TrainSettings, train_base
from segue.workspace.unseen import check_unseen

SETTINGS = TrainSettings(
    width=2, dimension=8, image_size=32, steps=2, people_per_batch=4, threads=1, seed=4
)
HERE = Path(__file__).parent
GOLDEN = sorted(path for path in HERE.glob("v*") if path.is_dir())


def _unit(seed, count, dimension=8):
    drawn = np.random.default_rng(seed).normal(size=(count, dimension))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def test_there_are_frozen_artefacts():
    """At least the first format's folder is there, and it is not empty."""
    assert "v1" in [path.name for path in GOLDEN]
    assert all(len(list(path.rglob("*.*"))) >= 8 for path in GOLDEN)


@pytest.fixture(params=GOLDEN, ids=lambda path: path.name)
def frozen(request, tmp_path):
    return shutil.copytree(request.param, tmp_path / "golden")


def test_an_old_workspace_opens_loads_its_models_and_answers(frozen):
    """Versions, edges, both codecs and both places of rows are read as they were written."""
    workspace = Workspace.open(frozen / "workspace")
    assert workspace.doctor() == []
    assert [v.version for v in workspace.registry.list()] == ["faces/1", "faces/2"]
    assert workspace.registry.resolve("faces@serving").version == "faces/1"
    assert workspace.registry.edge("faces/2", "faces/1").calibration.people == 20
    assert {e.actor for e in workspace.registry.ledger() if e.action == "promote"} == {"golden"}
    probe = Probe("faces/1", {"embedding": _unit(1, 12)})
    for name, tolerance in (("plain", 1e-6), ("small", 1e-3)):
        gallery = workspace.gallery(name)
        assert gallery.count_items() == 12
        for row, hits in enumerate(gallery.search(probe, k=1)):
            assert hits[0].item_id == f"item-{row}"
            assert hits[0].distance < tolerance
            assert hits[0].far is not None


def test_of_an_old_version_it_is_not_known_whom_it_learned_from(frozen):
    """Versions registered before marks were kept are asked without an error, and claim nothing."""
    workspace = Workspace.open(frozen / "workspace")
    versions = workspace.registry.list()
    unseen = check_unseen(workspace, [], ["somebody"], "ask it", versions=versions)
    assert (unseen.known, unseen.unknown) == ((), ("faces/1", "faces/2"))


def test_an_old_bridge_maps_as_it_did(frozen):
    """A bridge's file is read, and maps in its direction to unit vectors."""
    bridge = Bridge.load(frozen / "bridge.safetensors")
    assert (bridge.kind, bridge.source_version, bridge.target_version) == (
        "ridge",
        "faces/1",
        "faces/2",
    )
    mapped = bridge.apply(_unit(6, 40), version="faces/1")
    assert np.allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-5)


def test_an_old_plan_is_read(frozen):
    """A plan written to a file is read back as the same value."""
    value = json.loads((frozen / "plan.json").read_text())
    assert Plan.from_json(value).to_json() == value


@pytest.fixture
def faces(tmp_path):
    """The drawn faces that every frozen checkpoint is of."""
    write_faces(tmp_path / "faces", people=16, images=3, size=32, seed=9)
    return read_faces(tmp_path / "faces").part("train")


def test_an_old_checkpoint_gives_its_training_back(frozen, faces):
    """A finished training's checkpoint is read, and gives the weights that were registered."""
    trained = train_base(faces, SETTINGS, checkpoint=frozen / "checkpoint")
    registered = frozen / "workspace" / "models" / "faces-1" / "weights.safetensors"
    assert save_weights(trained.network) == registered.read_bytes()


@pytest.mark.parametrize("name", ["checkpoint-format-2", "checkpoint-format-2-sha256"])
def test_a_killed_training_goes_on_from_a_checkpoint_of_format_2(faces, tmp_path, name):
    """The state of its optimiser is read too, without a checksum and with one."""
    (tmp_path / "checkpoint").mkdir()
    path = tmp_path / "checkpoint" / "checkpoint.safetensors"
    shutil.copy(HERE / f"{name}.safetensors", path)
    assert (b"segue.sha256" in path.read_bytes()) == name.endswith("sha256")
    steps = []
    resumed = train_base(
        faces,
        SETTINGS,
        checkpoint=path.parent,
        progress=lambda done, _total, what: steps.append(done) if "steps" in what else None,
    )
    assert steps == [2]
    registered = load((HERE / "v1/workspace/models/faces-1/weights.safetensors").read_bytes())
    for tensor, value in resumed.network.state_dict().items():
        assert np.allclose(value.numpy(), registered[tensor], atol=1e-3), tensor
