"""The compatibility report: protocols, ends of the migration, gains, JSON."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from segue.errors import (
    EvaluationError,
    FormatError,
    UnknownNameError,
    UnsupportedFarError,
    VectorError,
)
from segue.evaluation import CompatibilityData, CompatibilityReport, measure_compatibility
from segue.evaluation.identification import rank1
from segue.evaluation.protocols import EdgeScores, calibrate_edges, migrated_items
from segue.evaluation.results import mixed_name
from segue.evaluation.roc import val_at_far
from segue.harmonic.distances import squared_distances

RHOS = (0, 0.25, 0.5, 0.75, 1)
MEASURES = ("points", "auc", "rank1", "mean_average_precision", "negative_flips", "curve")


def same_measures(one, other):
    """Say that two rows measured the same, exactly, but for thresholds and their accept counts."""
    vals = [
        [(p.far, p.val, p.against_v1, p.identity_val) for p in row.points] for row in (one, other)
    ]
    return vals[0] == vals[1] and all(
        getattr(one, name) == getattr(other, name) for name in MEASURES[1:]
    )


def pairs_by_loops(data, migrated, protocol):
    """Compare every image with every other as the protocol says, one pair at a time."""
    genuine, impostor = [], []
    vectors = {False: data.v1, True: data.v2}
    for i in range(len(data.labels)):
        for j in range(len(data.labels)):
            if i == j or (protocol == "stored" and i > j):
                continue
            probe = data.v2[i] if protocol == "search" else vectors[bool(migrated[i])][i]
            stored = vectors[bool(migrated[j])][j]
            distance = float(((probe.astype(float) - stored.astype(float)) ** 2).sum())
            (genuine if data.labels[i] == data.labels[j] else impostor).append(distance)
    return genuine, impostor


@pytest.mark.parametrize("protocol", ["search", "stored"])
def test_a_mixed_row_is_the_loop_over_pairs(make, protocol):
    """Raw VAL of a half-migrated gallery equals comparing the pairs one by one."""
    data = make(people=8, images=3, singles=2, seed=3)
    report = measure_compatibility(data, make(seed=4), rhos=[0.5], bootstrap=10, seed=9)
    migrated = migrated_items(len(data.labels), 0.5, 9)
    genuine, impostor = pairs_by_loops(data, migrated, protocol)
    row = report.row(mixed_name(protocol, 0.5, calibrated=False))
    for point in row.points:
        expected = val_at_far(genuine, impostor, point.far)
        assert point.val.value == pytest.approx(expected.val)
        assert point.threshold == pytest.approx(expected.threshold, abs=1e-5)
    scale = 2 if protocol == "search" else 1
    assert report.impostor_pairs == len(impostor) / scale
    assert report.genuine_pairs == len(genuine) / scale


def test_search_starts_at_the_cross_row_and_ends_at_v2(report):
    """At rho 0 search is v2 -> v1, at rho 1 it is v2 self; calibrating changes neither."""
    for calibrated in (False, True):
        rows = report.mixed("search", calibrated=calibrated)
        assert [row.rho for row in rows] == list(RHOS)
        assert same_measures(rows[0], report.row("v2 -> v1"))
        assert same_measures(rows[-1], report.row("v2"))


def test_stored_starts_at_v1_and_ends_at_v2(report):
    """At rho 0 stored is v1 self, at rho 1 v2 self; calibrating changes neither."""
    for calibrated in (False, True):
        rows = report.mixed("stored", calibrated=calibrated)
        assert same_measures(rows[0], report.row("v1"))
        assert same_measures(rows[-1], report.row("v2"))


def test_rank_merge_goes_from_v1_to_the_twin(report):
    """Two models per probe, merged by calibrated score, are each model alone at the ends."""
    rows = report.mixed("rank merge")
    assert same_measures(rows[0], report.row("v1"))
    assert same_measures(rows[-1], report.row("twin"))


def test_the_bridge_goes_from_its_edge_to_the_twin(report):
    """The mapped twin is the bridge's row at rho 0 and the twin itself at rho 1."""
    rows = report.mixed("bridge")
    assert same_measures(rows[0], report.row("bridge -> v1"))
    assert same_measures(rows[-1], report.row("twin"))


