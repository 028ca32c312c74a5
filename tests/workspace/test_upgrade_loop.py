from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segue import Workspace
from segue.demo import _fresh_workspace, run_demo
from segue.errors import GateError, RegistryError, UnmeasuredEdgeError, UsageError, VectorError
from segue.images import read_faces
from segue.index import Probe, Threshold
from segue.synthetic import write_faces
from segue.train import HarmonicSettings, TrainSettings
from segue.workspace.compatibility import find_twin

SMALL = TrainSettings(width=4, image_size=32, steps=6, threads=1, dimension=16)
FURTHER = HarmonicSettings(image_size=32, head_steps=3, steps=3, threads=1)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, people=60, images=5, size=32, seed=5)
    return folder


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory, faces) -> Workspace:
    """v1, a harmonic v2 of another dimension with its twin, and the measured edges."""
    workspace = Workspace.init(tmp_path_factory.mktemp("upgraded") / "w")
    workspace.train_base("faces", faces, SMALL, old_only=True)
    larger = TrainSettings(width=4, image_size=32, steps=6, threads=1, dimension=24, seed=1)
    workspace.train_base("faces", faces, larger)
    made, twin = workspace.train_harmonic(faces, FURTHER, old="faces/1", start="faces/2")
    assert (made.version, twin and twin.version) == ("faces/3", "faces-twin/1")
    workspace.evaluate_compatibility("faces/1", "faces/3", faces, bootstrap=40)
    return workspace


def _gallery(workspace, name, faces, people):
    gallery = workspace.create_gallery(name, "faces/1")
    for person in people:
        workspace.enroll(name, faces / "images" / person, identity=person)
    return gallery


def _half_migrated(workspace, name, faces):
    gallery = _gallery(workspace, name, faces, ["drawn0013", "drawn0021"])
    workspace.start(workspace.plan(name, "faces/3", strategy="mixed", batch=3), force="a test")
    workspace.migration(name).run(limit=5)
    return gallery


def test_a_harmonic_version_of_another_dimension_has_a_head_of_the_old_one(upgraded):
    """v2 keeps its own output and gets one that v1 is compared with; the edges name it."""
    version = upgraded.registry.resolve("faces/3")
    assert version.outputs == {"embedding": 24, "compatible": 16}
    edge = upgraded.registry.edge("faces/3", "faces/1")
    assert (edge.probe_output, edge.stored_output) == ("compatible", "embedding")
    assert edge.calibration is not None
    assert upgraded.registry.edge("faces/3", "faces/3").probe_output == "embedding"


def test_two_galleries_migrate_independently(upgraded, faces):
    """One gallery completes while the other is half-way; neither sees the other's rows."""
    people = ["drawn0001", "drawn0005", "drawn0009"]
    one, two = (_gallery(upgraded, name, faces, people) for name in ("one", "two"))
    for name, gallery in (("one", one), ("two", two)):
        plan = upgraded.plan(name, "faces/3", strategy="mixed", batch=4)
        upgraded.start(plan, force="a test")
        assert gallery.serving == "faces/3"
    upgraded.migration("two").run(limit=4)
    first = upgraded.migration("one")
    first.run()
    first.verify()
    first.complete(yes=True)
    assert first.status().state == "completed"
    assert upgraded.migration("two").status().state == "running"
    assert two.count_pending("faces/3") == two.count_items() - 4
    assert one.count_pending("faces/3") == 0
    assert one.check() == two.check() == []


def test_a_probe_of_the_old_version_is_answered_while_the_new_one_serves(upgraded, faces):
    """Application servers are upgraded one by one: a v1 vector finds v1 and v2 items alike."""
    gallery = _half_migrated(upgraded, "mixed", faces)
    assert gallery.serving == "faces/3"
    embedder = upgraded.registry.load("faces/1")
    some = read_faces(faces).part("validation").faces
    face = next(f for f in some if f.person == "drawn0013")
    images = read_faces(faces).load((32, 32))
    index = [f.path for f in read_faces(faces).faces].index(face.path)
    probe = Probe("faces/1", embedder.embed(images[index : index + 1]))
    hits = gallery.search(probe, k=gallery.count_items())[0]
    assert len(hits) == gallery.count_items()
    assert {hit.version for hit in hits} == {"faces/1", "faces/3"}
    for hit in hits:
        stored = {row.version: row for row in gallery.item(hit.item_id) if row.output == hit.output}
        expected = ((probe.vectors["embedding"][0] - stored[hit.version].vector) ** 2).sum()
        assert abs(hit.distance - expected) < 1e-4
        assert hit.far is not None
    assert [h.far for h in hits] == sorted(h.far for h in hits)


