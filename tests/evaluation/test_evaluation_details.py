"""Orders of migrating, open-set figures and distributions against plain loops."""

import numpy as np
import pytest

from segue.evaluation import measure_compatibility
from segue.evaluation.backfill import HITS, ORDERS, order_of
from segue.evaluation.open_set import FALSE_HITS, SIZES
from segue.evaluation.plans import Setting, prepare
from segue.evaluation.protocols import EdgeScores, migration_turns
from segue.evaluation.results import mixed_name
from segue.evaluation.roc import val_at_far
from segue.harmonic.distances import squared_distances


@pytest.fixture(scope="module")
def setting(make):
    return prepare(make(seed=1), make(seed=2), [0.1], [0, 0.5, 1], seed=5)


def test_every_order_gives_each_item_one_turn(setting):
    """A turn is a permutation, whatever the order."""
    for order in ORDERS:
        turn = order_of(order, setting)
        assert sorted(turn.tolist()) == list(range(len(setting.data.labels)))
    assert np.array_equal(order_of("random", setting), migration_turns(len(turn), 5))
    assert order_of("oldest", setting).tolist() == list(range(len(turn)))


def test_farthest_is_the_loop_over_people(setting):
    """The farther from the mean of its person's v1 vectors, the earlier; single images last."""
    data, turn = setting.data, order_of("farthest", setting)
    distance = []
    for i, person in enumerate(data.labels):
        mean = data.v1[data.labels == person].astype(float).mean(axis=0)
        distance.append(((data.v1[i] - mean / np.linalg.norm(mean)) ** 2).sum())
    assert np.all(np.diff(np.array(distance)[np.argsort(turn)]) <= 1e-6)
    singles = np.bincount(data.labels)[data.labels] == 1
    assert turn[singles].min() > turn[~singles].max()
    assert np.all(np.diff(turn[singles]) == 1)


def test_touched_is_the_loop_over_searches(setting):
    """Items go in the order in which searches, one probe after another, first hit them."""
    data = setting.data
    count = len(data.labels)
    probes = np.random.default_rng(setting.seed).permutation(count)
    distances = squared_distances(data.v2, data.v1)
    touched: list[int] = []
    for probe in probes:
        others = [i for i in range(count) if i != probe]
        hits = sorted(others, key=lambda i, probe=probe: (distances[probe, i], i))[:HITS]
        touched += [item for item in hits if item not in touched]
    order = np.argsort(order_of("touched", setting))
    assert order[: len(touched)].tolist() == touched


def test_a_point_of_a_curve_is_the_loop_over_pairs(measured):
    """Half the items of an order migrated: VAL and rank-1 of the calibrated scores, by hand."""
    data, report = measured
    setting = setting_of(data, report)
    for order in ("oldest", "farthest"):
        migrated = order_of(order, setting) < round(0.5 * len(data.labels))
        scores = np.where(
            migrated, setting.scores.calibrated("v2", "v2"), setting.scores.calibrated("v2", "v1")
        )
        genuine, impostor, hits = [], [], []
        for i, row in enumerate(scores):
            others = np.arange(len(row)) != i
            same = data.labels == data.labels[i]
            genuine += row[others & same].tolist()
            impostor += row[~same].tolist()
            if (others & same).any():
                hits.append(row[others & same].min() < row[~same].min())
        for metric, expected in (
            ("VAL@1e-2", val_at_far(genuine, impostor, 0.01).val),
            ("rank-1", np.mean(hits)),
        ):
            curve = curve_of(report, order, "search", metric)
            assert curve.values[curve.rhos.index(0.5)].value == pytest.approx(expected)


def setting_of(data, report):
    """Return what the report was measured on."""
    scores = EdgeScores(data, report.calibrations)
    return Setting(data, report.calibrations, scores, report.fars, report.rhos, report.seed)


def curve_of(report, order, group, metric):
    return next(
        each
        for each in report.orders
        if (each.order, each.group, each.metric) == (order, group, metric)
    )


def test_all_orders_share_their_ends(report):
    """Nothing migrated and all migrated are the same gallery, whatever came first."""
    for metric in ("VAL@1e-2", "rank-1"):
        for group in ("search", "rank merge"):
            curves = [curve_of(report, order, group, metric) for order in ORDERS]
            assert len({(curve.values[0], curve.values[-1]) for curve in curves}) == 1


