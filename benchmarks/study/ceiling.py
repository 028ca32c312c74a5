"""How much v1's vectors let a v2 gain: heads on v2's features, with and without a far better model.

    python -m benchmarks.study.ceiling --help

Two linear heads to the retuned v1 are trained alike, one on the features of Segue's trained v2, one
on these and the vectors of MobileFaceNet beside them, which knows hardly any face from another
less than perfectly. What the second gains is about what v1's stored vectors allow; the rest of the
way to a full re-embedding is closed to any v2. Needs the study's stored cells.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.study.cells import models_of
from benchmarks.study.command import add_places, settle_places
from benchmarks.study.foreign import train_head
from benchmarks.study.measure import Measurer
from benchmarks.study.people import CALIBRATION, TRAIN, VALIDATION, People
from benchmarks.study.recipes import DECIDES, ILLUSTRATES, MACHINE
from benchmarks.study.store import Store
from benchmarks.study.training import OLD_VERSION, network_of, retuning
from segue.arrays import normalise
from segue.errors import SegueError
from segue.evaluation.results import RANK1, metric_of
from segue.evaluation.upgrade import measure_upgrade
from segue.networks.preprocess import prepare
from segue.train import HarmonicSettings
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.study.cells import Cell
    from segue.evaluation.protocols import CompatibilityData
    from segue.types import Floats, Images

RECIPE = next(recipe for recipe in DECIDES.recipes if recipe.name == "segue, retuned")

HEAD = HarmonicSettings(
    head_steps=300,
    head_learning_rate=2e-3,
    people_per_batch=256,
    singles_per_batch=256,
    **MACHINE,
)
"""Of both heads: chosen once for the first, by the validation people."""

STRENGTH = 2.0
"""Spread of MobileFaceNet's vectors over that of the features that they stand beside."""

ROWS = ("v2's features", "and MobileFaceNet's vectors")

_EMBEDDED = 256  # images at once


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ceiling", description=__doc__)
    add_places(parser)
    given = settle_places(parser.parse_args(arguments))
    torch.set_num_threads(1)
    try:
        print(_Ceiling(Store(given.out), People(given.data, given.models)).table())
    except SegueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


class _Ceiling:
    """Both heads over every seed whose cells are stored, on part validation."""

    def __init__(self, store: Store, people: People) -> None:
        self._store, self._people = store, people
        self._measurer = Measurer(DECIDES, store, people, VALIDATION)

    def table(self) -> str:
        """Return the table as Markdown."""
        seeds = self._measurer.seeds_done(RECIPE, range(RECIPE.seeds))
        if not seeds or not self._store.done(self._foreign(0)):
            raise SegueError(
                "the study has not trained 'segue, retuned' and embedded by MobileFaceNet yet; run "
                "`make study` first"
            )
        by_row: dict[str, list[tuple[CompatibilityData, CompatibilityData]]] = {
            row: [] for row in ROWS
        }
        for index in seeds:
            for row, pair in self._heads(index).items():
                by_row[row].append(pair)
        metrics = [*map(metric_of, DECIDES.fars[1:]), RANK1]
        gain = f"update gain {metric_of(1e-2)}"
        lines = [
            f"| head on, {len(seeds)} seeds | " + " | ".join(metrics) + f" | {gain} |",
            "|---" * (len(metrics) + 2) + "|",
        ]
        for row, pairs in by_row.items():
            figures = measure_upgrade(
                [measured for measured, _ in pairs],
                [calibration for _, calibration in pairs],
                fars=DECIDES.fars,
                rhos=(0.0, 1.0),
                bootstrap=DECIDES.bootstrap,
            )
            names = [*(f"v2 -> v1 {metric}" for metric in metrics), gain]
            told = (100 * np.array(figures.estimate(name).to_json()) for name in names)
            values = " | ".join(f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in told)
            lines.append(f"| {row} | {values} |")
        return "\n".join(lines)

    def _heads(self, index: int) -> dict[str, tuple[CompatibilityData, CompatibilityData]]:
        """Train both heads of a seed; return what the two make of the people, by row."""
        models = self._measurer.models(RECIPE, index)
        assert models.new is not None
        faces = self._people.train()
        old = self._store.vectors(models.old, TRAIN)[DEFAULT_OUTPUT]
        old = retuning(old, faces.labels).apply(old, version=OLD_VERSION)
        trunk = _Trunk(models.new, self._store)
        learned = trunk.features(faces.load(trunk.size))
        measured, calibration = self._measurer.data(RECIPE, index)
        seen = {part: self._people.measured(part) for part in (VALIDATION, CALIBRATION)}
        views = {part: trunk.views(each.load(trunk.size)) for part, each in seen.items()}
        found = {}
        for row in ROWS:
            extra = None if row == ROWS[0] else self._extra(index, learned)

            def with_extra(features: Floats, part: str, extra: _Extra | None = extra) -> Floats:
                return features if extra is None else extra.beside(features, part)

            head, _ = train_head(
                with_extra(learned, TRAIN), faces.labels, old, replace(HEAD, seed=index)
            )
            weight, bias = head["weight"].numpy(), head["bias"].numpy()
            crossed = {
                part: normalise(
                    sum(
                        normalise(with_extra(view, part) @ weight.T + bias, name="mapped vectors")
                        for view in views[part]
                    ),
                    name="mean of an image and its mirror image",
                )
                for part in seen
            }
            found[row] = (
                replace(measured, v2_cross=crossed[VALIDATION]),
                replace(calibration, v2_cross=crossed[CALIBRATION]),
            )
        return found

    def _extra(self, index: int, features: Floats) -> _Extra:
        return _Extra(self._foreign(index), self._store, STRENGTH * float(features.std()))

    def _foreign(self, index: int) -> Cell:
        recipe = ILLUSTRATES.recipes[0]
        return models_of(ILLUSTRATES, recipe, index, self._people.fingerprint).start


class _Extra:
    """MobileFaceNet's vectors, scaled to stand beside features."""

    def __init__(self, cell: Cell, store: Store, spread: float) -> None:
        self._cell, self._store, self._spread = cell, store, spread

    def beside(self, features: Floats, part: str) -> Floats:
        """Return features float32 [N, f] with the vectors of the part's images: [N, f + 128]."""
        vectors = self._store.vectors(self._cell, part)[DEFAULT_OUTPUT]
        scale = self._spread * np.sqrt(vectors.shape[1])
        return np.concatenate([features, np.float32(scale) * vectors], axis=1)


class _Trunk:
    """The trunk of a trained v2."""

    def __init__(self, cell: Cell, store: Store) -> None:
        network, self._preprocessing = network_of(cell, store.weights(cell), store.facts(cell))
        self._trunk = network.eval().trunk

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what it takes."""
        return self._preprocessing.height, self._preprocessing.width

    def features(self, images: Images, *, mirrored: bool = False) -> Floats:
        """Return features float32 [N, f] of images uint8 [N, h, w, 3]."""
        found = []
        for start in range(0, len(images), _EMBEDDED):
            batch = torch.from_numpy(
                prepare(images[start : start + _EMBEDDED], self._preprocessing)
            )
            with torch.no_grad():
                found.append(self._trunk(batch.flip(3) if mirrored else batch).numpy())
        return np.concatenate(found)

    def views(self, images: Images) -> tuple[Floats, Floats]:
        """Return the features of images and of their mirror images."""
        return self.features(images), self.features(images, mirrored=True)


if __name__ == "__main__":
    sys.exit(main())
