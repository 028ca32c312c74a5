"""A matrix of versions in a workspace: measured on drawn faces, written, saved if wished."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from segue import Workspace, cli
from segue.errors import UnknownNameError, UnmeasuredEdgeError, UsageError
from segue.evaluation import VersionMatrix
from segue.harmonic.bridges import fit_bridge
from segue.synthetic import NOTICE, write_faces
from segue.train import HarmonicSettings, TrainSettings


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, people=40, images=3, size=32, seed=4)
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, faces):
    """Three versions: the first two of one dimension, the third of another."""
    made = Workspace.init(tmp_path_factory.mktemp("matrix") / "w")
    for seed, dimension in ((1, 8), (2, 8), (3, 12)):
        settings = TrainSettings(
            width=2, image_size=32, steps=2, threads=1, dimension=dimension, seed=seed
        )
        made.train_base("faces", faces, settings)
    return made


CHAIN = ("faces/1", "faces/2", "faces/3")


def test_a_chain_is_measured_pair_by_pair(workspace, faces):
    """Five of nine cells can be compared; the report lies in the workspace, no edge is stored."""
    told = []
    result = workspace.evaluate_matrix(
        CHAIN, faces, bootstrap=10, progress=lambda *args: told.append(args)
    )
    matrix = result.matrix
    assert matrix.versions == CHAIN
    assert sum(cell.comparable for cell in matrix.cells) == 5
    assert not matrix.cell("faces/3", "faces/1").comparable
    assert matrix.cell("faces/2", "faces/1").rank1 is not None
    assert ("edges of the matrix") in {what for _, _, what in told}
    assert sorted(p.name for p in result.folder.iterdir()) == [
        "matrix.json", "matrix.md", "matrix.png",
    ]  # fmt: skip
    value = json.loads((result.folder / "matrix.json").read_text())
    assert VersionMatrix.from_json(value) == matrix
    assert NOTICE in value["note"]
    with pytest.raises(UnmeasuredEdgeError):
        workspace.registry.edge("faces/2", "faces/1")


def test_the_command_stores_edges_only_when_told(workspace, faces, capsys):
    """With --save-edges, edges of one space are there, calibrated; unrelated ones are told."""
    arguments = ["-w", workspace.root, "evaluate", "matrix", *CHAIN, "--data", faces]
    arguments += ["--bootstrap", 10, "--save-edges"]
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    assert not caught.value.code
    told = capsys.readouterr().out
    assert "not comparable" in told
    assert "matrix.md" in told
    edges = {(edge.probe, edge.stored): edge for edge in workspace.registry.edges()}
    assert set(edges) == {(version, version) for version in CHAIN}
    assert "edges stored: faces/1 -> faces/1, faces/2 -> faces/2, faces/3 -> faces/3" in told
    assert "edges left out: faces/1 -> faces/2, faces/2 -> faces/1;" in told
    for edge in edges.values():
        assert edge.calibration is not None
        assert edge.measured["rank1"] >= 0


def test_edges_within_one_space_are_stored_however_they_came_into_it(tmp_path, workspace, faces):
    """By harmonic training or through a bridge; never because dimensions are equal."""
    place = tmp_path / "w"
    shutil.copytree(workspace.root, place)
    copied = Workspace.open(place)
    settings = HarmonicSettings(image_size=32, head_steps=1, steps=1, threads=1)
    made, twin = copied.train_harmonic(faces, settings, old="faces/1", start="faces/3")
    draw = np.random.default_rng(0)
    source, target = (draw.normal(size=(50, d)).astype(np.float32) for d in (12, 8))
    source, target = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (source, target))
    bridge = fit_bridge("ridge", source, target, source_version="faces/3", target_version="faces/2")
    copied.registry.save_edge(probe="faces/3", stored="faces/2", bridge=bridge)
    joined = [made.version, "faces/1", "faces/2", "faces/3", twin.version]
    result = copied.evaluate_matrix(joined, faces, bootstrap=10, save_edges=True)
    stored = {edge.label: edge for edge in copied.registry.edges()}
    assert set(result.saved) == set(stored)
    between = {label for label in stored if len(set(label.split(" -> "))) == 2}
    assert between == {
        f"{made.version} -> faces/1", f"faces/1 -> {made.version}", "faces/3 -> faces/2",
    }  # fmt: skip
    assert stored["faces/3 -> faces/2"].bridge is not None
    assert all(edge.calibration is not None for edge in stored.values())
    assert f"{twin.version} -> {made.version}" in result.left_out
    assert not set(result.left_out) & set(stored)


def test_wrong_use_is_told_before_anything_is_embedded(workspace, faces):
    """One version, a version twice, people that may not be measured on, and unknown versions."""
    for references in (["faces/1"], ["faces/1", "faces/2", "faces/1"]):
        with pytest.raises(UsageError, match="each once"):
            workspace.evaluate_matrix(references, faces)
    with pytest.raises(UnknownNameError, match="validation"):
        workspace.evaluate_matrix(CHAIN, faces, part="train")


def test_a_bridge_is_used_and_never_measured_on_its_own_people(workspace, faces):
    """The edge's bridge maps the probes; the people it was fitted on are refused."""
    ends = {"old": "faces/1", "new": "faces/3", "kind": "ridge"}
    workspace.train_bridge(faces, **ends, part="validation")
    with pytest.raises(UsageError, match="fitted on the people of part validation"):
        workspace.evaluate_matrix(CHAIN, faces, bootstrap=10)
    workspace.train_bridge(faces, **ends, part="calibration")
    with pytest.raises(UsageError, match="calibrate it on others"):
        workspace.evaluate_matrix(CHAIN, faces, bootstrap=10, save_edges=True)
    result = workspace.evaluate_matrix(CHAIN, faces, bootstrap=10)
    cell = result.matrix.cell("faces/3", "faces/1")
    assert (cell.comparable, cell.bridged) == (True, True)
