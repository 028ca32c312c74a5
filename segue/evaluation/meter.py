"""Measure one way of comparing faces after another, on the same pairs and the same resamples.

A *plan* names a row and how to get its scores; `Meter.weigh` turns it into metrics, each a value
and its resamples over people. Because every row is weighed on the same resamples, any two metrics
can be subtracted resample by resample.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import UnsupportedFarError
from segue.evaluation.bootstrap import Curve, Estimate, Pairs, Resamples, all_pairs
from segue.evaluation.identification import Found, Identification, find_first, identify
from segue.evaluation.results import MAP, RANK1, metric_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.harmonic.calibration import Calibration
    from segue.types import Bools, Doubles, Floats, Ints


@dataclass(frozen=True)
class Plan:
    """A row to measure: its name and how to get its scores [N, N].

    `directed` rows take (i, j) and (j, i) as two pairs; `deployed` rows are also judged by the
    thresholds that were set on the calibration people.
    """

    name: str
    group: str
    scores: Callable[[], Floats | Doubles]
    directed: bool = True
    rho: float | None = None
    calibrated: bool = False
    deployed: bool = False


@dataclass(frozen=True, eq=False)
class Metric:
    """One measure of a row: its value, and float64 [B], its value in each resample of people."""

    value: float
    samples: Doubles

    def estimate(self) -> Estimate:
        """Return the value with its 95 % interval."""
        return Estimate.of(self.value, self.samples)

    def __sub__(self, other: Metric) -> Metric:
        return Metric(self.value - other.value, self.samples - other.samples)


@dataclass(frozen=True, eq=False)
class Weighed:
    """A row's distances, what its probes found, and its metrics by name.

    The names are those of `metric_of`, `rank-1` and `mAP`, and of `identity_of`, `miss_of`,
    `realised_of` and `accepted_of` for each FAR.
    """

    plan: Plan
    curve: Curve
    found: Found
    metrics: dict[str, Metric]


def identity_of(far: float) -> str:
    """Return how VAL averaged over identities at a FAR is named."""
    return f"identity-averaged {metric_of(far)}"


def miss_of(far: float) -> str:
    """Return how the open-set miss rate at a FAR is named."""
    return f"misses@{far!r}"


def realised_of(far: float) -> str:
    """Return how the FAR is named that the threshold set for `far` lets through."""
    return f"realised FAR@{far!r}"


def accepted_of(far: float) -> str:
    """Return how VAL is named at the threshold set for `far` on the calibration people."""
    return f"deployed VAL@{far!r}"


class Meter:
    """Weighs one row after another on the same pairs and the same resamples.

    Args:
        labels: int64 [N], people numbered from 0 without gaps.
        calibration: of v1 with itself; it gives the thresholds in use today, None if no row is
            `deployed`.
        fars: false accept rates to measure at.
        bootstrap: resamples of people.
        seed: of the resamples.

    Raises:
        EvaluationError: too few people or resamples.
    """

    def __init__(
        self,
        labels: Ints,
        calibration: Calibration | None,
        fars: tuple[float, ...],
        bootstrap: int,
        seed: int,
    ) -> None:
        self.fars = fars
        self.frozen = _frozen_thresholds(calibration, fars) if calibration else {}
        self._labels = labels
        self._pairs: dict[bool, Pairs] = {}
        images = np.bincount(labels)
        self.resamples = Resamples.draw(images, bootstrap, seed)
        self._once = Resamples.point(len(images))

    def pairs(self, *, directed: bool) -> Pairs:
        """Return all pairs of images, in one or both directions."""
        if directed not in self._pairs:
            self._pairs[directed] = all_pairs(self._labels, directed=directed)
        return self._pairs[directed]

    def weigh(self, plan: Plan, *, precision: bool = True) -> Weighed:
        """Measure one row; without `precision` no mAP, which takes a sort of every probe's list."""
        scores = plan.scores()
        curve = Curve(self.pairs(directed=plan.directed), scores)
        search = identify if precision else find_first
        found = search(scores, self._labels, self._labels, same_images=True)
        metrics = self._verified(curve, found)
        metrics[RANK1] = self.mean(found.hits, found)
        if isinstance(found, Identification):
            metrics[MAP] = self.mean(found.average_precision, found)
        if plan.deployed:
            metrics |= self._deployed(curve, plan)
        return Weighed(plan, curve, found, metrics)

    def glance(self, plan: Plan, fars: tuple[float, ...]) -> dict[str, Metric]:
        """Measure only VAL at some FARs, and rank-1, of one row; much quicker than `weigh`."""
        scores = plan.scores()
        found = find_first(scores, self._labels, self._labels, same_images=True)
        metrics = {RANK1: self.mean(found.hits, found)}
        if fars:
            curve = Curve(self.pairs(directed=plan.directed), scores)
            for far, sampled in zip(fars, curve.refused_in(self.resamples, fars), strict=True):
                val, _ = curve.val_below(self._once, np.array([curve.refused(far)]))
                val_b, _ = curve.val_below(self.resamples, sampled)
                metrics[metric_of(far)] = Metric(float(val[0]), val_b)
        return metrics

    def mean(self, values: Bools | Doubles, found: Found) -> Metric:
        """Return the mean over probes of `values` [Q], and over those of each resample."""
        people = self._labels[found.probes]
        return Metric(float(values.mean()), self.resamples.mean_of(values, people))

    def threshold(self, far: float, *, calibrated: bool) -> float:
        """Return what is accepted up to for a FAR of `frozen`: v1's distance, or its log10."""
        return math.log10(far) if calibrated else self.frozen[far]

    def _verified(self, curve: Curve, found: Found) -> dict[str, Metric]:
        """Return what each FAR gives, its threshold found anew in each resample."""
        refused = curve.refused_in(self.resamples, self.fars)
        probes = self._labels[found.probes]
        metrics: dict[str, Metric] = {}
        for far, sampled in zip(self.fars, refused, strict=True):
            point = np.array([curve.refused(far)])
            val, averaged = curve.val_below(self._once, point)
            val_b, averaged_b = curve.val_below(self.resamples, sampled)
            metrics[metric_of(far)] = Metric(float(val[0]), val_b)
            metrics[identity_of(far)] = Metric(float(averaged[0]), averaged_b)
            missed = found.nearest_mate[:, None] >= sampled
            metrics[miss_of(far)] = Metric(
                float((found.nearest_mate >= point[0]).mean()),
                _weighted(missed, self.resamples, probes),
            )
        return metrics

    def _deployed(self, curve: Curve, plan: Plan) -> dict[str, Metric]:
        """Judge the report's people by thresholds that were set on the calibration people."""
        metrics: dict[str, Metric] = {}
        for far in self.frozen:
            threshold = self.threshold(far, calibrated=plan.calibrated)
            refused = float(np.nextafter(threshold, math.inf))
            val, _ = curve.val_below(self._once, np.array([refused]))
            val_b, _ = curve.val_below(self.resamples, np.full(self.resamples.count, refused))
            metrics[accepted_of(far)] = Metric(float(val[0]), val_b)
            realised = curve.far_below(self._once, refused)
            metrics[realised_of(far)] = Metric(
                float(realised[0]), curve.far_below(self.resamples, refused)
            )
        return metrics


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
