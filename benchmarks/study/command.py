"""Run the study: train what is missing, measure, print the tables.

A run that was killed goes on where it was: what is stored is never trained again. Several runs may
work on one folder. Choices are made on part validation. For the part test the recipes are frozen
(`--freeze`), committed, and measured once each (`--part test`).
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

import segue
from benchmarks.study import frozen, short
from benchmarks.study.cells import all_cells
from benchmarks.study.measure import Measurer
from benchmarks.study.people import TEST, VALIDATION, People
from benchmarks.study.store import Store
from benchmarks.study.studies import STUDIES
from benchmarks.study.tables import Measured, Tables
from benchmarks.study.training import embed_later, make_cells
from segue.errors import SegueError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.pool import Pool

    from benchmarks.study.cells import Cell
    from benchmarks.study.recipes import Recipe, Study

MINUTES = {"v1": 1.0, "start": 3.5, "twin": 2.5, "tied": 2.7, "foreign": 6.0, "head": 0.5}
"""What a cell takes where none of its kind is stored yet."""


ALL_SEEDS = tuple(range(5))

PACKAGE = Path(segue.__file__).parent
"""With the study's own code, what decides how the part test is measured."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parse(arguments)
    try:
        return _Run(given).run()
    except SegueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


class _Run:
    """One call of the command."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.studies = _named(given.studies)
        self.frozen = frozen.FROZEN
        self.guarded: tuple[Path, ...] = (frozen.FROZEN, frozen.HERE, PACKAGE)
        if given.short:
            self.studies, self.guarded = (short.SHORT,), ()
            self.frozen = given.out / "frozen.json"
            short.draw_faces(given.data)
        self.store = Store(given.out)
        self.people = People(given.data, given.models)
        only = given.only
        if given.part == TEST or given.freeze:
            self.studies = tuple(study for study in self.studies if study.opens_test)
        if given.part == TEST:
            # A recipe that was frozen and is tried on a smaller upgrade now has nothing to open.
            known = {recipe.name for study in self.studies for recipe in study.recipes}
            only = only or tuple(x for x in frozen.frozen_names(self.frozen) if x in known)
            given.seeds = ALL_SEEDS
        self.chosen = _chosen(self.studies, only, given.groups)

    def run(self) -> int:
        given = self.given
        if given.freeze:
            frozen.freeze(self.frozen, self._keys(), self.people.fingerprint)
            print(f"{len(self._keys())} recipes frozen in {self.frozen}; commit it")
            return 0
        if given.list:
            print(_listed(self._cells(), self.store))
            return 0
        if given.part == TEST:
            self._open_test()
            failed = []
        else:
            failed = [] if given.tables else self._train()
        if not given.no_tables:
            print(self._tables())
        for each in failed:
            print(f"failed: {each}", file=sys.stderr)
        return 1 if failed else 0

    def _measurers(self) -> list[tuple[Measurer, tuple[Recipe, ...]]]:
        return [
            (Measurer(study, self.store, self.people, self.given.part), chosen)
            for study, chosen in self.chosen
        ]

    def _keys(self) -> dict[str, str]:
        """Return the hash of everything that a recipe's figures of the part test depend on."""
        return {
            recipe.name: Measurer(study, self.store, self.people, TEST).key(
                recipe, range(recipe.seeds)
            )
            for study, chosen in self.chosen
            for recipe in chosen
        }

    def _cells(self) -> list[Cell]:
        data = self.people.fingerprint
        found = [
            cell
            for study, chosen in self.chosen
            for cell in all_cells(study, chosen, self.given.seeds, data)
        ]
        return list({cell.digest: cell for cell in found}.values())

    def _train(self) -> list[str]:
        given, cells = self.given, self._cells()
        work = (cells, given.out, given.data, given.models)
        if given.workers == 1:
            return _work(*work)
        with _pool(given.workers) as pool:
            found = pool.starmap(_work, [work] * given.workers, chunksize=1)
        return sorted({each for failed in found for each in failed})

    def _open_test(self) -> None:
        """Embed the test people by what was trained before, for frozen recipes only."""
        frozen.check_frozen(self.frozen, self._keys())
        commit = frozen.committed(self.guarded)
        if commit:
            print(f"recipes as of commit {commit}")
        for measurer, chosen in self._measurers():
            for recipe in chosen:
                done = measurer.seeds_done(recipe, range(recipe.seeds))
                if len(done) < recipe.seeds:
                    raise UsageError(
                        f"{recipe.name} is trained from {len(done)} of {recipe.seeds} seeds; the "
                        "part test is measured once, with all of them: train first"
                    )
        frozen.check_people(self.given.out / "test-people.txt", self.people.test_fingerprint)
        for cell in self._cells():
            if not self.store.has_vectors(cell, TEST):
                embed_later(cell, self.store, self.people, TEST)

    def _frozen_in(self) -> str:
        """Return the commit of the frozen recipes where these are what is measured, or nothing."""
        if self.given.part != TEST or not self.guarded:
            return ""
        return frozen.frozen_in(self.frozen)

    def _tables(self) -> str:
        """Measure what is stored, write the tables beside the cells, return them."""
        texts, told = [], {}
        found = [
            (measurer, recipe, seeds)
            for measurer, chosen in self._measurers()
            for recipe in chosen
            if (seeds := measurer.seeds_done(recipe, self.given.seeds))
        ]
        if self.given.workers > 1:
            with _pool(self.given.workers) as pool:
                pool.starmap(_measure, found, chunksize=1)
        for study, _ in self.chosen:
            measured = [
                Measured(recipe, seeds, measurer.figures(recipe, seeds))
                for measurer, recipe, seeds in found
                if measurer.study is study
            ]
            if measured:
                measurer = next(each for each, _, _ in found if each.study is study)
                tables = Tables(measurer, measured, self._frozen_in())
                texts.append(tables.markdown())
                told[study.name] = tables.to_json()
        if not texts:
            return "nothing to measure yet: no recipe has all cells of a seed"
        text = "\n".join(texts)
        stem = self.given.out / self.given.part
        stem.with_suffix(".md").write_text(text)
        stem.with_suffix(".json").write_text(json.dumps(told, indent=1))
        return text


