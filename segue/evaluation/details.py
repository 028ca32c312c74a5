"""Parts of a compatibility report beside its rows: gains, backfill, open-set, distributions.

Plain values with a JSON form. What a report was written before is empty or None in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.evaluation.bootstrap import Estimate

if TYPE_CHECKING:
    from collections.abc import Mapping

DISTANCE_BINS = 80
"""Bins of a distribution over the squared distance, evenly from 0 to 4."""

SCORE_BINS = 50
"""Bins of a distribution over log10 FAR, evenly from -10 to 0; the first takes all below."""

LOWEST_SCORE = -10.0
"""Where the distributions over log10 FAR begin."""


@dataclass(frozen=True)
class Gain:
    """What compatibility brings and costs in one metric M.

    `update_gain` = (M(v2 -> v1) - M(v1)) / (M(twin) - M(v1)); None without a twin, or where the
    twin is no better than v1. `tax` = M(twin) - M(v2); None without a twin.
    """

    metric: str
    update_gain: Estimate | None
    tax: Estimate | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Gain:
        """Read what `CompatibilityReport.to_json` wrote."""
        return cls(
            metric=str(value["metric"]),
            update_gain=Estimate.or_none(value["update_gain"]),
            tax=Estimate.or_none(value["tax"]),
        )


@dataclass(frozen=True)
class Backfill:
    """One metric over the whole migration, as `group` (calibrated) merges it.

    `area` is the metric's mean over rho (trapezoids; FastFill's area under the backfill curve);
    `minimum` its lowest point, at `minimum_rho`, and `minimum_against_v1` its difference to v1 self
    (None in reports written before it was measured).
    """

    group: str
    metric: str
    area: Estimate
    minimum: float
    minimum_rho: float
    minimum_against_v1: Estimate | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Backfill:
        """Read what `CompatibilityReport.to_json` wrote."""
        return cls(
            group=str(value["group"]),
            metric=str(value["metric"]),
            area=Estimate.from_json(value["area"]),
            minimum=float(value["minimum"]),
            minimum_rho=float(value["minimum_rho"]),
            minimum_against_v1=Estimate.or_none(value.get("minimum_against_v1")),
        )


@dataclass(frozen=True)
class OrderCurve:
    """One metric over the whole migration, the items migrated in one order.

    `order` is `random`, `oldest` (as the rows were given), `touched` (hit by searches first) or
    `farthest` (from the mean of their person's v1 vectors first); `group` is `search` or `rank
    merge`, both calibrated. `values` belong to `rhos`; `area` is their mean over rho (trapezoids).
    `less_rank_merge` is search's area less that of rank merge in the same order, on the same
    resamples; None for rank merge itself and without a twin.
    """

    order: str
    group: str
    metric: str
    rhos: tuple[float, ...]
    values: tuple[Estimate, ...]
    area: Estimate
    less_rank_merge: Estimate | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OrderCurve:
        """Read what `CompatibilityReport.to_json` wrote."""
        return cls(
            order=str(value["order"]),
            group=str(value["group"]),
            metric=str(value["metric"]),
            rhos=tuple(float(rho) for rho in value["rhos"]),
            values=tuple(Estimate.from_json(each) for each in value["values"]),
            area=Estimate.from_json(value["area"]),
            less_rank_merge=Estimate.or_none(value["less_rank_merge"]),
        )


@dataclass(frozen=True)
class OpenSet:
    """How many known people an open-set search misses, at a number of false hits per search.

    A search of a gallery of `size` items makes size * FAR false hits on average, so `false_hits`
    of them allow the FAR `false_hits` / `size`. `miss_rate` is the share of probes whose nearest
    mate is refused at that FAR; None where the data cannot measure so small a FAR.
    """

    row: str
    false_hits: float
    size: int
    far: float
    miss_rate: Estimate | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OpenSet:
        """Read what `CompatibilityReport.to_json` wrote."""
        return cls(
            row=str(value["row"]),
            false_hits=float(value["false_hits"]),
            size=int(value["size"]),
            far=float(value["far"]),
            miss_rate=Estimate.or_none(value["miss_rate"]),
        )


@dataclass(frozen=True)
class Distribution:
    """How the scores of one edge spread: counts of pairs of images in even bins.

    `genuine` and `impostor` count by squared distance, from 0 to 4. `genuine_scores` and
    `impostor_scores` count the same pairs by log10 of the FAR that the edge's calibration gives
    them, from -10 (and all below) to 0.
    """

    probe: str
    stored: str
    genuine: tuple[int, ...]
    impostor: tuple[int, ...]
    genuine_scores: tuple[int, ...]
    impostor_scores: tuple[int, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Distribution:
        """Read what `CompatibilityReport.to_json` wrote."""
        counts = {
            name: tuple(int(count) for count in value[name])
            for name in ("genuine", "impostor", "genuine_scores", "impostor_scores")
        }
        return cls(probe=str(value["probe"]), stored=str(value["stored"]), **counts)
