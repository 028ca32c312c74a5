from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gallery_world import D, World, calibration, new_items, probe, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.arrays import check_vectors, normalise
from segue.errors import (
    GalleryError,
    UnknownNameError,
    UnsupportedFarError,
    UsageError,
    VectorError,
)
from segue.harmonic.calibration import Calibration
from segue.index import Probe, Threshold
from segue.index.nearest import exact_distances


@contextmanager
def drawn_world():
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            yield world
        finally:
            world.database.close()


def strict(low):
    """A calibration whose impostors all lie above `low`."""
    sample = low + (4 - low) * np.random.default_rng(3).beta(8, 8, 3000)
    return Calibration.fit(sample, people_pairs=4950, people=100)


def clusters(rng, people, each, spread):
    """Items of people, tightly around their person: unit float32 [people · each, D]."""
    centres = unit(people, seed=int(rng.integers(1 << 30)))
    noise = spread * rng.normal(size=(people * each, D))
    return normalise(np.repeat(centres, each, axis=0) + noise)


def live_rows(gallery, count):
    """What is stored of each item in the version it is live in, bit for bit: [count, D]."""
    first = gallery.preference
    return np.stack(
        [
            min(gallery.item(str(n)), key=lambda row: first.index(row.version)).vector
            for n in range(count)
        ]
    )


def from_probe(vector, rows):
    """Distances as a search has them: the probe is normalised first."""
    return exact_distances(check_vectors(vector[None])[0], rows)


def migrated(world, old, new, moved):
    """A gallery of faces/1 of which the items `moved` are embedded by faces/2, which serves."""
    gallery = world.create()
    gallery.enroll_vectors(
        new_items([str(n) for n in range(len(old))]), "faces/1", {"embedding": old}, fresh=False
    )
    world.serve(gallery, "faces/2", "faces/1")
    items = [item for item in gallery.pending("faces/2", limit=len(old)) if moved[item.seq]]
    if items:
        world.write(gallery, "faces/2", items, new[[item.seq for item in items]])
    return gallery


def ranked(scores):
    """Rows by (score, seq), by plain sorting."""
    return [seq for _, seq in sorted((float(score), seq) for seq, score in enumerate(scores))]


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
    st.sampled_from([1e-4, 0.05, 0.5]),
)
def test_the_ends_rank_as_the_pure_index(seed, rho, calibrated, spread):
    """At ρ = 0 and ρ = 1 the order is that of the distances alone, and so is that by FAR.

    Also where all true matches lie far below every calibration impostor.
    """
    rng = np.random.default_rng(seed)
    old, new = clusters(rng, 4, 6, spread), clusters(rng, 4, 6, spread)
    with drawn_world() as world:
        way = strict(1.0) if calibrated else None
        world.edge("faces/2", "faces/1", calibration=way)
        world.edge("faces/2", "faces/2", calibration=way)
        gallery = migrated(world, old, new, np.full(24, bool(rho)))
        stored = new if rho else old
        wanted, rows = stored[rng.integers(24, size=3)], live_rows(gallery, 24)
        for vector, hits in zip(
            wanted, gallery.search(probe("faces/2", wanted), k=24, touch=False), strict=True
        ):
            distances = from_probe(vector, rows)
            assert [hit.seq for hit in hits] == ranked(distances)
            if calibrated:
                scores = way.log10_far(np.array([hit.distance for hit in hits]))
                assert (np.diff(scores) >= 0).all()
                assert len(set(scores)) == len({hit.distance for hit in hits})
                if spread < 0.1:  # the true matches are all below the smallest impostor
                    assert way.extrapolated([hit.distance for hit in hits])[:6].all()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-4, 0.05, 0.6]), st.integers(1, 20))
def test_every_mixture_ranks_by_the_far_of_each_items_own_edge(seed, spread, k):
    """At any ρ the k best are those of plain loops over the items, matches in the tail too."""
    rng = np.random.default_rng(seed)
    old, new = clusters(rng, 4, 6, spread), clusters(rng, 4, 6, spread)
    moved = rng.random(24) < rng.random()
    to_old, to_new = strict(0.9), strict(1.3)
    with drawn_world() as world:
        world.edge("faces/2", "faces/1", calibration=to_old)
        world.edge("faces/2", "faces/2", calibration=to_new)
        gallery = migrated(world, old, new, moved)
        vector = np.where(moved[:, None], new, old)[rng.integers(24)]
        (hits,) = gallery.search(probe("faces/2", vector), k=k, touch=False)
        distances = from_probe(vector, live_rows(gallery, 24))
        scores = np.where(moved, to_new.log10_far(distances), to_old.log10_far(distances))
        assert [hit.seq for hit in hits] == ranked(scores)[:k]