def test_both_directions_of_an_edge_hold_the_same_pairs(report):
    """VAL of v1 -> v2 equals that of v2 -> v1; what a search finds first need not."""
    there, back = report.row("v2 -> v1"), report.row("v1 -> v2")
    assert [p.val for p in there.points] == [p.val for p in back.points]


def test_items_migrate_in_one_nested_order():
    """What is migrated at one rho is migrated at every larger one; the shares are exact."""
    steps = [migrated_items(101, rho, seed=3) for rho in (0, 0.1, 0.25, 0.5, 0.9, 1)]
    assert [int(step.sum()) for step in steps] == [0, 10, 25, 50, 91, 101]
    assert all((later | ~earlier).all() for earlier, later in itertools.pairwise(steps))
    assert not np.array_equal(migrated_items(101, 0.5, seed=4), steps[3])


def test_gains_and_taxes_are_their_formulas(report):
    """Update gain and tax follow from the rows; their intervals hold the value."""
    v1, twin, v2, cross = (report.row(name) for name in ("v1", "twin", "v2", "v2 -> v1"))
    gain = report.gain("VAL@1e-2")
    m1, mt, m2, mc = (row.at(0.01).val.value for row in (v1, twin, v2, cross))
    assert gain.update_gain.value == pytest.approx((mc - m1) / (mt - m1))
    assert gain.tax.value == pytest.approx(mt - m2)
    rank = report.gain("rank-1")
    assert rank.tax.value == pytest.approx(twin.rank1.value - v2.rank1.value)
    for estimate in (gain.update_gain, gain.tax):
        assert estimate.low <= estimate.value <= estimate.high


def test_a_difference_to_itself_is_nothing(report):
    """Differences use the same resamples on both sides: v1 less v1 is exactly 0."""
    for row in (report.row("v1"), report.mixed("stored")[0]):
        for point in row.points:
            assert point.against_v1.to_json() == [0, 0, 0]
        assert row.rank1_against_v1.to_json() == [0, 0, 0]


def test_the_backfill_area_is_the_mean_over_rho(report):
    """Area and minimum follow from the calibrated rows by trapezoids."""
    values = [row.at(0.01).val.value for row in report.mixed("search")]
    found = next(b for b in report.backfill if (b.group, b.metric) == ("search", "VAL@1e-2"))
    weights = np.array([1, 2, 2, 2, 1]) / 8
    assert found.area.value == pytest.approx(weights @ values)
    assert found.minimum == min(values)
    assert found.minimum_rho == RHOS[int(np.argmin(values))]


def test_negative_flips_count_what_v1_had_right(measured):
    """Only probes that v1 found and the row lost count."""
    data, report = measured
    hits = {}
    for name, probe in (("v1", data.v1), ("v2 -> v1", data.v2)):
        scores = squared_distances(probe, data.v1).astype(float)
        own = [
            rank1(
                scores[i : i + 1, others],
                data.labels[i : i + 1],
                data.labels[others],
                same_images=False,
            )
            for i, others in leave_one_out(data.labels)
        ]
        hits[name] = np.array(own) > 0
    lost = (hits["v1"] & ~hits["v2 -> v1"]).mean()
    assert report.row("v2 -> v1").negative_flips == pytest.approx(lost)
    assert report.row("v1").negative_flips == 0


def leave_one_out(labels):
    """Yield each probe with a mate, and all other rows."""
    for i in range(len(labels)):
        others = np.delete(np.arange(len(labels)), i)
        if (labels[others] == labels[i]).any():
            yield i, others


