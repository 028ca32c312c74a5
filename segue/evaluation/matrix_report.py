"""Write a matrix of versions for people (Markdown, a heat map) and for machines (JSON)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from segue.evaluation.canvas import LETTERS, SMALL, canvas, png
from segue.evaluation.cells import interval, points, rate, table
from segue.evaluation.results import RANK1, far_text, metric_of
from segue.files import write_durably

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from segue.evaluation.bootstrap import Estimate
    from segue.evaluation.matrix import MatrixCell, VersionMatrix

TITLE = "Matrix of versions"

_CELL = (1.35, 1.0)
"""Width and height of a cell of the picture in inches: its longest word is `comparable`."""

_LETTER = 0.125
"""Width of a letter of a version's name in inches, rather too much."""

_NONE = "not comparable"
_FEW = "not measurable"


def write_matrix(
    folder: Path, matrix: VersionMatrix, *, title: str = TITLE, note: str = ""
) -> tuple[Path, ...]:
    """Write matrix.json, matrix.md and matrix.png into `folder`; return the paths.

    Args:
        folder: made if missing; files of these names are replaced.
        matrix: of `measure_matrix`.
        title: shown on top.
        note: shown under it, such as what faces were measured, and that they are synthetic.
    """
    value = {**matrix.to_json(), "title": title, "note": note}
    contents = {
        "matrix.json": json.dumps(value, indent=1, allow_nan=False).encode(),
        "matrix.md": render_matrix(matrix, title=title, note=note).encode(),
        "matrix.png": plot_matrix(matrix, title=title, note=note),
    }
    for name, content in contents.items():
        write_durably(folder / name, content)
    return tuple(folder / name for name in contents)


def render_matrix(matrix: VersionMatrix, *, title: str = TITLE, note: str = "") -> str:
    """Return the matrix as Markdown: a table for each measure."""
    parts = [f"# {title}", *([note] if note else [])]
    parts.append(
        "Rows: the version of the probes. Columns: the version of the stored vectors. Under each "
        "value, in points, the difference to the stored version compared with itself: above 0, new "
        "probes are better than staying. Every edge was measured, none is inferred. 95 % intervals "
        "by bootstrap over people."
    )
    for place, far in enumerate(matrix.fars):
        parts += [f"## VAL at FAR {far_text(far)}", _table(matrix, place)]
    parts += ["## rank-1", _table(matrix, None), "![Matrix](matrix.png)", _method(matrix)]
    return "\n\n".join(parts) + "\n"


def matrix_lines(matrix: VersionMatrix) -> list[str]:
    """Return the matrix for a terminal: one block for each measure."""
    width = max(len(_NONE) + 2, *(len(version) + 2 for version in matrix.versions))
    lines = [f"{matrix.people} people, {matrix.images} images; rows: probes, columns: stored"]
    for name, place in _measures(matrix):
        lines += ["", f"{name:{width}}" + "".join(f"{v:>{width}}" for v in matrix.versions)]
        for probe in matrix.versions:
            cells = (_short(matrix.cell(probe, stored), place) for stored in matrix.versions)
            lines.append(f"{probe:{width}}" + "".join(f"{cell:>{width}}" for cell in cells))
    return lines


def plot_matrix(matrix: VersionMatrix, *, title: str, note: str = "") -> bytes:
    """Return a PNG with a heat map for each measure, its numbers written in; one scale for all."""
    measures = _measures(matrix)
    count = len(matrix.versions)
    letters = _LETTER * max(len(version) for version in matrix.versions)
    slanted = letters > _CELL[0] - 2 * _LETTER
    # Slanted names reach to the left, by cos 30°, and down, by sin 30°.
    left, below = (0.87 * letters, 0.5 * letters) if slanted else (0.2, 0.2)
    width = letters + len(measures) * (left + count * _CELL[0]) + 2
    height = count * _CELL[1] + below + 1.8
    figure, (panels,) = canvas((width, height), (1, len(measures)), title, note)
    scale = _scale(matrix)
    for axes, (name, place) in zip(panels, measures, strict=True):
        colours = _heat(axes, matrix, place, scale)
        if slanted:
            axes.set_xticks(
                range(count), matrix.versions, rotation=30, rotation_mode="anchor", ha="right"
            )
        else:
            axes.set_xticks(range(count), matrix.versions)
        axes.set_yticks(range(count), matrix.versions if axes is panels[0] else [""] * count)
        axes.set_title(name, fontsize=LETTERS, loc="left")
        axes.set_xlabel("stored version", fontsize=LETTERS)
    panels[0].set_ylabel("probe version", fontsize=LETTERS)
    bar = figure.colorbar(colours, ax=panels, pad=0.02)
    bar.set_label("share", fontsize=LETTERS)
    bar.ax.tick_params(labelsize=SMALL + 1)
    bar.outline.set_visible(False)
    return png(figure)


