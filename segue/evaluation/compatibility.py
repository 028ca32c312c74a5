"""Measure how a new version works beside the old one: every row of the compatibility report.

Two protocols. *Search*: a v2 probe against a gallery of which a share rho is v2; an image is not
compared with itself. *Stored*: stored images against each other, each by its live version. Each
mixed row stands twice: by raw distance, and *calibrated*, the distance replaced by the log FAR that
it has on its own edge, measured on other people.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import EvaluationError, UnsupportedFarError
from segue.evaluation.bootstrap import Curve, Estimate, Pairs, Resamples, all_pairs
from segue.evaluation.identification import Identification, identify
from segue.evaluation.protocols import (
    CompatibilityData,
    EdgeScores,
    bridge_scores,
    calibrate_edges,
    migrated_items,
    rank_merge_scores,
    search_scores,
    stored_scores,
)
from segue.evaluation.results import (
    MAP,
    RANK1,
    SEARCH,
    STORED,
    Backfill,
    CompatibilityReport,
    Deployed,
    FarPoint,
    Gain,
    Row,
    metric_of,
    mixed_name,
)
from segue.evaluation.roc import check_far, far_grid, largest_threshold
from segue.types import no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.harmonic.calibration import Calibration
    from segue.types import Bools, Doubles, Floats, Ints, Progress

__all__ = ["CompatibilityData", "CompatibilityReport", "measure_compatibility"]

IMAGES_PER_PERSON = 10
"""More images of a person would let a few people decide the result."""

RANK_MERGE = "rank merge"
BRIDGE = "bridge"


@dataclass(frozen=True)
class _Plan:
    """A row to measure: its name and how to get its scores [N, N]."""

    name: str
    group: str
    scores: Callable[[], Floats | Doubles]
    directed: bool = True
    rho: float | None = None
    calibrated: bool = False
    deployed: bool = False


@dataclass(frozen=True)
class _Measured:
    """A row with its resamples: `metrics` maps a metric to (value, float64 [B])."""

    row: Row
    metrics: dict[str, tuple[float, Doubles]]
    found: Identification


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
    rates = tuple(sorted((check_far(far) for far in fars), reverse=True))
    shares = tuple(sorted(_check_rho(rho) for rho in rhos))
    if not rates or not shares:
        raise EvaluationError("give at least one FAR and one rho to measure")
    if missing := set(data.edges) - set(calibration_data.edges):
        edges = ", ".join(f"{probe} -> {stored}" for probe, stored in sorted(missing))
        raise EvaluationError(f"the calibration people have no vectors for {edges}; embed them too")
    data = data.at_most(IMAGES_PER_PERSON, seed)
    calibrations = calibrate_edges(calibration_data.at_most(IMAGES_PER_PERSON, seed))
    meter = _Meter(data, calibrations, rates, bootstrap, seed)
    plans = list(_plans(data, EdgeScores(data, calibrations), shares, seed))
    measured: dict[str, _Measured] = {}
    for done, plan in enumerate(plans, start=1):
        measured[plan.name] = meter.measure(plan, measured.get("v1"))
        progress(done, len(plans), "rows of the report")
    pairs = meter.pairs(directed=False)
    return CompatibilityReport(
        people=data.people,
        people_with_mates=len(pairs.owners),
        images=len(data.labels),
        genuine_pairs=len(pairs.genuine),
        impostor_pairs=len(pairs.impostor),
        fars=rates,
        rhos=shares,
        bootstrap=bootstrap,
        seed=seed,
        rows=tuple(each.row for each in measured.values()),
        gains=tuple(_gains(measured)),
        backfill=tuple(_backfill(measured)),
        calibrations=calibrations,
    )


def _check_rho(rho: float) -> float:
    if not 0 <= rho <= 1:
        raise EvaluationError(f"{rho!r} is no mixing ratio; give shares within 0 and 1")
    return float(rho)


def _plans(
    data: CompatibilityData, scores: EdgeScores, rhos: Sequence[float], seed: int
) -> Iterator[_Plan]:
    """Yield every row, v1 first: the others are compared with it."""
    raw = scores.raw
    yield _Plan("v1", "self", partial(raw, "v1", "v1"), directed=False, deployed=True)
    if data.twin is not None:
        yield _Plan("twin", "self", partial(raw, "twin", "twin"), directed=False)
    yield _Plan("v2", "self", partial(raw, "v2", "v2"), directed=False)
    yield _Plan("v2 -> v1", "cross", partial(raw, "v2", "v1"))
    yield _Plan("v1 -> v2", "cross", partial(raw, "v1", "v2"))
    if data.bridged is not None:
        yield _Plan("bridge -> v1", "cross", partial(raw, "bridge", "v1"))
    for group, mix, modes in _mixed_groups(data):
        for calibrated in modes:
            for rho in rhos:
                migrated = migrated_items(len(data.labels), rho, seed)
                yield _Plan(
                    name=mixed_name(group, rho, calibrated=calibrated),
                    group=group,
                    scores=partial(mix, scores.calibrated if calibrated else raw, migrated),
                    directed=group != STORED,
                    rho=rho,
                    calibrated=calibrated,
                    deployed=True,
                )


def _mixed_groups(
    data: CompatibilityData,
) -> list[tuple[str, Callable[..., Floats | Doubles], tuple[bool, ...]]]:
    """Return the mixed groups that `data` allows: name, mixture, and whether calibrated."""
    groups: list[tuple[str, Callable[..., Floats | Doubles], tuple[bool, ...]]] = [
        (SEARCH, search_scores, (False, True)),
        (STORED, stored_scores, (False, True)),
    ]
    if data.twin is not None:
        groups.append((RANK_MERGE, rank_merge_scores, (True,)))
        if data.bridged is not None:
            groups.append((BRIDGE, bridge_scores, (True,)))
    return groups


class _Meter:
    """Measures one row after another on the same pairs and the same resamples."""

    def __init__(
        self,
        data: CompatibilityData,
        calibrations: dict[tuple[str, str], Calibration],
        fars: tuple[float, ...],
        bootstrap: int,
        seed: int,
    ) -> None:
        self._labels = data.labels
        self._fars = fars
        self._frozen = _frozen_thresholds(calibrations["v1", "v1"], fars)
        self._pairs: dict[bool, Pairs] = {}
        images = np.bincount(data.labels)
        self._resamples = Resamples.draw(images, bootstrap, seed)
        self._once = Resamples.point(len(images))

    def pairs(self, *, directed: bool) -> Pairs:
        """Return all pairs of images, in one or both directions."""
        if directed not in self._pairs:
            self._pairs[directed] = all_pairs(self._labels, directed=directed)
        return self._pairs[directed]

    def measure(self, plan: _Plan, v1: _Measured | None) -> _Measured:
        """Measure one row; `v1` is None only for v1 itself."""
        scores = plan.scores()
        curve = Curve(self.pairs(directed=plan.directed), scores)
        found = identify(scores, self._labels, self._labels, same_images=True)
        metrics = self._metrics(curve, found)
        baseline = v1.metrics if v1 else metrics
        hits_v1 = v1.found.hits if v1 else found.hits
        row = Row(
            name=plan.name,
            group=plan.group,
            rho=plan.rho,
            calibrated=plan.calibrated,
            points=tuple(self._point(far, curve, metrics, baseline) for far in self._fars),
            auc=curve.auc,
            rank1=Estimate.of(*metrics[RANK1]),
            rank1_against_v1=_difference(metrics[RANK1], baseline[RANK1]),
            mean_average_precision=Estimate.of(*metrics[MAP]),
            map_against_v1=_difference(metrics[MAP], baseline[MAP]),
            negative_flips=float((hits_v1 & ~found.hits).mean()),
            deployed=self._deployed(curve, plan) if plan.deployed else (),
            curve=self._grid(curve),
        )
        return _Measured(row, metrics, found)

    def _metrics(self, curve: Curve, found: Identification) -> dict[str, tuple[float, Doubles]]:
        """Return every metric that is compared between rows: value and resamples."""
        refused = curve.refused_in(self._resamples, self._fars)
        probes = self._labels[found.probes]
        metrics: dict[str, tuple[float, Doubles]] = {}
        for far, sampled in zip(self._fars, refused, strict=True):
            point = np.array([curve.refused(far)])
            val, averaged = curve.val_below(self._once, point)
            val_b, averaged_b = curve.val_below(self._resamples, sampled)
            metrics[metric_of(far)] = float(val[0]), val_b
            metrics[f"identity {far}"] = float(averaged[0]), averaged_b
            metrics[f"miss {far}"] = (
                float((found.nearest_mate >= point[0]).mean()),
                _weighted(found.nearest_mate[:, None] >= sampled, self._resamples, probes),
            )
        for name, values in ((RANK1, found.hits), (MAP, found.average_precision)):
            metrics[name] = float(values.mean()), self._resamples.mean_of(values, probes)
        return metrics

    @staticmethod
    def _point(
        far: float,
        curve: Curve,
        metrics: dict[str, tuple[float, Doubles]],
        baseline: dict[str, tuple[float, Doubles]],
    ) -> FarPoint:
        refused = curve.refused(far)
        return FarPoint(
            far=far,
            val=Estimate.of(*metrics[metric_of(far)]),
            against_v1=_difference(metrics[metric_of(far)], baseline[metric_of(far)]),
            identity_val=Estimate.of(*metrics[f"identity {far}"]),
            miss_rate=Estimate.of(*metrics[f"miss {far}"]),
            threshold=largest_threshold(refused),
            accepts=curve.accepts_below(refused),
            measurable=curve.measurable(far),
        )

    def _deployed(self, curve: Curve, plan: _Plan) -> tuple[Deployed, ...]:
        """Judge the report's people by thresholds that were set on the calibration people."""
        found = []
        for far, frozen in self._frozen.items():
            threshold = math.log10(far) if plan.calibrated else frozen
            refused = float(np.nextafter(threshold, math.inf))
            val, _ = curve.val_below(self._once, np.array([refused]))
            val_b, _ = curve.val_below(self._resamples, np.full(self._resamples.count, refused))
            realised = curve.far_below(self._once, refused)
            found.append(
                Deployed(
                    far=far,
                    threshold=threshold,
                    realised_far=Estimate.of(
                        float(realised[0]), curve.far_below(self._resamples, refused)
                    ),
                    val=Estimate.of(float(val[0]), val_b),
                    measurable=curve.measurable(far),
                )
            )
        return tuple(found)

    def _grid(self, curve: Curve) -> tuple[tuple[float, float], ...]:
        """Return VAL on the grid of FARs, as far as the number of impostors supports it."""
        grid = [far for far in far_grid(1e-6) if self.pairs(directed=False).can_support(far)]
        refused = np.array([curve.refused(far) for far in grid])
        values = np.searchsorted(np.sort(curve.genuine), refused) / len(curve.genuine)
        return tuple(zip(grid, values.tolist(), strict=True))


