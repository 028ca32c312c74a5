"""Retuning a deployed version in a workspace: fit, register, train against, evaluate, migrate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segue import Workspace
from segue.errors import NoModelError, PeopleError, UsageError, VectorError
from segue.images import read_faces
from segue.index import Probe
from segue.synthetic import write_faces
from segue.train import HarmonicSettings, TrainSettings
from segue.workspace.measuring import embed_faces

SMALL = TrainSettings(width=4, image_size=32, steps=6, threads=1, dimension=16)
FURTHER = HarmonicSettings(image_size=32, head_steps=3, steps=3, threads=1)
NAME = "faces/1~b1"


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, people=60, images=5, size=32, seed=5)
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, faces) -> Workspace:
    """v1, its retuned vectors as a version, and a v2 that is harmonic with these."""
    made = Workspace.init(tmp_path_factory.mktemp("retuned") / "w")
    made.train_base("faces", faces, SMALL, old_only=True)
    assert made.retune("faces/1", faces).version.version == NAME
    made.train_base("faces", faces, SMALL)
    made.train_harmonic(faces, FURTHER, old=NAME, start="faces/2")
    return made


def test_it_is_fitted_on_training_people_and_told_on_others(workspace, faces):
    """The version says how it was made; it does better on people that it never saw."""
    version = workspace.registry.resolve(NAME)
    training = read_faces(faces).part("train")
    assert version.details["data"] == training.fingerprint
    assert version.details["people"] == len(training.people)
    assert version.details["training"]["part"] == "train"
    assert "people_marks" not in version.details["training"]
    measured = version.details["measured"]
    assert measured["old"].keys() == measured["retuned"].keys() >= {"rank-1"}
    again = workspace.retune("faces/1", faces)
    assert (again.version, again.old, again.calibrated) == (version, "faces/1", True)
    assert again.measured["old"]["rank-1"] == measured["old"]["rank-1"]
    validation = read_faces(faces).part("validation")
    own = embed_faces(workspace, "faces/1", validation)["embedding"]
    mapped = embed_faces(workspace, NAME, validation)
    assert np.array_equal(mapped["base"], own)
    assert np.array_equal(mapped["embedding"], again.bridge.apply(own, version="faces/1"))


def test_nobody_that_it_was_fitted_on_is_calibrated_on(workspace, faces, tmp_path):
    """Its vectors of a training person are too good, whatever part another list calls them."""
    listed = (faces / "people.csv").read_text(encoding="utf-8")
    lines = listed.splitlines(keepends=True)
    moved = next(line for line in lines if ",train,0" in line)  # faces/1 was not trained on them
    (tmp_path / "images").symlink_to(faces / "images")
    (tmp_path / "people.csv").write_text(
        listed.replace(moved, moved.replace("train", "calibration"))
    )
    before = [edge.created_at for edge in workspace.registry.edges()]
    for probe, stored in ((NAME, NAME), ("faces/1", NAME)):
        with pytest.raises(UsageError, match=f"faces/1 -> {NAME} was fitted on 1 of these"):
            workspace.calibrate(probe, tmp_path, stored=stored)
    assert [edge.created_at for edge in workspace.registry.edges()] == before
    workspace.calibrate(NAME, tmp_path, stored="faces/1")  # compares vectors before the map


def test_its_edges_are_calibrated_at_once(workspace):
    """With itself, and with the version that it retunes both ways."""
    through, own, back = (
        workspace.registry.edge(*pair)
        for pair in (("faces/1", NAME), (NAME, NAME), (NAME, "faces/1"))
    )
    assert through.bridge is not None
    assert (back.probe_output, back.stored_output) == ("base", "embedding")
    assert through.calibration.to_json() == own.calibration.to_json()
    assert all(edge.calibration for edge in (through, own, back))


def test_retuning_again_leaves_edges_as_they_are(workspace, faces, tmp_path):
    """They may be a report's; what was never calibrated is, once there are people for it."""
    edge = workspace.registry.edge(NAME, NAME)
    workspace.registry.save_edge(None, replace(edge, measured={"kept": True}))

    def saved():
        return [(e.label, e.created_at, e.measured) for e in workspace.registry.edges()]

    before = saved()
    assert workspace.retune("faces/1", faces).version.version == NAME
    assert saved() == before
    listed = (faces / "people.csv").read_text(encoding="utf-8")
    (tmp_path / "images").symlink_to(faces / "images")
    (tmp_path / "people.csv").write_text(listed.replace(",calibration,", ",test,"))
    first = workspace.retune("faces/1", tmp_path, seed=3)
    name = first.version.version
    assert not first.calibrated
    assert workspace.registry.edge("faces/1", name).calibration is None
    assert workspace.retune("faces/1", faces, seed=3).version.version == name
    for pair in (("faces/1", name), (name, name), (name, "faces/1")):
        found = workspace.registry.edge(*pair)
        assert found.measured["people"] == found.calibration.people


