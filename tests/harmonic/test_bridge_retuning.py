"""Retuning: what it learns from a version's own vectors, and its loss pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segue.errors import PeopleError, VectorError
from segue.harmonic.bridges import Bridge, fit_retuning
from segue.harmonic.bridges.retuning import BALANCE, TEMPERATURE, self_contrast

D = 16


def people(first, count, images, seed):
    """Vectors [N, D] with three strong directions that say nothing of who it is, and labels [N]."""
    draw = np.random.default_rng([seed, first])
    labels = np.repeat(np.arange(first, first + count), images)
    who = draw.normal(size=(count, D)).repeat(images, axis=0)
    nuisance = draw.normal(size=(len(labels), 3)) @ np.eye(3, D) * 2
    x = who + 0.5 * draw.normal(size=who.shape) + nuisance
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def val(vectors, labels, far=1e-2):
    """VAL at a FAR over all pairs."""
    d2 = 2 - 2 * vectors @ vectors.T
    upper = np.triu(np.ones_like(d2, dtype=bool), 1)
    same = labels[:, None] == labels
    threshold = np.quantile(d2[upper & ~same], far)
    return float((d2[upper & same] < threshold).mean())


def test_people_it_never_saw_are_told_apart_better():
    """Planted directions that say nothing of the person are turned down, for others too."""
    vectors, labels = people(0, 80, 4, 1)
    singles, their = people(100, 40, 1, 1)
    both, who = np.concatenate([vectors, singles]), np.concatenate([labels, their])
    bridge = fit_retuning(both, who, version="faces/1", fingerprint="abc", steps=150)
    unseen, named = people(1000, 60, 4, 2)
    assert val(bridge.apply(unseen, version="faces/1"), named) > val(unseen, named) + 0.1
    assert (bridge.kind, bridge.source_version, bridge.source_fingerprint) == (
        "retuning",
        "faces/1",
        "abc",
    )
    assert bridge.settings["people"] == 120
    again = fit_retuning(both, who, version="faces/1", fingerprint="abc", steps=150)
    assert again.to_bytes() == bridge.to_bytes()
    assert Bridge.from_bytes(bridge.to_bytes()).to_bytes() == bridge.to_bytes()
    other = fit_retuning(both, who, version="faces/1", seed=1, steps=150)
    assert not np.array_equal(other.matrix, bridge.matrix)


def test_no_step_is_the_identity_and_few_people_are_enough_to_run():
    """Without training nothing moves; with neither singles nor full batches it trains."""
    vectors, labels = people(0, 10, 3, 3)
    still = fit_retuning(vectors, labels, version="faces/1", steps=0)
    assert np.allclose(still.apply(vectors, version="faces/1"), vectors, atol=1e-6)
    assert np.isfinite(fit_retuning(vectors, labels, version="faces/1", steps=3).matrix).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_equals_its_formula(seed):
    """Pair by pair, one denominator for the batch, an image never with itself."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(9, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    who = draw.integers(0, 4, size=9)
    total = sum(
        math.exp(float(x[i] @ x[k]) / TEMPERATURE)
        for i in range(9)
        for k in range(9)
        if who[k] != who[i]
    )
    value = weight = 0.0
    for i in range(9):
        mates = [j for j in range(9) if j != i and who[j] == who[i]]
        for j in mates:
            near = math.exp(float(x[i] @ x[j]) / TEMPERATURE)
            each = 1 / len(mates) ** BALANCE
            value -= each * math.log(near / (near + total / 9))
            weight += each
    expected = value / weight if weight else 0.0
    assert float(self_contrast(torch.from_numpy(x), who)) == pytest.approx(expected, abs=1e-9)


def test_nobody_to_be_near_or_apart_from_is_no_loss():
    """Without a pair of one person, or of two people, the loss is 0 and differentiable."""
    x = torch.nn.functional.normalize(torch.randn(3, 4)).requires_grad_()
    for who in (np.array([0, 1, 2]), np.array([0, 0, 0])):
        loss = self_contrast(x, who)
        loss.backward()
        assert loss.item() == 0


def test_wrong_input():
    """Too few people and vectors without labels are refused."""
    vectors, labels = people(0, 9, 2, 4)
    with pytest.raises(PeopleError, match="9 people have two images"):
        fit_retuning(vectors, labels, version="faces/1")
    with pytest.raises(VectorError):
        fit_retuning(vectors * 2, labels, version="faces/1")
    with pytest.raises(VectorError):
        fit_retuning(vectors, labels[1:], version="faces/1")