def _frozen_thresholds(calibration: Calibration, fars: tuple[float, ...]) -> dict[float, float]:
    """Return v1's distance for each FAR that its calibration can name a distance for."""
    found = {}
    for far in fars:
        with suppress(UnsupportedFarError):
            found[far] = calibration.distance_at(far)
    return found


def _weighted(values: Bools, resamples: Resamples, people: Ints) -> Doubles:
    """Return the weighted mean over Q of `values` [Q, B], which differ by resample: [B]."""
    weights = resamples.weights[people].astype(np.float64)
    return np.asarray((values * weights).sum(axis=0) / weights.sum(axis=0))


def _difference(one: tuple[float, Doubles], other: tuple[float, Doubles]) -> Estimate:
    """Return the difference of two metrics on the same resamples."""
    return Estimate.of(one[0] - other[0], one[1] - other[1])


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
        yield Gain(metric, _ratio(cross, v1, twin), _difference(twin, v2))


def _ratio(
    cross: tuple[float, Doubles], v1: tuple[float, Doubles], twin: tuple[float, Doubles]
) -> Estimate | None:
    """Return the update gain; None where the twin is not clearly better than v1.

    A ratio whose denominator may as well be negative has no bounded interval.
    """
    better = twin[1] > v1[1]
    if twin[0] <= v1[0] or better.mean() < 0.975:
        return None
    samples = (cross[1] - v1[1])[better] / (twin[1] - v1[1])[better]
    return Estimate.of((cross[0] - v1[0]) / (twin[0] - v1[0]), samples)


