"""Trainings in a workspace: what is refused first, and one process for each at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue import Workspace
from segue.errors import InvalidNameError, LockedError, PeopleError, UsageError
from segue.files import held
from segue.synthetic import write_faces
from segue.train import HarmonicSettings, TrainSettings

SMALL = TrainSettings(width=4, image_size=32, steps=3, threads=1, dimension=8)
FURTHER = HarmonicSettings(image_size=32, head_steps=2, steps=2, threads=1)
LONG = "f" * 60
JOURNALS = ("segue.db-shm", "segue.db-wal")


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, people=24, images=3, size=32, seed=5)
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, faces) -> Workspace:
    """Two versions to train from, and one of a long name."""
    made = Workspace.init(tmp_path_factory.mktemp("training") / "w")
    made.train_base("faces", faces, SMALL)
    made.train_base("faces", faces, SMALL)
    made.train_base(LONG, faces, SMALL)
    return made


def _unreadable(*_arguments, **_named):
    raise AssertionError("images were read")


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/b", "", ".", "f" * 65])
def test_a_name_that_no_model_can_have_is_refused_before_anything_is_read(
    tmp_path, faces, monkeypatch, name
):
    """Nothing is written, inside the workspace or out of it, and no image is read."""
    monkeypatch.setattr("segue.images.read_bounded", _unreadable)
    made = Workspace.init(tmp_path / "in" / "w")
    with pytest.raises(InvalidNameError, match="is no model name"):
        made.train_base(name, faces, SMALL)
    made.database.close()
    assert {path.name for path in tmp_path.rglob("*")} <= {"in", "w", "segue.db", *JOURNALS}


def test_a_twin_that_cannot_be_named_is_refused_before_anything_is_read(
    workspace, faces, monkeypatch
):
    """The twin's name is the start's and more; without the twin the same training is done."""
    start = f"{LONG}/1"
    with monkeypatch.context() as patched:
        patched.setattr("segue.images.read_bounded", _unreadable)
        with pytest.raises(InvalidNameError, match=r"64 characters .*--no-twin"):
            workspace.train_harmonic(faces, FURTHER, old="faces/1", start=start)
    made, twin = workspace.train_harmonic(faces, FURTHER, old="faces/1", start=start, twin=False)
    assert (made.version, twin) == (f"{LONG}/2", None)


def test_where_only_the_twin_is_missing_nothing_is_embedded(workspace, faces, monkeypatch):
    """The call that was killed in its twin goes on there without v1's vectors."""
    ends = {"old": "faces/1", "start": "faces/2"}
    made, _ = workspace.train_harmonic(faces, FURTHER, **ends, twin=False)
    monkeypatch.setattr("segue.workspace.measuring.embed_faces", _unreadable)
    again, twin = workspace.train_harmonic(faces, FURTHER, **ends)
    assert again == made
    assert twin.details["twin_of"] == made.version


def _lock_of(workspace):
    (lock,) = (workspace.root / "checkpoints").glob("*.lock")
    return lock


def test_a_second_equal_training_is_told_of_the_first(workspace, faces):
    """While one trains, the same training elsewhere ends at once; the first goes on unharmed."""
    locks, refused = [], []

    def progress(_done, _total, what):
        if what.startswith("steps") and not refused:
            with pytest.raises(LockedError, match=r"the training in .* is held") as caught:
                workspace.train_base("twice", faces, SMALL)
            refused.append(caught.value.exit_code)
            locks.append(_lock_of(workspace))

    made = workspace.train_base("twice", faces, SMALL, progress=progress)
    assert (made.version, refused) == ("twice/1", [75])
    assert [version.version for version in workspace.registry.list("twice")] == ["twice/1"]
    assert list((workspace.root / "checkpoints").iterdir()) == []
    with held(locks[0], "the lock of before"), pytest.raises(LockedError):
        workspace.train_base("twice", faces, SMALL)
    assert workspace.train_base("twice", faces, SMALL).version == "twice/2"


def test_the_second_of_two_harmonic_trainings_embeds_nothing(workspace, faces, monkeypatch):
    """It is told before v1 embeds all faces, and so is one whose twin another one trains."""
    other = HarmonicSettings(image_size=32, head_steps=2, steps=3, threads=1)
    ends = {"old": "faces/1", "start": "faces/2"}
    refused = []

    def progress(_done, _total, what):
        if what.startswith("steps"):
            with monkeypatch.context() as patched:
                patched.setattr("segue.workspace.measuring.embed_faces", _unreadable)
                with pytest.raises(LockedError):
                    workspace.train_harmonic(faces, other, **ends)
            refused.append(what)

    workspace.train_harmonic(faces, other, **ends, progress=progress)
    assert len(refused) == 2 + 3 + 3  # both stages, and the twin's


def test_a_training_that_fails_leaves_no_lock(workspace, tmp_path):
    """Nothing of it is left where nothing was saved yet."""
    write_faces(tmp_path, people=24, images=1, size=32, seed=5)
    with pytest.raises(PeopleError):
        workspace.train_base("fails", tmp_path, SMALL)
    assert list((workspace.root / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_is_none_is_refused_by_everything_that_draws(workspace, seed):
    """Nothing else of the call is looked at."""
    calls = [
        lambda: workspace.train_bridge("x", old="x/1", new="x/2", seed=seed),
        lambda: workspace.retune("x/1", "x", seed=seed),
        lambda: workspace.evaluate_compatibility("x/1", "x/2", "x", seed=seed),
        lambda: workspace.evaluate_matrix(["x/1", "x/2"], "x", seed=seed),
        lambda: workspace.calibrate_from_gallery("x", seed=seed),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=f"seed {seed}; give a whole number"):
            call()
