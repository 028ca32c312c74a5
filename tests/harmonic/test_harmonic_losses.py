import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import MeanReducer

from segue.errors import InvalidNameError, UnknownNameError, UsageError, VectorError
from segue.harmonic.losses import (
    HarmonicTripletLoss,
    TripletLoss,
    apply_loss,
    class_means,
    class_radii,
    list_losses,
    make_loss,
    register_loss,
    triplet_loss_on,
)
from segue.harmonic.mining import STRATEGIES, Triplets
from segue.harmonic.pools import COMBINATIONS, mine_pools

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


def loop_harmonic(
    v2,
    labels,
    v1,
    margin=0.2,
    *,
    combinations=COMBINATIONS,
    self_weight=1.0,
    hardest=False,
    weights=None,
):
    """The obvious loops over anchors, positives and negatives of both versions."""
    vectors = {"n": v2, "o": v1}
    everything = list(itertools.product("no", range(len(labels))))
    total, weight = v2.sum() * 0, 0.0
    for a, p in itertools.product(everything, repeat=2):
        if a == p or labels[a[1]] != labels[p[1]]:
            continue
        to_positive = d2(vectors[a[0]][a[1]], vectors[p[0]][p[1]])
        nearest, chosen = None, None
        for n in everything:
            if labels[n[1]] == labels[a[1]] or a[0] + p[0] + n[0] not in combinations:
                continue
            to_negative = d2(vectors[a[0]][a[1]], vectors[n[0]][n[1]])
            if (
                (hardest or to_positive < to_negative)
                and to_negative < to_positive + margin
                and (nearest is None or to_negative < nearest)
            ):
                nearest, chosen = to_negative, n
        if nearest is None or (a[0], p[0], chosen[0]) == ("o", "o", "o"):
            continue
        w = self_weight if (a[0], p[0], chosen[0]) == ("n", "n", "n") else 1.0
        if weights is not None:
            w *= math.prod(float(weights[i]) for version, i in (a, p, chosen) if version == "o")
        total = total + w * torch.relu(to_positive - nearest + margin)
        weight += w
    return total / weight if weight else total


def same_loss_and_gradient(found, expected, v2):
    """Both agree to 1e-9, in value and in gradient."""
    assert found.shape == ()
    assert abs(found.item() - expected.item()) < 1e-9
    (ours,) = torch.autograd.grad(found, v2, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, v2, retain_graph=True)
    assert (ours - theirs).abs().max() < 1e-9


@pytest.mark.parametrize("pools", list(itertools.product(POOLS, repeat=3)), ids=str)
def test_pools_keep_the_combinations_that_they_hold(pools):
    """For each choice of pools, value and gradient equal plain loops over its combinations."""
    held = ["".join(name[0] for name in each) for each in itertools.product(*pools)]
    if held == ["ooo"]:
        with pytest.raises(UsageError, match="train nothing"):
            HarmonicTripletLoss(0.2, *pools)
        return
    v2, labels, v1 = batch(len(str(pools)), rows=10)
    for self_weight in (1.0, 0.3):
        loss = HarmonicTripletLoss(0.4, *pools, self_weight=self_weight)
        assert set(loss.mined) == set(held)
        expected = loop_harmonic(v2, labels, v1, 0.4, combinations=held, self_weight=self_weight)
        same_loss_and_gradient(loss(v2, labels, v1), expected, v2)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sets(st.sampled_from(COMBINATIONS), min_size=1),
    st.sampled_from(["semi-hard", "hardest"]),
    st.booleans(),
)
def test_any_combinations_are_those_of_the_loops(seed, combinations, strategy, weighted):
    """Each combination is switched by itself, with either strategy and with v1's reliability."""
    if combinations == {"ooo"}:
        return
    v2, labels, v1 = batch(seed, rows=7, people=3)
    weights = torch.rand(7, dtype=torch.float64) if weighted else None
    loss = HarmonicTripletLoss(0.4, combinations=combinations, strategy=strategy, self_weight=0.6)
    expected = loop_harmonic(
        v2,
        labels,
        v1,
        0.4,
        combinations=combinations,
        self_weight=0.6,
        hardest=strategy == "hardest",
        weights=weights,
    )
    same_loss_and_gradient(loss(v2, labels, v1, weights=weights), expected, v2)


