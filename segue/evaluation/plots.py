"""The report's pictures: the ROC, and VAL over the mixing ratio. Drawn off screen, returned as PNG.

Every version keeps one colour and one line style in all pictures; the styles alone tell them apart
in a greyscale print, and letters are large enough to read at half size.
"""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

from segue.errors import EvaluationError
from segue.evaluation.results import (
    OPERATING_FAR,
    SEARCH,
    STORED,
    far_text,
    mixed_name,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from segue.evaluation.results import CompatibilityReport, Row

_DPI = 150
_LETTERS = 16
_LETTERS_PER_INCH = 8
_SMALL = 13
_LEGEND: dict[str, Any] = {
    "fontsize": _SMALL,
    "title_fontsize": _SMALL,
    "handlelength": 3.6,
    "framealpha": 0.92,
    "edgecolor": "#cccccc",
    "alignment": "left",
}


class Style(NamedTuple):
    """How one kind of row is drawn: a colour of Okabe and Ito's palette, a dash pattern, a mark."""

    label: str
    colour: str
    dashes: Any
    marker: str
    width: float = 2.6


STYLES = {
    "v1": Style("v1 self (status quo)", "#000000", (0, (1.2, 1.6)), "s"),
    "twin": Style("twin self (independent v2)", "#7a7a7a", (0, (7, 2.5)), "D"),
    "v2": Style("v2 self", "#0072b2", "-", "o", 3.2),
    "v2 -> v1": Style("v2 probe → v1 gallery", "#d55e00", (0, (5, 1.8, 1.2, 1.8)), "^"),
    "bridge -> v1": Style("best bridge → v1 gallery", "#b8860b", (0, (2.5, 1.2)), "P"),
    SEARCH: Style("search", "#009e73", (0, (9, 2, 2, 2, 2, 2)), "v"),
    STORED: Style("stored", "#a0418c", (0, (3.5, 2)), "X"),
    "rank merge": Style("rank merge of v1 and twin", "#56a0d3", (0, (1, 1)), "d"),
    "bridge": Style("best bridge", "#b8860b", (0, (2.5, 1.2)), "P"),
}
"""Row name or group -> how it is drawn."""


def plot_roc(report: CompatibilityReport, *, title: str, note: str = "") -> bytes:
    """Return a PNG of VAL over FAR, logarithmic, down to the smallest measurable FAR.

    Raises:
        EvaluationError: too few impostors for any curve.
    """
    figure, (axes,) = _canvas(9.6, 7.2, 1, title, note)
    far = _picture_far(report)
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
            label=f"{_rate(row.at(far).val.value)}  {style.label}{suffix}",
        )
    axes.axvline(far, color="#bbbbbb", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.set_xlim(min(point[0] for point in curves[0][0].curve), 1)
    lowest = min(val for row, _, _ in curves for _, val in row.curve)
    # Strong models use only the top: zoom in, leaving the lower half to the legend.
    bottom = max(0.0, 1 - 2.2 * (1 - lowest)) if 0.5 < lowest < 1 else 0.0
    axes.set_ylim(bottom, 1 + 0.005 * (1 - bottom))
    axes.set_xlabel("false accept rate (FAR)", fontsize=_LETTERS)
    axes.set_ylabel("validation rate (VAL)", fontsize=_LETTERS)
    axes.legend(title=f"VAL at FAR {far_text(far)}", loc="best", **_LEGEND)
    return _png(figure)


def plot_mixed(report: CompatibilityReport, *, title: str, note: str = "") -> bytes:
    """Return a PNG of VAL over the mixing ratio for both protocols, against v1's own line.

    Bars and the band are 95 % intervals.

    Raises:
        EvaluationError: the report has no mixed rows.
    """
    if not report.mixed(SEARCH):
        raise EvaluationError("the report has no mixed rows to draw; evaluate with rhos")
    far = _picture_far(report)
    figure, panels = _canvas(13, 7, 2, title, note)
    told = {
        SEARCH: "search: v2 probes, mixed gallery",
        STORED: "stored: both sides mixed",
    }
    for axes, protocol in zip(panels, (SEARCH, STORED), strict=True):
        _level(axes, report.row("v1"), far, "v1")
        if report.has("twin"):
            _level(axes, report.row("twin"), far, "twin", band=False)
        _mixed_line(axes, report.mixed(protocol), far, STYLES[protocol], "calibrated", solid=True)
        _mixed_line(axes, report.mixed(protocol, calibrated=False), far, STYLES[protocol], "raw")
        if protocol == SEARCH:
            for group in ("rank merge", "bridge"):
                _mixed_line(axes, report.mixed(group), far, STYLES[group], "", bars=False)
        axes.set_title(told[protocol], fontsize=_LETTERS, loc="left")
        axes.set_xlabel("ρ, share of the gallery that is v2", fontsize=_LETTERS)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xticks(list(report.rhos))
        axes.set_xticklabels([f"{rho:g}" for rho in report.rhos])
    panels[0].set_ylabel(f"VAL at FAR {far_text(far)}", fontsize=_LETTERS)
    panels[1].sharey(panels[0])
    panels[0].autoscale(axis="y")
    panels[1].tick_params(labelleft=False)
    _shared_legend(figure, panels)
    return _png(figure)


def _roc_rows(report: CompatibilityReport) -> list[tuple[str, Style, str]]:
    """Return name, style and label suffix of the rows that the ROC shows."""
    rows = [
        (name, STYLES[name], "")
        for name in ("v1", "twin", "v2", "v2 -> v1", "bridge -> v1")
        if report.has(name)
    ]
    inner = [rho for rho in report.rhos if 0 < rho < 1]
    if inner:
        rho = min(inner, key=lambda value: abs(value - 0.5))
        for group in (SEARCH, STORED):
            suffix = f", ρ = {rho:g}, calibrated"
            rows.append((mixed_name(group, rho, calibrated=True), STYLES[group], suffix))
    return rows


def _mixed_line(
    axes: Axes,
    rows: tuple[Row, ...],
    far: float,
    style: Style,
    suffix: str,
    *,
    solid: bool = False,
    bars: bool = True,
) -> None:
    """Draw one mixed group over rho; the main one solid, its raw counterpart hollow and dashed."""
    if not rows:
        return
    values = [row.at(far).val for row in rows]
    rhos = [row.rho or 0.0 for row in rows]
    main = solid or not suffix
    if bars and solid:
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
        linestyle="-" if solid else style.dashes,
        linewidth=style.width if solid else 2,
        marker=style.marker,
        markersize=9,
        markerfacecolor=style.colour if main else "white",
        label=f"{style.label}{', ' if suffix else ''}{suffix}",
        zorder=3 if solid else 4,
    )


