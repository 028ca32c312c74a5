"""Open-set search: how many known people are missed at stated false hits per search.

In a gallery of n items a threshold of some FAR lets through n * FAR strangers per search on
average. Who states false hits per search and a gallery's size has stated a FAR; what the report's
people cannot measure at that FAR is not extrapolated.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from segue.evaluation.bootstrap import all_pairs
from segue.evaluation.details import OpenSet
from segue.evaluation.meter import miss_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.evaluation.meter import Weighed
    from segue.evaluation.plans import Setting

FALSE_HITS = (0.1, 1.0, 10.0)
"""False hits per search that are told."""

SIZES = (1_000, 10_000, 100_000, 1_000_000)
"""Sizes of galleries that are told, in items."""


def far_of(false_hits: float, size: int) -> float:
    """Return the FAR at which a search of `size` items makes so many false hits on average.

    >>> far_of(0.1, 1_000)
    0.0001
    """
    # The division of two decimal numbers must give the FAR that people write down.
    return float(f"{false_hits / size:.12g}")


def open_set_fars(setting: Setting) -> tuple[float, ...]:
    """Return the report's FARs and those that open-set figures need as far as supported."""
    supported = all_pairs(setting.data.labels, directed=False).can_support
    needed = {far_of(hits, size) for hits, size in itertools.product(FALSE_HITS, SIZES)}
    further = {far for far in needed if supported(far)}
    return tuple(sorted(further.union(setting.fars), reverse=True))


def open_set_figures(weighed: Weighed) -> Iterator[OpenSet]:
    """Yield the miss rate of one row at each number of false hits in each size of gallery."""
    for size, hits in itertools.product(SIZES, FALSE_HITS):
        far = far_of(hits, size)
        missed = weighed.metrics.get(miss_of(far))
        measurable = missed is not None and weighed.curve.measurable(far)
        yield OpenSet(
            row=weighed.plan.name,
            false_hits=hits,
            size=size,
            far=far,
            miss_rate=missed.estimate() if missed is not None and measurable else None,
        )