def test_each_combination_alone_has_its_own_triplets():
    """Each of the seven that train mines something, and only triplets of its three versions."""
    v2, labels, v1 = batch(3, rows=30)
    for combination in COMBINATIONS[:-1]:
        mined = mine_pools(v2, labels, v1, combinations=(combination,), margin=0.4)
        assert len(mined.anchor)
        for rows, version in zip(mined, combination, strict=True):
            assert ((rows < 30) == (version == "n")).all()
    everything = mine_pools(v2, labels, v1, margin=0.4)
    assert (torch.stack(everything) < 30).any(dim=0).all()


@pytest.mark.parametrize("seed", range(4))
def test_harmonic_is_the_triplet_loss_of_pytorch_metric_learning(seed):
    """On the concatenated pools, given the mined triplets, both agree in value and gradient."""
    v2, labels, v1 = batch(seed, rows=40, people=8, dimension=8)
    both = torch.cat([v2, v1])
    mined = mine_pools(v2, labels, v1, margin=0.3)
    theirs = TripletMarginLoss(
        margin=0.3,
        distance=LpDistance(normalize_embeddings=False, p=2, power=2),
        reducer=MeanReducer(),
    )
    expected = theirs(both, torch.cat([labels, labels]), tuple(mined))
    assert len(mined.anchor) > 100
    same_loss_and_gradient(HarmonicTripletLoss(0.3)(v2, labels, v1), expected, v2)
    same_loss_and_gradient(triplet_loss_on(both, mined, 0.3), expected, v2)


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
    for strategy in ("semi-hard", "hardest"):
        expected = loop_harmonic(
            v2, labels, v1, combinations={"nnn"}, hardest=strategy == "hardest"
        )
        loss = TripletLoss(strategy=strategy)
        same_loss_and_gradient(loss(v2, labels), expected, v2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([0.1, 0.5, 4.0]))
