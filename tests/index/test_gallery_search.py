from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from gallery_world import D, calibration, ids, new_items, probe, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import (
    GalleryError,
    UnmeasuredEdgeError,
    UnsupportedFarError,
    UsageError,
    VectorError,
)
from segue.index import AppliedThreshold, Probe, Threshold, catalog
from segue.index.nearest import exact_distances
from segue.index.threshold import Limit


def brute_force(probe_vector, stored, k):
    """Rank by (squared distance, seq) with plain loops."""
    scored = []
    for seq, vector in sorted(stored.items()):
        difference = vector.astype(np.float64) - probe_vector.astype(np.float64)
        scored.append((min(float((difference**2).sum()), 4.0), seq))
    return sorted(scored)[:k]


@pytest.fixture
def half(world):
    """40 items of faces/1, every second one embedded by faces/2 too; faces/2 serves."""
    gallery = world.create()
    old, new = unit(40, seed=1), unit(40, seed=2)
    items = new_items([f"i{n}" for n in range(40)], [f"p{n % 5}" for n in range(40)])
    gallery.enroll_vectors(items[:30], "faces/1", {"embedding": old[:30]}, fresh=False)
    gallery.enroll_vectors(items[30:], "faces/1", {"embedding": old[30:]}, fresh=True)
    world.serve(gallery, "faces/2", "faces/1")
    pending = [item for item in gallery.pending("faces/2", limit=40) if item.seq % 2]
    world.write(gallery, "faces/2", pending, new[1::2])
    world.edge("faces/2", "faces/1", mean=1.6)
    world.edge("faces/2", "faces/2", mean=2.1)
    return gallery, old, new


@pytest.mark.parametrize("k", [1, 7, 60])
def test_a_pure_gallery_ranks_as_brute_force(world, k):
    """Segments and fresh rows together rank exactly as plain loops over all vectors do."""
    gallery, vectors = world.create(), unit(50)
    for start, stop, fresh in ((0, 20, False), (20, 35, False), (35, 50, True)):
        items = new_items([str(n) for n in range(start, stop)])
        gallery.enroll_vectors(items, "faces/1", {"embedding": vectors[start:stop]}, fresh=fresh)
    probes = unit(4, seed=9)
    for wanted, hits in zip(probes, gallery.search(probe("faces/1", probes), k=k), strict=True):
        expected = brute_force(wanted, dict(enumerate(vectors)), k)
        assert [hit.seq for hit in hits] == [seq for _, seq in expected]
        np.testing.assert_allclose(
            [hit.distance for hit in hits], [d for d, _ in expected], atol=1e-6
        )
        assert all(hit.far is None and not hit.extrapolated for hit in hits)


def test_ties_go_to_the_item_enrolled_first(world):
    """Many equal vectors are answered in the order of enrolment, over segments and fresh rows."""
    gallery = world.create()
    same = np.repeat(unit(1), 200, axis=0)
    items = new_items([str(n) for n in range(200)])
    gallery.enroll_vectors(items[:150], "faces/1", {"embedding": same[:150]}, fresh=False)
    gallery.enroll_vectors(items[150:], "faces/1", {"embedding": same[150:]}, fresh=True)
    gallery.erase(["3", "151"])
    found = gallery.search(probe("faces/1", unit(1, seed=5)), k=100)[0]
    assert [hit.seq for hit in found] == [n for n in range(101) if n != 3]


def test_an_empty_gallery_answers_nothing(world):
    """A search of an empty gallery gives an empty list for each probe."""
    gallery = world.create()
    assert gallery.search(probe("faces/1", unit(2))) == [[], []]
    assert gallery.search(probe("faces/2", unit(1))) == [[]]
    assert gallery.search(Probe("faces/1", {"embedding": np.empty((0, D), np.float32)})) == []


def test_mixed_lists_merge_by_the_far_of_their_edges(half):
    """Each item counts once, in its live version, ranked by the log FAR of that version's edge."""
    gallery, old, new = half
    probes = unit(6, seed=7)
    to_old, to_new = calibration(1.6), calibration(2.1)
    for wanted, hits in zip(probes, gallery.search(probe("faces/2", probes), k=15), strict=True):
        scored = []
        for seq in range(40):
            vector, way = (new[seq], to_new) if seq % 2 else (old[seq], to_old)
            distance = exact_distances(wanted, vector[None])
            scored.append((float(way.log10_far(distance)[0]), seq, float(distance[0])))
        expected = sorted(scored)[:15]
        assert [hit.seq for hit in hits] == [seq for _, seq, _ in expected]
        for hit, (log_far, seq, distance) in zip(hits, expected, strict=True):
            assert hit.version == ("faces/2" if seq % 2 else "faces/1")
            assert hit.distance == pytest.approx(distance, abs=1e-6)
            assert hit.far == pytest.approx(10**log_far, rel=1e-4)