def test_the_random_order_is_the_report_itself(report):
    """Its points are the mixed rows, its area that of the backfill table."""
    curve = curve_of(report, "random", "rank merge", "rank-1")
    assert list(curve.values) == [row.rank1 for row in report.mixed("rank merge")]
    table = {(each.group, each.metric): each for each in report.backfill}
    assert curve.area == table["rank merge", "rank-1"].area
    search = curve_of(report, "random", "search", "rank-1")
    difference = search.area.value - curve.area.value
    assert search.less_rank_merge.value == pytest.approx(difference)
    assert search.less_rank_merge.low <= difference <= search.less_rank_merge.high
    assert curve.less_rank_merge is None


def test_the_minimum_is_held_against_v1(report):
    """The lowest point's difference to v1 has the row's own interval."""
    for each in report.backfill:
        row = report.row(mixed_name(each.group, each.minimum_rho, calibrated=True))
        if each.metric == "rank-1":
            assert each.minimum_against_v1 == row.rank1_against_v1
        elif each.metric == "VAL@1e-2":
            assert each.minimum_against_v1 == row.at(0.01).against_v1


def test_open_set_figures_are_the_miss_rates_at_their_far(report):
    """False hits over size is the FAR; every setting stands there, measured or not."""
    settings = {(each.false_hits, each.size) for each in report.open_set}
    assert settings == {(hits, size) for hits in FALSE_HITS for size in SIZES}
    for each in report.open_set:
        assert each.far == pytest.approx(each.false_hits / each.size)
        point = report.row(each.row).at(0.01)
        if each.far == 0.01:
            assert each.miss_rate == point.miss_rate
        if each.far < 1e-3:
            assert each.miss_rate is None
    rows = {each.row for each in report.open_set}
    assert {"v1", "v2 -> v1", mixed_name("search", 0.5, calibrated=True)} <= rows
    assert not any(row.startswith("stored") or row.endswith("raw") for row in rows)


def test_open_set_figures_do_not_need_their_fars_in_the_report(make):
    """A report of other FARs has the same open-set figures, and no point at theirs."""
    data = [make(people=60, seed=seed, twin=False) for seed in (1, 2)]
    one, two = (
        measure_compatibility(*data, fars=fars, rhos=[0.5], bootstrap=10)
        for fars in ([0.1, 0.01], [0.3])
    )
    assert one.open_set == two.open_set
    assert [point.far for point in two.row("v1").points] == [0.3]


def test_misses_are_the_loop_over_probes(measured):
    """A probe is missed when its nearest mate is not below the first refused impostor."""
    data, report = measured
    distances = squared_distances(data.v1, data.v1)
    upper = np.triu_indices(len(data.labels), 1)
    same = data.labels[upper[0]] == data.labels[upper[1]]
    found = val_at_far(distances[upper][same], distances[upper][~same], 0.01)
    missed = []
    for i, row in enumerate(distances):
        mates = (data.labels == data.labels[i]) & (np.arange(len(row)) != i)
        if mates.any():
            missed.append(row[mates].min() > found.threshold)
    told = next(e for e in report.open_set if e.row == "v1" and e.far == 0.01)
    assert told.miss_rate.value == pytest.approx(np.mean(missed))


def test_distributions_count_every_pair_once(measured):
    """Each edge's bins hold all its pairs, before and after calibration; v1 -> v2 twice over."""
    data, report = measured
    assert [(each.probe, each.stored) for each in report.distributions] == list(data.edges)
    for each in report.distributions:
        copies = 1 if each.probe == each.stored else 2
        for counts in (each.genuine, each.genuine_scores):
            assert sum(counts) == copies * report.genuine_pairs
        for counts in (each.impostor, each.impostor_scores):
            assert sum(counts) == copies * report.impostor_pairs
    first = report.distributions[0]
    distances = squared_distances(data.v1, data.v1)[np.triu_indices(len(data.labels), 1)]
    assert sum(first.genuine[:20]) + sum(first.impostor[:20]) == (distances < 1).sum()
