"""The report's curves as pictures: the ROC, the mixing ratio, the orders of migrating."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.errors import EvaluationError
from segue.evaluation.canvas import (
    LETTERS,
    STYLES,
    Style,
    canvas,
    legend,
    picture_far,
    png,
    shared_legend,
)
from segue.evaluation.cells import rate
from segue.evaluation.results import (
    BRIDGE,
    RANK1,
    RANK_MERGE,
    RETUNED,
    SEARCH,
    STORED,
    far_text,
    mixed_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from segue.evaluation.bootstrap import Estimate
    from segue.evaluation.details import OrderCurve
    from segue.evaluation.results import CompatibilityReport, Row

RHO_AXIS = "ρ, share of the gallery that is v2"

_ORDERS = {
    "random": ("random order (95 %)", "#009e73", "-", "v"),
    "oldest": ("oldest first", "#cc79a7", (0, (6, 2)), "o"),
    "touched": ("touched by searches first", "#e69f00", (0, (3, 1.5)), "s"),
    "farthest": ("farthest from class mean first", "#5d3a9b", (0, (6, 2, 1.5, 2)), "^"),
}
"""Order of migrating -> label, colour, dashes, mark."""


def plot_roc(report: CompatibilityReport, *, title: str, note: str = "") -> bytes:
    """Return a PNG of VAL over FAR, logarithmic, down to the smallest measurable FAR.

    Raises:
        EvaluationError: too few impostors for any curve.
    """
    figure, ((axes,),) = canvas((9.6, 7.2), (1, 1), title, note)
    far = picture_far(report)
    curves = []
    for name, style, suffix in _roc_rows(report):
        row = report.row(name)
        if len(row.curve) > 1:
            curves.append((row, style, suffix))
    if not curves:
        raise EvaluationError("too few impostors to draw a ROC; evaluate on more people")
    curves.sort(key=lambda each: -each[0].at(far).val.value)
    for place, (row, style, suffix) in enumerate(curves):
        axes.plot(
            [point[0] for point in row.curve],
            [point[1] for point in row.curve],
            color=style.colour,
            linestyle=style.dashes,
            linewidth=style.width,
            marker=style.marker,
            markersize=8,
            markevery=(place % 5, 5),
            label=f"{rate(row.at(far).val.value)}  {style.label}{suffix}",
        )
    axes.axvline(far, color="#bbbbbb", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.set_xlim(min(point[0] for point in curves[0][0].curve), 1)
    lowest = min(val for row, _, _ in curves for _, val in row.curve)
    # Strong models use only the top: zoom in, leaving the lower half to the legend.
    bottom = max(0.0, 1 - 2.2 * (1 - lowest)) if 0.5 < lowest < 1 else 0.0
    axes.set_ylim(bottom, 1 + 0.005 * (1 - bottom))
    axes.set_xlabel("false accept rate (FAR), share of impostor pairs", fontsize=LETTERS)
    axes.set_ylabel("validation rate (VAL), share of pairs", fontsize=LETTERS)
    legend(axes, title=f"VAL at FAR {far_text(far)}", loc="best")
    return png(figure)


def plot_mixed(report: CompatibilityReport, *, title: str, note: str = "") -> bytes:
    """Return a PNG of VAL and rank-1 over the mixing ratio, both protocols, against v1's own line.

    Bars and the band are 95 % intervals.

    Raises:
        EvaluationError: the report has no mixed rows.
    """
    if not report.mixed(SEARCH):
        raise EvaluationError("the report has no mixed rows to draw; evaluate with rhos")
    far = picture_far(report)
    figure, panels = canvas((13, 11.5), (2, 2), title, note)
    told = {
        SEARCH: "search: v2 probes, mixed gallery",
        STORED: "stored: both sides mixed",
    }
    measures: list[tuple[str, Callable[[Row], Estimate]]] = [
        (f"VAL at FAR {far_text(far)} (share)", lambda row: row.at(far).val),
        ("rank-1 (share of probes)", lambda row: row.rank1),
    ]
    for row_of_panels, (name, measure) in zip(panels, measures, strict=True):
        for axes, protocol in zip(row_of_panels, told, strict=True):
            _mixed_panel(axes, report, protocol, measure)
            axes.set_xticks(list(report.rhos))
            axes.set_xticklabels([f"{rho:g}" for rho in report.rhos])
        row_of_panels[0].set_ylabel(name, fontsize=LETTERS)
        row_of_panels[1].sharey(row_of_panels[0])
        row_of_panels[0].autoscale(axis="y")
        row_of_panels[1].tick_params(labelleft=False)
    for axes, protocol in zip(panels[0], told, strict=True):
        axes.set_title(told[protocol], fontsize=LETTERS, loc="left")
    for axes in panels[1]:
        axes.set_xlabel(RHO_AXIS, fontsize=LETTERS)
    shared_legend(figure, [axes for row in panels for axes in row])
    return png(figure)


def plot_backfill(report: CompatibilityReport, *, title: str, note: str = "") -> bytes:
    """Return a PNG of search over the mixing ratio, a line for each order of migrating.

    Beside them rank merge in random order, which needs two models per query. The legend tells the
    area under each curve; bars are the 95 % intervals of the random order.

    Raises:
        EvaluationError: the report has no such curves.
    """
    if not report.orders:
        raise EvaluationError("the report has no backfill curves to draw; evaluate again")
    metrics = list(dict.fromkeys(curve.metric for curve in report.orders))
    width = 6.5 * len(metrics) + (3 if len(metrics) == 1 else 0)
    figure, (panels,) = canvas((width, 9), (1, len(metrics)), title, note)
    for axes, metric in zip(panels, metrics, strict=True):
        for curve in report.orders:
            if curve.metric == metric:
                _order_line(axes, curve)
        axes.set_title(metric, fontsize=LETTERS, loc="left")
        axes.set_xlabel(RHO_AXIS, fontsize=LETTERS)
        axes.set_ylabel(
            "share of probes" if metric == RANK1 else "validation rate (share)", fontsize=LETTERS
        )
        axes.set_xlim(-0.03, 1.03)
        legend(
            axes,
            title="area under the curve",
            loc="upper left",
            bbox_to_anchor=(0, -0.14),
            handlelength=2.8,
        )
    return png(figure)


def _order_line(axes: Axes, curve: OrderCurve) -> None:
    merged = curve.group == RANK_MERGE
    if merged and curve.order != "random":
        return
    label, colour, dashes, marker = _ORDERS[curve.order]
    if merged:
        style = STYLES[RANK_MERGE]
        label, colour, dashes, marker = (
            "rank merge, random order",
            style.colour,
            style.dashes,
            style.marker,
        )
    values = [each.value for each in curve.values]
    errors = [
        [max(0.0, each.value - each.low) for each in curve.values],
        [max(0.0, each.high - each.value) for each in curve.values],
    ]
    if curve.order == "random" and not merged:
        axes.errorbar(
            curve.rhos, values, yerr=errors, fmt="none", ecolor=colour, elinewidth=1.8, capsize=5
        )
    axes.plot(
        curve.rhos,
        values,
        color=colour,
        linestyle=dashes,
        linewidth=2.6,
        marker=marker,
        markersize=8,
        label=f"{rate(curve.area.value)}  {label}",
    )


def _roc_rows(report: CompatibilityReport) -> list[tuple[str, Style, str]]:
    """Return name, style and label suffix of the rows that the ROC shows."""
    rows = [
        (name, STYLES[name], "")
        for name in ("v1", RETUNED, "twin", "v2", "v2 -> v1", "bridge -> v1")
        if report.has(name)
    ]
    inner = [rho for rho in report.rhos if 0 < rho < 1]
    if inner:
        rho = min(inner, key=lambda value: abs(value - 0.5))
        for group in (SEARCH, STORED):
            suffix = f", ρ = {rho:g}, calibrated"
            rows.append((mixed_name(group, rho, calibrated=True), STYLES[group], suffix))
    return rows


def _mixed_panel(
    axes: Axes, report: CompatibilityReport, protocol: str, measure: Callable[[Row], Estimate]
) -> None:
    """Draw one measure of one protocol over rho, between the levels of v1 and twin."""
    _level(axes, measure(report.row("v1")), STYLES["v1"])
    if report.has("twin"):
        _level(axes, measure(report.row("twin")), STYLES["twin"], band=False)
    style = STYLES[protocol]
    _mixed_line(axes, report.mixed(protocol), measure, style, "calibrated", bars=True)
    _mixed_line(axes, report.mixed(protocol, calibrated=False), measure, style, "raw")
    if protocol == SEARCH:
        for group in (RANK_MERGE, BRIDGE):
            _mixed_line(axes, report.mixed(group), measure, STYLES[group], "")
    axes.set_xlim(-0.03, 1.03)


def _mixed_line(
    axes: Axes,
    rows: Sequence[Row],
    measure: Callable[[Row], Estimate],
    style: Style,
    suffix: str,
    *,
    bars: bool = False,
) -> None:
    """Draw one group over rho; the one with bars solid, its raw counterpart hollow and dashed."""
    if not rows:
        return
    values = [measure(row) for row in rows]
    rhos = [row.rho or 0.0 for row in rows]
    if bars:
        errors = [[x.value - x.low for x in values], [x.high - x.value for x in values]]
        axes.errorbar(
            rhos,
            [x.value for x in values],
            yerr=[[max(0.0, x) for x in side] for side in errors],
            fmt="none",
            ecolor=style.colour,
            elinewidth=1.8,
            capsize=5,
        )
    axes.plot(
        rhos,
        [x.value for x in values],
        color=style.colour,
        linestyle="-" if bars else style.dashes,
        linewidth=style.width if bars else 2,
        marker=style.marker,
        markersize=9,
        markerfacecolor="white" if suffix == "raw" else style.colour,
        label=f"{style.label}{', ' if suffix else ''}{suffix}{' (95 %)' if bars else ''}",
        zorder=3 if bars else 4,
    )


def _level(axes: Axes, value: Estimate, style: Style, *, band: bool = True) -> None:
    """Draw what does not change with rho, with its interval as a band."""
    axes.axhline(
        value.value,
        color=style.colour,
        linestyle=style.dashes,
        linewidth=style.width,
        label=style.label,
        zorder=2,
    )
    if band:
        axes.axhspan(value.low, value.high, color=style.colour, alpha=0.12, linewidth=0, zorder=1)
