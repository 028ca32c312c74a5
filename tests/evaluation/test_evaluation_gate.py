"""The gate, worked by hand on reports whose numbers are written out."""

import json
from dataclasses import replace

import numpy as np
import pytest

from segue.errors import EvaluationError, FormatError
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.gate import GateResult, evaluate_gate
from segue.evaluation.results import CompatibilityReport, Deployed, FarPoint, Gain, Row, mixed_name
from segue.harmonic.calibration import Calibration

FARS = (0.1, 0.01, 0.001)
NOTHING = Estimate(0, 0, 0)


def point(far, val, against_v1, *, measurable=True):
    return FarPoint(
        far, Estimate(val, val, val), against_v1, NOTHING, NOTHING, 1.0, 200, measurable
    )


def a_row(name, group="self", rho=None, *, difference=NOTHING, rank1=NOTHING, ratio=(1, 0.9, 1.1)):
    """A row that differs from v1 by `difference` at every FAR."""
    return Row(
        name=name,
        group=group,
        rho=rho,
        calibrated=rho is not None,
        points=tuple(point(far, 0.5 + difference.value, difference) for far in FARS),
        auc=0.9,
        rank1=NOTHING,
        rank1_against_v1=rank1,
        mean_average_precision=NOTHING,
        map_against_v1=NOTHING,
        negative_flips=0,
        deployed=tuple(
            Deployed(far, -1, Estimate(*(far * x for x in ratio)), NOTHING, True) for far in FARS
        ),
        curve=(),
    )


def a_report(*changed, tax=0.01):
    """A report in which everything is in order, with some rows changed."""
    better = Estimate(0.05, 0.01, 0.09)
    rows = {
        "v1": a_row("v1"),
        "twin": a_row("twin"),
        "v2 -> v1": a_row("v2 -> v1", "cross", difference=better),
    }
    for group in ("search", "stored"):
        for rho in (0, 0.5, 1):
            name = mixed_name(group, rho, calibrated=True)
            rows[name] = a_row(name, group, rho, difference=better, rank1=better)
    rows |= {row.name: row for row in changed}
    return CompatibilityReport(
        people=100,
        people_with_mates=100,
        images=900,
        genuine_pairs=4000,
        impostor_pairs=400_000,
        fars=FARS,
        rhos=(0, 0.5, 1),
        bootstrap=200,
        seed=0,
        rows=tuple(rows.values()),
        gains=(Gain("VAL@1e-2", None, Estimate(tax, tax - 0.02, tax + 0.02)),),
        backfill=(),
        calibrations={},
    )


def mixed(group, rho, **settings):
    return a_row(mixed_name(group, rho, calibrated=True), group, rho, **settings)


def failed(report, **settings):
    return [check.name for check in evaluate_gate(report, **settings).checks if not check.passed]


def test_everything_in_order_is_go():
    """Ten checks pass, and there is no reason against it."""
    gate = evaluate_gate(a_report())
    assert gate.go
    assert gate.reasons() == ()
    assert [check.name for check in gate.checks] == [
        "cross above v1",
        "search VAL",
        "search rank-1",
        "stored VAL",
        "stored rank-1",
        "tax within budget",
        "realised FAR 1e-2",
        "bound of FAR 1e-2",
        "realised FAR 1e-3",
        "bound of FAR 1e-3",
    ]
    measured = {check.name: (check.measured, check.wanted) for check in gate.checks}
    assert measured["cross above v1"] == (0.01, 0)
    assert measured["stored VAL"] == (0.09, 0)
    assert measured["tax within budget"] == (0.01, 0.02)
    assert measured["realised FAR 1e-2"] == (pytest.approx(1), 1.5)
    assert measured["bound of FAR 1e-3"] == (pytest.approx(1.1), 2.5)


def test_a_cross_interval_that_touches_zero_is_no_go():
    """Cross must lie above v1 with its whole interval, not only its value."""
    touching = a_row("v2 -> v1", "cross", difference=Estimate(0.03, 0.0, 0.06))
    gate = evaluate_gate(a_report(touching))
    assert not gate.go
    assert gate.reasons() == (
        (
            "v2 compared with v1 is not clearly above v1 itself at FAR 1e-2: VAL +3.0 [+0.0, +6.0] "
            "points (the interval's lower end must exceed 0)"
        ),
    )


@pytest.mark.parametrize("group", ["search", "stored"])
def test_one_ratio_wholly_below_v1_is_no_go(group):
    """An interval wholly below 0 at any rho fails its protocol; one that reaches 0 does not."""
    below, reaching = Estimate(-0.04, -0.08, -0.001), Estimate(-0.04, -0.08, 0.0)
    assert failed(a_report(mixed(group, 0.5, difference=below))) == [f"{group} VAL"]
    assert failed(a_report(mixed(group, 0.5, rank1=below))) == [f"{group} rank-1"]
    assert failed(a_report(mixed(group, 0.5, difference=reaching, rank1=reaching))) == []