def _measures(matrix: VersionMatrix) -> list[tuple[str, int | None]]:
    """Return what is told, and where a cell has it: the place of its FAR, None for rank-1."""
    return [*((metric_of(far), place) for place, far in enumerate(matrix.fars)), (RANK1, None)]


def _value(cell: MatrixCell, place: int | None) -> Estimate | None:
    return cell.rank1 if place is None else cell.val[place]


def _short(cell: MatrixCell, place: int | None) -> str:
    value = _value(cell, place)
    if value is None:
        return _FEW if cell.comparable else _NONE
    return rate(value.value)


def _table(matrix: VersionMatrix, place: int | None) -> str:
    def told(cell: MatrixCell) -> str:
        value = _value(cell, place)
        if value is None:
            return _short(cell, place)
        bridge = " (bridge)" if cell.bridged else ""
        against = cell.rank1_against_stored if place is None else cell.val_against_stored[place]
        if cell.probe == cell.stored or against is None:
            return f"{interval(value)}{bridge}"
        return f"{interval(value)}{bridge}<br>{points(against)}"

    rows = [
        [f"**{probe}**", *(told(matrix.cell(probe, stored)) for stored in matrix.versions)]
        for probe in matrix.versions
    ]
    return table(["probe \\ stored", *matrix.versions], rows)


def _scale(matrix: VersionMatrix) -> tuple[float, float]:
    """Return the ends of the one scale of all panels: of all values, in whole tenths."""
    found = [_value(cell, place) for cell in matrix.cells for _, place in _measures(matrix)]
    values = [each.value for each in found if each is not None] or [0.0]
    lowest = math.floor(10 * min(values)) / 10
    return lowest, max(math.ceil(10 * max(values)) / 10, lowest + 0.1)


def _heat(
    axes: Axes, matrix: VersionMatrix, place: int | None, scale: tuple[float, float]
) -> AxesImage:
    """Draw one measure on the scale; return what a colour bar explains."""
    cells = [[matrix.cell(p, s) for s in matrix.versions] for p in matrix.versions]
    found = [[_value(cell, place) for cell in row] for row in cells]
    values = np.array([[np.nan if x is None else x.value for x in row] for row in found])
    axes.grid(visible=False)
    axes.set_facecolor("#eeeeee")
    # Where cells need not be square, the layout knows how much room the names take.
    image = axes.imshow(values, cmap="cividis", vmin=scale[0], vmax=scale[1], aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        told = _short(cells[row][column], place)
        axes.text(
            column,
            row,
            told.replace(" ", "\n") + ("\nbridge" if cells[row][column].bridged else ""),
            ha="center",
            va="center",
            fontsize=SMALL if np.isnan(value) else LETTERS,
            # cividis is dark below and light above.
            color="white" if value < scale[0] + 0.55 * (scale[1] - scale[0]) else "black",
        )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def _method(matrix: VersionMatrix) -> str:
    outputs = [
        f"{cell.probe} `{cell.outputs[0]}` → {cell.stored} `{cell.outputs[1]}`"
        for cell in matrix.cells
        if cell.outputs is not None and len(set(cell.outputs)) > 1
    ]
    told = f" Compared by other outputs than their own: {'; '.join(outputs)}." if outputs else ""
    return (
        f"{matrix.people} people, {matrix.people_with_mates} with two images "
        f"or more; {matrix.images} images, {matrix.impostor_pairs:,} impostor pairs of images; "
        f"{matrix.bootstrap} resamples of people (seed {matrix.seed}). *{_NONE}*: no outputs of "
        f"one dimension. *{_FEW}*: fewer than 100 impostor accepts from 50 pairs of people.{told}"
    )
