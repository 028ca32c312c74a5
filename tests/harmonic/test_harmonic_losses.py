import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import InvalidNameError, UnknownNameError, UsageError, VectorError
from segue.harmonic.losses import (
    HarmonicTripletLoss,
    TripletLoss,
    make_loss,
    register_loss,
)

POOLS = (("new",), ("old",), ("new", "old"))


def batch(seed, rows=14, people=4, dimension=4, noise=0.5):
    """New and old unit vectors of the same images in float64, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(people, (rows,), generator=generator)
    pair = []
    for _ in range(2):
        centres = torch.randn(people, dimension, generator=generator, dtype=torch.float64)
        spread = torch.randn(rows, dimension, generator=generator, dtype=torch.float64)
        pair.append(torch.nn.functional.normalize(centres[labels] + noise * spread, dim=1))
    return pair[0].requires_grad_(), labels, pair[1]


def d2(a, b):
    return (a - b).square().sum()


def loop_harmonic(v2, labels, v1, margin=0.2, *, pools=(POOLS[2],) * 3, self_weight=1.0):
    """The obvious loops over anchors, positives and negatives of both versions."""
    vectors = {"new": v2, "old": v1}
    everything = list(itertools.product(("new", "old"), range(len(labels))))
    anchors, positives, negatives = (
        [(which, i) for which, i in everything if which in pool] for pool in pools
    )
    total, weight = v2.sum() * 0, 0.0
    for a in anchors:
        for p in positives:
            if a == p or labels[a[1]] != labels[p[1]]:
                continue
            to_positive = d2(vectors[a[0]][a[1]], vectors[p[0]][p[1]])
            nearest, name = None, None
            for n in negatives:
                if labels[n[1]] == labels[a[1]]:
                    continue
                to_negative = d2(vectors[a[0]][a[1]], vectors[n[0]][n[1]])
                if to_positive < to_negative < to_positive + margin and (
                    nearest is None or to_negative < nearest
                ):
                    nearest, name = to_negative, n[0]
            versions = {a[0], p[0], name}
            if nearest is None or versions == {"old"}:
                continue
            w = self_weight if versions == {"new"} else 1.0
            total = total + w * torch.relu(to_positive - nearest + margin)
            weight += w
    return total / weight if weight else total


def same_loss_and_gradient(found, expected, v2):
    """Both agree to 1e-9, in value and in gradient."""
    assert found.shape == ()
    assert abs(found.item() - expected.item()) < 1e-9
    (ours,) = torch.autograd.grad(found, v2)
    (theirs,) = torch.autograd.grad(expected, v2)
    assert (ours - theirs).abs().max() < 1e-9


@pytest.mark.parametrize("pools", list(itertools.product(POOLS, repeat=3)), ids=str)
def test_harmonic_loss_is_that_of_the_loops(pools):
    """For each choice of pools, value and gradient equal plain loops in float64 to 1e-9."""
    if all(pool == ("old",) for pool in pools):
        with pytest.raises(UsageError, match="train nothing"):
            HarmonicTripletLoss(0.2, *pools)
        return
    v2, labels, v1 = batch(len(str(pools)))
    for self_weight in (1.0, 0.3):
        loss = HarmonicTripletLoss(0.4, *pools, self_weight=self_weight)
        expected = loop_harmonic(v2, labels, v1, 0.4, pools=pools, self_weight=self_weight)
        same_loss_and_gradient(loss(v2, labels, v1), expected, v2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 4))
def test_default_harmonic_loss_is_that_of_the_loops(seed, rows, people):
    """Batches of any make-up, also without triplets, agree with plain loops to 1e-9."""
    v2, labels, v1 = batch(seed, rows, people)
    expected = loop_harmonic(v2, labels, v1)
    same_loss_and_gradient(HarmonicTripletLoss()(v2, labels, v1), expected, v2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 14), st.integers(1, 4))
def test_triplet_loss_is_the_harmonic_one_of_new_vectors(seed, rows, people):
    """The self loss equals the loops over new vectors only to 1e-9."""
    v2, labels, v1 = batch(seed, rows, people)
    expected = loop_harmonic(v2, labels, v1, pools=(("new",),) * 3)
    same_loss_and_gradient(TripletLoss()(v2, labels), expected, v2)


def test_negatives_come_from_both_pools_together():
    """A pair whose nearest semi-hard negative is old gives no triplet with a farther new one."""
    angles = torch.tensor([0.0, 0.1, 0.5, 0.0, 0.1, 0.35], dtype=torch.float64)
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    v2, v1 = vectors[:3].clone().requires_grad_(), vectors[3:]
    labels = torch.tensor([0, 0, 1])
    loss = HarmonicTripletLoss(0.4, anchors=("new",), positives=("new",))
    (gradient,) = torch.autograd.grad(loss(v2, labels, v1), v2)
    assert not gradient[2].any()
    new_only = HarmonicTripletLoss(0.4, anchors=("new",), positives=("new",), negatives=("new",))
    (gradient,) = torch.autograd.grad(new_only(v2, labels, v1), v2)
    assert gradient[2].any()


def test_ten_lines_make_a_network_comparable():
    """In a plain training loop alone, v2 learns to be compared with a v1 it never met."""
    torch.manual_seed(0)
    people = torch.randn(20, 16)
    labels = torch.arange(200) // 10
    images = people[labels] + 0.5 * torch.randn(200, 16)
    v1 = torch.nn.functional.normalize(images @ torch.randn(16, 8), dim=1)
    network = torch.nn.Linear(16, 8)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    loss = HarmonicTripletLoss()

    def rank1():
        v2 = torch.nn.functional.normalize(network(images), dim=1)
        distances = torch.cdist(v2, v1).fill_diagonal_(9)
        return (labels[distances.argmin(1)] == labels).float().mean().item()

    before = rank1()
    for _ in range(150):
        v2 = torch.nn.functional.normalize(network(images), dim=1)
        optimiser.zero_grad()
        loss(v2, labels, v1).backward()
        optimiser.step()
    assert before < 0.3
    assert rank1() > 0.8


def test_names_and_settings_are_checked():
    """Unknown names list the known ones; unknown settings and values out of range are refused."""
    with pytest.raises(UnknownNameError, match="harmonic"):
        make_loss("harmonics")
    with pytest.raises(UsageError, match="margn"):
        make_loss("harmonic", margn=0.1)
    with pytest.raises(InvalidNameError, match="taken"):
        register_loss("harmonic")
    for name, bad in (
        ("triplet", {"margin": 0}),
        ("harmonic", {"anchors": ()}),
        ("harmonic", {"anchors": ("new", "new")}),
        ("harmonic", {"negatives": ("newer",)}),
        ("harmonic", {"self_weight": -1}),
    ):
        with pytest.raises(UsageError):
            make_loss(name, **bad)
    assert make_loss("harmonic", anchors=["new"]) == HarmonicTripletLoss(anchors=("new",))
    assert make_loss("harmonic", anchors="new") == HarmonicTripletLoss(anchors=("new",))


def test_vectors_are_checked():
    """Another dimension asks for a head; missing rows and raw outputs are refused."""
    v2, labels, v1 = batch(0)
    loss = HarmonicTripletLoss()
    with pytest.raises(VectorError, match="head of v1's dimension"):
        loss(v2, labels, torch.nn.functional.normalize(v1[:, :3], dim=1))
    with pytest.raises(VectorError, match="every image"):
        loss(v2, labels, v1[:-1])
    with pytest.raises(VectorError, match="old vectors"):
        loss(v2, labels, 2 * v1)
    with pytest.raises(VectorError, match="labels"):
        loss(v2, labels[:-1], v1)
