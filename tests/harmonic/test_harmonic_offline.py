import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import UnknownNameError, UsageError, VectorError
from segue.harmonic import HarmonicTripletLoss, OfflineMiner, TripletLoss, Triplets, draw_triplets
from segue.harmonic.mining import STRATEGIES
from segue.harmonic.pools import COMBINATIONS, mine_pools


def subset(seed, rows=30, people=6, dimension=4):
    """New and old unit vectors of the same images in float64, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(people, (rows,), generator=generator)
    pair = []
    for _ in range(2):
        centres = torch.randn(people, dimension, generator=generator, dtype=torch.float64)
        spread = torch.randn(rows, dimension, generator=generator, dtype=torch.float64)
        pair.append(torch.nn.functional.normalize(centres[labels] + 0.5 * spread, dim=1))
    return pair[0], labels, pair[1]


def as_tuples(triplets):
    return list(zip(*(indices.tolist() for indices in triplets), strict=True))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 20),
    st.sets(st.sampled_from(COMBINATIONS[:-1]), min_size=1),
    st.sampled_from(STRATEGIES[:2]),
    st.integers(1, 25),
)
def test_offline_mining_is_the_mining_of_one_big_batch(seed, rows, combinations, strategy, at_once):
    """However many anchors are mined at a time, the triplets are those of all at once."""
    new, labels, old = subset(seed, rows)
    miner = OfflineMiner(0.3, strategy, combinations, rows_at_once=at_once)
    together = mine_pools(
        new, labels, old, combinations=tuple(combinations), margin=0.3, strategy=strategy
    )
    assert set(as_tuples(miner.mine(new, labels, old))) == set(as_tuples(together))
    alone = mine_pools(new, labels, None, margin=0.3, strategy=strategy)
    assert as_tuples(miner.mine(new, labels)) == as_tuples(alone)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_seed_gives_one_result(strategy):
    """What is drawn depends on the seed alone; a limit keeps so many of all the triplets."""
    new, labels, old = subset(0)
    everything = OfflineMiner(strategy=strategy).mine(new, labels, old, seed=3)
    miner = OfflineMiner(strategy=strategy, limit=40)
    first = miner.mine(new, labels, old, seed=3)
    torch.rand(5)
    assert as_tuples(miner.mine(new, labels, old, seed=3)) == as_tuples(first)
    assert as_tuples(miner.mine(new, labels, old, seed=4)) != as_tuples(first)
    assert len(first.anchor) == 40 < len(everything.anchor)
    assert set(as_tuples(first)) <= set(as_tuples(everything))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.booleans())
def test_a_drawn_batch_holds_its_triplets(seed, count, mixed):
    """The batch has the images of the drawn triplets, and every triplet among these images."""
    new, labels, old = subset(seed, rows=40)
    mined = OfflineMiner(0.5).mine(new, labels, old if mixed else None)
    everything = as_tuples(mined)
    generator = torch.Generator().manual_seed(seed)
    rows, local = draw_triplets(mined, 40, count, generator=generator)
    again, _ = draw_triplets(mined, 40, count, generator=generator.manual_seed(seed))
    assert torch.equal(rows, again)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert 2 <= len(rows) <= 3 * count
    of_subset = torch.cat([rows, rows + 40])
    found = [tuple(of_subset[i].item() for i in each) for each in as_tuples(local)]
    shown = set(rows.tolist())
    assert found == [each for each in everything if {i % 40 for i in each} <= shown]
    assert len(found) >= min(count, len(everything))
    assert shown == {i % 40 for each in found for i in each}


def test_training_on_offline_triplets_tells_people_apart():
    """Mining anew every ten steps, batches of drawn triplets train both losses."""
    _, labels, old = subset(1, rows=60, dimension=8)
    for loss, v1 in ((TripletLoss(0.4), None), (HarmonicTripletLoss(0.4), old)):
        torch.manual_seed(0)
        weights = torch.randn(60, 8, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.Adam([weights], lr=0.05)

        def vectors(rows, weights=weights):
            return torch.nn.functional.normalize(weights[rows], dim=1)

        def quality(v1=v1, vectors=vectors):
            new = vectors(slice(None)).detach()
            distances = torch.cdist(new, new if v1 is None else v1)
            same = (labels[:, None] == labels) & ~torch.eye(60, dtype=torch.bool)
            return (distances[same].mean() / distances[labels[:, None] != labels].mean()).item()

        assert quality() > 0.9
        for step in range(60):
            if step % 10 == 0:
                with torch.no_grad():
                    mined = OfflineMiner(0.4).mine(vectors(slice(None)), labels, v1, seed=step)
            rows, triplets = draw_triplets(mined, 60, 20)
            more = () if v1 is None else (v1[rows],)
            optimiser.zero_grad()
            loss(vectors(rows), labels[rows], *more, triplets=triplets).backward()
            optimiser.step()
        assert quality() < 0.75


def test_wrong_use_is_told():
    """Vectors that do not fit, settings out of range, and a draw from nothing."""
    new, labels, old = subset(0)
    with pytest.raises(VectorError, match="unit length"):
        OfflineMiner().mine(2 * new, labels)
    with pytest.raises(VectorError, match="labels"):
        OfflineMiner().mine(new, labels[:-1])
    with pytest.raises(VectorError, match="every image"):
        OfflineMiner().mine(new, labels, old[:-1])
    with pytest.raises(VectorError, match="head of v1's dimension"):
        OfflineMiner().mine(new, labels, torch.eye(30, dtype=torch.float64))
    for bad in ({"margin": 0}, {"limit": 0}, {"rows_at_once": 0}, {"combinations": ("ooo",)}):
        with pytest.raises(UsageError):
            OfflineMiner(**bad)
    with pytest.raises(UnknownNameError):
        OfflineMiner(strategy="latest")
    mined = OfflineMiner().mine(new, labels)
    with pytest.raises(UsageError, match="0 of"):
        draw_triplets(mined, 30, 0)
    nothing = Triplets(*(rows[:0] for rows in mined))
    with pytest.raises(UsageError, match="larger margin"):
        draw_triplets(nothing, 30, 5)