def _level(axes: Axes, row: Row, far: float, name: str, *, band: bool = True) -> None:
    """Draw a row that does not change with rho, with its interval as a band."""
    style, val = STYLES[name], row.at(far).val
    axes.axhline(
        val.value,
        color=style.colour,
        linestyle=style.dashes,
        linewidth=style.width,
        label=style.label,
        zorder=2,
    )
    if band:
        axes.axhspan(val.low, val.high, color=style.colour, alpha=0.12, linewidth=0, zorder=1)


def _picture_far(report: CompatibilityReport) -> float:
    """Return FAR 1e-2 if the report measured it, else the smallest measurable, else the largest."""
    measurable = report.measurable_fars
    for far in measurable:
        if far_text(far) == far_text(OPERATING_FAR):
            return far
    return measurable[-1] if measurable else report.fars[0]


def _canvas(
    width: float, height: float, panels: int, title: str, note: str
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `width` x `height` inches without a display, and its panels."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(width, height), dpi=_DPI, layout=layout)
    grid = figure.subplots(1, panels, squeeze=False)
    wrapped = textwrap.fill(note, int(width * _LETTERS_PER_INCH))
    told = f"{title}\n{wrapped}" if note else title
    figure.suptitle(told, fontsize=_LETTERS, x=0.01, ha="left", linespacing=1.3)
    found = list(grid[0])
    for axes in found:
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=_SMALL + 1)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, found


def _shared_legend(figure: Figure, panels: list[Axes]) -> None:
    """Explain each label of all panels once, under them."""
    told_once: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            told_once.setdefault(label, handle)
    figure.legend(
        handles=list(told_once.values()),
        labels=list(told_once),
        loc="outside lower left",
        ncols=3,
        **_LEGEND,
    )


def _png(figure: Figure) -> bytes:
    target = io.BytesIO()
    # Without the writer's name and version the same report gives the same bytes.
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


def _rate(value: float) -> str:
    """Return a rate with three decimals and no leading zero: `.518`."""
    return f"{value:.3f}".removeprefix("0")