def test_every_live_item_is_found_whatever_its_version(half):
    """Asking for more hits than items gives each item once, at a half migrated gallery."""
    gallery, old, _ = half
    hits = gallery.search(probe("faces/2", old[0]), k=100)[0]
    assert sorted(hit.seq for hit in hits) == list(range(40))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_ends_of_a_migration_rank_as_the_pure_index(world, share):
    """With all items live in one version the order is that of its distances, calibrated or not."""
    gallery, old, new = world.create(), unit(30, seed=1), unit(30, seed=2)
    gallery.enroll_vectors(
        new_items([str(n) for n in range(30)]), "faces/1", {"embedding": old}, fresh=False
    )
    world.serve(gallery, "faces/2", "faces/1")
    world.edge("faces/2", "faces/1")
    if share:
        world.write(gallery, "faces/2", gallery.pending("faces/2", limit=30), new)
    stored = new if share else old
    wanted = unit(1, seed=3)[0]
    hits = gallery.search(probe("faces/2", wanted), k=30)[0]
    assert [hit.seq for hit in hits] == [
        seq for _, seq in brute_force(wanted, dict(enumerate(stored)), 30)
    ]


def test_each_index_gives_its_k_nearest_live_items(world):
    """Items live elsewhere never crowd out live ones, however near their old vectors are."""
    gallery = world.create()
    near, far = np.repeat(unit(1), 50, axis=0), unit(50, seed=4)
    gallery.enroll_vectors(
        new_items([f"n{n}" for n in range(50)]), "faces/1", {"embedding": near}, fresh=False
    )
    gallery.enroll_vectors(
        new_items([f"f{n}" for n in range(50)]), "faces/1", {"embedding": far}, fresh=False
    )
    world.serve(gallery, "faces/2", "faces/1")
    world.edge("faces/1", "faces/2")
    world.edge("faces/1", "faces/1")
    moved = gallery.pending("faces/2", limit=50)
    world.write(gallery, "faces/2", moved, -near)
    hits = gallery.search(probe("faces/1", near[0]), k=5)[0]
    assert all(hit.item_id.startswith("f") and hit.version == "faces/1" for hit in hits)


def test_versions_without_a_measured_edge_are_never_ranked_together(half, world):
    """A probe without an edge, or with an uncalibrated one, to a version it needs is refused."""
    gallery, old, _ = half
    with pytest.raises(UnmeasuredEdgeError):
        gallery.search(probe("faces/3", old[0]))
    world.edge("faces/3", "faces/1")
    assert len(gallery.search(probe("faces/3", old[0]), k=40)[0]) == 40
    world.edge("faces/3", "faces/2", calibration=None)
    with pytest.raises(UnmeasuredEdgeError) as caught:
        gallery.search(probe("faces/3", old[0]))
    assert (caught.value.probe, caught.value.stored) == ("faces/3", "faces/2")


def test_old_probes_meet_old_rows_while_they_are_there(half, world):
    """Without an edge to the new version, an old probe finds every item by its old vector."""
    gallery, old, new = half
    hits = gallery.search(probe("faces/1", old[1]), k=40)[0]
    assert len(hits) == 40
    assert {hit.version for hit in hits} == {"faces/1"}
    left = gallery.pending("faces/2", limit=40)
    world.write(gallery, "faces/2", left, new[[item.seq for item in left]])
    world.serve(gallery, "faces/2")
    gallery.remove_version("faces/1", keep_only_there=False)
    with pytest.raises(UnmeasuredEdgeError):
        gallery.search(probe("faces/1", old[1]))


def test_rows_that_no_item_is_live_in_need_no_edge(world):
    """While the old version is preferred, a backfill in the background changes no answer."""
    gallery, old = world.create(), unit(10)
    gallery.enroll_vectors(new_items([str(n) for n in range(10)]), "faces/1", {"embedding": old})
    before = gallery.search(probe("faces/1", old[0]))
    world.write(gallery, "faces/2", gallery.pending("faces/2", limit=5), unit(5, seed=1))
    assert gallery.search(probe("faces/1", old[0])) == before
    world.serve(gallery, "faces/1", "faces/2")
    assert gallery.search(probe("faces/1", old[0])) == before


