from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from network_world import register_all
from parts_world import half_of_train_tested, with_parts

from segue import Workspace
from segue.errors import (
    NoModelError,
    PeopleError,
    StaleEdgeError,
    UnknownNameError,
    UnmeasuredEdgeError,
    UsageError,
    VectorError,
)
from segue.harmonic import bridges
from segue.harmonic import calibration as calibrating
from segue.harmonic.bridges import fit_bridge, list_bridges, mlp
from segue.images import read_faces
from segue.index import Probe
from segue.networks import build_network
from segue.synthetic import write_faces
from segue.workspace import people as marking
from segue.workspace.bridging import with_best_bridge
from segue.workspace.measuring import embed_faces
from segue.workspace.people import MARK_BYTES, fitted_on, shown_settings


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, people=48, images=4, size=32, seed=6)
    return folder


@pytest.fixture(scope="module")
def independent(tmp_path_factory, faces) -> Workspace:
    """v1, and a v2 of another dimension that sees the same features turned and disturbed; twice.

    Their own edges are calibrated, those between them were never measured.
    """
    workspace = Workspace.init(tmp_path_factory.mktemp("independent") / "w")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        old = build_network("small", {"width": 2, "dimension": 6})
        new = build_network("small", {"width": 2, "dimension": 9})
    draw = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(9, 9, generator=draw)).Q[:, :6]
    new.trunk.load_state_dict(old.trunk.state_dict())
    with torch.no_grad():
        head, other = old.heads["embedding"], new.heads["embedding"]
        noise = torch.randn(other.weight.shape, generator=draw) * head.weight.std()
        other.weight.copy_(turn @ head.weight + 0.1 * noise)
        other.bias.copy_(turn @ head.bias)
    register_all(workspace, old, new, new)
    for version in ("faces/1", "faces/2", "faces/3"):
        workspace.calibrate(version, faces)
    return workspace


@pytest.fixture(scope="module")
def bridged(independent, faces) -> Workspace:
    """The same, with a calibrated bridge in each direction."""
    independent.train_bridge(faces, old="faces/1", new="faces/2")
    independent.train_bridge(
        faces, old="faces/1", new="faces/2", kind="ridge", direction="old-to-new"
    )
    independent.calibrate("faces/2", faces, stored="faces/1")
    independent.calibrate("faces/1", faces, stored="faces/2")
    return independent


def _gallery(workspace, name, faces, people=("drawn0003", "drawn0007", "drawn0011", "drawn0015")):
    gallery = workspace.create_gallery(name, "faces/1")
    for person in people:
        workspace.enroll(name, faces / "images" / person, identity=person)
    return gallery


def _probe(workspace, version, faces, gallery):
    """Every stored image as a probe of a version, and their item ids."""
    stored = {row[0] for row in gallery.sql("select item_id from live")[1]}
    everyone = read_faces(faces)
    chosen = replace(everyone, faces=tuple(f for f in everyone.faces if f.path.name in stored))
    vectors = embed_faces(workspace, version, chosen)
    return Probe(version, {"embedding": vectors["embedding"]}), [f.path.name for f in chosen.faces]


def _found(gallery, probe, names, k=2):
    """The share of probes with their own image among the k nearest."""
    found = gallery.search(probe, k=k)
    return np.mean([n in {h.item_id for h in hits} for n, hits in zip(names, found, strict=True)])


