"""Harmonic trainings: both recipes learn, every tying loss trains, wrong use fails at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from train_world import (
    BASE,
    COMMON,
    ENOUGH,
    HARMONIC,
    HEADS_FIRST,
    PAPER,
    TYING,
    Killed,
    distances_to_old,
    kill_at,
    unread,
    without_time,
)

from segue.errors import TrainingError, UnknownNameError, UsageError, VectorError
from segue.networks import build_network, load_network, save_weights
from segue.networks.preprocess import prepare
from segue.train import (
    HarmonicSettings,
    paper_settings,
    train_base,
    train_harmonic,
    train_twin,
    twin_settings,
)
from segue.train.checkpoint import FILE_NAME
from segue.train.feed import Feed, whole_people
from segue.train.task import Kept, Stage, Task
from segue.train.trainee import HEADS, Trainee
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT, Preprocessing


def test_the_paper_s_recipe_is_the_harmonic_triplet_loss_on_one_output_drawn_anew():
    """`paper_settings` have one head, in FaceNet's order of stages; everything else may differ."""
    paper = paper_settings(steps=7)
    assert (paper.loss, paper.cross_weight, paper.steps) == ("harmonic", 1.0, 7)
    assert not paper.separate_head
    assert not paper.head_last
    assert paper_settings(loss="bct", separate_head=True).separate_head
    assert twin_settings(paper)["head_steps"] == paper.head_steps  # its heads come first too
    default = HarmonicSettings()
    assert (default.loss, default.separate_head) == ("harmonic_contrast", True)


@pytest.mark.parametrize(
    ("settings", "output"),
    [
        (PAPER, DEFAULT_OUTPUT),
        (HARMONIC, COMPATIBLE_OUTPUT),
        (HEADS_FIRST, COMPATIBLE_OUTPUT),
    ],
)
def test_harmonic_training_brings_new_vectors_to_the_old_ones(
    faces, v2, old_vectors, settings, output
):
    """Before it, new and old vectors of a person are unrelated; after it, they are near."""
    longer = dataclasses.replace(settings, **ENOUGH)
    trained = train_harmonic(faces, longer, start=v2.network, old_vectors=old_vectors)
    before = distances_to_old(v2, DEFAULT_OUTPUT, faces, old_vectors)
    same, different = distances_to_old(trained, output, faces, old_vectors)
    assert different - same > max(0.4, before[1] - before[0])
    assert trained.network.outputs == dict.fromkeys((DEFAULT_OUTPUT, output), 6)
    together = {"loss", "loss_self", "loss_cross", "same_distance"}
    assert any(together <= entry.keys() for entry in trained.history)


@pytest.mark.parametrize("settings", [PAPER, HARMONIC])
def test_an_old_version_of_another_dimension_gets_a_head_of_its_own(faces, old_vectors, settings):
    """Dimension 8 against 6: the own output keeps its dimension, `compatible` has v1's."""
    start = train_base(faces, dataclasses.replace(BASE, dimension=8, seed=3)).network
    longer = dataclasses.replace(settings, **ENOUGH, head_dropout=0.0)
    trained = train_harmonic(faces, longer, start=start, old_vectors=old_vectors)
    assert trained.network.outputs == {DEFAULT_OUTPUT: 8, COMPATIBLE_OUTPUT: 6}
    assert trained.settings["outputs"] == {DEFAULT_OUTPUT: 8, COMPATIBLE_OUTPUT: 6}
    same, different = distances_to_old(trained, COMPATIBLE_OUTPUT, faces, old_vectors)
    assert different - same > 0.3
    again = load_network(trained.architecture, trained.settings, save_weights(trained.network))
    assert again.outputs == trained.network.outputs
    twin = train_twin(faces, settings, start=trained.network)
    assert twin.network.outputs == {DEFAULT_OUTPUT: 8}


@pytest.mark.parametrize("settings", [PAPER, HEADS_FIRST])
def test_stage_one_trains_the_heads_alone(faces, tmp_path, v2, old_vectors, settings):
    """After stage 1 the trunk is the one it began with, statistics included; the heads are not."""
    before = {name: value.clone() for name, value in v2.network.state_dict().items()}
    with pytest.raises(Killed):
        train_harmonic(
            faces,
            settings,
            start=v2.network,
            old_vectors=old_vectors,
            checkpoint=tmp_path,
            progress=kill_at(settings.head_steps),
        )
    at_the_end = load_file(tmp_path / FILE_NAME)
    for name, value in before.items():
        same = torch.equal(at_the_end[f"weights.network.{name}"], value)
        assert same is name.startswith("trunk."), name
    for name, value in v2.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_separate_head_trained_last_changes_nothing_else(faces, v2, old_vectors):
    """Trunk and own output are, bit for bit, those of a training that ends before its stage."""
    arguments = {"start": v2.network, "old_vectors": old_vectors}
    whole = train_harmonic(faces, HARMONIC, **arguments)
    before = train_harmonic(faces, dataclasses.replace(HARMONIC, head_steps=0), **arguments)
    assert whole.history[-1]["step"] == HARMONIC.steps + HARMONIC.head_steps
    assert before.history[-1]["step"] == HARMONIC.steps
    expected = before.network.state_dict()
    for name, value in whole.network.state_dict().items():
        same = torch.equal(value, expected[name])
        assert same is not name.startswith(f"heads.{COMPATIBLE_OUTPUT}"), name


