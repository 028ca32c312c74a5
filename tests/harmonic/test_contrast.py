"""`harmonic_contrast` against the formula of its docstring, written as loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import UsageError, VectorError
from segue.harmonic import HarmonicContrastLoss, make_loss


def batch(seed, count=9, people=4, dimension=5):
    generator = torch.Generator().manual_seed(seed)
    new, old = torch.nn.functional.normalize(
        torch.randn(2, count, dimension, generator=generator, dtype=torch.float64), dim=2
    )
    return new, torch.randint(people, (count,), generator=generator), old


def by_loops(loss, new, labels, old):
    """The docstring's formula, pair by pair; its graph leads to `new`."""
    count = len(new)
    t = loss.temperature
    rows = []
    for i in range(count):
        total = torch.zeros((), dtype=torch.float64)
        for k in range(count):
            if labels[k] != labels[i]:
                total = total + torch.exp(new[i] @ old[k] / t)
                if loss.new_negatives:
                    total = total + torch.exp(new[i] @ new[k] / t)
        rows.append(total)
    value, weight = torch.zeros((), dtype=torch.float64), 0.0
    for i in range(count):
        pairs = [j for j in range(count) if labels[j] == labels[i]]
        impostors = sum(rows) / count if loss.shared else rows[i]
        for j in pairs:
            near = torch.exp(new[i] @ old[j] / t)
            each = 1 / len(pairs) ** loss.balance
            value = value - each * torch.log(near / (near + impostors))
            weight += each
    return value / weight


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("new_negatives", [True, False])
@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_it_equals_its_formula(shared, new_negatives, balance):
    """In float64 to 1e-9, value and gradient, with every setting."""
    loss = HarmonicContrastLoss(0.1, balance, shared, new_negatives)
    for seed in range(5):
        new, labels, old = batch(seed)
        new.requires_grad_()
        found, expected = loss(new, labels, old), by_loops(loss, new, labels, old)
        assert found.item() == pytest.approx(expected.item(), abs=1e-9)
        (ours,) = torch.autograd.grad(found, new)
        (theirs,) = torch.autograd.grad(expected, new)
        assert (ours - theirs).abs().max() < 1e-9


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.floats(0.02, 1.0))
def test_its_gradient_is_finite_and_leaves_old_vectors_alone(seed, temperature):
    """It reaches the new vectors alone and stays finite at any temperature."""
    new, labels, old = batch(seed)
    new.requires_grad_()
    old.requires_grad_()
    make_loss("harmonic_contrast", temperature=temperature)(new, labels, old).backward()
    assert old.grad is None
    assert torch.isfinite(new.grad).all()


def test_one_threshold_is_shared():
    """A probe that is near strangers is pushed from them harder when all share one threshold.

    Its own row's sum is large already, so that with a sum for each row the others do not add to
    its push; with one sum, every pair of the batch pushes it.
    """
    new, labels, old = batch(3)
    strangers = torch.nn.functional.normalize(old[labels != labels[0]].sum(0), dim=0)
    new[0] = strangers
    pushes = []
    for shared in (True, False):
        leaf = new.clone().requires_grad_()
        HarmonicContrastLoss(0.1, 0.5, shared)(leaf, labels, old).backward()
        pushes.append(float(leaf.grad[0] @ strangers))
    assert pushes[0] > 1.2 * pushes[1] > 0


def test_a_batch_of_one_person_has_no_impostors():
    """Nothing to hold the pairs against: the loss is 0, and so is its gradient."""
    new, _, old = batch(1)
    new.requires_grad_()
    value = HarmonicContrastLoss()(new, torch.zeros(len(new), dtype=torch.int64), old)
    value.backward()
    assert value.item() == 0
    assert torch.equal(new.grad, torch.zeros_like(new))


def test_wrong_use_says_what_is_missing():
    """No old vectors, another dimension, senseless settings."""
    new, labels, old = batch(0)
    with pytest.raises(UsageError, match="needs old_vectors"):
        HarmonicContrastLoss()(new, labels)
    with pytest.raises(VectorError, match="give v2 a head of v1's dimension"):
        HarmonicContrastLoss()(new, labels, torch.nn.functional.normalize(old[:, :3], dim=1))
    with pytest.raises(UsageError, match="temperature"):
        HarmonicContrastLoss(temperature=0.0)
    with pytest.raises(UsageError, match="balance"):
        HarmonicContrastLoss(balance=2.0)


@pytest.mark.parametrize(
    ("setting", "value"), [("temperature", "cold"), ("shared", "maybe"), ("shared", 1)]
)
def test_a_setting_of_another_kind_is_named(setting, value):
    """A text where a number belongs, a number where a truth does."""
    with pytest.raises(UsageError, match=f"{setting} .* of loss 'harmonic_contrast' is no"):
        make_loss("harmonic_contrast", **{setting: value})