def test_the_deployed_threshold_keeps_its_meaning_when_calibrated(measured):
    """Realised FAR is the impostor share at a threshold of other people; log FAR if calibrated."""
    data, report = measured
    row = report.mixed("search", calibrated=False)[0]
    frozen = report.calibrations["v1", "v1"].distance_at(0.1)
    point = next(point for point in row.deployed if point.far == 0.1)
    assert point.threshold == frozen
    distances = squared_distances(data.v2, data.v1)
    impostors = distances[data.labels[:, None] != data.labels[None, :]]
    assert point.realised_far.value == pytest.approx((impostors <= frozen).mean())
    calibrated = next(p for p in report.mixed("search")[0].deployed if p.far == 0.1)
    assert calibrated.threshold == pytest.approx(-1)
    assert calibrated.realised_far.value == pytest.approx(0.1, rel=0.5)


def test_each_edge_has_its_calibration(report):
    """The report carries a calibration of every edge, keyed by probe and stored role."""
    assert set(report.calibrations) == {
        ("v1", "v1"), ("v2", "v1"), ("v1", "v2"), ("v2", "v2"), ("twin", "twin"), ("bridge", "v1"),
    }  # fmt: skip


def test_an_unmeasurable_far_is_said_to_be_so(report):
    """With too few impostors for a FAR every row says so, and gains leave it out."""
    assert not any(row.at(1e-4).measurable for row in report.rows)
    assert 1e-4 not in report.measurable_fars
    assert 0.1 in report.measurable_fars
    assert "VAL@1e-4" not in [gain.metric for gain in report.gains]
    smallest = min(far for far, _ in report.row("v1").curve)
    assert smallest * report.impostor_pairs >= 100


def test_a_val_that_the_data_cannot_support_is_not_handed_out(report):
    """Asking for it says from which FAR on the people are enough."""
    assert report.val("v1", 0.01) == report.row("v1").at(0.01).val
    with pytest.raises(UnsupportedFarError, match="more people") as caught:
        report.val("v2 -> v1", 1e-4)
    assert caught.value.smallest == pytest.approx(100 / report.impostor_pairs)


def test_a_v2_of_another_dimension_is_compared_by_its_own_head(make):
    """v2's own output may have any dimension; the cross rows use the compatible one."""
    data, other = make(seed=1), make(seed=2)
    wide = [
        CompatibilityData(each.labels, each.v1, np.hstack([each.v2, 0 * each.v2]), each.v2)
        for each in (data, other)
    ]
    plain = [replace(each, twin=None, bridged=None) for each in (data, other)]
    one = measure_compatibility(*wide, rhos=[0, 0.5], bootstrap=10)
    two = measure_compatibility(*plain, rhos=[0, 0.5], bootstrap=10)
    for left, right in zip(one.rows, two.rows, strict=True):
        assert left.rank1.value == pytest.approx(right.rank1.value)


def test_without_a_twin_there_is_no_gain_and_no_tax(make):
    """The twin's rows, the update gain and the tax are absent, the rest is there."""
    report = measure_compatibility(
        make(twin=False), make(twin=False, seed=2), rhos=[0.5], bootstrap=10
    )
    assert not report.has("twin")
    assert not report.mixed("rank merge")
    assert all(gain.tax is None and gain.update_gain is None for gain in report.gains)
    assert report.backfill == ()


def test_a_person_counts_with_ten_images_at_most(make):
    """Of a person with many images a seeded choice of ten is measured."""
    report = measure_compatibility(
        make(people=12, images=13, singles=3), make(seed=2), rhos=[0], bootstrap=10
    )
    assert report.images == 12 * 10 + 3
    assert report.people == 15
    assert report.people_with_mates == 12


def test_the_choice_of_images_is_seeded(make):
    """The same seed keeps the same images, another seed others."""
    data = make(people=5, images=12, singles=0)
    kept = [data.at_most(4, seed).v1 for seed in (1, 1, 2)]
    assert np.array_equal(kept[0], kept[1])
    assert not np.array_equal(kept[0], kept[2])