@pytest.mark.parametrize("images", [0, 8, 10_000])
def test_a_head_learns_from_features_however_many_images_are_kept(faces, v2, old_vectors, images):
    """Its stage takes all of its steps, and the loss falls, with kept features or without."""
    settings = dataclasses.replace(
        HARMONIC,
        head_steps=80,
        head_images=images,
        head_dropout=0.0,
        head_learning_rate=2e-2,
        steps=1,
    )
    trained = train_harmonic(faces, settings, start=v2.network, old_vectors=old_vectors)
    assert trained.history[-1]["step"] == 81
    losses = [entry["loss"] for entry in trained.history[1:]]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_kept_features_are_those_of_some_people_s_images_as_they_are(faces, v2):
    """Each of their images passes the trunk once, unchanged; batches are of these."""
    images, labels, settings = faces.load((32, 32)), faces.labels, HARMONIC
    squares = Preprocessing(32, 32)
    trainee = Trainee(v2.network)
    embedded = []

    def features(given, *, frozen, half):
        assert (frozen, half) == (True, False)
        embedded.append(given)
        return Trainee.features(trainee, given, frozen=frozen, half=half)

    trainee.features = features
    stage = Stage("heads", 5, 1e-3, HEADS, Kept(images=9, people=2, singles=1))
    feed = Feed(
        trainee, Task(images, labels, squares, lambda *_: {}, {}), settings, stage=stage, first=4
    )
    chosen = whole_people(labels, 9, settings.seed, 4)
    assert len(chosen) < len(images)
    assert {person for person in labels[chosen] if (labels[chosen] == person).sum() > 1}
    expected = v2.network(torch.from_numpy(prepare(images, squares)))[DEFAULT_OUTPUT]
    drawn = set()
    for step in range(4, 9):
        batch, outputs = feed.outputs(step)
        drawn |= set(batch.rows.tolist())
        assert batch.labels.tolist() == labels[batch.rows].tolist()
        torch.testing.assert_close(outputs[DEFAULT_OUTPUT], expected[batch.rows])
    assert drawn <= set(chosen.tolist())
    assert sum(map(len, embedded)) == len(chosen)


@pytest.mark.parametrize(
    ("settings", "kept"), [(PAPER, False), (HEADS_FIRST, True), (HARMONIC, True)]
)
def test_only_the_paper_s_recipe_draws_the_own_head_anew(faces, v2, old_vectors, settings, kept):
    """With a head of its own for v1, `embedding` goes on from where the start left it."""
    hardly = dataclasses.replace(settings, learning_rate=1e-9, head_learning_rate=1e-9)
    trained = train_harmonic(faces, hardly, start=v2.network, old_vectors=old_vectors)
    found = trained.network.heads[DEFAULT_OUTPUT].weight
    expected = v2.network.heads[DEFAULT_OUTPUT].weight
    assert torch.allclose(found, expected, atol=1e-6) is kept


@pytest.mark.parametrize("settings", [PAPER, HEADS_FIRST, HARMONIC])
def test_the_twin_has_the_same_steps_and_knows_nothing_of_v1(faces, v2, settings):
    """The twin's output gets the steps that v2's gets, has no cross term, and starts unreset."""
    twin = train_twin(faces, settings, start=v2.network)
    steps = settings.steps + (0 if settings.head_last else settings.head_steps)
    assert twin.history[-1]["step"] == steps
    assert all("loss_cross" not in entry for entry in twin.history)
    hardly = dataclasses.replace(settings, learning_rate=1e-9, head_learning_rate=1e-9)
    unmoved = train_twin(faces, hardly, start=v2.network).network.state_dict()
    for name, value in v2.network.heads.state_dict().items():
        torch.testing.assert_close(unmoved[f"heads.{name}"], value, atol=1e-6, rtol=0)


