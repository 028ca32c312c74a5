"""What all pictures share: colours, letters, an empty page. Drawn off screen, returned as PNG.

Every version keeps one colour and one line style in all pictures; the styles alone tell them apart
in a greyscale print, and letters are large enough to read at half size.
"""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

from segue.evaluation.results import (
    BRIDGE,
    OPERATING_FAR,
    RANK_MERGE,
    RETUNED,
    SEARCH,
    STORED,
    far_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from segue.evaluation.results import CompatibilityReport

LETTERS = 16
"""Size of titles and axes, in points."""

SMALL = 13
"""Size of legends, in points."""

_DPI = 150
_LETTERS_PER_INCH = 8
_NOTE_LINES = 4
_LEGEND: dict[str, Any] = {
    "fontsize": SMALL,
    "title_fontsize": SMALL,
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
    RETUNED: Style("v1 self, retuned", "#4d4d4d", (0, (4, 1.5, 1, 1.5)), "p"),
    "twin": Style("twin self (independent v2)", "#7a7a7a", (0, (7, 2.5)), "D"),
    "v2": Style("v2 self", "#0072b2", "-", "o", 3.2),
    "v2 -> v1": Style("v2 probe → v1 gallery", "#d55e00", (0, (5, 1.8, 1.2, 1.8)), "^"),
    "bridge -> v1": Style("best bridge → v1 gallery", "#b8860b", (0, (2.5, 1.2)), "P"),
    SEARCH: Style("search", "#009e73", (0, (9, 2, 2, 2, 2, 2)), "v"),
    STORED: Style("stored", "#a0418c", (0, (3.5, 2)), "X"),
    RANK_MERGE: Style("rank merge of v1 and twin", "#56a0d3", (0, (1, 1)), "d"),
    BRIDGE: Style("best bridge", "#b8860b", (0, (2.5, 1.2)), "P"),
}
"""Row name or group -> how it is drawn."""


def canvas(
    size: tuple[float, float], shape: tuple[int, int], title: str, note: str
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure of `size` (width, height) inches without a display, and its panels.

    `shape` is (rows, columns) of panels; of `note` at most four lines stand under the title.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=size, dpi=_DPI, layout=layout)
    grid = figure.subplots(*shape, squeeze=False)
    wrapped = textwrap.fill(
        note,
        int(size[0] * _LETTERS_PER_INCH),
        break_on_hyphens=False,
        max_lines=_NOTE_LINES,
        placeholder=" …",
    )
    told = f"{title}\n{wrapped}" if note else title
    figure.suptitle(told, fontsize=LETTERS, x=0.01, ha="left", linespacing=1.3)
    panels = [list(row) for row in grid]
    for row in panels:
        for axes in row:
            axes.grid(color="#e4e4e4", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(labelsize=SMALL + 1)
            axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def legend(axes: Axes, **options: Any) -> None:
    """Explain what `axes` shows, inside it."""
    axes.legend(**{**_LEGEND, **options})


def shared_legend(figure: Figure, panels: Sequence[Axes], *, columns: int = 3) -> None:
    """Explain each label of all panels once, under them."""
    told_once: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            told_once.setdefault(label, handle)
    figure.legend(
        handles=list(told_once.values()),
        labels=list(told_once),
        loc="outside lower left",
        ncols=columns,
        **_LEGEND,
    )


def png(figure: Figure) -> bytes:
    """Return the picture; the same report gives the same bytes."""
    target = io.BytesIO()
    # Without the writer's name and version nothing depends on what drew it.
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


def picture_far(report: CompatibilityReport) -> float:
    """Return FAR 1e-2 if the report measured it, else the smallest measurable, else the largest."""
    measurable = report.measurable_fars
    for far in measurable:
        if far_text(far) == far_text(OPERATING_FAR):
            return far
    return measurable[-1] if measurable else report.fars[0]
