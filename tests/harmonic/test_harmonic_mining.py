import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.miners import TripletMarginMiner

from segue.errors import UnknownNameError, UsageError, VectorError
from segue.harmonic.mining import (
    STRATEGIES,
    nearest_semi_hard,
    pairwise_squared_distances,
    select_triplets,
    semi_hard_triplets,
)


def batch(seed, rows, people, dimension=4, dtype=torch.float64):
    """Unit vectors near their person's centre, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(people, (rows,), generator=generator)
    centres = torch.randn(people, dimension, generator=generator, dtype=dtype)
    noise = torch.randn(rows, dimension, generator=generator, dtype=dtype)
    return torch.nn.functional.normalize(centres[labels] + noise, dim=1), labels


def looped(distances, positive, negative, margin, *, hardest=False):
    """The obvious loops: for each pair the nearest semi-hard negative, the first of equals.

    With `hardest` those count too that are not farther than the positive.
    """
    triplets = []
    for a in range(len(distances)):
        for p in range(len(distances[0])):
            if not positive[a, p]:
                continue
            best = None
            for n in range(len(distances[0])):
                inside = distances[a][n] < distances[a][p] + margin
                farther = hardest or distances[a][p] < distances[a][n]
                nearer = best is None or distances[a][n] < distances[a][best]
                if negative[a, n] and inside and farther and nearer:
                    best = n
            if best is not None:
                triplets.append((a, p, best))
    return triplets


def as_tuples(triplets):
    return list(zip(*(indices.tolist() for indices in triplets), strict=True))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 14),
    st.integers(1, 5),
    st.sampled_from([0.05, 0.2, 1.0, 4.0]),
)
def test_mining_is_that_of_the_loops(seed, rows, people, margin):
    """Every anchor-positive pair gets exactly the negative that plain loops find, or none."""
    vectors, labels = batch(seed, rows, people)
    references, reference_labels = batch(seed + 1, rows + 3, people)
    distances = pairwise_squared_distances(vectors, references)
    same = labels[:, None] == reference_labels
    mined = semi_hard_triplets(vectors, labels, references, reference_labels, margin=margin)
    assert as_tuples(mined) == looped(distances.tolist(), same, ~same, margin)
    assert all(indices.dtype == torch.int64 for indices in mined)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 12))
def test_ties_are_settled_by_the_loops_rule(seed, rows, columns):
    """Among many equal distances: strictly farther than the positive, the first of equals."""
    generator = torch.Generator().manual_seed(seed)
    distances = (torch.randint(4, (rows, columns), generator=generator) - 1) / 2.0
    distances *= torch.where(distances == 0, -1.0, 1.0) ** torch.arange(columns)  # 0 and -0
    positive = torch.randint(2, (rows, columns), generator=generator).bool()
    negative = ~positive & torch.randint(2, (rows, columns), generator=generator).bool()
    for margin in (0.5, 0.75, 2.0):
        for dtype in (torch.float16, torch.float32, torch.float64):
            mined = nearest_semi_hard(distances.to(dtype), positive, negative, margin)
            assert as_tuples(mined) == looped(distances.tolist(), positive, negative, margin)
            mined = select_triplets(
                distances.to(dtype), positive, negative, margin, strategy="hardest"
            )
            hardest = looped(distances.tolist(), positive, negative, margin, hardest=True)
            assert as_tuples(mined) == hardest


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("margin", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mining_is_the_nearest_of_each_pair_of_pytorch_metric_learning(seed, margin, dtype):
    """TripletMarginMiner returns all semi-hard triplets, ours the nearest of each pair's.

    Exactly: a pair has a triplet of ours if and only if it has one of theirs, and ours is one of
    theirs with the smallest distance to the negative.
    """
    vectors, labels = batch(seed, 60, 12, dimension=8, dtype=dtype)
    measure = LpDistance(normalize_embeddings=False, p=2, power=2)
    miner = TripletMarginMiner(margin=margin, type_of_triplets="semihard", distance=measure)
    distances = measure(vectors, vectors)
    theirs = {}
    for a, p, n in as_tuples(miner(vectors, labels)):
        theirs.setdefault((a, p), {})[n] = distances[a, n].item()
    same = labels[:, None] == labels
    pairs = same & ~torch.eye(60, dtype=torch.bool)
    ours = as_tuples(nearest_semi_hard(distances, pairs, ~same, margin))
    assert theirs
    assert len(ours) == len(theirs) < pairs.sum()
    for a, p, n in ours:
        assert theirs[a, p][n] == min(theirs[a, p].values())
    from_vectors = semi_hard_triplets(vectors, labels, vectors, labels, margin=margin)
    if dtype == torch.float64:
        assert as_tuples(from_vectors) == ours


def test_mining_in_float32_is_that_in_float64_but_for_its_rounding():
    """Packed numbers and a plain sort agree on every triplet, for distances that both can hold."""
    vectors, labels = batch(4, 120, 15, dimension=8, dtype=torch.float32)
    distances = pairwise_squared_distances(vectors, vectors)
    same = labels[:, None] == labels
    pairs = same & ~torch.eye(120, dtype=torch.bool)
    # A power of two, so that the bound d(a, p) + margin is the same number in most cases.
    for strategy in STRATEGIES:
        narrow, wide = (
            select_triplets(
                exact,
                pairs,
                ~same,
                0.25,
                strategy=strategy,
                generator=torch.Generator().manual_seed(0),
            )
            for exact in (distances, distances.double())
        )
        assert set(as_tuples(narrow)) == set(as_tuples(wide))
        assert len(narrow.anchor)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 14), st.sampled_from([0.05, 0.5, 4.0]))
def test_random_negatives_are_inside_the_margin_wherever_there_are_any(seed, rows, margin):
    """A pair has a random negative if and only if it has the hardest one, and it is one of them."""
    vectors, labels = batch(seed, rows, 4)
    distances = pairwise_squared_distances(vectors, vectors)
    same = labels[:, None] == labels
    pairs = same & ~torch.eye(rows, dtype=torch.bool)
    drawn, again, hardest = (
        select_triplets(
            distances,
            pairs,
            ~same,
            margin,
            strategy=strategy,
            generator=torch.Generator().manual_seed(seed),
        )
        for strategy in ("random", "random", "hardest")
    )
    assert as_tuples(drawn) == as_tuples(again)
    assert torch.equal(drawn.anchor, hardest.anchor)
    assert torch.equal(drawn.positive, hardest.positive)
    assert not same[drawn.anchor, drawn.negative].any()
    to_positive = distances[drawn.anchor, drawn.positive]
    assert (distances[drawn.anchor, drawn.negative] < to_positive + margin).all()
    semi_hard = nearest_semi_hard(distances, pairs, ~same, margin)
    assert {pair[:2] for pair in as_tuples(semi_hard)} <= {pair[:2] for pair in as_tuples(drawn)}


def test_random_negatives_are_drawn_evenly():
    """Each negative inside the margin comes equally often, from the global generator too."""
    distances = torch.tensor([[0.0, 0.5, 0.1, 0.6, 0.69, 0.7, 0.9, 0.3]]).repeat(6000, 1)
    positive = torch.zeros(6000, 8, dtype=torch.bool)
    positive[:, 1] = True
    negative = torch.ones(6000, 8, dtype=torch.bool)
    negative[:, [0, 1, 7]] = False
    torch.manual_seed(0)
    drawn = select_triplets(distances, positive, negative, 0.2, strategy="random").negative
    counts = torch.bincount(drawn, minlength=8)
    assert counts.nonzero().squeeze(1).tolist() == [2, 3, 4]
    assert (counts[2:5] - 2000).abs().max() < 4 * (6000 * 2 / 9) ** 0.5


def test_unknown_strategies_are_refused():
    """The message names the strategies that there are."""
    vectors, labels = batch(0, 6, 2)
    same = labels[:, None] == labels
    distances = pairwise_squared_distances(vectors, vectors)
    with pytest.raises(UnknownNameError, match="hardest, random, semi-hard"):
        select_triplets(distances, same, ~same, 0.2, strategy="semihard")


def test_a_vector_is_never_its_own_positive():
    """Self-pairs are masked when both sides are one tensor, and by ids when one is a part."""
    vectors, labels = batch(0, 30, 5)
    alone = semi_hard_triplets(vectors, labels, vectors, labels, margin=0.5)
    assert len(alone.anchor)
    assert (alone.anchor != alone.positive).all()
    ids = torch.arange(30)
    others, other_labels = batch(1, 10, 5)
    mined = semi_hard_triplets(
        vectors,
        labels,
        torch.cat([others, vectors]),
        torch.cat([other_labels, labels]),
        anchor_ids=ids,
        reference_ids=torch.cat([100 + torch.arange(10), ids]),
        margin=0.5,
    )
    assert (mined.anchor != mined.positive - 10).all()
    assert (mined.positive < 10).any()
    assert (mined.positive >= 10).any()


def test_nothing_to_mine_gives_no_triplets():
    """One person, no two images of a person, or no vectors at all: empty indices."""
    vectors, _ = batch(0, 6, 2)
    for rows, labels in ((6, torch.zeros(6)), (6, torch.arange(6)), (0, torch.zeros(0))):
        mined = semi_hard_triplets(vectors[:rows], labels, vectors[:rows], labels, margin=0.2)
        assert [len(indices) for indices in mined] == [0, 0, 0]
    mined = semi_hard_triplets(vectors, torch.zeros(6), vectors[:0], torch.zeros(0), margin=0.2)
    assert [len(indices) for indices in mined] == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_floats_are_measured_in_float32(dtype):
    """Distances of 16-bit vectors are computed in 32 bits, also under autocast."""
    vectors, labels = batch(0, 40, 8, dimension=16)
    short = vectors.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distances = pairwise_squared_distances(short, short)
        mined = semi_hard_triplets(short, labels, short, labels, margin=0.3)
    assert distances.dtype == torch.float32
    wide = short.double()
    exact = (wide[:, None] - wide).square().sum(2)
    assert (distances - exact).abs().max() < 1e-5
    assert len(mined.anchor)


def test_bad_input_is_refused():
    """Raw outputs, NaN, wrong shapes, one-sided ids and useless margins say what to do."""
    vectors, labels = batch(0, 6, 2)
    with pytest.raises(VectorError, match="unit length"):
        semi_hard_triplets(3 * vectors, labels, vectors, labels)
    with pytest.raises(VectorError, match="NaN"):
        semi_hard_triplets(vectors * torch.nan, labels, vectors, labels)
    with pytest.raises(VectorError, match=r"\[N, d\]"):
        semi_hard_triplets(vectors[0], labels, vectors, labels)
    with pytest.raises(VectorError, match="dimension"):
        semi_hard_triplets(vectors, labels, torch.eye(6, dtype=torch.float64), labels)
    with pytest.raises(VectorError, match="reference labels"):
        semi_hard_triplets(vectors, labels, vectors, labels[:-1])
    with pytest.raises(UsageError, match="both sides"):
        semi_hard_triplets(vectors, labels, vectors, labels, anchor_ids=torch.arange(6))
    for margin in (0, -1, float("nan"), 5):
        with pytest.raises(UsageError, match="margin"):
            semi_hard_triplets(vectors, labels, vectors, labels, margin=margin)