def test_a_bridge_maps_the_probe_of_its_edge(world):
    """An edge with a bridge compares the mapped probe with the stored vectors."""
    from segue.harmonic.bridges import fit_bridge

    source, target = unit(200, seed=1), unit(200, seed=1)[:, ::-1].copy()
    bridge = fit_bridge(
        "procrustes", source, target, source_version="faces/2", target_version="faces/1"
    )
    gallery = world.create()
    gallery.enroll_vectors(
        new_items([str(n) for n in range(20)]), "faces/1", {"embedding": target[:20]}
    )
    world.edge("faces/2", "faces/1", bridge=bridge)
    hits = gallery.search(probe("faces/2", source[7]), k=1)[0]
    assert ids(hits) == ["7"]
    assert hits[0].distance < 1e-4


def test_outputs_of_another_dimension_are_chosen_by_the_edge(world):
    """Old probes meet the compatible head of new rows; new probes their own space."""
    world.register("wide/1", {"embedding": 16, "compatible": D})
    gallery, old = world.create(), unit(6)
    gallery.enroll_vectors(new_items([str(n) for n in range(6)]), "faces/1", {"embedding": old})
    world.edge("wide/1", "faces/1", probe_output="compatible")
    world.edge("faces/1", "wide/1", stored_output="compatible")
    for version in ("faces/1", "wide/1"):
        world.edge(version, version)
    world.serve(gallery, "wide/1", "faces/1")
    assert gallery.outputs_needed("wide/1") == ("embedding", "compatible")
    wide, compatible = unit(6, 16, seed=3), unit(6, seed=4)
    items = gallery.pending("wide/1", limit=3)
    world.write(gallery, "wide/1", items, {"embedding": wide[:3], "compatible": compatible[:3]})
    old_hits = gallery.search(probe("faces/1", old[4]), k=6)[0]
    assert {hit.item_id: (hit.version, hit.output) for hit in old_hits} == {
        **{str(n): ("wide/1", "compatible") for n in range(3)},
        **{str(n): ("faces/1", "embedding") for n in range(3, 6)},
    }
    both = Probe("wide/1", {"embedding": wide[1:2], "compatible": compatible[1:2]})
    new_hits = gallery.search(both, k=6)[0]
    assert {hit.item_id for hit in new_hits if hit.output == "embedding"} == set("012345")
    assert new_hits[0].item_id == "1"
    with pytest.raises(VectorError, match="compatible"):
        gallery.search(Probe("wide/1", {"embedding": wide[1:2]}))


def test_items_a_probe_cannot_meet_are_told_and_not_left_out(world):
    """A probe that could not find some live item is refused instead of answering without it."""
    world.register("wide/1", {"embedding": 16, "compatible": D})
    gallery = world.create(serving="wide/1")
    gallery.enroll_vectors(new_items(["a"]), "wide/1", {"embedding": unit(1, 16)})
    world.edge("faces/1", "wide/1", stored_output="compatible")
    with pytest.raises(GalleryError, match="1 items"):
        gallery.search(probe("faces/1", unit(1)))


@pytest.mark.parametrize(
    ("vectors", "error"),
    [
        ({"embedding": np.full((1, D), np.nan)}, VectorError),
        ({"embedding": unit(1, D - 1)}, VectorError),
        ({"embedding": 2 * unit(1)}, VectorError),
        ({"other": unit(1)}, VectorError),
        ({}, VectorError),
    ],
)
def test_bad_probes_are_refused(world, vectors, error):
    """A probe that is not of its version's shape, length or outputs is refused."""
    with pytest.raises(error):
        world.create().search(Probe("faces/1", vectors))


def test_k_must_be_positive(world):
    """Asking for no hit is a mistake of the caller."""
    with pytest.raises(UsageError):
        world.create().search(probe("faces/1", unit(1)), k=0)


# --- thresholds -----------------------------------------------------------------------------


def test_a_far_keeps_its_meaning_on_every_edge(half):
    """With a FAR, exactly the hits whose own edge gives at most that FAR are kept."""
    gallery, _, _ = half
    wanted = unit(3, seed=8)
    everything = gallery.search(probe("faces/2", wanted), k=40)
    kept = gallery.search(probe("faces/2", wanted), k=40, threshold=Threshold(far=0.2))
    for all_hits, hits in zip(everything, kept, strict=True):
        assert hits == [hit for hit in all_hits if hit.far <= 0.2]
        assert 0 < len(hits) < 40


