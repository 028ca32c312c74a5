"""Trainings: they learn, they go on after a kill to the same weights, and refuse what they must."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from train_world import BASE, HARMONIC, Killed, kill_at, without_time

from segue.errors import (
    FormatError,
    PeopleError,
    TrainingError,
    UnknownNameError,
    UnsafeModelError,
    UsageError,
    VectorError,
)
from segue.images import FaceList
from segue.networks import TorchRunner, embed, load_network, save_weights
from segue.train import (
    HarmonicSettings,
    TrainSettings,
    old_vectors_from_file,
    train_base,
    train_harmonic,
    train_twin,
)
from segue.train.checkpoint import FILE_NAME
from segue.types import DEFAULT_OUTPUT, Preprocessing


def test_a_base_training_lowers_its_loss_and_separates_people(faces):
    """After some steps on generated faces the loss has fallen and people are apart."""
    settings = dataclasses.replace(BASE, width=4, steps=80, learning_rate=5e-3, log_every=1)
    trained = train_base(faces, settings)
    losses = [entry["loss"] for entry in trained.history]
    assert np.mean(losses[-20:]) < np.mean(losses[:20])
    assert [entry["step"] for entry in trained.history] == list(range(1, 81))
    last = trained.history[-1]
    assert last["same_distance"] < last["different_distance"] / 2
    vectors = embed(TorchRunner(trained.network), faces.load((32, 32)), trained.preprocessing)
    found = 2 - 2 * vectors[DEFAULT_OUTPUT] @ vectors[DEFAULT_OUTPUT].T
    same = faces.labels[:, None] == faces.labels
    assert found[same].mean() < found[~same].mean() / 3


def test_what_a_training_gives_is_enough_to_load_it_again(faces, v1):
    """Architecture, settings and weights rebuild the network; the rest describes it."""
    again = load_network(v1.architecture, v1.settings, save_weights(v1.network))
    assert json.loads(json.dumps(v1.settings)) == v1.settings == {"width": 2, "dimension": 6}
    assert save_weights(again) == save_weights(v1.network)
    assert not v1.network.training
    assert v1.preprocessing == Preprocessing(32, 32, flip=True)
    assert v1.data_fingerprint == faces.fingerprint
    assert v1.seconds > 0


def test_a_training_is_a_function_of_its_seed(faces, v1):
    """The same settings give the same bits, another seed others; torch's own state is untouched."""
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    assert without_time(train_base(faces, BASE)) == without_time(v1)
    assert torch.equal(torch.rand(3), expected)
    other = train_base(faces, dataclasses.replace(BASE, seed=1))
    assert save_weights(other.network) != save_weights(v1.network)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("killed", [1, 4, 7, 8, 10])
def test_a_killed_base_training_goes_on_to_the_same_weights(faces, tmp_path, optimiser, killed):
    """Killed before, at and after a checkpoint and at the end, it resumes bit for bit."""
    settings = dataclasses.replace(BASE, optimiser=optimiser)
    expected = train_base(faces, settings)
    with pytest.raises(Killed):
        train_base(faces, settings, checkpoint=tmp_path, progress=kill_at(killed))
    steps = []
    resumed = train_base(
        faces,
        dataclasses.replace(settings, checkpoint_every=3),
        checkpoint=tmp_path,
        progress=lambda done, _total, what: steps.append(done) if "steps" in what else None,
    )
    assert without_time(resumed) == without_time(expected)
    last = 10 if killed == 10 else killed - killed % 4
    assert steps == list(range(last + 1, 11))


def test_a_training_killed_in_its_log_callback_goes_on(faces, tmp_path, v1):
    """An error of the caller's own log ends the run, and the next one goes on from before it."""

    def log(step, _metrics):
        if step == 9:
            raise Killed

    with pytest.raises(Killed):
        train_base(faces, BASE, checkpoint=tmp_path, log=log)
    heard = []
    resumed = train_base(faces, BASE, checkpoint=tmp_path, log=lambda step, _: heard.append(step))
    assert heard == [9, 10]
    assert without_time(resumed) == without_time(v1)