# --- rank merge -------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from(["far", "distance"]),
    st.integers(1, 24),
)
def test_rank_merge_compares_each_item_within_its_version(seed, share, by, k):
    """Plain loops find the same; at ρ = 0 and ρ = 1 it is the pure index of one version."""
    rng = np.random.default_rng(seed)
    old, new = clusters(rng, 6, 4, 0.6), clusters(rng, 6, 4, 0.6)
    moved = rng.random(24) < share
    own = {"faces/1": strict(0.6), "faces/2": strict(1.4)}
    with drawn_world() as world:
        for version, found in own.items():
            world.edge(version, version, calibration=found)
        gallery = migrated(world, old, new, moved)
        first, second = (rows[rng.integers(24, size=2)] for rows in (old, new))
        both = [probe("faces/1", first), probe("faces/2", second)]
        answers, rows = gallery.rank_merge(both, k=k, by=by, touch=False), live_rows(gallery, 24)
        for turn, hits in enumerate(answers):
            distances = np.where(
                moved, from_probe(second[turn], rows), from_probe(first[turn], rows)
            )
            scores = distances
            if by == "far":
                scores = np.where(
                    moved,
                    own["faces/2"].log10_far(distances),
                    own["faces/1"].log10_far(distances),
                )
            assert [hit.seq for hit in hits] == ranked(scores)[:k]
            for hit in hits:
                assert hit.version == ("faces/2" if moved[hit.seq] else "faces/1")
                assert hit.distance == pytest.approx(distances[hit.seq], abs=1e-12)
                assert hit.far == pytest.approx(own[hit.version].far(hit.distance))
        if share in {0.0, 1.0}:
            pure = both[int(share)]
            world.serve(gallery, pure.version)
            assert gallery.search(pure, k=k, touch=False) == answers


def test_rank_merge_at_an_end_needs_one_model_and_no_calibration(world):
    """Where all items are live in one version its probe is enough, calibrated or not."""
    old = unit(6, seed=1)
    gallery = migrated(world, old, old, np.zeros(6, dtype=bool))
    (hits,) = gallery.rank_merge([probe("faces/1", old[2])], k=6)
    assert [hit.seq for hit in hits] == ranked(exact_distances(old[2], old))
    assert all(hit.far is None for hit in hits)


def test_rank_merge_keeps_what_a_threshold_accepts_and_notes_old_items(world):
    """A FAR is held against each version's own edge; old hits are noted for a migration."""
    old, new = unit(20, seed=1), unit(20, seed=2)
    world.edge("faces/1", "faces/1", mean=1.6)
    world.edge("faces/2", "faces/2", mean=2.1)
    gallery = migrated(world, old, new, np.arange(20) % 2 == 1)
    both = [probe("faces/2", new[4]), probe("faces/1", old[4])]
    (everything,) = gallery.rank_merge(both, k=20, touch=False)
    (kept,) = gallery.rank_merge(both, k=20, threshold=Threshold(far=0.3), touch=False)
    assert kept == [hit for hit in everything if hit.far <= 0.3]
    assert 0 < len(kept) < 20
    with pytest.raises(UnsupportedFarError):
        gallery.rank_merge(both, threshold=Threshold(far=1e-6))
    (few,) = gallery.rank_merge(both, k=8)
    gallery.flush_touched()
    touched = sorted(hit.seq for hit in few if hit.version == "faces/1")
    waiting = gallery.pending("faces/2", limit=len(touched))
    assert sorted(item.seq for item in waiting) == touched


def test_a_rank_merge_that_cannot_answer_for_every_item_is_refused(world):
    """A missing probe, two of one version, unequal numbers, no calibration, unknown scores."""
    old, new = unit(6, seed=1), unit(6, seed=2)
    gallery = migrated(world, old, new, np.arange(6) < 3)
    one, other = probe("faces/1", old[0]), probe("faces/2", new[0])
    with pytest.raises(GalleryError, match="3 items have vectors of faces/1 only"):
        gallery.rank_merge([other])
    with pytest.raises(GalleryError, match="calibrate"):
        gallery.rank_merge([one, other])
    assert len(gallery.rank_merge([one, other], by="distance")[0]) == 6
    for probes in ([], [one, one], [one, probe("faces/2", new[:2])]):
        with pytest.raises(UsageError, match="one probe of each version"):
            gallery.rank_merge(probes)
    with pytest.raises(UnknownNameError, match="distance, far"):
        gallery.rank_merge([one, other], by="cosine")
    with pytest.raises(UsageError, match="at least one hit"):
        gallery.rank_merge([one, other], k=0, by="distance")
    with pytest.raises(VectorError):
        gallery.rank_merge([one, Probe("faces/2", {"embedding": 2 * new[:1]})])


def test_rank_merge_is_the_reports(world):
    """A search by real lists and the report's score matrix give the same rank-1."""
    from segue.evaluation.identification import identify
    from segue.evaluation.protocols import CompatibilityData, EdgeScores, rank_merge_scores

    rng = np.random.default_rng(5)
    old, new = clusters(rng, 8, 4, 0.5), clusters(rng, 8, 4, 0.4)
    labels, moved = np.arange(32) // 4, rng.random(32) < 0.5
    own = {"v1": calibration(1.7), "twin": calibration(2.0)}
    world.edge("faces/1", "faces/1", calibration=own["v1"])
    world.edge("faces/2", "faces/2", calibration=own["twin"])
    gallery = migrated(world, old, new, moved)
    scored = EdgeScores(
        CompatibilityData(labels=labels, v1=old, v2=new, twin=new),
        {(role, role): found for role, found in own.items()},
    )
    matrix = rank_merge_scores(scored.calibrated, moved)
    expected = identify(matrix, labels, labels, same_images=True).hits
    answers = gallery.rank_merge([probe("faces/1", old), probe("faces/2", new)], k=2)
    nearest = [next(h.seq for h in hits if h.seq != row) for row, hits in enumerate(answers)]
    assert np.array_equal(labels[nearest] == labels, expected)