def test_an_upgrade_from_it_is_compared_with_the_retuned_version(workspace, faces):
    """A gallery serves it by then: the gate must not take the weaker deployed one for v1."""
    made = workspace.evaluate_compatibility(NAME, "faces/3", faces, bootstrap=20)
    report = made.report
    assert not report.has("v1 retuned")
    validation = read_faces(faces).part("validation").at_most(10, 0)
    own = embed_faces(workspace, NAME, validation)["embedding"]
    nearest = 2 - 2 * own @ own.T + 9 * np.eye(len(own))
    labels = validation.labels
    assert report.row("v1").rank1.value == pytest.approx(
        np.mean(labels[nearest.argmin(axis=1)] == labels), abs=0.02
    )
    edge = workspace.registry.edge("faces/3", NAME)
    assert (edge.probe_output, edge.stored_output) == ("compatible", "embedding")
    assert workspace.registry.edge(NAME, NAME).measured["rank1"] == report.row("v1").rank1.value
    assert (
        f"with which everything is compared, is {NAME}" in (made.folder / "report.md").read_text()
    )
    assert workspace.doctor() == []


def test_probes_of_the_deployed_version_find_everything_on_the_way(workspace, faces):
    """They take the map: while v1's vectors are stored, when retuned, and half migrated to v2."""
    workspace.evaluate_compatibility(NAME, "faces/3", faces, bootstrap=10)
    onward = workspace.registry.edge("faces/1", "faces/3")
    assert (onward.stored_output, onward.bridge.target_version) == ("compatible", "faces/3")
    known = workspace.registry.edge(NAME, "faces/3").calibration
    assert onward.calibration.to_json() == known.to_json()
    workspace.calibrate("faces/1", faces)
    gallery = _people(workspace, faces, "people", ["drawn0001", "drawn0005"])
    old = gallery.sql("select item_id from live order by item_id")[1]
    vectors = np.stack([gallery.item(item_id)[0].vector for (item_id,) in old])
    probe = Probe("faces/1", {"embedding": vectors})

    def distances():
        found = gallery.search(probe, k=10)
        return [{hit.item_id: hit for hit in hits} for hits in found]

    workspace.start(workspace.plan("people", NAME))
    first = workspace.migration("people")
    first.run()
    first.verify()
    first.cutover()
    first.complete(yes=True)
    for (item_id,), hits in zip(old, distances(), strict=True):
        assert len(hits) == 10
        assert hits[item_id].distance < 1e-6
    plan = workspace.plan("people", "faces/3", strategy="mixed", batch=5)
    workspace.start(plan, force="a test")
    workspace.migration("people").run(limit=5)
    for hits in distances():
        assert {hit.version for hit in hits.values()} == {NAME, "faces/3"}
        assert all(hit.far is not None for hit in hits.values())


def _people(workspace, faces, name, people):
    gallery = workspace.create_gallery(name, "faces/1")
    for person in people:
        workspace.enroll(name, faces / "images" / person, identity=person)
    return gallery


def test_without_a_model_the_vectors_come_from_a_file(workspace, faces, tmp_path):
    """A vendor's vectors are retuned, trained against and measured from one file."""
    everyone = read_faces(faces)
    vectors = embed_faces(workspace, "faces/1", everyone)["embedding"]
    file = tmp_path / "old.npz"
    paths = [face.path.relative_to(everyone.root).as_posix() for face in everyone.faces]
    np.savez(file, paths=np.array(paths), vectors=vectors)
    workspace.registry.register_vectors("vendor", dimension=16)
    with pytest.raises(NoModelError):
        workspace.retune("vendor/1", faces)
    made = workspace.retune("vendor/1", faces, old_vectors=file)
    assert made.version.version.startswith("vendor/1~b")
    same = workspace.retune("faces/1", faces).bridge
    assert np.allclose(made.bridge.matrix, same.matrix, atol=1e-4)
    name = made.version.version
    done, _ = workspace.train_harmonic(
        faces, FURTHER, old=name, start="faces/2", old_vectors=file, twin=False
    )
    assert done.details["old"] == name
    report = workspace.evaluate_compatibility(
        name, "faces/2", faces, old_vectors=file, bootstrap=10
    ).report
    assert not report.has("v1 retuned")
    with pytest.raises(NoModelError):
        embed_faces(workspace, name, everyone)
    training = [face.part == "train" for face in everyone.faces]
    np.savez(file, paths=np.array(paths)[training], vectors=vectors[training])
    told = workspace.retune("vendor/1", faces, old_vectors=file, seed=1)
    assert (told.measured, told.calibrated) == ({}, False)
    np.savez(file, paths=np.array(paths), vectors=np.eye(8, dtype=np.float32)[[0] * len(paths)])
    with pytest.raises(VectorError, match="vendor/1 has 16"):
        workspace.retune("vendor/1", faces, old_vectors=file)


def test_wrong_use(workspace, faces, tmp_path, monkeypatch):
    """A retuned version is not retuned; too few people are refused before a run is opened."""
    with pytest.raises(UsageError, match="retune faces/1 anew"):
        workspace.retune(NAME, faces)
    few = tmp_path / "few"
    write_faces(few, people=12, images=2, size=32, seed=1)
    before = [v.version for v in workspace.registry.list()]
    monkeypatch.setattr(workspace.registry.tracking, "training_run", None)
    monkeypatch.setattr("segue.workspace.measuring.embed_faces", None)
    with pytest.raises(PeopleError, match="retuning faces/1 needs"):
        workspace.retune("faces/1", few)
    assert [v.version for v in workspace.registry.list()] == before
    assert json.dumps(workspace.registry.resolve(NAME).to_json())