def test_every_tying_loss_is_known():
    """What this module trains with is what is registered, and the brief's losses are there."""
    named = {"bct", "lce", "mixbct", "contra_ract", "l2", "hoc", "harmonic", "harmonic_contrast"}
    assert named <= set(TYING)
    assert "triplet" not in TYING


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("loss", TYING)
def test_every_tying_loss_trains(faces, v2, old_vectors, loss, separate):
    """Each registered loss that needs something of v1 alone brings v2 to it, on either head."""
    settings = dataclasses.replace(
        HEADS_FIRST if separate else PAPER,
        loss=loss,
        head_dropout=0.0,
        head_steps=1,
        steps=30,
        learning_rate=1e-2,
        people_per_batch=6,
        self_weight=0.0,
        cross_weight=1.0,
        log_every=1,
    )
    trained = train_harmonic(faces, settings, start=v2.network, old_vectors=old_vectors)
    output = COMPATIBLE_OUTPUT if separate else DEFAULT_OUTPUT
    same, different = distances_to_old(trained, output, faces, old_vectors)
    assert different - same > 0.3
    assert np.isfinite([entry["loss_cross"] for entry in trained.history]).all()


def test_mixbct_takes_the_place_of_the_own_loss(faces, v2, old_vectors):
    """As published, with no weight on the self loss: half of the terms is nothing, it trains."""
    settings = dataclasses.replace(PAPER, loss="mixbct", self_weight=0.0)
    trained = train_harmonic(faces, settings, start=v2.network, old_vectors=old_vectors)
    assert all(entry["loss_self"] == 0 for entry in trained.history)
    assert any(entry["loss_cross"] > 0 for entry in trained.history)


def test_a_head_stage_of_no_steps_is_one_stage_training(faces, v2, old_vectors):
    """With no steps for the heads alone, the whole network is trained from the start."""
    settings = dataclasses.replace(PAPER, head_steps=0)
    trained = train_harmonic(faces, settings, start=v2.network, old_vectors=old_vectors)
    assert trained.history[-1]["step"] == HARMONIC.steps


@pytest.mark.parametrize("killed", [3, 5, 6, 8, 10])
def test_a_killed_harmonic_training_goes_on_to_the_same_weights(
    faces, tmp_path, v2, old_vectors, killed
):
    """Killed in stage 1, between the stages and in stage 2, it resumes bit for bit."""
    arguments = {"start": v2.network, "old_vectors": old_vectors}
    expected = train_harmonic(faces, HARMONIC, **arguments)
    arguments["checkpoint"] = tmp_path
    with pytest.raises(Killed):
        train_harmonic(faces, HARMONIC, **arguments, progress=kill_at(killed))
    resumed = train_harmonic(faces, HARMONIC, **arguments)
    assert without_time(resumed) == without_time(expected)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        (PAPER, {}),
        (PAPER, {"loss": "lce", "optimiser": "sgd"}),
        (HEADS_FIRST, {"loss": "mixbct"}),
        (HARMONIC, {"loss": "lce"}),
        (HARMONIC, {"loss": "mixbct", "head_images": 0}),
        (HARMONIC, {"precision": "bfloat16"}),
        (HARMONIC, {"precision": "bfloat16", "loss": "lce", "head_dropout": 0.0}),
    ],
    ids=str,
)
@pytest.mark.parametrize("killed", [4, 9])
def test_every_recipe_goes_on_to_the_same_weights(
    faces, tmp_path, v2, old_vectors, settings, change, killed
):
    """Class weights, drawn rows, dropout and bfloat16 are all a function of seed and step."""
    settings = dataclasses.replace(settings, **change)
    arguments = {"start": v2.network, "old_vectors": old_vectors}
    expected = train_harmonic(faces, settings, **arguments)
    arguments["checkpoint"] = tmp_path
    with pytest.raises(Killed):
        train_harmonic(faces, settings, **arguments, progress=kill_at(killed))
    steps = []
    resumed = train_harmonic(
        faces,
        settings,
        **arguments,
        progress=lambda done, _total, what: steps.append(done) if "steps" in what else None,
    )
    assert without_time(resumed) == without_time(expected)
    assert steps[0] > 4 - (4 % settings.checkpoint_every)


