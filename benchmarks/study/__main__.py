"""Run the study: train what is missing, measure, print the tables.

    python -m benchmarks.study [--out .study] [--workers 2] [--only segue,harmonic] [--seeds 0,1]

A run that was killed goes on where it was: what is stored is never trained again. Several runs may
share a folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.study import recipes
from benchmarks.study.cells import all_cells
from benchmarks.study.measure import Measurer
from benchmarks.study.people import TEST, VALIDATION, People
from benchmarks.study.store import Store
from benchmarks.study.tables import Measured, Tables
from benchmarks.study.training import make_cells
from segue.errors import SegueError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.study.cells import Cell
    from benchmarks.study.recipes import Recipe

MINUTES = {"v1": 1.0, "start": 3.5, "twin": 2.5, "tied": 2.7}
"""What a cell takes where none of its kind is stored yet."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parse(arguments)
    study = recipes.FULL
    store, people = Store(given.out), People(given.data)
    try:
        chosen = _chosen(study.recipes, given.only, given.groups)
        cells = all_cells(study, chosen, given.seeds, people.fingerprint)
        if given.list:
            print(_listed(cells, store))
            return 0
        failed = [] if given.tables else _train(cells, given)
        print(_table(Measurer(study, store, people, given.part), chosen, given))
    except SegueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for each in failed:
        print(f"failed: {each}", file=sys.stderr)
    return 1 if failed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    data = Path(os.environ.get("SEGUE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "lfw"
    parser = argparse.ArgumentParser(prog="study", description=__doc__)
    parser.add_argument("--data", type=Path, default=data, help="folder with people.csv")
    parser.add_argument("--out", type=Path, default=Path(".study"), help="where cells are stored")
    parser.add_argument("--part", choices=(VALIDATION, TEST), default=VALIDATION)
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--only", type=_names, default=(), help="names of recipes, with commas")
    parser.add_argument("--groups", type=_names, default=(), help="groups of recipes")
    parser.add_argument("--seeds", type=_numbers, default=tuple(range(5)), help="such as 0,1")
    parser.add_argument("--list", action="store_true", help="say what is stored and what is not")
    parser.add_argument("--tables", action="store_true", help="measure what is stored; no training")
    parser.add_argument("--no-tables", action="store_true", help="train, measure nothing")
    return parser.parse_args(arguments)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _names(text))


def _chosen(
    known: Sequence[Recipe], only: Sequence[str], groups: Sequence[str]
) -> tuple[Recipe, ...]:
    names = {recipe.name for recipe in known}
    for name in only:
        if name not in names:
            raise UnknownNameError("recipe", name, sorted(names))
    return tuple(
        recipe
        for recipe in known
        if (not only or recipe.name in only) and (not groups or recipe.group in groups)
    )


def _listed(cells: Sequence[Cell], store: Store) -> str:
    """Return a line for each cell, and the minutes that are left on one quiet core."""
    done = [cell for cell in cells if store.done(cell)]
    minutes = dict(MINUTES)
    for kind in minutes:
        known = [store.facts(cell)["whole_seconds"] / 60 for cell in done if cell.kind == kind]
        minutes[kind] = sum(known) / len(known) if known else minutes[kind]
    lines = [
        f"{cell.digest}  {'done' if store.done(cell) else f'{minutes[cell.kind]:.1f} min'}  "
        f"{cell.label}"
        for cell in cells
    ]
    left = sum(minutes[cell.kind] for cell in cells if not store.done(cell))
    return "\n".join([*lines, f"{len(done)} of {len(cells)} cells done, {left:.0f} minutes left"])


def _train(cells: Sequence[Cell], given: argparse.Namespace) -> list[str]:
    if given.workers == 1:
        return _work(cells, given.out, given.data)
    context = multiprocessing.get_context("spawn")
    with context.Pool(given.workers) as pool:
        jobs = [(cells, given.out, given.data)] * given.workers
        return sorted({each for failed in pool.starmap(_work, jobs) for each in failed})


def _work(cells: Sequence[Cell], out: Path, data: Path) -> list[str]:
    import torch

    torch.set_num_threads(1)
    return make_cells(cells, Store(out), People(data), lambda text: print(text, flush=True))


def _table(measurer: Measurer, chosen: Sequence[Recipe], given: argparse.Namespace) -> str:
    """Measure what is stored, write the tables beside the cells, return them."""
    if given.no_tables:
        return "no tables asked for"
    measured = []
    for recipe in chosen:
        if seeds := measurer.seeds_done(recipe, given.seeds):
            measured.append(Measured(recipe, seeds, measurer.figures(recipe, seeds)))
    if not measured:
        return "nothing to measure yet: no recipe has all cells of a seed"
    tables = Tables(measurer, measured)
    text = tables.markdown()
    (given.out / f"{measurer.part}.md").write_text(text)
    (given.out / f"{measurer.part}.json").write_text(json.dumps(tables.to_json(), indent=1))
    return text


if __name__ == "__main__":
    sys.exit(main())
