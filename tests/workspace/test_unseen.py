"""Who was learned from is not measured on, whatever the list of people calls their part now."""

from __future__ import annotations

import hashlib
import json
import shutil
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest

from segue import Workspace
from segue.errors import MissingPathError, TamperedError, UsageError
from segue.harmonic.bridges import fit_bridge
from segue.images import read_faces
from segue.registry import Edge
from segue.synthetic import write_faces
from segue.train import HarmonicSettings, TrainSettings
from segue.workspace import people as marking
from segue.workspace.measuring import embed_faces
from segue.workspace.people import MARK_BYTES, trained_on
from segue.workspace.unseen import check_unseen

SMALL = TrainSettings(width=2, dimension=8, image_size=32, steps=2, threads=1)
FURTHER = HarmonicSettings(image_size=32, head_steps=1, steps=1, threads=1)
ALL = ("faces/1", "faces/2", "faces/3", "faces-twin/1")


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder / "drawn", people=60, images=3, size=32, seed=4)
    return _listed(folder / "drawn", folder / "d", {"train": "test"}, 14)


@pytest.fixture(scope="module")
def turned(tmp_path_factory, faces) -> Path:
    """The same faces; whom everything was trained on are part test, and test people are train."""
    folder = tmp_path_factory.mktemp("turned") / "d"
    return _listed(faces, folder, {"train": "test", "test": "train"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, faces) -> Workspace:
    """v1 of half of the people, a v2, a harmonic v2 with its twin; and v1 without any marks."""
    workspace = Workspace.init(tmp_path_factory.mktemp("trained") / "w")
    workspace.train_base("faces", faces, SMALL, old_only=True)
    workspace.train_base("faces", faces, replace(SMALL, seed=1))
    workspace.train_harmonic(faces, FURTHER, old="faces/1", start="faces/2")
    _without_marks(workspace, "foreign", {})
    return workspace


def _without_marks(workspace, name, details):
    """Register faces/1's network as one that nobody knows the people of."""
    version = workspace.registry.resolve("faces/1")
    folder = workspace.root / "models" / version.slug
    return workspace.registry.register_network(
        name,
        architecture=version.details["architecture"],
        settings=version.details["settings"],
        weights=(folder / "weights.safetensors").read_bytes(),
        preprocessing=version.preprocessing,
        details=details,
    ).version


def _listed(faces, folder, parts, count=None):
    """The same faces, with `count` people of each part that is named moved to another part."""
    lines = (faces / "people.csv").read_text(encoding="utf-8").splitlines()
    place, moved = lines[0].split(",").index("part"), dict.fromkeys(parts, 0)
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        part = row[place]
        if part in parts and (count is None or moved[part] < count):
            row[place] = parts[part]
            moved[part] += 1
    folder.mkdir()
    (folder / "images").symlink_to(faces / "images")
    (folder / "people.csv").write_text("\n".join([lines[0], *(",".join(r) for r in rows)]) + "\n")
    return folder


def test_whom_a_version_was_trained_on_are_no_test_people(trained, faces, turned):
    """A list that calls them part test is refused, by how many of them which version saw."""
    count = len(read_faces(faces).part("train").people)
    before = [edge.created_at for edge in trained.registry.edges()]
    for version in ALL[1:]:
        with pytest.raises(UsageError, match=f"{version} was trained on {count} of these {count} "):
            trained.calibrate(version, turned, part="test")
    with pytest.raises(UsageError, match=r"faces/1 was trained on .*; calibrate it on others \("):
        trained.calibrate("faces/1", turned, part="test")
    with pytest.raises(UsageError, match=r"faces/3 was trained on .* measure and calibrate it on"):
        trained.evaluate_compatibility("faces/1", "faces/3", turned, part="test", bootstrap=10)
    with pytest.raises(UsageError, match=r"faces/1 was trained on .* measure it on"):
        trained.evaluate_matrix(["faces/1", "foreign/1"], turned, part="test", bootstrap=10)
    assert [edge.created_at for edge in trained.registry.edges()] == before


def test_one_training_person_among_those_to_calibrate_on_is_told(trained, faces, tmp_path):
    """A report and stored edges are calibrated on part `calibration`: nobody there was seen."""
    moved = _listed(faces, tmp_path / "d", {"train": "calibration", "test": "validation"}, 1)
    people = len(read_faces(moved).part("calibration").people)
    told = f"faces/2 was trained on 1 of these {people} people; .*calibrate it"
    with pytest.raises(UsageError, match=told):
        trained.evaluate_compatibility("foreign/1", "faces/2", moved, bootstrap=10)
    with pytest.raises(UsageError, match=told):
        trained.evaluate_matrix(["faces/2", "foreign/1"], moved, save_edges=True, bootstrap=10)
    trained.evaluate_matrix(["faces/2", "foreign/1"], moved, bootstrap=10)  # asks nobody there


def test_the_twin_and_what_a_training_began_from_are_asked_too(trained, turned):
    """Versions that tell nothing themselves stand on others that do."""
    other = _without_marks(trained, "other", {})
    with pytest.raises(UsageError, match="faces-twin/1 was trained on"):
        trained.evaluate_compatibility(
            "foreign/1", other, turned, twin="faces-twin/1", part="test", bootstrap=10
        )
    onward = _without_marks(trained, "onward", {"start": "faces/2"})
    with pytest.raises(UsageError, match=f"faces/2 was trained on .*, and {onward} goes on from"):
        trained.calibrate(onward, turned, part="test")
    lost = _without_marks(trained, "lost", {"start": "gone/7"})
    assert trained.calibrate(lost, turned, part="test")["unseen"]["not_known"] == [lost, "gone/7"]


def test_no_bridge_is_chosen_and_no_map_is_told_on_people_that_were_seen(trained, faces, tmp_path):
    """Held-out people that a version saw choose the wrong kind; a report's bridge is no other."""
    moved = _listed(faces, tmp_path / "d", {"train": "validation"}, 1)
    told = "faces/2 was trained on 1 of these"
    with pytest.raises(UsageError, match=f"{told} .* fit it on others"):
        trained.train_bridge(moved, old="foreign/1", new="faces/2")
    with pytest.raises(UsageError, match=f"{told} .* fit the report's bridge on others"):
        trained.evaluate_compatibility("foreign/1", "faces/2", moved, part="test", bootstrap=10)
    with pytest.raises(UsageError, match=rf"{told} .* map on others \(other --data\)"):
        trained.retune("faces/2", moved)
    assert [v.version for v in trained.registry.list() if v.kind == "mapped"] == []


def test_a_report_says_of_whom_it_knows_that_nobody_was_seen(trained, faces):
    """The ordinary road is open; the report names the versions that were asked, in every file."""
    made = trained.evaluate_compatibility("faces/1", "faces/3", faces, part="test", bootstrap=10)
    assert made.unseen.known == ("faces/3", "faces/2", "faces/1", "faces-twin/1")
    assert made.unseen.unknown == ()
    text = (made.folder / "report.md").read_text(encoding="utf-8")
    assert f"None of these people, by name, was in the training of {made.unseen.known[0]}" in text
    assert "Not known" not in text
    value = json.loads((made.folder / "report.json").read_text(encoding="utf-8"))
    assert made.unseen.sentence() in value["remark"]


def test_what_nobody_can_know_is_told_as_not_known(trained, faces):
    """Of a model from elsewhere no report, matrix or calibration claims whom it saw."""
    made = trained.evaluate_compatibility("foreign/1", "faces/2", faces, part="test", bootstrap=10)
    text = (made.folder / "report.md").read_text(encoding="utf-8")
    assert "Not known: whether any was in the training of foreign/1, which keeps no marks" in text
    assert "kept out of training" not in text
    matrix = trained.evaluate_matrix(["faces/2", "foreign/1"], faces, bootstrap=10)
    text = (matrix.folder / "matrix.md").read_text(encoding="utf-8")
    assert "Not known: whether any was in the training of foreign/1" in text
    assert "kept out of training" not in text
    told = {"not_in_training_of": [], "partly_known": [], "not_known": ["foreign/1"]}
    assert trained.calibrate("foreign/1", faces)["unseen"] == told
    assert trained.registry.edge("foreign/1", "foreign/1").measured["unseen"] == told
    other = _without_marks(trained, "other", {})
    bridge = trained.train_bridge(faces, old=other, new="faces/2", kind="procrustes")
    assert (bridge.unseen.known, bridge.unseen.unknown) == (("faces/2",), (other,))


def test_marks_lie_beside_the_network_and_name_nobody(trained, faces, tmp_path):
    """The file holds keyed marks alone; neither MLflow nor what is shown of a version has them."""
    people = read_faces(faces).part("train").people
    version = trained.registry.resolve("faces/2")
    content = trained.registry.people(version)
    assert hashlib.sha256(content).hexdigest() == version.files["people.json"]
    assert not any(person.encode() in content for person in people)
    marks = json.loads(content)["people_marks"]
    assert len(b64decode(marks)) == MARK_BYTES * len(people)
    assert marks not in json.dumps(version.to_json())
    copied = [path.name for path in (trained.root / "mlartifacts").rglob("*") if path.is_file()]
    assert "weights.safetensors" in copied
    assert "people.json" not in copied
    other = Workspace.init(tmp_path / "w")
    strange = json.loads(trained_on(other, read_faces(faces).part("train"), "train"))
    assert not set(_each(marks)) & set(_each(strange["people_marks"]))


def _each(marks):
    raw = b64decode(marks)
    return [raw[at : at + MARK_BYTES] for at in range(0, len(raw), MARK_BYTES)]


def test_marks_that_were_changed_or_taken_away_are_no_leave(trained, faces, tmp_path):
    """Their hash is the version's; without them nothing is calibrated, and `doctor` tells."""
    root = shutil.copytree(trained.root, tmp_path / "w")
    workspace = Workspace.open(root)
    assert workspace.doctor() == []
    path = root / "models" / "faces-2" / "people.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(TamperedError):
        workspace.calibrate("faces/2", faces)
    assert [problem for problem in workspace.doctor() if "people.json" in problem]
    path.unlink()
    with pytest.raises(MissingPathError):
        workspace.calibrate("faces/2", faces)


def test_of_more_people_than_are_marked_it_says_so(trained, faces, turned, monkeypatch):
    """What is not marked is not claimed; who is found among the marked is still refused."""
    monkeypatch.setattr(marking, "MOST_MARKS", 3)
    train = read_faces(faces).part("train")
    few = trained_on(trained, train, "train")
    monkeypatch.setattr(trained.registry, "people", lambda _version: few)
    unseen = trained.calibrate("faces/1", faces)["unseen"]
    assert unseen["partly_known"] == [{"of": "faces/1", "marked": 3, "people": len(train.people)}]
    assert (unseen["not_in_training_of"], unseen["not_known"]) == ([], [])
    with pytest.raises(UsageError, match="faces/1 was trained on at least 3 of these"):
        trained.calibrate("faces/1", turned, part="test")


def test_a_bridge_tells_what_is_known_of_its_people(trained, faces):
    """Without marks, or with those of another workspace, nothing is known, except an equal list."""
    people = read_faces(faces).part("validation")
    vectors = embed_faces(trained, "faces/2", people)["embedding"]
    ends = {"source_version": "faces/2", "target_version": "foreign/1"}
    bridge = fit_bridge("procrustes", vectors, vectors, labels=people.labels, **ends)

    def asked(names, **settings):
        kept = replace(bridge, settings={**bridge.settings, **settings})
        return check_unseen(trained, [Edge("foreign/1", "foreign/1", bridge=kept)], names, "ask it")

    name = "the bridge faces/2 -> foreign/1"
    assert asked(people.people).unknown == (name, "foreign/1")
    whole = hashlib.sha256("\0".join(people.people).encode()).hexdigest()
    old = {"people_sha256": whole, "part": "validation"}
    with pytest.raises(UsageError, match=f"{name} was fitted on the people of part validation"):
        asked(people.people, **old)
    assert asked(people.people[1:], **old).unknown == (name, "foreign/1")
    new = marking.fitted_on(trained, people, "validation")
    assert asked(["nobody"], **new).known == (name,)
    with pytest.raises(UsageError, match=f"{name} was fitted on 1 of these 2 people"):
        asked(["nobody", people.people[0]], **new)
    del new["people_key"]  # fitted before the key had a name
    with pytest.raises(UsageError, match="was fitted on the people of part validation"):
        asked(people.people, **new)
    strange = {**new, "people_key": "00" * MARK_BYTES}
    assert asked(people.people, **strange).unknown == (name, "foreign/1")