def _named(names: Sequence[str]) -> tuple[Study, ...]:
    """Return the studies of those names, all if none is named."""
    for name in names:
        if name not in STUDIES:
            raise UnknownNameError("study", name, sorted(STUDIES))
    return tuple(study for name, study in STUDIES.items() if not names or name in names)


def _pool(workers: int) -> Pool:
    """Return processes that begin anew: torch's threads do not outlive a fork."""
    return multiprocessing.get_context("spawn").Pool(workers)


def _measure(measurer: Measurer, recipe: Recipe, seeds: tuple[int, ...]) -> None:
    measurer.figures(recipe, seeds)


def _work(cells: Sequence[Cell], out: Path, data: Path, models: Path) -> list[str]:
    import torch

    torch.set_num_threads(1)
    people = People(data, models)
    return make_cells(cells, Store(out), people, lambda text: print(text, flush=True))


def _chosen(
    studies: Sequence[Study], only: Sequence[str], groups: Sequence[str]
) -> list[tuple[Study, tuple[Recipe, ...]]]:
    """Return the recipes of those names and groups, study by study."""
    names = {recipe.name for study in studies for recipe in study.recipes}
    for name in only:
        if name not in names:
            raise UnknownNameError("recipe", name, sorted(names))
    return [
        (
            study,
            tuple(
                recipe
                for recipe in study.recipes
                if (not only or recipe.name in only) and (not groups or recipe.group in groups)
            ),
        )
        for study in studies
    ]


def _listed(cells: Sequence[Cell], store: Store) -> str:
    """Return a line for each cell, and the minutes that are left on one quiet core."""
    done = {cell.digest for cell in cells if store.done(cell)}
    minutes: dict[str, list[float]] = {}
    for cell in cells:
        if cell.digest in done:
            minutes.setdefault(cell.kind, []).append(store.facts(cell)["whole_seconds"] / 60)
    expected = {
        kind: sum(known) / len(known) if (known := minutes.get(kind)) else usual
        for kind, usual in MINUTES.items()
    }
    lines = [
        f"{cell.digest}  "
        f"{'done' if cell.digest in done else f'{expected[cell.kind]:.1f} min'}  {cell.label}"
        for cell in cells
    ]
    left = sum(expected[cell.kind] for cell in cells if cell.digest not in done)
    return "\n".join([*lines, f"{len(done)} of {len(cells)} cells done, {left:.0f} minutes left"])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    shared = Path(__file__).parents[3] / "shared" / "data"
    beside = Path(os.environ.get("SEGUE_DATA", shared))
    parser = argparse.ArgumentParser(prog="study", description=__doc__)
    parser.add_argument("--short", action="store_true", help="drawn faces, tiny networks, seconds")
    parser.add_argument("--data", type=Path, help="folder with people.csv")
    parser.add_argument("--models", type=Path, help="folder of the second upgrade's model")
    parser.add_argument("--out", type=Path, default=Path(".study"), help="where cells are stored")
    parser.add_argument("--part", choices=(VALIDATION, TEST), default=VALIDATION)
    parser.add_argument("--freeze", action="store_true", help="write down the recipes as they are")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--studies", type=_names, default=(), help="such as 'ablations'; all")
    parser.add_argument("--only", type=_names, default=(), help="recipes, such as 'segue; bct'")
    parser.add_argument("--groups", type=_names, default=(), help="such as 'strategy; bridge'")
    parser.add_argument("--seeds", type=_numbers, default=ALL_SEEDS, help="such as '0; 1'")
    parser.add_argument("--list", action="store_true", help="say what is stored and what is not")
    parser.add_argument("--tables", action="store_true", help="measure what is stored; no training")
    parser.add_argument("--no-tables", action="store_true", help="train, measure nothing")
    given = parser.parse_args(arguments)
    if given.data is None:
        given.data = given.out / "faces" if given.short else beside / "lfw"
    if given.models is None:
        given.models = beside.parent / "models"
    return given


def _names(text: str) -> tuple[str, ...]:
    """Return names; they are parted by semicolons, as some hold a comma."""
    return tuple(name.strip() for name in text.split(";") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.replace(",", ";").split(";"))