def test_expected_false_hits_are_items_times_far(half):
    """Expected false hits of one search are the live items times the FAR."""
    gallery, _, _ = half
    wanted = probe("faces/2", unit(3, seed=8))
    by_hits = gallery.search(wanted, k=40, threshold=Threshold(false_hits=8))
    assert by_hits == gallery.search(wanted, k=40, threshold=Threshold(far=8 / 40))
    everything = gallery.search(wanted, k=40, threshold=Threshold(false_hits=1e6))
    assert everything == gallery.search(wanted, k=40)


def test_a_far_below_what_the_data_supports_is_refused(half):
    """Each edge's calibration must support a FAR, however it is stated, unless the tail may."""
    gallery, _, _ = half
    wanted = probe("faces/2", unit(3, seed=8))
    smallest = calibration(1.6).smallest_far
    assert gallery.search(wanted, threshold=Threshold(far=smallest))
    for threshold in (Threshold(far=smallest / 2), Threshold(false_hits=40 * smallest / 2)):
        with pytest.raises(UnsupportedFarError, match=r"faces/2 -> faces/.*supports 2\.0e-02"):
            gallery.search(wanted, threshold=threshold)
        with pytest.raises(UnsupportedFarError):
            gallery.check_search(threshold)
    allowed = Threshold(far=smallest / 2, extrapolate=True)
    gallery.check_search(allowed)
    everything = gallery.search(wanted, k=40)
    for hits, kept in zip(everything, gallery.search(wanted, k=40, threshold=allowed), strict=True):
        assert kept == [hit for hit in hits if hit.far <= smallest / 2]


def test_a_distance_may_rest_on_extrapolation_only_where_that_is_allowed(half):
    """Translated for other edges it is a FAR like any; between its own vectors it is none."""
    gallery, _, new = half
    wanted = probe("faces/2", unit(3, seed=8))
    strict = Threshold(distance=0.01, version="faces/2")
    with pytest.raises(UnsupportedFarError, match=r"squared distance 0\.01 of faces/2") as caught:
        gallery.search(wanted, threshold=strict)
    assert "use a larger distance" in str(caught.value)
    far = float(calibration(2.1).far(0.01))
    assert caught.value.far == pytest.approx(far)
    allowed = replace(strict, extrapolate=True)
    found = gallery.search(wanted, k=40, threshold=allowed)
    assert found == gallery.search(wanted, k=40, threshold=Threshold(far=far, extrapolate=True))
    assert gallery.check_search(allowed) == AppliedThreshold(
        pytest.approx(far), calibration(1.6).smallest_far, True, 0.01, "faces/2"
    )
    pair = [probe("faces/2", new[row]) for row in (0, 1)]
    result = gallery.verify_pair(*pair, strict)
    assert not result.same
    assert result.threshold.extrapolated
    assert result.threshold.far == pytest.approx(far)


def test_a_threshold_that_means_nothing_is_told_before_a_probe_is_embedded(half, world):
    """Edges and calibrations that a search would lack are told by `check_search` alone."""
    gallery, _, _ = half
    gallery.check_search()
    gallery.check_search(Threshold(distance=1.9, version="faces/2"))
    with pytest.raises(GalleryError, match="calibrate"):
        gallery.check_search(Threshold(distance=1.0, version="faces/1"))
    with pytest.raises(UnmeasuredEdgeError):
        gallery.check_search(version="faces/3")
    world.edge("faces/2", "faces/1", calibration=None)
    with pytest.raises(UnmeasuredEdgeError):
        gallery.check_search()


def test_a_distance_of_the_old_version_is_translated(half, world):
    """A distance in use with v1 stands for v1's FAR at it, on the edges of v2 too."""
    gallery, _, _ = half
    world.edge("faces/1", "faces/1", mean=1.9)
    far = float(np.ravel(calibration(1.9).far(np.array([1.5])))[0])
    wanted = probe("faces/2", unit(3, seed=8))
    by_distance = gallery.search(wanted, k=40, threshold=Threshold(distance=1.5))
    assert by_distance == gallery.search(wanted, k=40, threshold=Threshold(far=far))
    named = Threshold(distance=1.5, version="faces/1")
    assert by_distance == gallery.search(wanted, k=40, threshold=named)
    other = Threshold(distance=1.5, version="faces/2")
    assert by_distance != gallery.search(wanted, k=40, threshold=other)


