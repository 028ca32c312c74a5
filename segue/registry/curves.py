"""What a compatibility report is in MLflow's words: child runs, metrics and their steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.evaluation.results import CompatibilityReport, Row

CURVE = "VAL by FAR"
"""The metric that every child of a compatibility run has, stepped by `far_step`."""

CHILDREN = {
    "v1": "v1",
    "v1 retuned": "v1 retuned",
    "twin": "twin",
    "v2": "v2",
    "cross": "v2 -> v1",
    "mixed": "search rho=0.5 calibrated",
}
"""Child run -> row of the report; rows that the report lacks are left out."""


NOTE = "Steps of `VAL by FAR` are decades times ten: 20 is FAR 1e-2, 30 is FAR 1e-3."
"""Shown as the runs' description."""


def far_step(far: float) -> int:
    """Return the step that a FAR is logged at: ten for each decade below 1.

    The steps of all runs lie on this one grid, so that MLflow's page overlays their curves. They
    grow towards small FARs, because MLflow draws a line only where the last step is 1 or more, and
    shows the value of the last step, the hardest FAR, in its table.

    >>> far_step(1e-3), far_step(1e-2), far_step(1.0)
    (30, 20, 0)
    """
    return round(-10 * math.log10(far))


def child_rows(report: CompatibilityReport) -> dict[str, Row]:
    """Return child run's name -> the row that it shows."""
    return {child: report.row(name) for child, name in CHILDREN.items() if report.has(name)}


def row_metrics(row: Row) -> list[tuple[str, float, int]]:
    """Return a row as (metric, value, step): its curve, and single figures at step 0."""
    found = [(CURVE, val, far_step(far)) for far, val in row.curve]
    found += [
        (f"VAL at FAR {point.far:.0e}", point.val.value, 0)
        for point in row.points
        if point.measurable
    ]
    found += [
        ("AUC", row.auc, 0),
        ("rank-1", row.rank1.value, 0),
        ("mAP", row.mean_average_precision.value, 0),
    ]
    return found


def report_metrics(report: CompatibilityReport) -> list[tuple[str, float, int]]:
    """Return the figures of the whole report: gains and taxes, and VAL by rho in percent steps."""
    found: list[tuple[str, float, int]] = []
    for gain in report.gains:
        if gain.update_gain is not None:
            found.append((f"update gain {gain.metric}", gain.update_gain.value, 0))
        if gain.tax is not None:
            found.append((f"tax {gain.metric}", gain.tax.value, 0))
    for group in ("search", "stored"):
        for row in report.mixed(group):
            step = round(100 * (row.rho or 0.0))
            found += [
                (f"{group} VAL at FAR {point.far:.0e} by rho", point.val.value, step)
                for point in row.points
                if point.measurable
            ]
    return found
