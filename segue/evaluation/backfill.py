"""Backfill curves: a metric over the whole migration, for each order that items may migrate in."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from segue.evaluation.details import OrderCurve
from segue.evaluation.figures import area
from segue.evaluation.meter import Plan
from segue.evaluation.protocols import migration_turns, rank_merge_scores, search_scores
from segue.evaluation.results import (
    OPERATING_FAR,
    RANK1,
    RANK_MERGE,
    SEARCH,
    metric_of,
    mixed_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segue.evaluation.meter import Meter, Metric
    from segue.evaluation.plans import Setting
    from segue.types import Floats, Ints

RANDOM = "random"
ORDERS = (RANDOM, "oldest", "touched", "farthest")
"""In which items may migrate; `farthest` is from the mean of their person's v1 vectors."""

HITS = 10
"""Items that a search returns, and so touches."""

_MIXTURES = {SEARCH: search_scores, RANK_MERGE: rank_merge_scores}


def order_curves(
    setting: Setting, meter: Meter, measured: Mapping[str, Mapping[str, Metric]]
) -> Iterator[OrderCurve]:
    """Yield VAL at FAR 1e-2 and rank-1 over rho, for every order, of search and of rank merge.

    Both merge by calibrated score. Search takes one model per query, rank merge two. VAL is left
    out where the data cannot measure it.

    Args:
        setting: what the report is measured on.
        meter: its pairs and resamples.
        measured: row -> metrics of the rows measured already: random order, and both ends.
    """
    if len(setting.rhos) < 2:
        return
    groups = (SEARCH,) if setting.data.twin is None else (SEARCH, RANK_MERGE)
    supported = meter.pairs(directed=False).can_support
    fars = tuple(
        far for far in setting.fars if metric_of(far) == metric_of(OPERATING_FAR) and supported(far)
    )
    for order in ORDERS:
        turn = order_of(order, setting)
        points: dict[str, list[Mapping[str, Metric]]] = {group: [] for group in groups}
        for group, rho in itertools.product(groups, setting.rhos):
            name = mixed_name(group, rho, calibrated=True)
            if order == RANDOM or rho in {0, 1}:
                points[group].append(measured[name])
                continue
            migrated = turn < round(rho * len(turn))
            scores = partial(_MIXTURES[group], setting.scores.calibrated, migrated)
            points[group].append(meter.glance(Plan(name, group, scores, rho=rho), fars))
        for metric in (*(metric_of(far) for far in fars), RANK1):
            curves = {group: [each[metric] for each in points[group]] for group in groups}
            yield from _told(order, metric, setting.rhos, curves)


def _told(
    order: str, metric: str, rhos: tuple[float, ...], curves: Mapping[str, list[Metric]]
) -> Iterator[OrderCurve]:
    areas = {group: area(rhos, curve) for group, curve in curves.items()}
    for group, curve in curves.items():
        compared = group == SEARCH and RANK_MERGE in areas
        yield OrderCurve(
            order=order,
            group=group,
            metric=metric,
            rhos=rhos,
            values=tuple(point.estimate() for point in curve),
            area=areas[group].estimate(),
            less_rank_merge=((areas[SEARCH] - areas[RANK_MERGE]).estimate() if compared else None),
        )


def order_of(order: str, setting: Setting) -> Ints:
    """Return when each item migrates: its turn from 0, int64 [N].

    `touched` plays searches before the migration gets anywhere: every image probes once, in seeded
    order, and its ten nearest stored items (never itself) are touched; items that no search hit
    follow at random.
    """
    data, count = setting.data, len(setting.data.labels)
    if order == "oldest":
        return np.arange(count)
    if order == "touched":
        return _turns_of(_touched(setting.scores.raw("v2", "v1"), setting.seed))
    if order == "farthest":
        sums = np.zeros((data.people, data.v1.shape[1]))
        np.add.at(sums, data.labels, data.v1.astype(np.float64))
        means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        distance = ((data.v1 - means[data.labels]) ** 2).sum(axis=1)
        # People with one image are their own mean: rounding must not order them.
        return _turns_of(np.argsort(-distance.round(6), kind="stable"))
    return migration_turns(count, setting.seed)


def _touched(distances: Floats, seed: int) -> Ints:
    """Return the items by their first touch: int64 [N]."""
    count = len(distances)
    random = np.random.default_rng(seed)
    probes = random.permutation(count)
    others = distances.astype(np.float64)
    np.fill_diagonal(others, np.inf)
    hits = min(HITS, count - 1)
    nearest = np.argsort(others[probes], axis=1, kind="stable")[:, :hits].ravel()
    items, first = np.unique(nearest, return_index=True)
    untouched = np.setdiff1d(np.arange(count), items)
    return np.concatenate([items[np.argsort(first)], random.permutation(untouched)])


def _turns_of(items: Ints) -> Ints:
    """Return each item's place in a list of all items."""
    places = np.empty(len(items), dtype=np.int64)
    places[items] = np.arange(len(items))
    return places
