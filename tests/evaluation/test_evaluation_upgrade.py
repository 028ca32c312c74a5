"""Figures over several seeds against the report of each seed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from segue.errors import EvaluationError, FormatError, UnknownNameError, UnsupportedFarError
from segue.evaluation import Estimate, UpgradeFigures, measure_compatibility, measure_upgrade
from segue.evaluation.results import mixed_name

FARS = (0.1, 0.03)
RHOS = (0, 0.5, 1)
SETTINGS = {"fars": FARS, "rhos": RHOS, "bootstrap": 30, "seed": 3}


@pytest.fixture(scope="module")
def seeds(make):
    """Three seeds' models of the same people, and their calibration people."""
    measured = [make(people=25, singles=3, seed=seed) for seed in (1, 2, 3)]
    return measured, [make(people=25, seed=seed + 10) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def figures(seeds):
    return measure_upgrade(*seeds, **SETTINGS)


@pytest.fixture(scope="module")
def reports(seeds):
    return [measure_compatibility(a, b, **SETTINGS) for a, b in zip(*seeds, strict=True)]


def test_one_seed_is_the_report(seeds, reports):
    """Of one seed every figure and interval is the compatibility report's."""
    figures = measure_upgrade(seeds[0][:1], seeds[1][:1], **SETTINGS)
    report = reports[0]
    for row in report.rows:
        for far, metric in zip(FARS, ("VAL@1e-1", "VAL@3e-2"), strict=True):
            assert figures.estimate(f"{row.name} {metric}") == row.at(far).val
        assert figures.estimate(f"{row.name} rank-1") == row.rank1
        for point, text in zip(row.deployed, ("1e-1", "3e-2"), strict=False):
            ratio = figures.estimate(f"{row.name} realised@{text}")
            told = [x / point.far for x in point.realised_far.to_json()]
            assert ratio.to_json() == pytest.approx(told)
    for gain in report.gains:
        if gain.metric != "mAP":
            assert figures.estimate(f"tax {gain.metric}") == gain.tax
            assert figures.estimate(f"update gain {gain.metric}") == gain.update_gain
    for each in report.backfill:
        if each.metric != "mAP":
            assert figures.estimate(f"{each.group} area {each.metric}") == each.area
            low = figures.figure(f"{each.group} minimum less v1 {each.metric}").value
            v1 = figures.figure(f"v1 {each.metric}").value
            assert low == pytest.approx(each.minimum - v1)


def test_a_figure_is_the_mean_over_seeds(figures, reports):
    """Values and resamples are averaged; each seed's own value is kept."""
    name = "search rho=0.5 calibrated VAL@1e-1"
    alone = [
        report.row(mixed_name("search", 0.5, calibrated=True)).at(0.1).val for report in reports
    ]
    figure = figures.figure(name)
    assert figure.by_seed.tolist() == [each.value for each in alone]
    assert figure.value == pytest.approx(np.mean(figure.by_seed))
    assert figure.samples.shape == (30,)
    assert figures.seeds == 3


def test_the_gain_is_the_ratio_of_means(figures):
    """Means over seeds are taken before dividing, in every resample."""
    v1, twin, cross = (figures.figure(f"{row} VAL@1e-1") for row in ("v1", "twin", "v2 -> v1"))
    gain = figures.figure("update gain VAL@1e-1")
    assert gain.value == pytest.approx((cross.value - v1.value) / (twin.value - v1.value))
    expected = (cross.samples - v1.samples) / (twin.samples - v1.samples)
    assert gain.samples == pytest.approx(expected)


def test_all_seeds_share_their_resamples(seeds):
    """The mean of three times the same models has one model's interval, not a narrower one."""
    one = measure_upgrade(seeds[0][:1], seeds[1][:1], **SETTINGS)
    three = measure_upgrade(seeds[0][:1] * 3, seeds[1][:1] * 3, **SETTINGS)
    for name in ("v2 -> v1 VAL@1e-1", "search area rank-1", "update gain VAL@1e-1"):
        assert three.figure(name).samples == pytest.approx(one.figure(name).samples)


def test_the_minimum_is_found_on_the_mean_curve(figures):
    """The lowest rho of the mean counts, whatever each seed's own lowest is."""
    rows = [mixed_name("stored", rho, calibrated=True) for rho in RHOS]
    v1 = figures.figure("v1 rank-1")
    curve = np.array([figures.figure(f"{row} rank-1").samples for row in rows]) - v1.samples
    found = figures.figure("stored minimum less v1 rank-1")
    assert found.samples == pytest.approx(curve.min(axis=0))
    assert found.value <= 0  # at rho 0 stored is v1 itself


def test_the_worst_realised_far_is_the_gates(figures):
    """The largest value and the largest upper end need not be of one row."""
    found = figures.worst_realised(0.1)
    rows = [
        figures.estimate(f"{mixed_name(group, rho, calibrated=True)} realised@1e-1")
        for group in ("search", "stored")
        for rho in RHOS
    ]
    assert found.value == max(each.value for each in rows)
    assert found.high == max(each.high for each in rows)
    assert figures.figure("worst realised@1e-1").value == pytest.approx(found.value)


def test_strategies_differ_in_pairs(seeds, figures):
    """A difference to itself is nothing; people drawn otherwise cannot be paired."""
    assert figures.against(figures, "v2 VAL@1e-1") == Estimate(0, 0, 0)
    worse = [replace(each, v2=each.v1, v2_cross=None) for each in seeds[0]]
    still = [replace(each, v2=each.v1, v2_cross=None) for each in seeds[1]]
    other = measure_upgrade(worse, still, **SETTINGS)
    paired = figures.against(other, "v2 VAL@1e-1")
    apart = figures.figure("v2 VAL@1e-1").samples - other.figure("v2 VAL@1e-1").samples
    assert paired.low == pytest.approx(np.quantile(apart, 0.025))
    assert paired.value > 0
    shuffled = measure_upgrade(*seeds, **{**SETTINGS, "seed": 4})
    with pytest.raises(EvaluationError, match="same images"):
        figures.against(shuffled, "v2 VAL@1e-1")


def test_figures_travel_as_json(figures):
    """Figures read back are those that were written, samples too; other formats are refused."""
    value = json.loads(json.dumps(figures.to_json(), allow_nan=False))
    again = UpgradeFigures.from_json(value)
    assert again.to_json() == figures.to_json()
    assert again.against(figures, "tax rank-1") == Estimate(0, 0, 0)
    with pytest.raises(FormatError):
        UpgradeFigures.from_json({**value, "format": 2})
    with pytest.raises(EvaluationError, match="damaged"):
        UpgradeFigures.from_json({**value, "figures": [1]})


def test_without_a_twin_what_needs_it_is_missing(seeds):
    """Gain, tax and rank merge are absent and named as unknown; the rest is there."""
    bare = [[replace(each, twin=None, bridged=None) for each in side[:1]] for side in seeds]
    figures = measure_upgrade(*bare, **SETTINGS)
    assert figures.figure("search area rank-1").value > 0
    for name in ("tax rank-1", "update gain rank-1", "rank merge area rank-1"):
        with pytest.raises(UnknownNameError, match="search area rank-1"):
            figures.figure(name)


def test_a_far_that_the_people_cannot_support_fails_at_once(seeds):
    """The error says which FAR the data supports."""
    with pytest.raises(UnsupportedFarError, match=r"supports 2\.0e-02"):
        measure_upgrade(*seeds, **{**SETTINGS, "fars": [0.1, 1e-3]})


def test_seeds_must_see_the_same_images(seeds, make):
    """No seeds, other people, other arrays, or a missing calibration set are refused."""
    measured, calibrating = seeds
    with pytest.raises(EvaluationError, match="0 seeds"):
        measure_upgrade([], [], **SETTINGS)
    with pytest.raises(EvaluationError, match="of 2"):
        measure_upgrade(measured, calibrating[:2], **SETTINGS)
    with pytest.raises(EvaluationError, match="same images"):
        measure_upgrade([measured[0], make(people=26)], calibrating[:2], **SETTINGS)
    with pytest.raises(EvaluationError, match="same arrays"):
        measure_upgrade([measured[0], replace(measured[1], twin=None, bridged=None)],
                        calibrating[:2], **SETTINGS)  # fmt: skip