def test_a_distance_keeps_its_meaning_when_its_version_is_gone(half, world):
    """Without a name it is in the scale of what served first, before and after a migration."""
    gallery, _, new = half
    world.edge("faces/1", "faces/1", mean=1.9)
    stated = Threshold(distance=1.5)
    during = gallery.check_search(stated)
    assert (during.version, during.distance, during.extrapolated) == ("faces/1", 1.5, False)
    assert during.far == pytest.approx(float(calibration(1.9).far(1.5)))
    left = gallery.pending("faces/2", limit=40)
    world.write(gallery, "faces/2", left, new[[item.seq for item in left]])
    world.serve(gallery, "faces/2")
    gallery.remove_version("faces/1", keep_only_there=False)
    assert gallery.check_search(stated) == during
    wanted = probe("faces/2", unit(3, seed=8))
    kept = gallery.search(wanted, k=40, threshold=stated)
    assert kept == gallery.search(wanted, k=40, threshold=Threshold(far=during.far))
    own = Threshold(distance=1.5, version="faces/2")
    assert kept != gallery.search(wanted, k=40, threshold=own)
    world.serve(gallery, "faces/3", "faces/2")
    with world.database.read() as connection:
        assert catalog.first_served(connection, gallery._row()) == "faces/1"


def test_a_threshold_tells_what_it_comes_to(half):
    """The FAR that every edge is held to, and the smallest that their data supports."""
    gallery, _, _ = half
    smallest = calibration(1.6).smallest_far
    assert gallery.check_search() is None
    assert gallery.check_search(Threshold()) is None
    assert gallery.check_search(Threshold(far=0.2)) == AppliedThreshold(
        pytest.approx(0.2), smallest, False
    )
    assert gallery.check_search(Threshold(false_hits=8)).far == pytest.approx(8 / 40)
    beyond = gallery.check_search(Threshold(far=smallest / 2, extrapolate=True))
    assert beyond == AppliedThreshold(pytest.approx(smallest / 2), smallest, True)


def test_a_distance_needs_no_calibration_within_its_own_version(world):
    """A pure, uncalibrated gallery takes a distance or cosine as it is, and no FAR."""
    gallery, vectors = world.create(), unit(20)
    gallery.enroll_vectors(
        new_items([str(n) for n in range(20)]), "faces/1", {"embedding": vectors}
    )
    wanted = probe("faces/1", vectors[0])
    assert gallery.check_search(Threshold.from_cosine(0.5)) == AppliedThreshold(
        None, None, False, 1.0, "faces/1"
    )
    kept = gallery.search(wanted, k=20, threshold=Threshold.from_cosine(0.5))[0]
    assert kept == [hit for hit in gallery.search(wanted, k=20)[0] if hit.distance <= 1.0]
    with pytest.raises(GalleryError, match="calibrate"):
        gallery.search(wanted, threshold=Threshold(far=0.01))
    world.edge("faces/2", "faces/1")
    with pytest.raises(GalleryError, match="calibrate"):
        gallery.search(probe("faces/2", vectors[0]), threshold=Threshold(distance=1.0))


def test_an_answer_tells_the_threshold_that_it_was_searched_with(world, monkeypatch):
    """As `check_search` does, by one look at the threshold; without one there is none."""
    gallery, vectors = world.create(), unit(20)
    gallery.enroll_vectors(
        new_items([str(n) for n in range(20)]), "faces/1", {"embedding": vectors}
    )
    wanted, threshold = probe("faces/1", vectors[0]), Threshold(distance=1.0)
    expected = gallery.check_search(threshold)
    looks, apply = [], Limit.apply

    def counted(limit, ways):
        looks.append(limit)
        return apply(limit, ways)

    monkeypatch.setattr(Limit, "apply", counted)
    answer = gallery.answer(wanted, k=20, threshold=threshold)
    assert len(looks) == 1
    assert answer.threshold == expected == AppliedThreshold(None, None, False, 1.0, "faces/1")
    assert answer.hits == gallery.search(wanted, k=20, threshold=threshold)
    assert gallery.answer(wanted).threshold is None