@pytest.mark.parametrize("rhos", [(), (0,), (1,), (0, 1), (0, 0.25, 1), (0.5, 1), (0, 0.5)])
def test_the_ends_alone_are_not_the_whole_migration(rhos):
    """A report without ratios from 0 to 1, at most a half apart, does not pass."""
    report = a_report()
    kept = tuple(row for row in report.rows if row.rho is None or row.rho in rhos)
    kept += () if 0.25 not in rhos else (mixed("search", 0.25), mixed("stored", 0.25))
    report = replace(report, rows=kept)
    if not rhos:
        with pytest.raises(EvaluationError, match="1e-2"):
            evaluate_gate(report)
        return
    assert failed(report) == ["search VAL", "search rank-1", "stored VAL", "stored rank-1"]
    assert "mixing ratios from 0 to 1" in evaluate_gate(report).reasons()[0]


def test_a_reason_names_the_worst_ratio():
    """The sentence tells where and by how much."""
    below = Estimate(-0.04, -0.08, -0.01)
    (reason,) = evaluate_gate(a_report(mixed("search", 0, rank1=below))).reasons()
    assert reason == (
        "search rank-1 falls clearly below v1 at 1 of 3 points, worst at rho 0: -4.0 [-8.0, -1.0] "
        "points (the interval's upper end must not be below 0)"
    )


def test_v1_with_itself_is_not_what_is_least_sure():
    """Stored at rho 0 is v1's own gallery and differs by nothing: another point is told."""
    same = mixed("stored", 0)
    told = {check.name: check.sentence for check in evaluate_gate(a_report(same)).checks}
    assert told["stored VAL"].startswith(
        "stored VAL is nowhere clearly below v1; least sure at rho 0.5, FAR 1e-1: +5.0 [+1.0, +9.0]"
    )
    same_all = [mixed("stored", rho) for rho in (0, 0.5, 1)]
    told = {check.name: check for check in evaluate_gate(a_report(*same_all)).checks}
    assert told["stored VAL"].passed


def test_a_threshold_below_what_the_calibration_supports_is_called_extrapolated():
    """The check says so, and from which FAR on; a threshold that is measured is not marked."""
    distances = np.random.default_rng(0).normal(2, 0.2, 40_000)
    calibration = Calibration.fit(distances, people_pairs=400_000, people=900)  # down to 2.5e-3
    edges = [(a, b) for a in ("v1", "v2") for b in ("v1", "v2")]
    report = replace(a_report(), calibrations=dict.fromkeys(edges, calibration))
    assert report.supported_far == calibration.smallest_far
    told = {check.name: check.sentence for check in evaluate_gate(report).checks}
    assert "extrapolated" not in told["realised FAR 1e-2"]
    for name in ("realised FAR 1e-3", "bound of FAR 1e-3"):
        assert told[name].endswith(
            "; that threshold is extrapolated, the calibration people support FAR 2.5e-03"
        )


def test_raw_rows_do_not_decide():
    """The gallery merges by calibrated score: raw rows are shown and not judged."""
    raw = replace(
        mixed("stored", 0.5, difference=Estimate(-0.2, -0.3, -0.1)),
        name=mixed_name("stored", 0.5, calibrated=False),
        calibrated=False,
    )
    assert evaluate_gate(a_report(raw)).go


def test_tax_is_held_against_its_budget():
    """The measured tax may reach the budget and not exceed it."""
    assert failed(a_report(tax=0.02)) == []
    assert failed(a_report(tax=0.021)) == ["tax within budget"]
    assert failed(a_report(tax=0.05), tax_budget=0.05) == []


def test_without_a_twin_the_tax_is_unknown_and_does_not_pass():
    """A GO must rest on a measurement."""
    report = a_report()
    report = replace(report, rows=tuple(row for row in report.rows if row.name != "twin"))
    assert failed(report) == ["tax within budget"]
    assert "no twin" in evaluate_gate(report).reasons()[0]


def test_realised_far_has_a_limit_and_a_limit_for_its_bound():
    """1.5 times the target as measured, 2.5 times for the interval's upper end, at every rho."""
    assert failed(a_report(mixed("search", 0.5, ratio=(1.5, 1, 2.5)))) == []
    high = a_report(mixed("search", 0.5, ratio=(1.6, 1, 2.4)))
    assert failed(high) == ["realised FAR 1e-2", "realised FAR 1e-3"]
    unsure = a_report(mixed("stored", 1, ratio=(1.2, 0.5, 2.6)))
    assert failed(unsure) == ["bound of FAR 1e-2", "bound of FAR 1e-3"]
    assert "2.60 times the target (stored, rho 1)" in evaluate_gate(unsure).reasons()[0]