def test_the_same_seed_gives_the_same_report(measured, make, report):
    """Measuring again gives every number again."""
    again = measure_compatibility(measured[0], make(people=60, seed=2), bootstrap=40, seed=5)
    assert again == report


def test_json_holds_the_whole_report(report):
    """A report read back from its JSON equals the one written."""
    text = json.dumps(report.to_json(), allow_nan=False)
    assert CompatibilityReport.from_json(json.loads(text)) == report


def test_a_report_tells_no_names():
    """Labels may be names; nothing of them or of a vector is in the report."""
    random = np.random.default_rng(0)
    names = [f"Somebody_{i // 3}" for i in range(60)]
    vectors = random.normal(size=(60, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    data = CompatibilityData(names, vectors, vectors)
    text = json.dumps(measure_compatibility(data, data, rhos=[0.5], bootstrap=10).to_json())
    assert "Somebody" not in text
    assert not any(f"{x:.6f}"[:8] in text for x in vectors[0])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": 2}, FormatError),
        ({"rows": [{}]}, EvaluationError),
        ({"fars": 3}, EvaluationError),
    ],
)
def test_a_foreign_or_damaged_report_is_refused(report, change, error):
    """Another format and missing parts are told apart."""
    with pytest.raises(error):
        CompatibilityReport.from_json({**report.to_json(), **change})


def test_unknown_rows_and_fars_are_named(report):
    """Asking for what was not measured lists what was."""
    with pytest.raises(UnknownNameError, match="v2 -> v1"):
        report.row("v3")
    with pytest.raises(UnknownNameError, match="rank-1"):
        report.gain("F1")
    with pytest.raises(EvaluationError, match=r"0\.1"):
        report.row("v1").at(0.5)


@pytest.mark.parametrize(
    "settings",
    [{"fars": []}, {"fars": [0]}, {"rhos": []}, {"rhos": [1.5]}, {"bootstrap": 3}],
)
def test_settings_that_measure_nothing_are_refused(make, settings):
    """No FAR, no rho, rates outside their range, or too few resamples give an error."""
    with pytest.raises(EvaluationError):
        measure_compatibility(make(), make(seed=2), **settings)


def test_calibration_people_need_the_same_arrays(make):
    """An edge that cannot be calibrated is named."""
    with pytest.raises(EvaluationError, match="bridge -> v1, twin -> twin"):
        measure_compatibility(make(), make(twin=False))


def test_arrays_that_do_not_fit_are_refused(make):
    """Rows, dimensions and unit length are checked, and the array is named."""
    data = make()
    with pytest.raises(VectorError, match="v2"):
        CompatibilityData(data.labels, data.v1, data.v2[1:])
    with pytest.raises(VectorError, match="v2_cross"):
        CompatibilityData(data.labels, data.v1, np.eye(len(data.v1), dtype=np.float32))
    with pytest.raises(VectorError, match="twin"):
        CompatibilityData(data.labels, data.v1, data.v2, twin=2 * data.v2)
    with pytest.raises(EvaluationError, match="no vectors"):
        CompatibilityData(data.labels, data.v1, data.v2).vectors("bridge", "v1")


def test_progress_tells_every_row(make):
    """Progress ends at its total."""
    told = []
    measure_compatibility(
        make(twin=False),
        make(twin=False, seed=2),
        rhos=[0],
        bootstrap=10,
        progress=lambda done, total, what: told.append((done, total, what)),
    )
    assert [done for done, _, _ in told] == list(range(1, told[-1][1] + 1))


def test_scores_of_both_directions_are_transposes(make):
    """v1 -> v2 is v2 -> v1 seen from the other side."""
    data = make()
    scores = EdgeScores(data, calibrate_edges(data))
    assert np.array_equal(scores.raw("v1", "v2"), scores.raw("v2", "v1").T)
    assert scores.calibrated("v2", "v2").max() <= 0
