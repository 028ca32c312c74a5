"""Rank-1 and mean average precision of a search, from a matrix of scores.

A score is a distance or anything that falls with likeness (the log FAR of a pair's edge). When the
probes are the stored images themselves each is left out of its own search. A probe without a mate
(another stored image of its person) is not counted; its image still stands in everybody's way.

Ties: rank-1 is a hit only if the nearest mate is *strictly* nearer than every other person, so a
model that maps all faces to one point scores 0. Average precision lets items of equal distance in
together, as scikit-learn's `average_precision_score` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.arrays import check_labels
from segue.errors import EvaluationError

if TYPE_CHECKING:
    from segue.types import Bools, Doubles, Ints


@dataclass(frozen=True)
class Found:
    """What each counted probe found first.

    `probes` int64 [Q] are rows of the scores; `hits` bool [Q] are rank-1; `nearest_mate` float64
    [Q] is the smallest score of a mate.
    """

    probes: Ints
    hits: Bools
    nearest_mate: Doubles


@dataclass(frozen=True)
class Identification(Found):
    """What each counted probe found, and `average_precision` float64 [Q] of its whole list."""

    average_precision: Doubles


def find_first(scores: Any, probe_labels: Any, stored_labels: Any, *, same_images: bool) -> Found:
    """Search with every probe for the first rank alone; arguments and errors as `identify`."""
    matrix, mates, own = _checked(scores, probe_labels, stored_labels, same_images=same_images)
    return _first(matrix, mates, own)


def identify(
    scores: Any, probe_labels: Any, stored_labels: Any, *, same_images: bool
) -> Identification:
    """Search with every probe and say what it found.

    Args:
        scores: float [N, M], smaller is nearer.
        probe_labels: the person of each probe [N].
        stored_labels: the person of each stored image [M].
        same_images: probe i is stored image i, which is left out of its search.

    Raises:
        EvaluationError: NaN, shapes that do not fit, or no probe with a mate.
    """
    matrix, mates, own = _checked(scores, probe_labels, stored_labels, same_images=same_images)
    first = _first(matrix, mates, own)
    others = np.where(mates | own, np.inf, matrix)
    others.sort(axis=1)
    precision = np.empty(len(first.probes))
    for position, probe in enumerate(first.probes):
        found = np.sort(matrix[probe, mates[probe]])
        right = np.searchsorted(found, found, side="right")
        wrong = np.searchsorted(others[probe], found, side="right")
        precision[position] = (right / (right + wrong)).mean()
    return Identification(first.probes, first.hits, first.nearest_mate, precision)


def rank1(scores: Any, probe_labels: Any, stored_labels: Any, *, same_images: bool) -> float:
    """Return the share of probes whose nearest stored image is strictly a mate; see `identify`.

    >>> rank1([[0, 1, 2], [1, 0, 3], [2, 3, 0]], [7, 7, 8], [7, 7, 8], same_images=True)
    1.0
    """
    found = find_first(scores, probe_labels, stored_labels, same_images=same_images)
    return float(found.hits.mean())


def mean_average_precision(
    scores: Any, probe_labels: Any, stored_labels: Any, *, same_images: bool
) -> float:
    """Return the mean over probes of average precision; see `identify`.

    >>> mean_average_precision([[1.0, 2.0, 3.0]], [7], [8, 7, 7], same_images=False)
    0.58333...
    """
    found = identify(scores, probe_labels, stored_labels, same_images=same_images)
    return float(found.average_precision.mean())


def _first(matrix: Doubles, mates: Bools, own: Bools) -> Found:
    probes = np.flatnonzero(mates.any(axis=1))
    if not len(probes):
        raise EvaluationError("no probe has another stored image of its person; nothing to find")
    nearest = np.where(mates, matrix, np.inf).min(axis=1)[probes]
    other = np.where(mates | own, np.inf, matrix).min(axis=1)[probes]
    return Found(probes, nearest < other, nearest)


def _checked(
    scores: Any, probe_labels: Any, stored_labels: Any, *, same_images: bool
) -> tuple[Doubles, Bools, Bools]:
    """Return the scores, which of them are mates, and which are a probe's own image: [N, M]."""
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2:
        raise EvaluationError(f"scores have shape {matrix.shape}; give them as [N, M]")
    if np.isnan(matrix).any():
        raise EvaluationError("scores hold NaN; remove or embed those images again")
    count, stored = matrix.shape
    if same_images and count != stored:
        raise EvaluationError(f"{count} probes cannot be the same images as {stored} stored ones")
    names = np.concatenate([np.asarray(probe_labels), np.asarray(stored_labels)])
    labels = check_labels(names, count + stored)
    own = np.eye(count, dtype=np.bool_) if same_images else np.zeros(matrix.shape, dtype=np.bool_)
    mates = (labels[:count, None] == labels[None, count:]) & ~own
    return matrix, mates, own