def test_what_cannot_be_measured_does_not_pass():
    """Too few impostors for FAR 1e-3: the checks there fail and say what is needed."""
    report = a_report()
    rows = tuple(
        replace(
            row,
            points=tuple(replace(p, measurable=p.far > 0.001) for p in row.points),
            deployed=tuple(replace(p, measurable=p.far > 0.001) for p in row.deployed),
        )
        for row in report.rows
    )
    report = replace(report, rows=rows)
    assert failed(report) == ["realised FAR 1e-3", "bound of FAR 1e-3"]
    assert "evaluate on more people" in evaluate_gate(report).reasons()[0]


def test_a_far_that_no_row_can_measure_is_not_compared():
    """A wild difference at an unmeasurable FAR decides nothing."""
    row = mixed("search", 0.5)
    wild = point(0.001, 0.1, Estimate(-0.4, -0.5, -0.3), measurable=False)
    assert evaluate_gate(a_report(replace(row, points=(*row.points[:2], wild)))).go


def test_a_report_without_the_gates_fars_is_refused():
    """The gate reads FARs 1e-2 and 1e-3; a report without them cannot be judged."""
    report = a_report()
    rows = tuple(replace(row, deployed=row.deployed[:2]) for row in report.rows)
    with pytest.raises(EvaluationError, match="1e-3"):
        evaluate_gate(replace(report, rows=rows))


NAN = float("nan")


@pytest.mark.parametrize("place", range(3))
def test_what_is_no_number_does_not_pass(place):
    """Not as a difference, a tax or a realised FAR, wherever it stands; and JSON can hold it."""
    unknown = Estimate(NAN, NAN, NAN)
    rho = (0, 0.5, 1)[place]
    for row, failing in (
        (mixed("search", rho, difference=unknown), ["search VAL"]),
        (mixed("stored", rho, rank1=unknown), ["stored rank-1"]),
        (a_row("v2 -> v1", "cross", difference=unknown), ["cross above v1"]),
        (mixed("search", rho, ratio=(NAN, NAN, 1)), ["realised FAR 1e-2", "realised FAR 1e-3"]),
        (mixed("stored", rho, ratio=(1, 1, NAN)), ["bound of FAR 1e-2", "bound of FAR 1e-3"]),
    ):
        report = a_report(row)
        assert failed(report) == failing
        gate = evaluate_gate(report)
        assert json.loads(json.dumps(gate.to_json(), allow_nan=False)) == gate.to_json()
        assert GateResult.from_json(gate.to_json()) == gate
    (reason,) = evaluate_gate(a_report(mixed("search", rho, rank1=unknown))).reasons()
    assert reason.startswith(
        "search rank-1 falls below v1 or has no value at 1 of 3 points, at rho"
    )
    assert failed(a_report(tax=NAN)) == ["tax within budget"]
    assert failed(a_report(tax=0.01), tax_budget=NAN) == ["tax within budget"]


def test_a_mixing_ratio_that_is_no_number_covers_nothing():
    """The ratios that were measured must be known to run from 0 to 1."""
    row = replace(mixed("search", 0.25), rho=NAN)
    assert failed(a_report(row)) == ["search VAL", "search rank-1"]


def test_the_result_travels_as_json():
    """What is read back equals what was written."""
    gate = evaluate_gate(a_report(tax=0.5))
    assert GateResult.from_json(json.loads(json.dumps(gate.to_json()))) == gate


def test_a_forged_or_foreign_result_is_refused():
    """A verdict that its checks do not bear, and another format, are told apart."""
    value = evaluate_gate(a_report(tax=0.5)).to_json()
    with pytest.raises(EvaluationError, match="contradicts"):
        GateResult.from_json({**value, "go": True})
    with pytest.raises(EvaluationError, match="contradicts"):
        GateResult.from_json({**value, "go": True, "checks": []})
    with pytest.raises(EvaluationError, match="damaged"):
        GateResult.from_json({**value, "checks": [{}]})
    for text in ("true", "false", 1):
        with pytest.raises(EvaluationError, match="damaged"):
            GateResult.from_json({**value, "go": text})
        with pytest.raises(EvaluationError, match="damaged"):
            GateResult.from_json({**value, "checks": [{**value["checks"][0], "passed": text}]})
    with pytest.raises(EvaluationError, match="no gate's result"):
        GateResult.from_json([value])
    with pytest.raises(FormatError):
        GateResult.from_json({**value, "format": 9})


def test_a_measured_report_can_be_judged(report):
    """The gate reads what `measure_compatibility` makes."""
    gate = evaluate_gate(report)
    assert len(gate.checks) == 10
    assert gate.go == all(check.passed for check in gate.checks)