def test_a_threshold_in_use_keeps_its_meaning_at_every_mixing_ratio(upgraded, faces):
    """A distance chosen for v1 becomes one FAR, and every hit below it is kept, no other."""
    gallery = _half_migrated(upgraded, "threshold", faces)
    serving = upgraded.registry.load("faces/3")
    images = read_faces(faces).part("validation").load((32, 32))[:6]
    probe = Probe("faces/3", serving.embed(images))
    calibration = upgraded.registry.edge("faces/1", "faces/1").calibration
    threshold = Threshold(distance=calibration.distance_at(0.2), extrapolate=True)
    assert gallery.check_search(threshold).version == "faces/1"
    everything = gallery.search(probe, k=100)
    kept = gallery.search(probe, k=100, threshold=threshold)
    for all_hits, hits in zip(everything, kept, strict=True):
        assert [h.seq for h in hits] == [h.seq for h in all_hits if h.far <= 0.2 * (1 + 1e-9)]


def test_versions_without_an_edge_are_never_ranked_together(upgraded, faces):
    """A probe of a version that was never compared with the stored one raises."""
    gallery = _gallery(upgraded, "strict", faces, ["drawn0001"])
    vectors = np.eye(1, 16, dtype=np.float32)
    with pytest.raises(UnmeasuredEdgeError, match="no measured edge"):
        gallery.search(Probe("faces-twin/1", {"embedding": np.eye(1, 24, dtype=np.float32)}))
    with pytest.raises(GateError):
        upgraded.start(upgraded.plan("strict", "faces/2", strategy="mixed"))
    assert gallery.search(Probe("faces/1", {"embedding": vectors}), k=1)[0]