def _backfill(measured: dict[str, _Measured]) -> Iterator[Backfill]:
    """Yield area and minimum of each metric over rho, for the calibrated mixed groups."""
    for group in (SEARCH, STORED, RANK_MERGE, BRIDGE):
        rows = [
            each for each in measured.values() if each.row.group == group and each.row.calibrated
        ]
        rhos = np.array([each.row.rho for each in rows], dtype=np.float64)
        if len(rows) < 2 or rhos[0] == rhos[-1]:
            continue
        for metric in _compared(measured):
            values = np.array([each.metrics[metric][0] for each in rows])
            samples = np.stack([each.metrics[metric][1] for each in rows])
            lowest = int(values.argmin())
            yield Backfill(
                group=group,
                metric=metric,
                area=Estimate.of(float(_area(rhos, values[:, None])[0]), _area(rhos, samples)),
                minimum=float(values[lowest]),
                minimum_rho=float(rhos[lowest]),
            )


def _area(rhos: Doubles, values: Doubles) -> Doubles:
    """Return the mean height of curves [R, B] over `rhos` [R] by trapezoids: float64 [B]."""
    heights = (values[1:] + values[:-1]) / 2
    return np.asarray((heights * np.diff(rhos)[:, None]).sum(axis=0) / (rhos[-1] - rhos[0]))