@pytest.mark.parametrize(
    "values",
    [
        {"far": 0.1, "distance": 1.0},
        {"far": 0.0},
        {"far": 1.5},
        {"distance": -0.1},
        {"distance": 4.5},
        {"false_hits": 0.0},
    ],
)
def test_a_threshold_is_one_number_that_can_be_one(values):
    """Two statements, or numbers out of range, are refused."""
    with pytest.raises(UsageError):
        Threshold(**values)


def test_two_images_are_verified_over_their_edge(world):
    """A pair is the same at a threshold on its edge; without a measured one it is refused."""
    gallery, vectors = world.create(), unit(2)
    a, b = (probe("faces/1", vector) for vector in vectors)
    result = gallery.verify_pair(a, b, Threshold(distance=3.9))
    assert result.far is None
    assert result.same
    assert result.distance == pytest.approx(exact_distances(vectors[0], vectors[1:])[0])
    assert gallery.verify_pair(a, a).same is None
    assert gallery.verify_pair(a, a).distance == 0
    new = probe("faces/2", vectors[1])
    with pytest.raises(UnmeasuredEdgeError):
        gallery.verify_pair(new, a)
    world.edge("faces/2", "faces/1")
    with pytest.raises(UnsupportedFarError):
        gallery.verify_pair(new, a, Threshold(far=1e-9))
    strict = gallery.verify_pair(new, a, Threshold(far=1e-9, extrapolate=True))
    assert not strict.same
    assert 0 < strict.far <= 1
    with pytest.raises(UsageError):
        gallery.verify_pair(probe("faces/1", vectors), a)


# --- caches ---------------------------------------------------------------------------------


def test_an_index_file_is_used_by_the_next_process(world, monkeypatch):
    """A second gallery object answers from the index file, reading no segment's vectors."""
    gallery, vectors = world.create(), unit(30)
    gallery.enroll_vectors(
        new_items([str(n) for n in range(30)]), "faces/1", {"embedding": vectors}, fresh=False
    )
    expected = gallery.search(probe("faces/1", vectors[3]))
    again = world.open()

    def refuse(*_):
        raise AssertionError("a segment's vectors were read")

    monkeypatch.setattr("segue.index.reader.read_rows", refuse)
    assert again.search(probe("faces/1", vectors[3])) == expected


def test_a_damaged_index_file_is_built_again(world):
    """An index file whose checksum is wrong is ignored; the answer stays right."""
    gallery, vectors = world.create(), unit(30)
    gallery.enroll_vectors(
        new_items([str(n) for n in range(30)]), "faces/1", {"embedding": vectors}, fresh=False
    )
    expected = gallery.search(probe("faces/1", vectors[3]))
    (path,) = (world.root / "galleries/door/indexes").iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    assert world.open().search(probe("faces/1", vectors[3])) == expected
    path.unlink(missing_ok=True)
    assert world.open().search(probe("faces/1", vectors[3])) == expected


def test_a_search_works_where_no_index_can_be_written(world, monkeypatch):
    """A full or read-only disk leaves searches without a cache, not without answers."""
    from segue.errors import DiskFullError

    def full(path, _content):
        raise DiskFullError(path)

    gallery, vectors = world.create(), unit(30)
    gallery.enroll_vectors(
        new_items([str(n) for n in range(30)]), "faces/1", {"embedding": vectors}, fresh=False
    )
    monkeypatch.setattr("segue.index.index_files.write_durably", full)
    assert ids(gallery.search(probe("faces/1", vectors[3]), k=1)[0]) == ["3"]


def test_a_reader_retries_when_its_files_are_swept_away(world, monkeypatch):
    """A search whose snapshot's segments were rewritten meanwhile answers from the new ones."""
    gallery, vectors = world.create(), unit(10)
    for start in (0, 5):
        items = new_items([str(n) for n in range(start, start + 5)])
        gallery.enroll_vectors(
            items, "faces/1", {"embedding": vectors[start : start + 5]}, fresh=False
        )
    reader = world.open()
    view = reader._shelf.view()
    gallery.compact()
    shown, real = [], reader._shelf.view_in

    def old_once(connection):
        shown.append(1)
        return view if len(shown) <= 2 else real(connection)

    monkeypatch.setattr(reader._shelf, "view_in", old_once)
    assert ids(reader.search(probe("faces/1", vectors[7]), k=1)[0]) == ["7"]
    assert len(shown) > 2


