"""The gate: may a gallery serve old and new vectors together from the first second?

It reads a compatibility report and nothing else. GO needs every check:

1. *cross*: VAL of v2 -> v1 above v1 self at FAR 1e-2, its 95 % interval above 0;
2. *search* and *stored*, in VAL at every measurable FAR and in rank-1, merged by calibrated score:
   no mixing ratio whose interval lies wholly below v1 self; the report must hold ratios from 0 to
   1 that are no more than a half apart;
3. *tax*: VAL of the twin above v2 self at FAR 1e-2 by no more than the budget;
4. *realised FAR*: on both protocols and at every mixing ratio, the calibrated threshold for 1e-2
   and for 1e-3 lets through at most 1.5 times its FAR (upper bound of the interval: 2.5 times).

What the data cannot measure does not pass, and neither does what is no number: a GO must rest on
something.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from segue.errors import EvaluationError, FormatError
from segue.evaluation.results import OPERATING_FAR, PROTOCOLS, Row, far_text, metric_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segue.evaluation.bootstrap import Estimate
    from segue.evaluation.results import CompatibilityReport

FORMAT = 1
"""The version of the gate's JSON form."""

REALISED_FARS = (1e-2, 1e-3)
"""Targets at which the realised FAR is checked."""

LARGEST_RATIO = 1.5
"""Realised FAR over target, as measured."""

LARGEST_RATIO_BOUND = 2.5
"""Realised FAR over target, upper bound of the interval."""


MORE_PEOPLE = "evaluate on more people"
"""How the sentence ends of a check that too few people can measure."""

LARGEST_GAP = 0.5
"""Between neighbouring mixing ratios; a report has quarters unless it was told otherwise."""


@dataclass(frozen=True)
class Check:
    """One condition of the gate.

    `measured` is held against `wanted`, both in the check's own unit (a difference of rates, or a
    ratio of FARs); `measured` is None where the data cannot measure it. `sentence` says what was
    found and why it passes or not.
    """

    name: str
    passed: bool
    measured: float | None
    wanted: float
    sentence: str


@dataclass(frozen=True)
class GateResult:
    """The gate's verdict: `go` only if every check passed."""

    go: bool
    checks: tuple[Check, ...]

    def reasons(self) -> tuple[str, ...]:
        """Return the sentences of the checks that did not pass; empty when GO."""
        return tuple(check.sentence for check in self.checks if not check.passed)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with `"format": 1`."""
        return {"format": FORMAT, "go": self.go, "checks": [asdict(check) for check in self.checks]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GateResult:
        """Read what `to_json` wrote.

        Raises:
            FormatError: it has another format.
            EvaluationError: it is damaged, or its verdict contradicts its checks.
        """
        if not isinstance(value, dict):
            raise EvaluationError("this is no gate's result; evaluate again")
        if value.get("format") != FORMAT:
            raise FormatError("the gate's result", str(value.get("format")), FORMAT)
        try:
            checks = tuple(
                Check(
                    name=str(check["name"]),
                    passed=_verdict(check["passed"]),
                    measured=None if check["measured"] is None else float(check["measured"]),
                    wanted=float(check["wanted"]),
                    sentence=str(check["sentence"]),
                )
                for check in value["checks"]
            )
            result = cls(_verdict(value["go"]), checks)
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"the gate's result is damaged ({error!r}); evaluate again"
            ) from error
        if result.go != _passes(checks):
            raise EvaluationError("the gate's verdict contradicts its checks; evaluate again")
        return result


def evaluate_gate(report: CompatibilityReport, *, tax_budget: float = 0.02) -> GateResult:
    """Read a report and say GO or NO-GO, with every check and its reason.

    Args:
        report: of `measure_compatibility`, with FARs 1e-2 and 1e-3 among its own.
        tax_budget: how much VAL at FAR 1e-2 v2 may lose to the twin, as a share (0.02: 2 points).

    Raises:
        EvaluationError: the report lacks a FAR that the gate reads.
    """
    checks = [_cross(report)]
    for protocol in PROTOCOLS:
        rows = report.mixed(protocol)
        whole = _covers(rows)
        vals = _val_differences(report, rows)
        checks.append(_never_below(f"{protocol} VAL", vals, whole=whole))
        checks.append(_never_below(f"{protocol} rank-1", _rank1_differences(rows), whole=whole))
    checks.append(_tax(report, tax_budget))
    for far in REALISED_FARS:
        checks.extend(_realised(report, far))
    return GateResult(_passes(tuple(checks)), tuple(checks))


def _verdict(value: Any) -> bool:
    """Return a stored yes or no; text such as "false" is neither.

    Raises:
        TypeError: it is no boolean.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _passes(checks: tuple[Check, ...]) -> bool:
    return bool(checks) and all(check.passed for check in checks)


def _cross(report: CompatibilityReport) -> Check:
    """Check that going live pays at once."""
    point = report.row("v2 -> v1").at(OPERATING_FAR)
    name = "cross above v1"
    if not point.measurable:
        return _unmeasurable(name, f"VAL at FAR {far_text(OPERATING_FAR)}", 0.0)
    passed = point.against_v1.low > 0
    verdict = "is above" if passed else "is not clearly above"
    return Check(
        name,
        passed,
        _number(point.against_v1.low),
        0.0,
        f"v2 compared with v1 {verdict} v1 itself at FAR {far_text(OPERATING_FAR)}: VAL "
        f"{_signed(point.against_v1)} (the interval's lower end must exceed 0)",
    )


def _val_differences(
    report: CompatibilityReport, rows: tuple[Row, ...]
) -> Iterator[tuple[str, Estimate]]:
    for far in report.fars:
        points = [row.at(far) for row in rows]
        if report.row("v1").at(far).measurable and all(point.measurable for point in points):
            for row, point in zip(rows, points, strict=True):
                yield f"rho {row.rho:g}, FAR {far_text(far)}", point.against_v1