def test_a_finished_training_is_returned_from_its_checkpoint(faces, tmp_path, v1):
    """The same call after the end trains nothing and gives the same result."""
    train_base(faces, BASE, checkpoint=tmp_path)
    again = train_base(faces, BASE, checkpoint=tmp_path, progress=kill_at(1))
    assert without_time(again) == without_time(v1)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"learning_rate": 0.5}, "learning_rate 0.0015 there, 0.5 here"), ({"seed": 3}, "seed 0")],
)
def test_a_checkpoint_of_other_settings_is_refused(faces, tmp_path, change, told):
    """Going on with another setting is refused, naming it, and leaves the checkpoint whole."""
    train_base(faces, BASE, checkpoint=tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(TrainingError, match=f"another training.*{told}"):
        train_base(faces, dataclasses.replace(BASE, **change), checkpoint=tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_checkpoint_of_other_data_is_refused(faces, tmp_path):
    """Going on with other faces is refused."""
    train_base(faces, BASE, checkpoint=tmp_path)
    fewer = FaceList(faces.faces[:-1], faces.root)
    with pytest.raises(TrainingError, match=r"another training \(data "):
        train_base(fewer, BASE, checkpoint=tmp_path)


def test_a_checkpoint_of_other_old_vectors_or_start_is_refused(
    faces, tmp_path, v1, v2, old_vectors
):
    """A harmonic training goes on only with the v1 and the v2 that it began with."""
    train_harmonic(faces, HARMONIC, start=v2.network, old_vectors=old_vectors, checkpoint=tmp_path)
    with pytest.raises(TrainingError, match="old_vectors"):
        train_harmonic(
            faces, HARMONIC, start=v2.network, old_vectors=-old_vectors, checkpoint=tmp_path
        )
    with pytest.raises(TrainingError, match="start"):
        train_harmonic(
            faces, HARMONIC, start=v1.network, old_vectors=old_vectors, checkpoint=tmp_path
        )
    with pytest.raises(TrainingError, match="kind harmonic there, twin here"):
        train_twin(faces, HARMONIC, start=v2.network, checkpoint=tmp_path)


class Malicious:
    """An object whose unpickling makes a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (open, (self.target, "w"))


@pytest.mark.parametrize("how", ["pickle", "torch", "truncated", "foreign", "garbage"])
def test_a_damaged_or_dangerous_checkpoint_is_refused(faces, tmp_path, how):
    """A checkpoint that is a pickle, a torch archive, cut short or foreign is refused unrun."""
    target, content = tmp_path / "ran", io.BytesIO()
    train_base(faces, BASE, checkpoint=tmp_path)
    path = tmp_path / FILE_NAME
    if how == "torch":
        torch.save(Malicious(target), content)
    bad = {
        "pickle": pickle.dumps(Malicious(target)),
        "torch": content.getvalue(),
        "truncated": path.read_bytes()[:-10],
        "foreign": save({"x": torch.zeros(1)}),
        "garbage": b"{}",
    }
    path.write_bytes(bad[how])
    with pytest.raises(UnsafeModelError):
        train_base(faces, BASE, checkpoint=tmp_path)
    assert not target.exists()


def test_a_checkpoint_of_a_newer_format_is_refused(faces, tmp_path):
    """A checkpoint of a later Segue names both formats."""
    path = tmp_path / FILE_NAME
    path.write_bytes(save({"x": torch.zeros(1)}, {"segue": json.dumps({"format": 9})}))
    with pytest.raises(FormatError, match="format 9"):
        train_base(faces, BASE, checkpoint=tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 6])
def test_too_few_people_are_refused_before_any_image_is_read(faces, tmp_path, kept):
    """Nobody, one person, or people of one image each: a sentence says what is missing."""
    chosen = faces.faces[:1] * kept if kept == 1 else faces.faces[-3:] * (kept // 3)
    unreadable = tuple(dataclasses.replace(face, path=tmp_path / "gone.png") for face in chosen[:3])
    with pytest.raises(PeopleError, match="two images or more"):
        train_base(FaceList(unreadable, tmp_path), BASE)


def test_a_loss_that_is_no_longer_finite_ends_the_training(faces):
    """A diverging training stops with advice instead of writing NaN."""
    wild = dataclasses.replace(BASE, learning_rate=1e8, optimiser="sgd", clip=0, steps=40)
    with pytest.raises((TrainingError, VectorError), match=r"learning_rate|NaN"):
        train_base(faces, wild)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"steps": 0}, UsageError, "steps 0"),
        ({"learning_rate": -1.0}, UsageError, "learning_rate -1.0"),
        ({"learning_rate": float("nan")}, UsageError, "learning_rate nan"),
        ({"images_per_person": 1}, UsageError, "images_per_person 1"),
        ({"zoom": 1.5}, UsageError, "zoom"),
        ({"weight_decay": -0.1}, UsageError, "weight_decay"),
        ({"optimiser": "adamw"}, UnknownNameError, "known: adam, sgd"),
    ],
)
def test_impossible_settings_are_refused_where_they_are_written(change, error, told):
    """A setting out of range is named at once, before any data is read."""
    with pytest.raises(error, match=told):
        TrainSettings(**change)
    with pytest.raises(error, match=told):
        HarmonicSettings(**change)


def saved(tmp_path, faces, vectors, *, names=None):
    names = names or [face.path.relative_to(faces.root).as_posix() for face in faces.faces]
    np.savez(tmp_path / "old.npz", paths=np.array(names), vectors=vectors)
    return tmp_path / "old.npz"


def test_old_vectors_come_from_a_file_in_any_order(faces, tmp_path, old_vectors):
    """Rows are found by path; rows of other images are ignored."""
    order = np.random.default_rng(0).permutation(len(faces))
    names = [faces.faces[i].path.relative_to(faces.root).as_posix() for i in order]
    path = saved(
        tmp_path,
        faces,
        np.concatenate([old_vectors[order], old_vectors[:1]]),
        names=[*names, "somebody/else.png"],
    )
    np.testing.assert_allclose(old_vectors_from_file(path, faces), old_vectors, atol=1e-6)


def test_a_file_of_old_vectors_is_held_to_the_faces(faces, tmp_path, old_vectors):
    """Missing and doubled rows, NaN, wrong lengths and wrong shapes each have their sentence."""
    names = [face.path.relative_to(faces.root).as_posix() for face in faces.faces]
    broken = old_vectors.copy()
    broken[2] = np.nan
    cases = [
        (old_vectors[1:], names[1:], "no vector for 1 of 21 images .*, number 1 of them"),
        (old_vectors[:5], names[:5], "no vector for 16 of 21 images .*, number 6, 7, 8 … of them"),
        (old_vectors[[*range(21), 4]], [*names, names[4]], "rows 4 and 21 .* of one image"),
        (broken, names, "NaN"),
        (old_vectors * 3, names, "unit length"),
        (old_vectors[:, 0], names, "give numbers"),
        (old_vectors[:3], names, "21 paths and 3 vectors"),
        (old_vectors, list(range(21)), "give text"),
    ]
    for vectors, given, told in cases:
        with pytest.raises(VectorError, match=told) as caught:
            old_vectors_from_file(saved(tmp_path, faces, vectors, names=given), faces)
        assert not any(name in str(caught.value) for name in names), "paths name people"


def test_a_file_of_old_vectors_runs_no_code(faces, tmp_path):
    """Pickled objects, a plain pickle and an incomplete file are refused; nothing is run."""
    target, path = tmp_path / "ran", tmp_path / "old.npz"
    np.savez(path, paths=np.array([Malicious(target)], dtype=object), vectors=np.zeros((1, 2)))
    with pytest.raises(UnsafeModelError, match="pickled"):
        old_vectors_from_file(path, faces)
    path.write_bytes(pickle.dumps(Malicious(target)))
    with pytest.raises(UnsafeModelError, match=r"\.npz"):
        old_vectors_from_file(path, faces)
    np.savez(path, vectors=np.zeros((1, 2)))
    with pytest.raises(VectorError, match="no array paths"):
        old_vectors_from_file(path, faces)
    assert not target.exists()


def test_settings_are_read_without_torch():
    """A command can show the settings' defaults without loading torch."""
    program = (
        "import sys; from segue.train import TrainSettings, HarmonicSettings;"
        "TrainSettings(), HarmonicSettings(); raise SystemExit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.lfw
def test_a_few_steps_on_real_faces_part_people():
    """On real faces of a list of people, within some steps people move apart."""
    from segue.images import read_faces

    default = Path(__file__).parents[2].parent / "shared" / "data"
    data = Path(os.environ.get("SEGUE_DATA", default)) / "lfw"
    if not (data / "people.csv").is_file():
        pytest.skip("no real faces (SEGUE_DATA or ../shared/data)")
    faces = read_faces(data).part("calibration").at_most(3, seed=0)
    settings = TrainSettings(width=4, image_size=32, steps=40, threads=1, log_every=1, warmup=5)
    history = train_base(faces, settings).history
    part = [entry["different_distance"] - entry["same_distance"] for entry in history]
    assert np.mean(part[-8:]) > 2 * np.mean(part[:8])