def test_old_hits_are_noted_without_making_the_search_wait(half):
    """Only items found by an old version's vector are touched, and they come first afterwards."""
    gallery, old, _ = half
    gallery.search(probe("faces/2", old[38]), k=3, touch=False)
    gallery.flush_touched()
    assert [item.seq for item in gallery.pending("faces/2", limit=3)] == [0, 2, 4]
    hits = gallery.search(probe("faces/2", old[38]), k=12)[0]
    gallery.flush_touched()
    touched = sorted(hit.seq for hit in hits if hit.version == "faces/1")
    assert touched
    first = gallery.pending("faces/2", limit=len(touched))
    assert sorted(item.seq for item in first) == touched


def test_touching_is_lossy_when_the_database_cannot_be_written(half, monkeypatch):
    """A catalog that cannot be written loses the touches and fails no search."""
    from segue.errors import LockedError

    gallery, old, _ = half

    def locked(*_):
        raise LockedError("database")

    with monkeypatch.context() as patched:
        patched.setattr("segue.index.catalog.insert_touched", locked)
        assert gallery.search(probe("faces/2", old[38]), k=12)
        gallery.flush_touched()
    hits = gallery.search(probe("faces/2", old[38]), k=12)[0]
    gallery.flush_touched()
    touched = sorted(hit.seq for hit in hits if hit.version == "faces/1")
    first = gallery.pending("faces/2", limit=len(touched))
    assert sorted(item.seq for item in first) == touched


def test_one_process_notes_old_hits_in_every_migration(half, world, monkeypatch):
    """What was noted once is not written again at each search, and is after it left the list."""
    gallery, old, _ = half
    calls, real = [], catalog.insert_touched

    def counted(*arguments):
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr("segue.index.catalog.insert_touched", counted)

    def noted():
        hits = gallery.search(probe("faces/2", old[38]), k=12)[0]
        gallery.flush_touched()
        touched = sorted(hit.seq for hit in hits if hit.version == "faces/1")
        first = gallery.pending("faces/2", limit=len(touched))
        return sorted(item.seq for item in first) == touched != []

    assert noted()
    assert noted()
    assert len(calls) == 1
    items = gallery.pending("faces/2", limit=100)
    world.write(gallery, "faces/2", items, unit(len(items), seed=9))
    world.serve(gallery, "faces/1", "faces/2")
    gallery.remove_version("faces/2", keep_only_there=True)
    world.serve(gallery, "faces/2", "faces/1")
    assert noted()
    assert len(calls) == 2


_SCRIPT = """
import sys, pathlib, numpy as np
import segue.index
loaded = {"torch", "mlflow", "faiss", "duckdb", "pyarrow", "scipy"} & set(sys.modules)
assert not loaded, loaded
from segue.database import Database
root = pathlib.Path(sys.argv[1])
gallery = segue.index.Gallery(Database(root / "segue.db"), root, "door")
probe = segue.index.Probe("faces/2", {"embedding": np.eye(8, dtype=np.float32)[:2]})
hits = gallery.search(probe, k=3)
gallery.flush_touched()
assert [len(found) for found in hits] == [3, 3]
assert hits[0][0].far is not None
loaded = {"torch", "mlflow", "duckdb", "onnxruntime"} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.mark.usefixtures("half")
def test_a_search_by_vectors_loads_neither_torch_nor_mlflow(world):
    """Importing the room loads no heavy library; a mixed search loads neither torch nor mlflow."""
    subprocess.run([sys.executable, "-c", _SCRIPT, str(world.root)], check=True)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=1, max_size=30),
    st.integers(1, 10),
    st.data(),
)
def test_candidates_are_exact_under_ties_and_exclusions(rows, k, data):
    """The Faiss path with its selector answers what plain loops answer, ties and all."""
    import faiss

    from segue.index.nearest import NearestItems, _wrap

    raw = np.array([row if any(row) else [1, 0] for row in rows], dtype=np.float64)
    vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    live = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    flat = faiss.IndexIDMap(faiss.IndexFlatL2(2))
    flat.add_with_ids(vectors, np.arange(len(rows)))
    nearest = NearestItems(None)
    seqs, found = nearest._candidates(("v", "o"), _wrap(flat, frozenset()), live, vectors[0], k)
    expected = brute_force(vectors[0], {n: v for n, v in enumerate(vectors) if live[n]}, k)
    distances = exact_distances(vectors[0], found)
    order = np.lexsort((seqs, distances))[:k]
    assert seqs[order].tolist() == [seq for _, seq in expected]