def _rank1_differences(rows: tuple[Row, ...]) -> Iterator[tuple[str, Estimate]]:
    for row in rows:
        yield f"rho {row.rho:g}", row.rank1_against_v1


def _covers(rows: tuple[Row, ...]) -> bool:
    """Say whether the mixing ratios tell of the whole migration, not of its ends alone."""
    rhos = [row.rho or 0.0 for row in rows]
    gaps = [after - before for before, after in itertools.pairwise(rhos)]
    close = all(gap <= LARGEST_GAP for gap in gaps)
    return bool(rhos) and rhos[0] == 0 and rhos[-1] == 1 and close


def _never_below(name: str, differences: Iterator[tuple[str, Estimate]], *, whole: bool) -> Check:
    """Check that no interval of a difference to v1 lies wholly below 0, over the `whole` way."""
    if not whole:
        return Check(
            name,
            False,
            None,
            0.0,
            f"{name} was not measured over the whole migration; evaluate with mixing ratios from 0 "
            f"to 1, at most {LARGEST_GAP:g} apart",
        )
    found = sorted(differences, key=lambda item: _worst_first(item[1].high))
    if not found:
        return _unmeasurable(name, f"{name} over the mixing ratios", 0.0)
    # v1 with itself, as `stored` is at rho 0, differs by nothing at all and is never unsure.
    found = [item for item in found if any(item[1].to_json())] or found
    where, worst = found[0]
    below = [place for place, difference in found if not difference.high >= 0]
    if math.isnan(worst.high):
        sentence = f"{name} falls below v1 or has no value at {len(below)} of {len(found)} points, "
    elif below:
        sentence = f"{name} falls clearly below v1 at {len(below)} of {len(found)} points, worst "
    else:
        sentence = f"{name} is nowhere clearly below v1; least sure "
    return Check(
        name,
        not below,
        _number(worst.high),
        0.0,
        f"{sentence}at {where}: {_signed(worst)} (the interval's upper end must not be below 0)",
    )


def _tax(report: CompatibilityReport, budget: float) -> Check:
    """Check that v2 did not pay too much for being comparable."""
    name = "tax within budget"
    if not report.has("twin"):
        return Check(
            name,
            False,
            None,
            budget,
            "the tax is unknown: no twin (an independent v2 of the same steps and self loss) was "
            "measured; train one and evaluate again",
        )
    metric = metric_of(OPERATING_FAR)
    tax = next((gain.tax for gain in report.gains if gain.metric == metric), None)
    if tax is None:
        return _unmeasurable(name, f"VAL at FAR {far_text(OPERATING_FAR)}", budget)
    passed = tax.value <= budget
    verdict = "within" if passed else "over"
    return Check(
        name,
        passed,
        _number(tax.value),
        budget,
        f"v2's tax, twin less v2 in VAL at FAR {far_text(OPERATING_FAR)}, is {_signed(tax)}, "
        f"{verdict} the budget of {100 * budget:g} points (its value counts, not its interval)",
    )


def _realised(report: CompatibilityReport, far: float) -> Iterator[Check]:
    """Check that a threshold stated as a FAR keeps its meaning at every mixing ratio."""
    rows = [row for protocol in PROTOCOLS for row in report.mixed(protocol)]
    found = [(row, point) for row in rows for point in row.deployed if _close(point.far, far)]
    limits = (
        (f"realised FAR {far_text(far)}", LARGEST_RATIO),
        (f"bound of FAR {far_text(far)}", LARGEST_RATIO_BOUND),
    )
    if len(found) < len(rows) or not found:
        raise EvaluationError(
            f"the report has no realised FAR at {far_text(far)}; measure it with that FAR"
        )
    told = (
        ""
        if report.supports(far)
        else "; that threshold is extrapolated, the calibration people support FAR "
        f"{report.supported_far:.1e}"
    )
    for bound, (name, limit) in enumerate(limits):
        if not all(point.measurable for _, point in found):
            yield _unmeasurable(name, f"the realised FAR at {far_text(far)}", limit)
            continue
        ratios = [
            ((point.realised_far.high if bound else point.realised_far.value) / far, row)
            for row, point in found
        ]
        ratio, row = min(ratios, key=lambda item: _worst_first(-item[0]))
        what = "the interval's upper end of the realised FAR" if bound else "the realised FAR"
        yield Check(
            name,
            ratio <= limit,
            _number(ratio),
            limit,
            f"at the calibrated threshold for FAR {far_text(far)} {what} is at worst "
            f"{ratio:.2f} times the target ({row.group}, rho {row.rho:g}); at most {limit:g} times "
            f"is wanted{told}",
        )


def _unmeasurable(name: str, what: str, wanted: float) -> Check:
    return Check(
        name,
        False,
        None,
        wanted,
        f"{name}: {what} is not measurable with so few impostors (100 accepts from 50 pairs of "
        f"people are needed); {MORE_PEOPLE}",
    )


def _worst_first(value: float) -> tuple[bool, float]:
    """Order values by ascending size, and what is no number before all of them."""
    return not math.isnan(value), value


def _number(value: float) -> float | None:
    """Return a value that JSON can hold; None for what is no number."""
    return value if math.isfinite(value) else None


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * other


def _signed(estimate: Estimate) -> str:
    """Return a difference of rates in points: `+3.1 [+0.4, +6.0] points`."""
    # Adding 0.0 turns -0.0 into 0.0.
    value, low, high = (round(100 * x, 1) + 0.0 for x in estimate.to_json())
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}] points"