def test_bfloat16_trains_the_trunk_in_other_precision_and_gives_float32(faces, v2, old_vectors):
    """The weights that come out are float32, near those of float32 and not the same."""
    arguments = {"start": v2.network, "old_vectors": old_vectors}
    exact = train_harmonic(faces, HARMONIC, **arguments).network.state_dict()
    settings = dataclasses.replace(HARMONIC, precision="bfloat16")
    rough = train_harmonic(faces, settings, **arguments).network.state_dict()
    assert {name: value.dtype for name, value in rough.items()} == {
        name: value.dtype for name, value in exact.items()
    }
    name = f"heads.{DEFAULT_OUTPUT}.weight"
    assert not torch.equal(rough[name], exact[name])
    torch.testing.assert_close(rough[name], exact[name], atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"head_steps": -1}, "head_steps -1"),
        ({"head_learning_rate": 0.0}, "head_learning_rate 0.0"),
        ({"cross_weight": -1.0}, "cross_weight -1.0"),
        ({"head_dropout": 1.0}, "head_dropout 1.0; give a share from 0 to below 1"),
        ({"head_dropout": -0.1}, "head_dropout -0.1"),
        ({"head_images": -1}, "head_images -1"),
        ({"head_people": 1}, "head_people 1"),
        ({"head_singles": -1}, "head_singles -1"),
        ({"separate_head": False}, "head_last trains the separate head"),
        ({"precision": "float16"}, "known: bfloat16, float32"),
        ({"image_size": 7}, "image_size 7; give a whole number of pixels from 8 to 1024"),
        ({"image_size": 1_000_000}, "image_size 1000000; .* from 8 to 1024"),
        ({"seed": -1}, "seed -1; give a whole number of at least 0"),
        ({"seed": 2**63}, r"seed 9\d+; .* below 2\*\*63"),
    ],
)
def test_impossible_harmonic_settings_are_refused(change, told):
    """Settings out of range are named where they are written."""
    with pytest.raises(UsageError, match=told):
        HarmonicSettings(**change)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"loss": "triplet"}, UsageError, "uses no old vectors"),
        ({"loss": "harmonik"}, UnknownNameError, r"known: .*harmonic"),
        ({"loss_settings": {"warmth": 1}}, UsageError, "no setting warmth; it takes temperature"),
        ({"loss_settings": {"temperature": 0.0}}, UsageError, "temperature 0.0"),
        ({"self_loss": "harmonic"}, UsageError, "no self loss"),
        ({"self_loss": "lce"}, UsageError, "no self loss"),
        ({"self_loss_settings": {"alpha": 1}}, UsageError, "alpha"),
    ],
)
def test_losses_in_the_wrong_place_are_refused_before_images_are_read(
    faces, tmp_path, v2, old_vectors, change, error, told
):
    """A tying loss is no self loss, a self loss ties nothing, unknown names list the known."""
    settings = dataclasses.replace(HARMONIC, **change)
    with pytest.raises(error, match=told):
        train_harmonic(unread(faces, tmp_path), settings, start=v2.network, old_vectors=old_vectors)


def test_old_vectors_that_are_not_the_faces_are_refused_before_images_are_read(
    faces, tmp_path, v2, old_vectors
):
    """Too few rows, NaN and rows not of unit length are refused before training."""
    broken = old_vectors.copy()
    broken[1, 1] = np.nan
    for bad in (old_vectors[:-1], broken, old_vectors * 2):
        with pytest.raises(VectorError):
            train_harmonic(unread(faces, tmp_path), HARMONIC, start=v2.network, old_vectors=bad)


def test_a_network_built_by_hand_cannot_be_started_from(faces, tmp_path, old_vectors):
    """A start without a registered name could not be built again, and is refused."""
    network = build_network("small", {"width": 2, "dimension": 6})
    network.describe_as("", {})
    with pytest.raises(TrainingError, match="build_network"):
        train_harmonic(unread(faces, tmp_path), HARMONIC, start=network, old_vectors=old_vectors)


def test_preprocessing_of_the_start_is_kept(faces, v2, old_vectors):
    """A start with other preprocessing than the settings' is trained on with its own."""
    own = Preprocessing(40, 36, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), "BGR")
    trained = train_harmonic(
        faces, HARMONIC, start=v2.network, old_vectors=old_vectors, preprocessing=own
    )
    assert trained.preprocessing == own


def test_a_harmonic_version_is_started_from_again(faces, v2, old_vectors):
    """v3 begins from a v2 that has a head for v1: that head is left out, and one for v2 made."""
    second = train_harmonic(faces, HARMONIC, start=v2.network, old_vectors=old_vectors).network
    wider = np.concatenate([old_vectors, old_vectors], axis=1) / np.float32(np.sqrt(2))
    third = train_harmonic(faces, HARMONIC, start=second, old_vectors=wider)
    assert third.network.outputs == {DEFAULT_OUTPUT: 6, COMPATIBLE_OUTPUT: 12}
    shared = train_harmonic(
        faces,
        paper_settings(**COMMON, head_steps=1, steps=1),
        start=second,
        old_vectors=old_vectors,
    )
    assert shared.network.outputs == {DEFAULT_OUTPUT: 6}
