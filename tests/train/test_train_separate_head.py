"""The head that v1 is compared with: standardised features and dropout in training, none in use."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_world import HARMONIC

from segue.errors import UsageError
from segue.networks import EmbeddingNetwork, TorchRunner, embed
from segue.train import train_harmonic
from segue.train.trainee import ALL, COMPATIBLE, PARTS, SeparateHeadTrainee, Trainee
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT

FEATURES = 12


def made(*, dropout, seed=0, lift=0.0, spread=1.0):
    """Return a network with both outputs as it is trained, and features that it has seen."""
    generator = torch.Generator().manual_seed(seed)
    features = lift + spread * torch.randn(40, FEATURES, generator=generator)
    trunk = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, FEATURES))
    network = EmbeddingNetwork(trunk, FEATURES, 6)
    network.add_head(COMPATIBLE_OUTPUT, 5, seed=seed)
    return SeparateHeadTrainee(network, dropout, features), features


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    lift=st.floats(-3, 3),
    spread=st.floats(0.05, 20),
    dropout=st.sampled_from([0.0, 0.5]),
)
def test_a_finished_network_gives_what_the_trained_one_gave(seed, lift, spread, dropout):
    """Folded into the head, shift and scale change nothing of what it says in evaluation."""
    trainee, features = made(dropout=dropout, seed=seed, lift=lift, spread=spread)
    with torch.no_grad():
        before = trainee.eval().embed(features)
        after = trainee.finish().embed_features(features)
    # float32 cancels what lies far from the features' spread: |mean| / scale of its precision.
    lost = 1e-6 * (1 + float(trainee.mean.abs().max() / trainee.scale))
    for output in (DEFAULT_OUTPUT, COMPATIBLE_OUTPUT):
        torch.testing.assert_close(after[output], before[output], atol=1e-5 + lost, rtol=0)
    assert list(before) == list(after)


def test_dropout_is_of_the_training_alone():
    """In evaluation an image has one vector; in training the head sees other features each time."""
    trainee, features = made(dropout=0.5)
    with torch.no_grad():
        calm = [trainee.eval().embed(features) for _ in range(2)]
        drawn = [trainee.train().embed(features) for _ in range(2)]
    assert torch.equal(calm[0][COMPATIBLE_OUTPUT], calm[1][COMPATIBLE_OUTPUT])
    assert not torch.equal(drawn[0][COMPATIBLE_OUTPUT], drawn[1][COMPATIBLE_OUTPUT])
    for each in (*calm, *drawn):
        assert torch.equal(each[DEFAULT_OUTPUT], calm[0][DEFAULT_OUTPUT])


def test_the_own_output_is_the_one_without_a_second_head():
    """The own head takes features as they are, whatever the other one is given."""
    trainee, features = made(dropout=0.5, lift=2.0, spread=3.0)
    plain = Trainee(trainee.network).embed(features)
    assert torch.equal(trainee.embed(features)[DEFAULT_OUTPUT], plain[DEFAULT_OUTPUT])


@pytest.mark.parametrize("trained", PARTS)
def test_gradients_reach_what_a_stage_trains(trained):
    """Heads learn on a trunk in evaluation mode; the separate head alone is trained by itself."""
    trainee, _ = made(dropout=0.5)
    outputs = trainee(torch.randn(4, 3, 4, 4), trained=trained)
    torch.stack([vectors[:, 0].sum() for vectors in outputs.values()]).sum().backward()
    trunk = [p.grad is not None for p in trainee.network.trunk.parameters()]
    assert all(trunk) if trained == ALL else not any(trunk)
    assert trainee.network.trunk.training is (trained == ALL)
    assert trainee.training
    names = {id(value): name for name, value in trainee.named_parameters()}
    found = {names[id(each)].removeprefix("network.") for each in trainee.parameters_of(trained)}
    heads = {f"heads.{COMPATIBLE_OUTPUT}.weight", f"heads.{COMPATIBLE_OUTPUT}.bias"}
    if trained != COMPATIBLE:
        heads |= {f"heads.{DEFAULT_OUTPUT}.weight", f"heads.{DEFAULT_OUTPUT}.bias"}
    assert found == (set(dict(trainee.network.named_parameters())) if trained == ALL else heads)


@pytest.mark.parametrize("trained", PARTS)
def test_class_weights_are_trained_in_every_stage(trained):
    """What a loss trains beside the network is among the parameters of each stage."""
    network = made(dropout=0.0)[0].network
    weights = torch.nn.Parameter(torch.ones(3, 6))
    with_weights, without = Trainee(network, weights), Trainee(network)
    assert any(each is weights for each in with_weights.parameters_of(trained))
    assert len(without.parameters_of(trained)) == len(with_weights.parameters_of(trained)) - 1


def test_a_trained_version_embeds_an_image_in_one_way(faces, v2, old_vectors):
    """What is registered has no dropout: the same image has the same vectors, of unit length."""
    trained = train_harmonic(
        faces,
        dataclasses.replace(HARMONIC, head_dropout=0.9),
        start=v2.network,
        old_vectors=old_vectors,
    )
    runner, images = TorchRunner(trained.network), faces.load((32, 32))
    first, second = (embed(runner, images, trained.preprocessing) for _ in range(2))
    for output in (DEFAULT_OUTPUT, COMPATIBLE_OUTPUT):
        np.testing.assert_array_equal(first[output], second[output])
        np.testing.assert_allclose(np.linalg.norm(first[output], axis=1), 1, atol=1e-5)


def test_dropout_changes_what_is_learned(faces, v2, old_vectors):
    """The setting reaches the training: other shares give other weights of the head."""
    found = [
        train_harmonic(
            faces,
            dataclasses.replace(HARMONIC, head_dropout=share),
            start=v2.network,
            old_vectors=old_vectors,
        )
        .network.heads[COMPATIBLE_OUTPUT]
        .weight
        for share in (0.0, 0.5)
    ]
    assert not torch.equal(*found)


@pytest.mark.parametrize(
    ("change", "tied"),
    [
        ({}, True),
        ({"own_contrast": 0.0}, False),
        ({"separate_head": False, "head_last": False, "own_contrast": 0.0}, False),
    ],
)
def test_the_own_output_is_tied_lightly_beside_a_separate_head(
    faces, v2, old_vectors, change, tied
):
    """`own_contrast` adds a term while the whole network is trained; 0 and one output have none."""
    chosen = dataclasses.replace(HARMONIC, **{"log_every": 1, **change})
    trained = train_harmonic(faces, chosen, start=v2.network, old_vectors=old_vectors)
    told = [entry.get("loss_contrast") for entry in trained.history]
    whole = chosen.steps if tied else 0
    assert sum(value is not None for value in told) == whole
    assert all(value > 0 for value in told if value is not None)


def test_an_own_output_of_another_dimension_is_left_free(faces, v2, old_vectors):
    """Dimension 6 against 5: there is nothing of v1 that it could be held against."""
    shorter = old_vectors[:, :5] / np.linalg.norm(old_vectors[:, :5], axis=1, keepdims=True)
    trained = train_harmonic(faces, HARMONIC, start=v2.network, old_vectors=shorter)
    assert all("loss_contrast" not in entry for entry in trained.history)


def test_a_tie_of_the_own_output_needs_a_separate_head():
    """On one output the tying loss is there already."""
    with pytest.raises(UsageError, match="own_contrast"):
        dataclasses.replace(HARMONIC, separate_head=False, head_last=False)
