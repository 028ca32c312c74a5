"""Measure how a new version works beside the old one: every row of the compatibility report.

Two protocols. *Search*: a v2 probe against a gallery of which a share rho is v2; an image is not
compared with itself. *Stored*: stored images against each other, each by its live version. Each
mixed row stands twice: by raw distance, and *calibrated*, the distance replaced by the log FAR that
it has on its own edge, measured on other people.

Where the gallery holds retuned vectors of v1, the row `v1` is still the version deployed today, and
differences are to it; `v1 retuned` is the retuned vectors with themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segue.evaluation.backfill import order_curves
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.details import Backfill, Gain
from segue.evaluation.distributions import distributions
from segue.evaluation.figures import area, update_gain
from segue.evaluation.meter import (
    Meter,
    Metric,
    Weighed,
    accepted_of,
    identity_of,
    miss_of,
    realised_of,
)
from segue.evaluation.open_set import open_set_fars, open_set_figures
from segue.evaluation.plans import Setting, prepare, row_plans
from segue.evaluation.protocols import CompatibilityData
from segue.evaluation.results import (
    BRIDGE,
    MAP,
    RANK1,
    RANK_MERGE,
    SEARCH,
    STORED,
    CompatibilityReport,
    Deployed,
    FarPoint,
    Row,
    metric_of,
)
from segue.evaluation.roc import far_grid, largest_threshold
from segue.types import no_progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from segue.evaluation.details import OpenSet
    from segue.types import Bools, Progress

__all__ = ["CompatibilityData", "CompatibilityReport", "measure_compatibility"]


@dataclass(frozen=True, eq=False)
class _Measured:
    """A row of the report, the metrics that it was made of, and its open-set figures."""

    row: Row
    metrics: dict[str, Metric]
    hits: Bools
    open_set: tuple[OpenSet, ...]


def measure_compatibility(
    data: CompatibilityData,
    calibration_data: CompatibilityData,
    *,
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    rhos: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    bootstrap: int = 200,
    seed: int = 0,
    progress: Progress = no_progress,
) -> CompatibilityReport:
    """Measure self, cross and mixed comparisons of an old and a new version.

    Args:
        data: the report's people, whom no model saw; of more than ten images of a person, a
            seeded choice of ten counts; people with one image count as impostors only.
        calibration_data: other people, with the same arrays; their impostors calibrate each edge.
        fars: false accept rates to report.
        rhos: shares of migrated items, within [0, 1].
        bootstrap: resamples of people behind the 95 % intervals; at least 10.
        seed: of the choice of images, of migrated items, and of the resamples.
        progress: told after each row.

    Raises:
        EvaluationError: too few people, no such rates, or data and calibration data that differ in
            the arrays they have.
        VectorError: arrays that do not fit.
    """
    setting = prepare(data, calibration_data, fars, rhos, seed)
    wanted = open_set_fars(setting)
    deployed = setting.calibrations[setting.data.deployed]
    meter = Meter(setting.data.labels, deployed, wanted, bootstrap, seed)
    plans = list(row_plans(setting))
    measured: dict[str, _Measured] = {}
    for done, plan in enumerate(plans, start=1):
        measured[plan.name] = _measure(setting, meter, meter.weigh(plan), measured.get("v1"))
        progress(done, len(plans), "rows of the report")
    pairs = meter.pairs(directed=False)
    return CompatibilityReport(
        people=setting.data.people,
        people_with_mates=len(pairs.owners),
        images=len(setting.data.labels),
        genuine_pairs=len(pairs.genuine),
        impostor_pairs=len(pairs.impostor),
        fars=setting.fars,
        rhos=setting.rhos,
        bootstrap=bootstrap,
        seed=seed,
        rows=tuple(each.row for each in measured.values()),
        gains=tuple(_gains(measured)),
        backfill=tuple(_backfill(measured)),
        calibrations=setting.calibrations,
        orders=tuple(
            order_curves(setting, meter, {name: each.metrics for name, each in measured.items()})
        ),
        open_set=tuple(figure for each in measured.values() for figure in each.open_set),
        distributions=tuple(distributions(setting)),
    )


def _measure(setting: Setting, meter: Meter, weighed: Weighed, v1: _Measured | None) -> _Measured:
    """Make a row of the report; `v1` is None only for v1 itself."""
    plan, found, metrics = weighed.plan, weighed.found, weighed.metrics
    baseline = v1.metrics if v1 else metrics
    hits_v1 = v1.hits if v1 else found.hits
    flips = meter.mean(hits_v1 & ~found.hits, found)
    row = Row(
        name=plan.name,
        group=plan.group,
        rho=plan.rho,
        calibrated=plan.calibrated,
        points=tuple(_point(far, weighed, baseline) for far in setting.fars),
        auc=weighed.curve.auc,
        auc_interval=Estimate.of(weighed.curve.auc, weighed.curve.auc_in(meter.resamples)),
        rank1=metrics[RANK1].estimate(),
        rank1_against_v1=(metrics[RANK1] - baseline[RANK1]).estimate(),
        mean_average_precision=metrics[MAP].estimate(),
        map_against_v1=(metrics[MAP] - baseline[MAP]).estimate(),
        negative_flips=flips.value,
        negative_flips_interval=flips.estimate(),
        deployed=_deployed(setting, meter, weighed) if plan.deployed else (),
        curve=_grid(meter, weighed),
    )
    searched = plan.group != STORED and (plan.rho is None or plan.calibrated)
    open_set = tuple(open_set_figures(weighed)) if searched else ()
    return _Measured(row, metrics, found.hits, open_set)


def _point(far: float, weighed: Weighed, baseline: dict[str, Metric]) -> FarPoint:
    curve, metrics, val = weighed.curve, weighed.metrics, metric_of(far)
    refused = curve.refused(far)
    return FarPoint(
        far=far,
        val=metrics[val].estimate(),
        against_v1=(metrics[val] - baseline[val]).estimate(),
        identity_val=metrics[identity_of(far)].estimate(),
        miss_rate=metrics[miss_of(far)].estimate(),
        threshold=largest_threshold(refused),
        accepts=curve.accepts_below(refused),
        measurable=curve.measurable(far),
    )


def _deployed(setting: Setting, meter: Meter, weighed: Weighed) -> tuple[Deployed, ...]:
    """Tell what the thresholds that were set on the calibration people do here."""
    return tuple(
        Deployed(
            far=far,
            threshold=meter.threshold(far, calibrated=weighed.plan.calibrated),
            realised_far=weighed.metrics[realised_of(far)].estimate(),
            val=weighed.metrics[accepted_of(far)].estimate(),
            measurable=weighed.curve.measurable(far),
        )
        for far in setting.fars
        if far in meter.frozen
    )


def _grid(meter: Meter, weighed: Weighed) -> tuple[tuple[float, float], ...]:
    """Return VAL on the grid of FARs, as far as the number of impostors supports it."""
    curve = weighed.curve
    grid = [far for far in far_grid(1e-6) if meter.pairs(directed=False).can_support(far)]
    refused = np.array([curve.refused(far) for far in grid])
    values = np.searchsorted(np.sort(curve.genuine), refused) / len(curve.genuine)
    return tuple(zip(grid, values.tolist(), strict=True))


def _compared(measured: dict[str, _Measured]) -> list[str]:
    """Return the metrics that gains and areas are told in."""
    row = measured["v1"].row
    return [metric_of(point.far) for point in row.points if point.measurable] + [RANK1, MAP]


def _gains(measured: dict[str, _Measured]) -> Iterator[Gain]:
    for metric in _compared(measured):
        v1, cross = measured["v1"].metrics[metric], measured["v2 -> v1"].metrics[metric]
        if "twin" not in measured:
            yield Gain(metric, None, None)
            continue
        twin, v2 = measured["twin"].metrics[metric], measured["v2"].metrics[metric]
        gain = update_gain(cross, v1, twin)
        yield Gain(metric, None if gain is None else gain.estimate(), (twin - v2).estimate())


def _backfill(measured: dict[str, _Measured]) -> Iterator[Backfill]:
    """Yield area and minimum of each metric over rho, for the calibrated mixed groups."""
    for group in (SEARCH, STORED, RANK_MERGE, BRIDGE):
        rows = [
            each for each in measured.values() if each.row.group == group and each.row.calibrated
        ]
        rhos = [each.row.rho or 0.0 for each in rows]
        if len(rows) < 2 or rhos[0] == rhos[-1]:
            continue
        for metric in _compared(measured):
            curve = [each.metrics[metric] for each in rows]
            lowest = int(np.argmin([point.value for point in curve]))
            yield Backfill(
                group=group,
                metric=metric,
                area=area(rhos, curve).estimate(),
                minimum=curve[lowest].value,
                minimum_rho=rhos[lowest],
                minimum_against_v1=(curve[lowest] - measured["v1"].metrics[metric]).estimate(),
            )
