"""VAL at a FAR, ROC and AUC of distances, exactly as FaceNet's equations 5 and 6 define them.

A pair is accepted when its distance D is at most a threshold d. VAL(d) is the accepted share of the
pairs of one person, FAR(d) the accepted share of the pairs of two people. Nothing is interpolated:
the threshold for a FAR is the largest one that accepts no more impostors than that FAR allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import EvaluationError

if TYPE_CHECKING:
    from segue.types import Doubles

LEAST_ACCEPTS = 100
"""Impostor accepts at a FAR before VAL at it is called measurable (10 % of noise)."""

LEAST_PEOPLE_PAIRS = 50
"""Pairs of people among those accepts: a hundred accepts of one pair of twins say little."""


@dataclass(frozen=True)
class ValAtFar:
    """VAL at one FAR.

    `threshold` is the largest double d with FAR(d) <= `far`; `realised_far` is FAR(threshold), from
    `accepts` impostors. `measurable` is False where the data cannot support the FAR; `val` is then
    an order statistic of noise and is not to be reported.
    """

    far: float
    val: float
    threshold: float
    realised_far: float
    accepts: int
    measurable: bool


@dataclass(frozen=True)
class Roc:
    """FAR and VAL at every distinct distance, ascending: float64 [T] each."""

    thresholds: Doubles
    far: Doubles
    val: Doubles


def check_distances(value: Any, name: str) -> Doubles:
    """Return `value` as float64 [P], not empty and without NaN.

    Raises:
        EvaluationError: it is empty, has another shape, or holds NaN.
    """
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise EvaluationError(
            f"{name} distances have shape {array.shape}; a FAR needs at least one pair of each kind"
        )
    if np.isnan(array).any():
        raise EvaluationError(f"{name} distances hold NaN; remove or embed those images again")
    return array


def check_far(far: float) -> float:
    """Return `far` if it is a rate in (0, 1].

    Raises:
        EvaluationError: it is none.
    """
    if not 0 < far <= 1:
        raise EvaluationError(f"{far!r} is no false accept rate; give one in (0, 1], such as 1e-3")
    return float(far)


def allowed_accepts(far: float, impostors: int) -> int:
    """Return floor(far * impostors), safe from binary fractions just under a whole number.

    >>> allowed_accepts(0.29, 100), int(0.29 * 100)
    (29, 28)
    """
    return math.floor(far * impostors * (1 + 1e-12))


def first_refused(sorted_impostors: Doubles, allowed: int) -> float:
    """Return the smallest impostor distance that must be refused; infinity if none must.

    Accepting exactly the distances *below* it accepts at most `allowed` impostors, and no larger
    threshold does: impostors tied with it would all come in together.
    """
    return float(sorted_impostors[allowed]) if allowed < len(sorted_impostors) else math.inf


def largest_threshold(refused: float) -> float:
    """Return the largest double d such that D <= d means D < `refused`."""
    return float(np.nextafter(refused, -math.inf))


def val_at_far(
    genuine: Any, impostor: Any, far: float, *, people_pairs: Any | None = None
) -> ValAtFar:
    """Return VAL at a FAR by exact order statistics (FaceNet eq. 5-6); nothing is interpolated.

    Args:
        genuine: distances float [G] of pairs of one person.
        impostor: distances float [P] of pairs of different people.
        far: the false accept rate wanted, in (0, 1].
        people_pairs: int [P], a number for the pair of people behind each impostor distance. Given,
            `measurable` also asks that the accepts come from 50 different pairs of people.

    Raises:
        EvaluationError: no distances, NaN, or no rate.

    >>> found = val_at_far([0.1, 0.2, 0.7], [0.4, 0.6, 0.8, 0.9], 0.25)
    >>> round(found.val, 3), round(found.threshold, 6), found.realised_far, found.measurable
    (0.667, 0.6, 0.25, False)
    """
    same = check_distances(genuine, "genuine")
    different = check_distances(impostor, "impostor")
    allowed = allowed_accepts(check_far(far), len(different))
    refused = first_refused(np.sort(different), allowed)
    accepted = different < refused
    accepts = int(accepted.sum())
    measurable = accepts >= LEAST_ACCEPTS
    if measurable and people_pairs is not None:
        named = np.asarray(people_pairs)
        if named.shape != different.shape:
            raise EvaluationError("give one pair of people for each impostor distance")
        measurable = len(np.unique(named[accepted])) >= LEAST_PEOPLE_PAIRS
    return ValAtFar(
        far=float(far),
        val=float((same < refused).mean()),
        threshold=largest_threshold(refused),
        realised_far=accepts / len(different),
        accepts=accepts,
        measurable=measurable,
    )


def roc_curve(genuine: Any, impostor: Any) -> Roc:
    """Return FAR and VAL at each distinct distance of either kind, ascending.

    Raises:
        EvaluationError: no distances, or NaN.

    >>> roc = roc_curve([0.1, 0.3], [0.3, 0.7])
    >>> roc.far.tolist(), roc.val.tolist()
    ([0.0, 0.5, 1.0], [0.5, 1.0, 1.0])
    """
    same = np.sort(check_distances(genuine, "genuine"))
    different = np.sort(check_distances(impostor, "impostor"))
    thresholds = np.unique(np.concatenate([same, different]))
    return Roc(
        thresholds,
        np.searchsorted(different, thresholds, side="right") / len(different),
        np.searchsorted(same, thresholds, side="right") / len(same),
    )


def auc(genuine: Any, impostor: Any) -> float:
    """Return the area under the ROC: how often a genuine pair is nearer than an impostor, ties 1/2.

    Raises:
        EvaluationError: no distances, or NaN.

    >>> auc([0.1, 0.3], [0.3, 0.7])
    0.875
    """
    same = check_distances(genuine, "genuine")
    different = np.sort(check_distances(impostor, "impostor"))
    return sorted_auc(same, different)


def sorted_auc(genuine: Doubles, sorted_impostors: Doubles) -> float:
    """Return `auc` of impostors float64 [P] that are sorted already."""
    above = len(sorted_impostors) - np.searchsorted(sorted_impostors, genuine, side="right")
    at_least = len(sorted_impostors) - np.searchsorted(sorted_impostors, genuine, side="left")
    return float((above + at_least).mean() / 2 / len(sorted_impostors))


def far_grid(smallest: float, *, per_decade: int = 10) -> list[float]:
    """Return the FARs 10^(-k / per_decade) from 1 down to `smallest`, descending.

    Curves are told at these, so that curves of different runs share their steps.

    >>> far_grid(0.05, per_decade=2)
    [1.0, 0.31622776601683794, 0.1]
    """
    steps = math.floor(-math.log10(check_far(smallest)) * per_decade + 1e-9)
    return [10.0 ** (-k / per_decade) for k in range(steps + 1)]
