"""The distributions of every edge's scores, before and after calibration, as one picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import EvaluationError, UnsupportedFarError
from segue.evaluation.canvas import (
    LETTERS,
    SMALL,
    STYLES,
    Style,
    canvas,
    picture_far,
    png,
    shared_legend,
)
from segue.evaluation.details import LOWEST_SCORE
from segue.evaluation.results import RETUNED, STATUS_QUO, far_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from segue.evaluation.details import Distribution
    from segue.evaluation.results import CompatibilityReport
    from segue.types import Doubles

IMPOSTOR = "#8c564b"
"""Pairs of different people, in every panel."""

_MARK: dict[str, Any] = {"color": "#000000", "linewidth": 1.6, "linestyle": (0, (1.2, 1.6))}
"""Where the threshold stands."""

_SHOWN = {
    (STATUS_QUO, STATUS_QUO): "v1",
    ("v1", "v1"): "v1",
    ("v2", "v1"): "v2 -> v1",
    ("v2", "v2"): "v2",
    ("twin", "twin"): "twin",
    ("bridge", "v1"): "bridge -> v1",
}
"""Edges that are drawn; v1 -> v2 holds the same pairs as v2 -> v1."""

_LOWEST_SHOWN = -8


def plot_distributions(report: CompatibilityReport, *, title: str, note: str = "") -> bytes:
    """Return a PNG with a row for each edge: densities over distance, and over log10 FAR.

    On the left one threshold, v1's own for FAR 1e-2, crosses all edges, and the FAR that it has on
    each (on the calibration people) is told. On the right the threshold is stated as FAR.

    Raises:
        EvaluationError: the report was written before distributions were measured.
    """
    shown = [each for each in report.distributions if (each.probe, each.stored) in _SHOWN]
    if not shown:
        raise EvaluationError("the report has no distributions to draw; evaluate again")
    far = picture_far(report)
    frozen = _threshold(report, far)
    figure, panels = canvas((13, 2 + 2.4 * len(shown)), (len(shown), 2), title, note)
    for row, each in zip(panels, shown, strict=True):
        _draw(row[0], each, _style(report, each).colour, calibrated=False)
        _draw(row[1], each, _style(report, each).colour, calibrated=True)
        style = _style(report, each)
        told = style.label
        if frozen is not None:
            row[0].axvline(frozen, label=f"v1's distance for FAR {far_text(far)}", **_MARK)
            there = float(report.calibrations[each.probe, each.stored].far(frozen))
            told += f"\nFAR there: {there:.1e}"
        row[1].axvline(math.log10(far), label=f"FAR {far_text(far)}", **_MARK)
        _tell(row[0], told, style.colour)
        row[0].set_ylabel("density", fontsize=LETTERS)
    for column in (0, 1):
        for row in panels[:-1]:
            row[column].tick_params(labelbottom=False)
    panels[0][0].set_title("before: per unit of distance", fontsize=LETTERS, loc="left")
    panels[0][1].set_title("after: per decade of FAR, cut at the top", fontsize=LETTERS, loc="left")
    panels[-1][0].set_xlabel("squared L2 distance (0 same, 4 opposite)", fontsize=LETTERS)
    panels[-1][1].set_xlabel("FAR on the edge, calibrated (1e-8: and below)", fontsize=LETTERS)
    shared_legend(figure, panels[0], columns=4)
    return png(figure)


def _style(report: CompatibilityReport, each: Distribution) -> Style:
    name = _SHOWN[each.probe, each.stored]
    retuned = (each.probe, each.stored) == ("v1", "v1") and report.has(RETUNED)
    return STYLES[RETUNED if retuned else name]


def _draw(axes: Axes, each: Distribution, colour: str, *, calibrated: bool) -> None:
    impostor = each.impostor_scores if calibrated else each.impostor
    genuine = each.genuine_scores if calibrated else each.genuine
    edges, density = _density(np.array(impostor), calibrated=calibrated)
    axes.stairs(density, edges, label="different people", color=IMPOSTOR, linewidth=2.4)
    edges, density = _density(np.array(genuine), calibrated=calibrated)
    axes.stairs(density, edges, label="one person", color=colour, alpha=0.5, fill=True)
    if not calibrated:
        axes.set_xlim(0, 4)
        return
    axes.set_xlim(_LOWEST_SHOWN, 0)
    decades = range(_LOWEST_SHOWN, 1, 2)
    axes.set_xticks(list(decades), [f"1e{decade}" if decade else "1" for decade in decades])
    # Impostors reach 2.3 per decade at FAR 1 on every edge: that is what calibration means.
    axes.set_ylim(0, max(1.6 * float(density.max()), 0.1))


def _tell(axes: Axes, text: str, colour: str) -> None:
    axes.text(
        0.99,
        0.95,
        text,
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=SMALL,
        color=colour,
    )


def _density(counts: Doubles, *, calibrated: bool) -> tuple[Doubles, Doubles]:
    """Return edges and densities; over log10 FAR all below -8 is taken together."""
    edges = np.linspace(LOWEST_SCORE if calibrated else 0, 0 if calibrated else 4, len(counts) + 1)
    if calibrated:
        hidden = int(np.searchsorted(edges, _LOWEST_SHOWN - 1e-9))
        counts = np.concatenate([[counts[: hidden + 1].sum()], counts[hidden + 1 :]])
        edges = edges[hidden:]
    share = counts / max(counts.sum(), 1)
    return edges, share / np.diff(edges)


def _threshold(report: CompatibilityReport, far: float) -> float | None:
    try:
        deployed = (STATUS_QUO, STATUS_QUO) if report.has(RETUNED) else ("v1", "v1")
        return report.calibrations[deployed].distance_at(far)
    except (KeyError, UnsupportedFarError):
        return None
