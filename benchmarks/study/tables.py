"""The study's tables, as Markdown, and the same figures as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.study.cells import batches
from benchmarks.study.measure import V2
from benchmarks.study.recipes import ABLATION, BRIDGE, NOISE, STRATEGY
from benchmarks.study.targets import spread, targets
from segue.errors import SegueError
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.figures import update_gain
from segue.evaluation.meter import Metric
from segue.evaluation.results import RANK1, RANK_MERGE, RETUNED, far_text, metric_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.study.measure import Measurer
    from benchmarks.study.recipes import Recipe
    from segue.evaluation.upgrade import UpgradeFigures

MISSING = "–"


@dataclass(frozen=True)
class Measured:
    """A recipe with its figures over the seeds that are done."""

    recipe: Recipe
    seeds: tuple[int, ...]
    figures: UpgradeFigures


class Tables:
    """All tables of a study on one part, of what is measured."""

    def __init__(
        self, measurer: Measurer, measured: Sequence[Measured], frozen_in: str = ""
    ) -> None:
        """Take what is measured; `frozen_in` is the commit of the recipes, for the part test."""
        self._frozen_in = frozen_in
        self._measurer = measurer
        self._all = {each.recipe.name: each for each in measured}
        study = measurer.study
        self._vals = [metric_of(far) for far in study.fars]
        self._metrics = [*self._vals, RANK1]
        self._fars = [far_text(far) for far in study.fars]

    def markdown(self) -> str:
        """Return every table that has a row."""
        first = next(iter(self._all.values()))
        figures = first.figures
        study = self._measurer.study
        notice = (
            f"{study.says} Part {self._measurer.part}: {figures.people} people, {figures.images} "
            "images. Values are means over seeds ± standard deviation over seeds; [intervals] are "
            f"95 % over {figures.bootstrap} resamples of people. VAL and rank-1 in percent, "
            "differences in points."
        )
        if self._frozen_in:
            notice += f" Recipes as frozen in commit `{self._frozen_in}`."
        lines = [f"## From a {study.name}", "", notice, ""]
        upgrades = self._of(STRATEGY, BRIDGE)
        parts = [
            ("v2 → v1, and each model by itself", self._levels(upgrades)),
            ("What each costs", self._costs(upgrades)),
            ("v2 → v1 less v1", self._each(upgrades, "cross less v1 {}", self._metrics)),
            ("v2 → v1 less the retuned v1", self._less_retuned(upgrades)),
            ("Update gain", self._each(upgrades, "update gain {}", self._metrics)),
            ("Tax: twin less v2", self._each(upgrades, "tax {}", self._metrics)),
            (
                "Lowest point over ρ less v1, calibrated",
                self._each(
                    upgrades,
                    "{} minimum less v1 {}",
                    [(group, m) for group in ("search", "stored") for m in self._metrics],
                ),
            ),
            ("Worst realised FAR over its target, calibrated", self._realised(upgrades)),
            ("Area under the backfill curve, search", self._areas(upgrades)),
            (
                "Search area less that of rank merge",
                self._each(upgrades, f"search area less {RANK_MERGE} {{}}", self._metrics),
            ),
        ]
        told = [each for each in upgrades if each.recipe.settings is not None][:2]
        parts.append(
            (
                "Search area less that of rank merge with the same v2",
                self._merged_with_same(told),
            )
        )
        for base in upgrades[:1]:
            others = [each for each in upgrades if each is not base]
            parts.append((f"{base.recipe.name} less each other", self._against(base, others)))
            if study.decides:
                parts.append((f"What is wanted of {base.recipe.name}", self._wanted(base)))
        for kind, title in ((ABLATION, "Ablations"), (NOISE, "Label noise")):
            rows = self._of(kind)
            parts.append((f"{title}: each less what it varies", self._beside(rows)))
        parts += [(f"Raw and calibrated: {each.recipe.name}", self._raw(each)) for each in told]
        for title, table in parts:
            if len(table) > 2:
                lines += [f"### {title}", "", *table, ""]
        lines += [f"- {each.recipe.name}: {each.recipe.says}" for each in self._all.values()]
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return every figure with its interval and its value by seed, without resamples."""
        return {
            name: {
                "group": each.recipe.group,
                "seeds": list(each.seeds),
                "figures": {
                    figure: {
                        "estimate": value.estimate().to_json(),
                        "by_seed": [None if np.isnan(x) else x for x in value.by_seed.tolist()],
                    }
                    for figure, value in each.figures.figures.items()
                },
            }
            for name, each in self._all.items()
        }

    def _of(self, *groups: str) -> list[Measured]:
        return [each for each in self._all.values() if each.recipe.group in groups]

    def _levels(self, rows: Sequence[Measured]) -> list[str]:
        table = _head("", *self._metrics, "seeds")
        if rows:
            retuned = [each for each in rows if each.recipe.retuned]
            for name, of in (("v1", rows), (RETUNED, retuned), ("twin", rows)):
                for each in of[:1]:
                    values = [_level(each.figures, f"{name} {metric}") for metric in self._metrics]
                    table.append(_row(f"*{name} self*", *values, len(each.seeds)))
        for each in rows:
            told = [("v2 -> v1", "→ v1"), ("v2", "self")]
            for row, label in told if each.recipe.settings else told[:1]:  # else v2 is the twin
                values = [_level(each.figures, f"{row} {metric}") for metric in self._metrics]
                table.append(_row(f"{each.recipe.name}, {label}", *values, len(each.seeds)))
        return table

    def _costs(self, rows: Sequence[Measured]) -> list[str]:
        """Return what a recipe's further training takes; batches that pass the trunk cost most."""
        table = _head("", "batches embedded", "of them with the whole network", "optimiser steps")
        for each in rows:
            settings = each.recipe.settings
            if settings is not None:
                steps = settings.steps + settings.head_steps
                table.append(_row(each.recipe.name, batches(settings), settings.steps, steps))
        return table

    def _each(self, rows: Sequence[Measured], pattern: str, metrics: Sequence[Any]) -> list[str]:
        keys = [metric if isinstance(metric, tuple) else (metric,) for metric in metrics]
        table = _head("", *(" ".join(key) for key in keys))
        for each in rows:
            values = [_points(each.figures, pattern.format(*key)) for key in keys]
            table.append(_row(each.recipe.name, *values))
        return table

    def _less_retuned(self, rows: Sequence[Measured]) -> list[str]:
        """Return what a v2 adds to a gallery that is retuned already, and its gain over that."""
        gains = [f"update gain {metric}" for metric in self._metrics[1:2]]
        table = _head("", *self._metrics, *gains)
        for each in rows:
            if each.recipe.retuned:
                find = each.figures.figure
                less = [
                    _told(find(f"v2 -> v1 {metric}").less(find(f"{RETUNED} {metric}")))
                    for metric in self._metrics
                ]
                told = [self._gain_over_retuned(each, metric) for metric in self._metrics[1:2]]
                table.append(_row(each.recipe.name, *less, *told))
        return table

    def _gain_over_retuned(self, each: Measured, metric: str) -> str:
        cross, retuned, twin = (
            Metric(figure.value, figure.samples)
            for figure in (
                each.figures.figure(f"{row} {metric}") for row in ("v2 -> v1", RETUNED, "twin")
            )
        )
        gain = update_gain(cross, retuned, twin)
        return MISSING if gain is None else _told(Estimate.of(gain.value, gain.samples))

    def _merged_with_same(self, rows: Sequence[Measured]) -> list[str]:
        """Return the lead over a rank merge whose second model is not the twin but this v2."""
        table = _head("", *self._metrics)
        for each in rows:
            figures = self._measurer.figures(each.recipe, each.seeds, merged_with=V2)
            values = [
                _told(figures.estimate(f"search area less {RANK_MERGE} {metric}"))
                for metric in self._metrics
            ]
            table.append(_row(each.recipe.name, *values))
        return table

    def _wanted(self, each: Measured) -> list[str]:
        rows = [
            _row(wanted, found, "yes" if enough else "**no**")
            for wanted, found, enough in targets(each.figures)
        ]
        return [*_head("wanted", "measured", "met"), *rows]

    def _realised(self, rows: Sequence[Measured]) -> list[str]:
        table = _head("", *(f"FAR {far}" for far in self._fars))
        for each in rows:
            found = [each.figures.worst_realised(far) for far in each.figures.fars]
            table.append(
                _row(
                    each.recipe.name,
                    *(f"{x.value:.2f} × [{x.low:.2f}, {x.high:.2f}]" for x in found),
                )
            )
        return table

    def _areas(self, rows: Sequence[Measured]) -> list[str]:
        table = _head("", *self._metrics)
        if rows:
            values = [
                _level(rows[0].figures, f"{RANK_MERGE} area {metric}") for metric in self._metrics
            ]
            table.append(_row("*rank merge, two models a query*", *values))
        for each in rows:
            values = [_level(each.figures, f"search area {metric}") for metric in self._metrics]
            table.append(_row(each.recipe.name, *values))
        return table

    def _against(self, base: Measured, others: Sequence[Measured]) -> list[str]:
        """Return the paired differences of `base` to the others, over the seeds that both have."""
        names = [
            *(f"v2 -> v1 {metric}" for metric in self._metrics),
            f"v2 {self._vals[min(1, len(self._vals) - 1)]}",
            f"search area {self._vals[min(1, len(self._vals) - 1)]}",
        ]
        table = _head("", *names, "seeds")
        for other in others:
            left, right, seeds = self._paired(base, other)
            values = [_told(left.against(right, name)) for name in names]
            table.append(_row(other.recipe.name, *values, len(seeds)))
        return table

    def _beside(self, rows: Sequence[Measured]) -> list[str]:
        """Return what each recipe gains over the one that it varies, and its own tie to v1."""
        names = [
            *(f"v2 -> v1 {metric}" for metric in self._metrics),
            *(f"v2 {metric}" for metric in self._metrics[1:2]),
        ]
        table = _head("", "varies", *names, "seeds")
        for each in rows:
            if each.recipe.beside not in self._all:
                continue
            base = self._all[each.recipe.beside]
            left, right, seeds = self._paired(each, base)
            values = [_told(left.against(right, name)) for name in names]
            table.append(_row(each.recipe.name, base.recipe.name, *values, len(seeds)))
        return table

    def _paired(
        self, left: Measured, right: Measured
    ) -> tuple[UpgradeFigures, UpgradeFigures, tuple[int, ...]]:
        common = tuple(index for index in left.seeds if index in right.seeds)
        if not common:
            raise SegueError(
                f"{left.recipe.name} and {right.recipe.name} have no seed in common; train more"
            )
        chosen = [
            each.figures if each.seeds == common else self._measurer.figures(each.recipe, common)
            for each in (left, right)
        ]
        return chosen[0], chosen[1], common

    def _raw(self, each: Measured) -> list[str]:
        """Return both protocols over rho, by raw distance and calibrated, less v1."""
        figures = each.figures
        realised = [f"realised@{far}" for far in self._fars]
        table = _head("", *(f"{metric} less v1" for metric in self._metrics), *realised)
        for group in ("search", "stored"):
            for rho in figures.rhos:
                for mode in ("raw", "calibrated"):
                    name = f"{group} rho={rho:g} {mode}"
                    less = [
                        _told(figures.figure(f"{name} {m}").less(figures.figure(f"v1 {m}")))
                        for m in self._metrics
                    ]
                    ratios = [_ratio(figures, f"{name} {ratio}") for ratio in realised]
                    table.append(_row(name, *less, *ratios))
        return table


def _level(figures: UpgradeFigures, name: str) -> str:
    """Return a rate in percent, with its deviation over seeds and its interval over people."""
    if name not in figures.figures:
        return MISSING
    found, around = figures.estimate(name), spread(figures.figure(name))
    return f"{100 * found.value:.1f}{around} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _points(figures: UpgradeFigures, name: str) -> str:
    """Return a difference in points, with its deviation over seeds and its interval."""
    if name not in figures.figures:
        return MISSING
    found = _told(figures.estimate(name))
    return found.replace(" [", f"{spread(figures.figure(name))} [", 1)


def _ratio(figures: UpgradeFigures, name: str) -> str:
    return f"{figures.figure(name).value:.2f} ×" if name in figures.figures else MISSING


def _told(found: Estimate) -> str:
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _head(*names: str) -> list[str]:
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*values: object) -> str:
    return "| " + " | ".join(str(value) for value in values) + " |"
