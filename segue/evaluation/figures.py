"""What an upgrade brings and costs, computed from metrics of its rows and their resamples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.evaluation.meter import Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.types import Doubles

CLEARLY = 0.975
"""The share of resamples in which the twin must be above v1 for a gain to have an interval."""


def update_gain(cross: Metric, v1: Metric, twin: Metric) -> Metric | None:
    """Return (cross - v1) / (twin - v1); None where the twin is not clearly better than v1.

    A ratio whose denominator may as well be negative has no bounded interval. The few resamples in
    which the twin is not above v1 are NaN in the result, and left out of its interval.
    """
    better = twin.samples > v1.samples
    if twin.value <= v1.value or better.mean() < CLEARLY:
        return None
    room = np.where(better, twin.samples - v1.samples, np.nan)
    return Metric(
        (cross.value - v1.value) / (twin.value - v1.value), (cross.samples - v1.samples) / room
    )


def area(rhos: Sequence[float], curve: Sequence[Metric]) -> Metric:
    """Return the mean height of a curve over `rhos` by trapezoids: the area under the backfill.

    FastFill's area under the backfill curve, divided by the width where `rhos` do not span 0 to 1.
    """
    x = np.array(rhos)
    return Metric(
        float(_trapezoids(x, np.array([[each.value] for each in curve]))[0]),
        _trapezoids(x, np.stack([each.samples for each in curve])),
    )


def minimum(curve: Sequence[Metric]) -> Metric:
    """Return the lowest point of a curve, found anew in each resample.

    The lowest of several noisy values lies below the lowest of their means, so that the interval
    errs downwards.
    """
    return Metric(
        min(each.value for each in curve), np.stack([each.samples for each in curve]).min(axis=0)
    )


def maximum(curve: Sequence[Metric]) -> Metric:
    """Return the highest point of a curve, found anew in each resample; it errs upwards."""
    return Metric(
        max(each.value for each in curve), np.stack([each.samples for each in curve]).max(axis=0)
    )


def _trapezoids(x: Doubles, values: Doubles) -> Doubles:
    """Return the mean height of curves [R, B] over `x` [R]: float64 [B]."""
    heights = (values[1:] + values[:-1]) / 2
    return np.asarray((heights * np.diff(x)[:, None]).sum(axis=0) / (x[-1] - x[0]))