def test_known_items_are_found_through_a_bridge_before_during_and_after(bridged, faces):
    """v2 probes find v1's items through the bridge, at every ρ of a migration, and v1 probes too.

    A map applied in the wrong direction would pass every check of shape and find nobody.
    """
    gallery = _gallery(bridged, "people", faces)
    new, names = _probe(bridged, "faces/2", faces, gallery)
    old, _ = _probe(bridged, "faces/1", faces, gallery)
    chance = 2 / len(names)
    assert _found(gallery, new, names) > 6 * chance
    plan = bridged.plan("people", "faces/2", strategy="mixed", batch=4)
    bridged.start(plan, force="a test")
    assert gallery.serving == "faces/2"
    assert gallery.companions == ("faces/1",)  # no gate vouches for the edge back
    assert _found(gallery, new, names) > 6 * chance
    migration = bridged.migration("people")
    migration.run(limit=len(names) // 2)
    hits = gallery.search(new, k=len(names))
    assert all({h.version for h in found} == {"faces/1", "faces/2"} for found in hits)
    assert all(h.far is not None for found in hits for h in found)
    assert all([h.far for h in f] == sorted(h.far for h in f) for f in hits)
    assert _found(gallery, new, names) > 6 * chance
    assert _found(gallery, old, names) > 6 * chance
    migration.run()
    migration.verify()
    assert _found(gallery, new, names, k=1) == 1
    assert _found(gallery, old, names) > 6 * chance
    migration.complete(yes=True)
    assert _found(gallery, old, names) > 6 * chance
    assert gallery.check() == []


def test_the_edge_holds_the_bridge_and_where_it_comes_from(bridged, faces):
    """The edge's bridge maps v2's dimension to v1's, and names versions, people and choice."""
    edge = bridged.registry.edge("faces/2", "faces/1")
    bridge = edge.bridge
    assert bridge.matrix.shape == (9, 6)
    assert bridge.source_fingerprint == bridged.registry.resolve("faces/2").fingerprint
    assert bridge.target_fingerprint == bridged.registry.resolve("faces/1").fingerprint
    drawn = read_faces(faces).part("validation").at_most(10, 0)
    assert bridge.settings["data"] == drawn.fingerprint
    assert (bridge.settings["part"], bridge.settings["people"]) == ("validation", 12)
    told = edge.measured["bridge"]
    assert told["kind"] == bridge.kind
    assert sorted(row["kind"] for row in told["kinds"]) == sorted(list_bridges())
    assert edge.calibration.people == 12
    assert bridged.registry.edge("faces/1", "faces/2").bridge.kind == "ridge"
    assert not {"drawn0001", "people.csv"} & set(json.dumps(dict(bridge.settings)).split('"'))


def test_an_edge_is_not_ranked_by_before_it_is_calibrated(independent, faces):
    """A new bridge's edge answers a pure gallery; a mixed one waits for its calibration."""
    fit = {"old": "faces/1", "new": "faces/3", "kind": "procrustes"}
    made = independent.train_bridge(faces, **fit)
    assert (made.probe, made.stored, made.bridge.kind) == ("faces/3", "faces/1", "procrustes")
    assert made.number == independent.registry.save_bridge(made.bridge)
    gallery = _gallery(independent, "waiting", faces, ["drawn0003"])
    probe, _ = _probe(independent, "faces/3", faces, gallery)
    assert all(hit.far is None for hit in gallery.search(probe)[0])
    assert independent.train_bridge(faces, **fit).number == made.number  # needs no leave yet
    with independent.database.write() as connection:
        gallery.set_serving(connection, "faces/3", ["faces/3", "faces/1"], [])
    gallery.enroll(_new_items(faces, "drawn0007"), [independent.registry.load("faces/3")])
    with pytest.raises(UnmeasuredEdgeError):
        gallery.search(probe)
    independent.calibrate("faces/3", faces, stored="faces/1")
    assert {h.version for h in gallery.search(probe, k=99)[0]} == {"faces/1", "faces/3"}


def _new_items(faces, person):
    from segue.workspace.enrolling import items_below

    return items_below(faces / "images" / person, person)


def test_a_calibrated_edge_is_replaced_only_when_told(bridged, faces):
    """An edge in use keeps its bridge, unless --replace takes its calibration away with it."""
    bridged.calibrate("faces/2", faces, stored="faces/1")
    before = bridged.registry.edge("faces/2", "faces/1")
    with pytest.raises(UsageError, match="pass --replace"):
        bridged.train_bridge(faces, old="faces/1", new="faces/2")
    assert bridged.registry.edge("faces/2", "faces/1").created_at == before.created_at


def test_an_edge_saved_while_a_bridge_is_fitted_is_kept(independent, faces, monkeypatch):
    """Whoever calibrates meanwhile wins, also over --replace; the same call then asks first."""
    ends = {"old": "faces/1", "new": "faces/3", "direction": "old-to-new", "kind": "procrustes"}
    calibration = independent.registry.edge("faces/1", "faces/1").calibration
    independent.train_bridge(faces, **ends)
    bridge = independent.registry.edge("faces/1", "faces/3").bridge
    other = {"probe": "faces/1", "stored": "faces/3", "bridge": bridge, "calibration": calibration}
    for leave in (False, True):
        entries = len(independent.registry.ledger())
        with monkeypatch.context() as patch:
            save = partial(independent.registry.save_edge, **other)
            _meanwhile(patch, bridges, "choose_bridge", save)
            with pytest.raises(StaleEdgeError, match="faces/1 -> faces/3"):
                independent.train_bridge(faces, **{**ends, "kind": "ridge"}, replace=leave)
        kept = independent.registry.edge("faces/1", "faces/3")
        assert (kept.calibration, kept.bridge.kind) == (calibration, "procrustes")
        assert len(independent.registry.ledger()) == entries + 1
        with pytest.raises(UsageError, match="pass --replace"):
            independent.train_bridge(faces, **ends)
        independent.train_bridge(faces, **ends, replace=True)


def test_a_bridge_saved_while_its_edge_is_calibrated_is_kept(independent, faces, monkeypatch):
    """A calibration is never stored for a bridge that it was not measured with."""
    ends = {"old": "faces/1", "new": "faces/3", "direction": "old-to-new", "replace": True}
    independent.train_bridge(faces, **ends, kind="procrustes")
    _meanwhile(
        monkeypatch,
        calibrating,
        "calibrate",
        lambda: independent.train_bridge(faces, **ends, kind="ridge"),
    )
    with pytest.raises(StaleEdgeError):
        independent.calibrate("faces/1", faces, stored="faces/3")
    kept = independent.registry.edge("faces/1", "faces/3")
    assert (kept.calibration, kept.bridge.kind) == (None, "ridge")


def _meanwhile(monkeypatch, module, name, happens):
    """Let something happen while a function of a module works."""
    real = getattr(module, name)

    def slow(*args, **values):
        found = real(*args, **values)
        happens()
        return found

    monkeypatch.setattr(module, name, slow)


def test_nothing_is_measured_on_the_people_that_a_bridge_was_fitted_on(bridged, faces):
    """Mapped vectors of those people are too good to calibrate on or to report."""
    for part in ("train", "test"):
        with pytest.raises(UnknownNameError, match="part to fit"):
            bridged.train_bridge(faces, old="faces/1", new="faces/2", part=part)
    with pytest.raises(UsageError, match="fitted on the people of part validation"):
        bridged.calibrate("faces/2", faces, stored="faces/1", part="validation")
    with pytest.raises(UsageError, match="fitted on the people of part validation"):
        bridged.evaluate_compatibility("faces/1", "faces/2", faces, bootstrap=40)


def test_one_person_that_a_bridge_was_fitted_on_is_told_among_others(bridged, faces, tmp_path):
    """Lists of people that overlap are refused like equal ones; those that do not are not."""
    mixed = with_parts(faces, tmp_path / "mixed", _swap_one("validation", "calibration"))
    swapped = len(read_faces(faces).part("calibration").people)
    with pytest.raises(UsageError, match=f"fitted on 1 of these {swapped} people; calibrate it"):
        bridged.calibrate("faces/2", mixed, stored="faces/1")
    with pytest.raises(UsageError, match=r"fitted on 1 of these .* measure and calibrate it"):
        bridged.evaluate_compatibility("faces/1", "faces/2", mixed, part="test", bootstrap=40)
    others = with_parts(faces, tmp_path / "others", _swap_one("train", "calibration"))
    bridged.calibrate("faces/2", others, stored="faces/1")


def test_what_a_bridge_keeps_of_its_people_names_nobody(bridged, faces, tmp_path):
    """Without the workspace's key no name can be tried: another workspace makes other marks."""
    bridge = bridged.registry.edge("faces/2", "faces/1").bridge
    fitted = read_faces(faces).part("validation")
    content = bridge.to_bytes()
    assert not any(person.encode() in content for person in fitted.people)
    kept = b64decode(bridge.settings["people_marks"])
    assert len(kept) == MARK_BYTES * len(fitted.people)
    again = fitted_on(bridged, fitted, "validation")
    assert again.items() <= bridge.settings.items()
    other = fitted_on(Workspace.init(tmp_path / "other"), fitted, "validation")
    marks = [
        {each[at : at + MARK_BYTES] for at in range(0, len(each), MARK_BYTES)}
        for each in (kept, b64decode(other["people_marks"]))
    ]
    assert not marks[0] & marks[1]
    hidden = {"people_marks", "people_key"}
    assert shown_settings(bridge).keys() == bridge.settings.keys() - hidden
    names = "\0".join(fitted.people).encode()
    assert hashlib.sha256(names).hexdigest().encode() not in content  # a guess would confirm it


def test_of_very_many_people_as_many_are_marked_as_a_file_holds(bridged, faces, monkeypatch):
    """The file's size is bounded; a list that shares many people is still told."""
    monkeypatch.setattr(marking, "MOST_MARKS", 4)
    fitted = read_faces(faces).part("validation")
    kept = b64decode(fitted_on(bridged, fitted, "validation")["people_marks"])
    assert len(kept) == MARK_BYTES * 4
    bridge = bridged.registry.edge("faces/2", "faces/1").bridge
    assert kept == b64decode(bridge.settings["people_marks"])[: len(kept)]


def test_a_report_measures_the_edge_with_its_bridge_and_keeps_it(bridged, faces, tmp_path):
    """With a bridge v2 -> v1 the report compares mapped vectors; dimensions may differ."""
    before = bridged.registry.edge("faces/2", "faces/1")
    back = bridged.registry.edge("faces/1", "faces/2")
    moved = with_parts(faces, tmp_path / "moved", half_of_train_tested)
    result = bridged.evaluate_compatibility("faces/1", "faces/2", moved, part="test", bootstrap=40)
    after = bridged.registry.edge("faces/2", "faces/1")
    assert after.bridge.to_bytes() == before.bridge.to_bytes()
    assert after.report == result.number
    assert after.measured["rank1"] == result.report.row("v2 -> v1").rank1.value
    assert after.measured["bridge"] == before.measured["bridge"]
    assert after.calibration == result.report.calibrations["v2", "v1"]
    assert bridged.registry.edge("faces/1", "faces/2").created_at == back.created_at
    told = json.loads((result.folder / "report.json").read_text(encoding="utf-8"))
    assert told["note"].startswith("v2 is compared with v1 through a bridge. ")
    assert "best bridge" not in told["note"]
    assert told["remark"].startswith("The best bridge is ")
    assert told["remark"] in (result.folder / "report.md").read_text(encoding="utf-8")


def _swap_one(one, other):
    """Change the parts of one person of each of two parts; half of the train people are tested."""

    def swap(parts):
        first, second = parts.index(one), parts.index(other)
        parts[first], parts[second] = other, one
        half_of_train_tested(parts)

    return swap


def test_an_old_version_without_a_model_gets_a_bridge_from_its_vectors(bridged, faces, tmp_path):
    """A file of v1's vectors stands in for its model; the bridge is the one of the model."""
    everyone = read_faces(faces)
    vectors = embed_faces(bridged, "faces/1", everyone)["embedding"]
    paths = [face.path.relative_to(everyone.root).as_posix() for face in everyone.faces]
    np.savez(tmp_path / "old.npz", paths=np.array(paths), vectors=vectors)
    gone = bridged.registry.register_vectors("gone", dimension=6)
    made = bridged.train_bridge(
        faces, old=gone.version, new="faces/2", kind="ridge", old_vectors=tmp_path / "old.npz"
    )
    drawn = everyone.part("validation")
    sides = [embed_faces(bridged, v, drawn)["embedding"] for v in ("faces/2", "faces/1")]
    expected = fit_bridge(
        "ridge", *sides, labels=drawn.labels, source_version="faces/2", target_version="gone/1"
    )
    assert np.allclose(made.bridge.matrix, expected.matrix, atol=1e-4)
    with pytest.raises(NoModelError, match="--old-vectors"):
        bridged.calibrate("faces/2", faces, stored=gone.version)
    bridged.calibrate("faces/2", faces, stored=gone.version, old_vectors=tmp_path / "old.npz")
    bridged.calibrate(gone.version, faces, old_vectors=tmp_path / "old.npz")
    sides = [embed_faces(bridged, v, everyone.part("calibration")) for v in ("faces/2", "faces/1")]
    mapped = made.bridge.apply(sides[0]["embedding"], version="faces/2")
    labels = everyone.part("calibration").labels
    wanted = [
        calibrating.calibrate(side, labels, sides[1]["embedding"], labels, same_images=True)
        for side in (mapped, sides[1]["embedding"])
    ]
    found = [bridged.registry.edge(x, gone.version) for x in ("faces/2", gone.version)]
    for edge, calibration in zip(found, wanted, strict=True):
        assert edge.calibration.impostors == calibration.impostors
        assert edge.calibration.distances == pytest.approx(calibration.distances, rel=1e-4)
    np.savez(tmp_path / "few.npz", paths=np.array(paths[1:4]), vectors=vectors[1:4])
    with pytest.raises(VectorError):
        bridged.train_bridge(
            faces, old=gone.version, new="faces/2", old_vectors=tmp_path / "few.npz", replace=True
        )


def test_a_wrong_call_changes_nothing(bridged, faces, tmp_path, monkeypatch):
    """One version, unknown names and too few people are refused before anything is saved."""
    edges = bridged.registry.edges()
    with pytest.raises(UsageError, match="two versions"):
        bridged.train_bridge(faces, old="faces/1", new="faces/1")
    with pytest.raises(UnknownNameError, match="best, low_rank, mlp, procrustes, ridge"):
        bridged.train_bridge(faces, old="faces/1", new="faces/2", kind="affine")
    with pytest.raises(UnknownNameError, match="direction"):
        bridged.train_bridge(faces, old="faces/1", new="faces/2", direction="both")
    monkeypatch.setattr(bridged.registry.tracking, "training_run", None)
    write_faces(tmp_path / "few", people=6, images=3, size=32, seed=1)
    with pytest.raises(PeopleError):
        bridged.train_bridge(tmp_path / "few", old="faces/1", new="faces/2", replace=True)
    assert [e.created_at for e in bridged.registry.edges()] == [e.created_at for e in edges]


def test_the_reports_bridge_is_fitted_on_other_people_where_there_are_some(monkeypatch):
    """With people to fit on, report and calibration people are mapped by one bridge, unseen."""
    from segue.evaluation.protocols import CompatibilityData
    from segue.harmonic.bridges import choose_bridge
    from segue.registry import Version

    monkeypatch.setattr(mlp, "STEPS", 10)
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(6, 5))

    def unit(x):
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    def data(people):
        labels = np.repeat(np.arange(people), 3)
        twin = unit(rng.normal(size=(people, 6))[labels] + 0.2 * rng.normal(size=(len(labels), 6)))
        old = unit(twin @ turn + 0.3)
        return CompatibilityData(labels=labels, v1=old, v2=old, twin=twin)

    def version(name):
        return Version(name, "faces", 1, "network", {"embedding": 5}, None, {}, "", {}, "")

    measured, calibrating, fitting = data(8), data(9), data(10)
    names = {"source_version": "faces/2", "target_version": "faces/1"}
    for people in (fitting, None):
        shown, used, choice = with_best_bridge(
            version("faces/1"), version("faces/2"), measured, calibrating, people
        )
        fitted = people or calibrating
        expected = choose_bridge(fitted.twin, fitted.v1, fitted.labels, **names)
        assert choice.table() == expected.table()
        mapped = expected.bridge.apply(measured.twin, version="faces/2")
        assert np.allclose(shown.bridged, mapped, atol=1e-6)
        unseen = expected.held_out
        if people is not None:
            unseen = expected.bridge.apply(calibrating.twin, version="faces/2")
        assert np.allclose(used.bridged, unseen, atol=1e-6)