def test_a_version_without_a_model_is_upgraded_from_its_vectors(upgraded, faces, tmp_path):
    """Vectors from a file stand in for a v1 that nobody can run any more."""
    vendor = upgraded.registry.register_vectors("vendor", dimension=16)
    train = read_faces(faces).part("train")
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(len(train.people), 16))
    vectors = centres[train.labels] + 0.3 * generator.normal(size=(len(train), 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    paths = [face.path.relative_to(train.root).as_posix() for face in train.faces]
    np.savez(tmp_path / "old.npz", paths=np.array(paths), vectors=vectors.astype(np.float32))
    made, twin = upgraded.train_harmonic(
        faces,
        FURTHER,
        old=vendor.version,
        start="faces/2",
        old_vectors=tmp_path / "old.npz",
        twin=False,
    )
    assert twin is None
    assert made.details["old"] == "vendor/1"
    np.savez(tmp_path / "few.npz", paths=np.array(paths[1:]), vectors=vectors[1:])
    with pytest.raises(VectorError):
        upgraded.train_harmonic(
            faces,
            FURTHER,
            old=vendor.version,
            start="faces/2",
            old_vectors=tmp_path / "few.npz",
        )


def test_a_backup_puts_back_what_was_there_and_erased_items_stay_erased(upgraded, faces, tmp_path):
    """What was enrolled since is gone after a restore; what was erased since is not back."""
    gallery = _gallery(upgraded, "kept", faces, ["drawn0001", "drawn0005"])
    before = gallery.count_items()
    upgraded.backup(tmp_path / "backup")
    gallery.erase(item_ids=["drawn0001_0001.png"])
    upgraded.enroll("kept", faces / "images" / "drawn0009")
    upgraded.restore(tmp_path / "backup")
    restored = upgraded.gallery("kept")
    assert restored.count_items() == before - 1
    assert restored.check() == []
    assert upgraded.doctor() == []


def test_two_images_are_verified_at_a_threshold(upgraded, faces):
    """The same image is the same person at any threshold; the answer carries its FAR."""
    gallery = _gallery(upgraded, "pairs", faces, ["drawn0001"])
    image = min((faces / "images" / "drawn0001").iterdir())
    result = upgraded.verify_images(
        gallery.name, image, image, Threshold(far=0.01, extrapolate=True)
    )
    assert result.same
    assert result.distance < 1e-6


def test_calibrating_from_a_gallery_gives_its_searches_a_rate(upgraded, faces):
    """Random pairs of different identities calibrate a version that has no other data."""
    people = [f"drawn{i:04d}" for i in (1, 5, 9, 13, 21, 25, 29, 33, 37, 41)]
    vendor = upgraded.create_gallery("fresh", "faces/2")
    for person in people:
        upgraded.enroll("fresh", faces / "images" / person, identity=person)
    image = min((faces / "images" / "drawn0001").iterdir())
    assert upgraded.search("fresh", [image], k=1)[0][0].far is None
    measured = upgraded.calibrate_from_gallery("fresh")
    assert measured["people"] == len(people)
    assert upgraded.search("fresh", [image], k=1)[0][0].far is not None
    assert vendor.serving == "faces/2"


def test_a_report_is_never_of_people_that_were_trained_or_calibrated_on(upgraded, faces):
    """Parts train and calibration are refused, for a report and train for a calibration."""
    for part in ("train", "calibration"):
        with pytest.raises(UsageError, match="part to measure on"):
            upgraded.evaluate_compatibility("faces/1", "faces/3", faces, part=part)
    with pytest.raises(UsageError, match="trained on"):
        upgraded.calibrate("faces/1", faces, part="train")


def test_calibrating_again_keeps_what_else_is_known_of_an_edge(upgraded, faces):
    """Its outputs and figures stay; a gallery's pairs never replace calibration people."""
    before = upgraded.registry.edge("faces/3", "faces/1")
    upgraded.calibrate("faces/3", faces, stored="faces/1")
    after = upgraded.registry.edge("faces/3", "faces/1")
    assert (after.probe_output, after.stored_output) == (before.probe_output, before.stored_output)
    assert after.measured["val"] == before.measured["val"]
    assert after.calibration is not None
    _gallery(upgraded, "worse", faces, ["drawn0001", "drawn0005"])
    with pytest.raises(UsageError, match="kept for it"):
        upgraded.calibrate_from_gallery("worse")


def test_an_old_version_without_a_model_is_measured_by_its_vectors(upgraded, faces, tmp_path):
    """A file of v1's vectors serves the report too, and gives the edges that mixed mode needs."""
    everyone = read_faces(faces)
    vectors = upgraded.registry.load("faces/1").embed(everyone.load((32, 32)))["embedding"]
    paths = [face.path.relative_to(everyone.root).as_posix() for face in everyone.faces]
    np.savez(tmp_path / "old.npz", paths=np.array(paths), vectors=vectors)
    gone = upgraded.registry.register_vectors("gone", dimension=16)
    measured = upgraded.evaluate_compatibility(
        gone.version, "faces/3", faces, old_vectors=tmp_path / "old.npz", bootstrap=40
    )
    assert upgraded.registry.edge("faces/3", gone.version).calibration is not None
    with_model = upgraded.registry.report("faces/1", "faces/3").read()
    v1 = next(row for row in with_model["rows"] if row["name"] == "v1")
    assert abs(measured.report.row("v1").rank1.value - v1["rank1"][0]) < 1e-9


def test_a_training_killed_in_its_twin_goes_on_with_the_twin(upgraded, faces):
    """The same call takes the version that it has made already, and trains what is missing."""
    again = HarmonicSettings(image_size=32, head_steps=2, steps=2, threads=1, seed=9)
    made, _ = upgraded.train_harmonic(faces, again, old="faces/1", start="faces/2", twin=False)
    same, twin = upgraded.train_harmonic(faces, again, old="faces/1", start="faces/2")
    assert same.version == made.version
    assert twin is not None
    assert twin.details["twin_of"] == made.version
    other, _ = upgraded.train_harmonic(faces, again, old="faces/1", start="faces/2")
    assert other.version != made.version


def test_the_demo_runs_from_training_to_a_completed_migration(tmp_path):
    """The quick demo answers searches at every ρ on the way, and completes."""
    told: list[str] = []
    result = run_demo(tmp_path / "demo", None, say=told.append, quick=True)
    assert [round(stop.rho, 2) for stop in result.stops] == [0.0, 0.25, 0.5, 0.75, 1.0]
    workspace = Workspace.open(result.workspace)
    assert workspace.migration("people").status().state == "completed"
    assert workspace.gallery("people").check() == []
    assert (result.compatibility.folder / "roc.png").stat().st_size > 10_000
    assert any("synthetic" in line for line in told)
    commands = [line for line in told if line.startswith("\n$ ")]
    assert all(line.startswith(f"\n$ segue -w {result.workspace} ") for line in commands)
    assert any(" models promote faces/1 " in line for line in commands)
    assert result.forced == (not result.compatibility.gate.go)
    forced = [e for e in workspace.registry.ledger() if e.action == "force"]
    assert len(forced) == int(result.forced)


def test_a_demo_replaces_only_what_a_demo_made(tmp_path):
    """An earlier demo's folder is made anew; anything else is left alone."""
    first = _fresh_workspace(tmp_path / "demo")
    (first.root / "left.txt").touch()
    assert not (_fresh_workspace(tmp_path / "demo").root / "left.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="no demo made"):
        _fresh_workspace(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_the_tax_is_measured_against_a_twin_that_took_the_same_steps(upgraded, faces):
    """Another model in the twin's place, which a worse one would flatter, is refused."""
    made = upgraded.registry.resolve("faces/3")
    for named in (None, "faces-twin/1"):
        assert find_twin(upgraded, made, named).version == "faces-twin/1"
    for other in ("faces/1", "faces/2", "faces/3"):
        with pytest.raises(UsageError, match=f"{other} is no twin of faces/3"):
            upgraded.evaluate_compatibility("faces/1", "faces/3", faces, twin=other)
    independent = upgraded.registry.resolve("faces/2")
    assert find_twin(upgraded, independent).version == "faces/2"


def test_a_report_that_cannot_be_logged_leaves_nothing(upgraded, faces, monkeypatch):
    """Where MLflow fails, there is no report, no folder and no new edge."""
    before = upgraded.registry.report("faces/1", "faces/3")
    folders = sorted((upgraded.root / "reports").iterdir())

    def fail(*_arguments, **_named):
        raise RegistryError("MLflow cannot be reached; try again")

    monkeypatch.setattr(upgraded.registry.tracking, "compatibility_run", fail)
    with pytest.raises(RegistryError, match="cannot be reached"):
        upgraded.evaluate_compatibility("faces/1", "faces/3", faces, bootstrap=40)
    assert upgraded.registry.report("faces/1", "faces/3") == before
    assert sorted((upgraded.root / "reports").iterdir()) == folders
