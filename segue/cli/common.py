"""What commands share: the workspace, output as text or JSON, progress bars, consent."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segue.errors import ConsentError
from segue.types import no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.types import Progress
    from segue.workspace import Workspace

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="INTEGER"
)
yes_option = click.option("--yes", is_flag=True, help="Agree without being asked.")


def open_workspace(context: click.Context) -> Workspace:
    """Open the workspace that `--workspace` names."""
    from segue.workspace import Workspace

    return Workspace.open(Path(str(context.obj)))


def emit(value: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print `value` as JSON, or what `text` makes for a person."""
    click.echo(json.dumps(value, indent=2, default=str) if as_json else text())


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay rows out in columns: numbers to the right, words to the left.

    >>> print(table(["name", "rows"], [["faces/1", 20]]))
    name     rows
    faces/1    20
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        for i in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(list(header)), *(line(row) for row in cells)])


def fields(value: Mapping[str, Any]) -> str:
    """Lay named values out for a person, a line each; what is empty is left out.

    >>> print(fields({"items_left": 3, "share": 0.27132, "runner": None, "reasons": {"gone": 2}}))
    items left  3
    share       0.271
    reasons     gone 2
    """
    shown = {
        name.replace("_", " "): _plain(item)
        for name, item in value.items()
        if item is not None and item not in ("", {}, [], ())
    }
    width = max((len(name) for name in shown), default=0) + 2
    return "\n".join(f"{name:{width}}{item}" for name, item in shown.items())


def _plain(item: Any) -> str:
    if isinstance(item, float):
        return f"{item:.3g}"
    if isinstance(item, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in item.items())
    if isinstance(item, list | tuple):
        return ", ".join(_plain(inner) for inner in item)
    return str(item)


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "item"), count(2, "item")
    ('1 item', '2 items')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def agree(what: str, *, yes: bool) -> None:
    """Ask on a terminal; elsewhere `--yes` must have been given.

    Raises:
        ConsentError: not agreed.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and click.confirm(f"{what}. Go on?", err=True)):
        raise ConsentError(what)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Give a progress callback: a bar on a terminal (stderr), silence elsewhere."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    with Bars(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(done: int, total: int | None, what: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show
