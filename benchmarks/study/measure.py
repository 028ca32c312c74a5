"""Figures from stored vectors: each recipe over its seeds, on one part's people."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.study.cells import CODE, RETUNED, constants, digest_of, models_of
from benchmarks.study.people import CALIBRATION, TEST, TRAIN, VALIDATION
from benchmarks.study.training import OLD_VERSION, retuning
from segue.evaluation.protocols import CompatibilityData
from segue.evaluation.upgrade import UpgradeFigures, measure_upgrade
from segue.files import write_durably
from segue.harmonic import choose_bridge
from segue.harmonic.bridges import affine, choose, fit, mlp
from segue.harmonic.bridges import retuning as retuning_module
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.study.cells import Models
    from benchmarks.study.people import People
    from benchmarks.study.recipes import Recipe, Study
    from benchmarks.study.store import Store
    from segue.types import Floats

RETUNING_CONSTANTS = constants(retuning_module)
BRIDGE_CONSTANTS = {module.__name__: constants(module) for module in (affine, choose, fit, mlp)}
"""What fitting a map depends on beside its input: part of what a measurement is named by."""

TWIN, V2 = "twin", "v2"
"""What rank merge takes as its second model."""

FORMAT = 1
"""Raised by hand where a change of Segue's code changes what is measured."""

MEASURED_BY = {VALIDATION: CALIBRATION, TEST: VALIDATION}
"""Whose vectors a bridge is fitted on, by the part that it is measured on.

Bridges never see the people that they are measured on. The edges of every recipe are calibrated on
the calibration people; where a bridge was fitted on these too (choices, part validation), its edge
is calibrated on their vectors mapped by bridges that were fitted without them, fold by fold.
"""


class Measurer:
    """Measures recipes of a study on one part, and keeps what it measured."""

    def __init__(self, study: Study, store: Store, people: People, part: str) -> None:
        self.study, self.store, self.people, self.part = study, store, people, part

    def models(self, recipe: Recipe, index: int) -> Models:
        """Return the cells of a recipe and seed."""
        return models_of(self.study, recipe, index, self.people.fingerprint)

    def seeds_done(self, recipe: Recipe, seeds: Sequence[int]) -> tuple[int, ...]:
        """Return the seeds of a recipe whose cells are all stored."""
        return tuple(
            index
            for index in seeds
            if index < recipe.seeds
            and all(self.store.done(cell) for cell in self.models(recipe, index))
        )

    def key(self, recipe: Recipe, seeds: Sequence[int], merged_with: str = TWIN) -> str:
        """Name a measurement by everything that it depends on."""
        return digest_of(
            {
                "format": FORMAT,
                "part": self.part,
                "cells": [[cell.digest for cell in self.models(recipe, i)] for i in seeds],
                "bridge": [recipe.bridge, BRIDGE_CONSTANTS] if recipe.bridge else "",
                **({"merged with": merged_with} if merged_with != TWIN else {}),
                **({"retuned": [CODE[RETUNED], RETUNING_CONSTANTS]} if recipe.retuned else {}),
                "fars": self.study.fars,
                "rhos": self.study.rhos,
                "bootstrap": self.study.bootstrap,
            }
        )

    def figures(
        self, recipe: Recipe, seeds: Sequence[int], merged_with: str = TWIN
    ) -> UpgradeFigures:
        """Return a recipe's figures over some of its seeds, measured once and then read.

        `merged_with` says whose vectors rank merge takes beside v1's: the twin's, an independent
        model as it would be without this recipe, or those of the recipe's own v2.

        Those of the part test lie in a folder of their own, and nothing measures them again.
        """
        folder = TEST if self.part == TEST else "measured"
        stored = self.store.root / folder / f"{self.key(recipe, seeds, merged_with)}.json"
        if stored.is_file():
            return UpgradeFigures.from_json(json.loads(stored.read_text()))
        figures = self.measure(recipe, seeds, merged_with)
        print(f"measured {recipe.name}, seeds {', '.join(map(str, seeds))}", file=sys.stderr)
        write_durably(stored, json.dumps(figures.to_json()).encode())
        return figures

    def measure(
        self, recipe: Recipe, seeds: Sequence[int], merged_with: str = TWIN
    ) -> UpgradeFigures:
        """Measure a recipe; with its own v2 in the twin's place, only rank merge has a meaning."""
        pairs = [self.data(recipe, index) for index in seeds]
        if merged_with == V2:
            pairs = [(replace(a, twin=a.v2), replace(b, twin=b.v2)) for a, b in pairs]
        return measure_upgrade(
            [data for data, _ in pairs],
            [calibration for _, calibration in pairs],
            fars=self.study.fars,
            rhos=self.study.rhos,
            bootstrap=self.study.bootstrap,
        )

    def data(self, recipe: Recipe, index: int) -> tuple[CompatibilityData, CompatibilityData]:
        """Return what one seed's models make of the part's people, and of the calibration's."""
        models = self.models(recipe, index)
        if recipe.bridge:
            mapped = self._mapped(recipe.bridge, models)
            return self._seen(models, self.part, mapped[0]), self._seen(
                models, CALIBRATION, mapped[1]
            )
        if recipe.retuned:
            seen = (self._seen(models, part) for part in (self.part, CALIBRATION))
            measured, calibration = (self._retuned(each, models, recipe, index) for each in seen)
            return measured, calibration
        return self._seen(models, self.part), self._seen(models, CALIBRATION)

    def _retuned(
        self, data: CompatibilityData, models: Models, recipe: Recipe, index: int
    ) -> CompatibilityData:
        """Return the same with a gallery of v1's retuned vectors; what is deployed stays v1."""
        labels = self.people.train(recipe.noise, index).labels
        bridge = retuning(self.store.vectors(models.old, TRAIN)[DEFAULT_OUTPUT], labels)
        return replace(data, v1=bridge.apply(data.v1, version=OLD_VERSION), status_quo=data.v1)

    def _seen(self, models: Models, part: str, mapped: Floats | None = None) -> CompatibilityData:
        """Return a part's people by every version; a bridge's or the twin's v2 is the twin."""
        old, twin = (
            self.store.vectors(cell, part)[DEFAULT_OUTPUT] for cell in (models.old, models.twin)
        )
        new = {DEFAULT_OUTPUT: twin}
        if mapped is not None:
            new[COMPATIBLE_OUTPUT] = mapped
        elif models.new is not None:
            new = self.store.vectors(models.new, part)
        return CompatibilityData(
            labels=self.people.measured(part).labels,
            v1=old,
            v2=new[DEFAULT_OUTPUT],
            v2_cross=new.get(COMPATIBLE_OUTPUT, new[DEFAULT_OUTPUT]),
            twin=twin,
        )

    def _mapped(self, kind: str, models: Models) -> tuple[Floats, Floats]:
        """Return the twin's vectors of the part and of calibration, taken to v1's space."""
        fitted_on = MEASURED_BY[self.part]
        source, target = (
            self.store.vectors(cell, fitted_on)[DEFAULT_OUTPUT]
            for cell in (models.twin, models.old)
        )
        chosen = choose_bridge(
            source,
            target,
            self.people.measured(fitted_on).labels,
            source_version="study/2",
            target_version="study/1",
            kinds=(kind,),
        )

        def mapped(part: str) -> Floats:
            vectors = self.store.vectors(models.twin, part)[DEFAULT_OUTPUT]
            return chosen.bridge.apply(vectors, version="study/2")

        calibration = chosen.held_out if fitted_on == CALIBRATION else mapped(CALIBRATION)
        return mapped(self.part), calibration
