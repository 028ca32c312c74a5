"""Figures of an upgrade over several trainings: means over seeds, intervals over people.

A study trains the same strategy from several seeds and measures every model on the same people. A
figure is the mean over seeds; its interval comes from resampling the people, the same resample for
every seed, so that it says how sure the mean is of these trainings on other people. Two strategies
measured on the same people and with the same seed share their resamples: differences are paired.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import EvaluationError, FormatError, UnknownNameError, UnsupportedFarError
from segue.evaluation.bootstrap import Estimate, all_pairs
from segue.evaluation.figures import area, maximum, minimum, update_gain
from segue.evaluation.meter import Meter, Metric, realised_of
from segue.evaluation.plans import Setting, prepare, row_plans
from segue.evaluation.results import (
    BRIDGE,
    PROTOCOLS,
    RANK1,
    RANK_MERGE,
    far_text,
    metric_of,
    mixed_name,
)
from segue.evaluation.roc import LEAST_ACCEPTS
from segue.types import no_progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segue.evaluation.protocols import CompatibilityData
    from segue.types import Doubles, Ints, Progress

FORMAT = 1
"""The version of the JSON form."""


@dataclass(frozen=True, eq=False)
class Figure:
    """One measure of an upgrade.

    `value` is of the mean over seeds, `by_seed` float64 [S] of each seed's models alone, `samples`
    float64 [B] of the mean over seeds in each resample of people (NaN where it is not defined).
    """

    value: float
    by_seed: Doubles
    samples: Doubles

    def estimate(self) -> Estimate:
        """Return the value and its 95 % interval over people."""
        return Estimate.of(self.value, self.samples)

    def less(self, other: Figure) -> Estimate:
        """Return the difference to another figure on the same resamples."""
        return Estimate.of(self.value - other.value, self.samples - other.samples)


@dataclass(frozen=True, eq=False)
class UpgradeFigures:
    """Everything measured about an upgrade trained from several seeds.

    `figures` are named by what was compared and the measure, a rate in [0, 1] where nothing else is
    said. ROW is a row of the compatibility report (`v1`, `v1 retuned`, `twin`, `v2`, `v2 -> v1`,
    `bridge -> v1`, `search rho=0.25 calibrated`, `stored rho=0.5 raw`,
    `rank merge rho=0.5 calibrated`, …), METRIC is `VAL@1e-2` for each FAR, or `rank-1`, GROUP is
    `search`, `stored`, `rank merge` or `bridge`:

    - `ROW METRIC`
    - `ROW realised@1e-2`: the realised FAR over its target, at the threshold that was set on the
      calibration people (mixed rows and v1);
    - `worst realised@1e-2`: the largest of these over the calibrated rows of both protocols;
    - `cross less v1 METRIC`, `twin less v1 METRIC`;
    - `update gain METRIC`: the ratio of the means over seeds; missing where the twin is not clearly
      above v1;
    - `tax METRIC`: twin less v2;
    - `GROUP area METRIC`: under the backfill curve, calibrated, items migrated in random order;
    - `search area less rank merge METRIC`;
    - `GROUP minimum less v1 METRIC`: the lowest calibrated point over rho, less v1.

    `people_key` tells which people and resamples it rests on.
    """

    people: int
    images: int
    seeds: int
    bootstrap: int
    seed: int
    fars: tuple[float, ...]
    rhos: tuple[float, ...]
    people_key: str
    figures: dict[str, Figure]

    def figure(self, name: str) -> Figure:
        """Return a figure by its name.

        Raises:
            UnknownNameError: there is none; the message lists those that are.
        """
        if name not in self.figures:
            raise UnknownNameError("figure", name, self.figures)
        return self.figures[name]

    def estimate(self, name: str) -> Estimate:
        """Return a figure and its 95 % interval; see `figure`."""
        return self.figure(name).estimate()

    def against(self, other: UpgradeFigures, name: str) -> Estimate:
        """Return a figure less that of another strategy, paired by resample.

        Raises:
            EvaluationError: the other was measured on other people, or other resamples of them.
        """
        if self.people_key != other.people_key:
            raise EvaluationError(
                "the two were measured on other people or resamples, so that they have no paired "
                "difference; measure both on the same images with the same bootstrap and seed"
            )
        return self.figure(name).less(other.figure(name))

    def worst_realised(self, far: float) -> Estimate:
        """Return the worst realised FAR over its target, as the gate takes it.

        Over both protocols and every rho, calibrated: the largest value, and the largest lower and
        upper end of an interval.
        """
        found = [
            self.estimate(f"{mixed_name(group, rho, calibrated=True)} realised@{far_text(far)}")
            for group in PROTOCOLS
            for rho in self.rhos
        ]
        return Estimate(*(max(side) for side in zip(*(x.to_json() for x in found), strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, samples included; NaN becomes None."""
        named = ("people", "images", "seeds", "bootstrap", "seed", "people_key")
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in named},
            "fars": list(self.fars),
            "rhos": list(self.rhos),
            "figures": {
                name: {
                    "value": figure.value,
                    "by_seed": _listed(figure.by_seed),
                    "samples": _listed(figure.samples),
                }
                for name, figure in self.figures.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> UpgradeFigures:
        """Read what `to_json` wrote.

        Raises:
            FormatError: it has another format.
            EvaluationError: it is damaged.
        """
        if value.get("format") != FORMAT:
            raise FormatError("the upgrade's figures", str(value.get("format")), FORMAT)
        try:
            return cls(
                **{
                    name: int(value[name])
                    for name in ("people", "images", "seeds", "bootstrap", "seed")
                },
                people_key=str(value["people_key"]),
                fars=tuple(float(far) for far in value["fars"]),
                rhos=tuple(float(rho) for rho in value["rhos"]),
                figures={
                    str(name): Figure(
                        float(figure["value"]),
                        np.array(figure["by_seed"], dtype=np.float64),
                        np.array(figure["samples"], dtype=np.float64),
                    )
                    for name, figure in value["figures"].items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvaluationError(
                f"the upgrade's figures are damaged ({error!r}); measure again"
            ) from error


def measure_upgrade(
    data_by_seed: Sequence[CompatibilityData],
    calibration_by_seed: Sequence[CompatibilityData],
    *,
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3),
    rhos: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    bootstrap: int = 200,
    seed: int = 0,
    progress: Progress = no_progress,
) -> UpgradeFigures:
    """Measure the models of several seeds on the same people, as `measure_compatibility` does.

    A map between independent models is measured by giving the independent model as `v2` and its
    mapped vectors as `v2_cross`.

    Args:
        data_by_seed: for each seed of training the same images, seen by that seed's models; the
            arrays that are None must be None in all.
        calibration_by_seed: for each seed other people, whose impostors calibrate its edges.
        fars: false accept rates, all of which the data must support.
        rhos: shares of migrated items, within [0, 1].
        bootstrap: resamples of people; at least 10.
        seed: of the choice of images, of migrated items, and of the resamples.
        progress: told after each seed.

    Raises:
        UnsupportedFarError: a FAR that allows fewer than 100 impostor accepts.
        EvaluationError: no seeds, seeds whose people or arrays differ, or too few people.
        VectorError: arrays that do not fit.
    """
    if not data_by_seed or len(data_by_seed) != len(calibration_by_seed):
        raise EvaluationError(
            f"{len(data_by_seed)} seeds and calibration people of {len(calibration_by_seed)}; "
            "give both for each seed, of one seed at least"
        )
    first = data_by_seed[0]
    for data in data_by_seed[1:]:
        if not np.array_equal(data.labels, first.labels) or data.edges != first.edges:
            raise EvaluationError(
                "every seed's models must be measured on the same images and by the same arrays"
            )
    measured: list[dict[str, Metric]] = []
    for done, (data, calibration) in enumerate(
        zip(data_by_seed, calibration_by_seed, strict=True), start=1
    ):
        setting = prepare(data, calibration, fars, rhos, seed)
        _check_supported(setting)
        measured.append(_measure(setting, bootstrap))
        progress(done, len(data_by_seed), "seeds measured")
    means = {name: _mean([each[name] for each in measured]) for name in measured[0]}
    alone = [_derived(each, setting) for each in measured]
    figures = {
        name: Figure(
            metric.value,
            np.array([each[name].value if name in each else np.nan for each in alone]),
            metric.samples,
        )
        for name, metric in _derived(means, setting).items()
    }
    labels = setting.data.labels
    return UpgradeFigures(
        people=setting.data.people,
        images=len(labels),
        seeds=len(measured),
        bootstrap=bootstrap,
        seed=seed,
        fars=setting.fars,
        rhos=setting.rhos,
        people_key=_people_key(labels, bootstrap, seed),
        figures=figures,
    )


def _check_supported(setting: Setting) -> None:
    """Refuse a FAR at which nothing could be told, before anything is measured."""
    pairs = all_pairs(setting.data.labels, directed=False)
    for far in setting.fars:
        if not pairs.can_support(far):
            raise UnsupportedFarError(far, min(1.0, LEAST_ACCEPTS / pairs.impostor_images))


def _measure(setting: Setting, bootstrap: int) -> dict[str, Metric]:
    """Return `ROW METRIC` and `ROW realised@FAR` of one seed's models."""
    calibration = setting.calibrations[setting.data.deployed]
    meter = Meter(setting.data.labels, calibration, setting.fars, bootstrap, setting.seed)
    found: dict[str, Metric] = {}
    for plan in row_plans(setting):
        metrics = meter.weigh(plan, precision=False).metrics
        for name in _metrics(setting):
            found[f"{plan.name} {name}"] = metrics[name]
        for far in setting.fars:
            if realised_of(far) in metrics:
                realised = metrics[realised_of(far)]
                ratio = Metric(realised.value / far, realised.samples / far)
                found[f"{plan.name} realised@{far_text(far)}"] = ratio
    return found


def _derived(measured: dict[str, Metric], setting: Setting) -> dict[str, Metric]:
    """Return all figures that follow from the rows, and the rows themselves."""
    found = dict(measured)
    for metric in _metrics(setting):
        v1, v2, cross = (measured[f"{row} {metric}"] for row in ("v1", "v2", "v2 -> v1"))
        found[f"cross less v1 {metric}"] = cross - v1
        if setting.data.twin is not None:
            twin = measured[f"twin {metric}"]
            found[f"twin less v1 {metric}"] = twin - v1
            found[f"tax {metric}"] = twin - v2
            gain = update_gain(cross, v1, twin)
            if gain is not None:
                found[f"update gain {metric}"] = gain
        found |= _over_rho(measured, setting, metric, v1)
    for far in setting.fars:
        name = f"realised@{far_text(far)}"
        rows = [f"{row} {name}" for group in PROTOCOLS for row in _rows(setting, group)]
        if all(row in measured for row in rows):
            found[f"worst {name}"] = maximum([measured[row] for row in rows])
    return found


def _over_rho(
    measured: dict[str, Metric], setting: Setting, metric: str, v1: Metric
) -> dict[str, Metric]:
    """Return area and minimum of one metric for each mixed group that was measured."""
    found: dict[str, Metric] = {}
    for group in (*PROTOCOLS, RANK_MERGE, BRIDGE):
        names = [f"{row} {metric}" for row in _rows(setting, group)]
        if names[0] not in measured:
            continue
        curve = [measured[name] for name in names]
        found[f"{group} minimum less v1 {metric}"] = minimum([point - v1 for point in curve])
        if len(curve) > 1:
            found[f"{group} area {metric}"] = area(setting.rhos, curve)
    search, merged = f"search area {metric}", f"{RANK_MERGE} area {metric}"
    if search in found and merged in found:
        found[f"search area less {RANK_MERGE} {metric}"] = found[search] - found[merged]
    return found


def _metrics(setting: Setting) -> tuple[str, ...]:
    return (*(metric_of(far) for far in setting.fars), RANK1)


def _rows(setting: Setting, group: str) -> list[str]:
    return [mixed_name(group, rho, calibrated=True) for rho in setting.rhos]


def _mean(metrics: Sequence[Metric]) -> Metric:
    """Return the mean over seeds, in each resample."""
    return Metric(
        float(np.mean([metric.value for metric in metrics])),
        np.mean([metric.samples for metric in metrics], axis=0),
    )


def _people_key(labels: Ints, bootstrap: int, seed: int) -> str:
    told = f"{bootstrap} {seed} ".encode() + np.ascontiguousarray(labels).tobytes()
    return hashlib.sha256(told).hexdigest()


def _listed(values: Doubles) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]