def test_loss_on_given_triplets_is_the_mean_of_their_hinges(seed, count, margin):
    """Any triplets, also outside the margin and repeated, and any weights, as a plain loop."""
    v2, _, _ = batch(seed)
    generator = torch.Generator().manual_seed(seed)
    given = Triplets(*(torch.randint(14, (count,), generator=generator) for _ in range(3)))
    weights = torch.rand(count, generator=generator, dtype=torch.float64)
    hinges = [
        torch.relu(d2(v2[a], v2[p]) - d2(v2[a], v2[n]) + margin)
        for a, p, n in zip(*given, strict=True)
    ]
    same_loss_and_gradient(triplet_loss_on(v2, given, margin), sum(hinges) / count, v2)
    weighted = sum(w * hinge for w, hinge in zip(weights, hinges, strict=True)) / weights.sum()
    same_loss_and_gradient(triplet_loss_on(v2, given, margin, weights), weighted, v2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_given_triplets_replace_mined_ones(strategy):
    """A loss on the triplets that it would mine itself is the same; old-only ones are left out."""
    v2, labels, v1 = batch(5, rows=24, people=5)
    drawn = torch.Generator().manual_seed(0)
    mined = mine_pools(v2, labels, v1, strategy=strategy, generator=drawn)
    old_only = torch.arange(24, 27)
    more = Triplets(*(torch.cat([rows, old_only]) for rows in mined))
    loss = HarmonicTripletLoss(strategy=strategy, self_weight=0.4)
    weights = torch.rand(24, dtype=torch.float64)
    expected = loss(v2, labels, v1, weights=weights, generator=drawn.manual_seed(0))
    found = loss(v2, labels, v1, weights=weights, triplets=more)
    same_loss_and_gradient(found, expected, v2)
    own = mine_pools(v2, labels, None, strategy=strategy, generator=drawn.manual_seed(0))
    loss = TripletLoss(strategy=strategy)
    expected = loss(v2, labels, weights=weights, generator=drawn.manual_seed(0))
    found = loss(v2, labels, weights=weights, triplets=own)
    same_loss_and_gradient(found, expected, v2)
    each = math.prod(weights[rows] for rows in own)
    same_loss_and_gradient(triplet_loss_on(v2, own, weights=each), expected, v2)


def test_gradients_are_those_of_finite_differences():
    """Through the normalisation too, and twice: the matrix form has its second derivative."""
    raw, labels, v1 = batch(1, rows=8, people=3)

    def harmonic(rows):
        v2 = torch.nn.functional.normalize(rows, dim=1)
        return HarmonicTripletLoss(0.5, self_weight=0.5)(v2, labels, v1)

    assert torch.autograd.gradcheck(harmonic, raw)
    assert torch.autograd.gradgradcheck(harmonic, raw)


def test_an_old_vector_that_is_not_relied_on_counts_for_nothing():
    """With weight 0 the loss is that of the batch in which it takes part in no triplet."""
    v2, labels, v1 = batch(2, rows=20)
    weights = torch.ones(20)
    weights[4:9] = 0
    mined = mine_pools(v2, labels, v1, margin=0.2)
    left_out = torch.arange(40)
    left_out = (left_out >= 24) & (left_out < 29)
    kept = ~(left_out[mined.anchor] | left_out[mined.positive] | left_out[mined.negative])
    rest = Triplets(*(rows[kept] for rows in mined))
    assert 0 < kept.sum() < len(kept)
    found = HarmonicTripletLoss()(v2, labels, v1, weights=weights)
    same_loss_and_gradient(found, triplet_loss_on(torch.cat([v2, v1]), rest), v2)
    nothing = HarmonicTripletLoss(combinations="nno")(v2, labels, v1, weights=0 * weights)
    assert nothing.item() == 0
    for bad in (weights[:-1], -weights, weights / 0, weights * torch.nan):
        with pytest.raises(VectorError, match="weights"):
            HarmonicTripletLoss()(v2, labels, v1, weights=bad)
        with pytest.raises(VectorError, match="weights"):
            TripletLoss()(v2, labels, weights=bad)


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
    with pytest.raises(UsageError, match="no setting margn; it takes margin, anchors, positives"):
        make_loss("harmonic", margn=0.1)
    with pytest.raises(UsageError, match="no setting foo; it takes none"):
        make_loss("l2", foo=1)
    with pytest.raises(InvalidNameError, match="taken"):
        register_loss("harmonic")
    for name, bad in (
        ("triplet", {"margin": 0}),
        ("harmonic", {"anchors": ()}),
        ("harmonic", {"anchors": ("new", "new")}),
        ("harmonic", {"negatives": ("newer",)}),
        ("harmonic", {"self_weight": -1}),
        ("harmonic", {"combinations": ()}),
        ("harmonic", {"combinations": ("nnx",)}),
        ("harmonic", {"combinations": ("nnn", "nnn")}),
        ("harmonic", {"combinations": ("ooo",)}),
        ("harmonic", {"combinations": ("ono",), "anchors": "new"}),
        ("harmonic", {"strategy": "semihard"}),
        ("triplet", {"strategy": "offline"}),
    ):
        with pytest.raises(UsageError):
            make_loss(name, **bad)
    assert make_loss("harmonic", anchors=["new"]) == HarmonicTripletLoss(anchors=("new",))
    assert make_loss("harmonic", anchors="new") == HarmonicTripletLoss(anchors=("new",))
    told = make_loss("harmonic", combinations="ono, nno")
    assert told == make_loss("harmonic", combinations={"nno", "ono"})
    assert told.combinations == ("nno", "ono")


@pytest.mark.parametrize("name", list_losses())
def test_what_is_no_tensor_is_told_by_every_loss(name):
    """Lists and numpy arrays are refused by name, as are labels that are no whole numbers."""
    v2, labels, v1 = batch(0)
    classes = {"old_means": class_means(v1, labels), "old_radii": class_radii(v1, labels)}
    given = {"old_vectors": v1, "class_weights": classes["old_means"], **classes}
    loss = make_loss(name)
    with pytest.raises(VectorError, match="new vectors are of type ndarray; give a torch tensor"):
        apply_loss(loss, v2.detach().numpy(), labels, **given)
    for wrong in (labels.tolist(), labels.numpy()):
        with pytest.raises(VectorError, match=r"labels are of type .*; give a torch tensor, int64"):
            apply_loss(loss, v2, wrong, **given)
    with pytest.raises(VectorError, match=r"labels are torch.float32; give whole numbers"):
        apply_loss(loss, v2, labels.float(), **given)
    for need in loss.needs - {"labels"}:
        with pytest.raises(VectorError, match=f"{need} are of type ndarray"):
            apply_loss(loss, v2, labels, **{**given, need: given[need].detach().numpy()})


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
