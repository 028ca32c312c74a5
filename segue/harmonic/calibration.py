"""From distance to log false accept rate, measured on impostor pairs of one edge.

The map is strictly increasing from distance 0 to 4, so that a ranking by it is the ranking by
distance, and it speaks a language that all edges share, so that lists of several edges merge.

**Inside the data** it is the empirical FAR at order statistics, (pairs with D <= d) / (pairs + 1),
joined by straight lines of log FAR over log distance. **Below the data**, where good models have
all their true matches, it is a fitted tail. The lower tail of a distance is bounded by 0; in
t = -log(distance) it has no bound. The probability that two points of an m-dimensional set are
within squared distance d falls as d^(m/2), so t has an exponential tail of mean 2/m (Levina and
Bickel, NIPS 2004, estimate the intrinsic dimension m from it). Generalised Pareto excesses of t
with shape >= 0 hold that law (shape 0) and heavier tails, and never end: log FAR falls on and on
down to distance 0. Scale and shape are estimated by probability-weighted moments
(Hosking and Wallis, Technometrics 1987), in closed form and unmoved by ties.

A FAR in the tail is an extrapolation and called so. On LFW (two networks, calibrated on 15 to 467
people and tried on others, up to 24 draws each) the realised FAR is in the median 0.8 to 1.1 times
the target about one decade below the smallest supported FAR, 0.35 to 0.7 two decades and less than
0.3 three decades below it: the tail errs towards refusing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from segue.arrays import check_labels
from segue.errors import EvaluationError, FormatError, UnsupportedFarError, UsageError
from segue.harmonic.distances import squared_distances

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from segue.types import Bools, Doubles, Floats, Ints

FORMAT = 2
"""The version of the JSON form. Format 1, which is read too, has no `accepts_needed`."""

KNOTS = 512
"""At most this many order statistics are kept, evenly spaced in log rank."""

ACCEPTS_NEEDED = 100
"""Accepted pairs of images of different people that a supported FAR rests on at least."""

PEOPLE_PAIRS_NEEDED = 50
"""Pairs of people that a supported FAR rests on at least."""

FEWEST_IMPOSTORS = 10
"""Below this many impostor pairs nothing is fitted."""

FEWEST_EXCESSES = 5
"""The tail is fitted to at least this many pairs, also when there are few in all."""

SMALLEST_SCALE = 1e-3
"""Floor of the tail's scale: an intrinsic dimension of 2,000, beyond any embedding's."""

RESOLUTION = 1e-6
"""Squared distances of float32 vectors are rounding below this; the fit takes them for this."""

LARGEST_DISTANCE = 4.0
_ROWS = 1024  # rows of the distance matrix that are held at a time
_LOG_ZERO = -746.0  # stands for log(0): below the logarithm of every positive float64
_LARGEST_COUNT = 2**53
_LN10 = math.log(10)


@dataclass(frozen=True)
class Calibration:
    """What a distance of one edge means: a strictly increasing map to log10 of the FAR.

    Made by `fit`; a plain value that compares equal by content and travels as JSON.

    Attributes:
        impostors: pairs of different people that were measured.
        people: people that they come from.
        people_pairs: pairs of people that they come from.
        distances: knots, strictly increasing; the first is where the tail begins.
        ranks: measured pairs at or below each knot; `impostors + 1` at distance 4.
        shape: the tail's shape, >= 0.
        scale: the tail's scale, > 0, in units of -log(distance).
        accepts_needed: measured pairs that a supported FAR accepts at least, so that they hold 100
            pairs of images and 50 pairs of people.

    >>> rng = np.random.default_rng(0)
    >>> calibration = Calibration.fit(rng.normal(2, 0.2, 100_000), people_pairs=4950, people=100)
    >>> bool(abs(calibration.far(2.0) - 0.5) < 0.01)
    True
    >>> calibration.extrapolated([0.5, 2.0]).tolist()
    [True, False]
    """

    impostors: int
    people: int
    people_pairs: int
    distances: tuple[float, ...]
    ranks: tuple[int, ...]
    shape: float
    scale: float
    accepts_needed: int = ACCEPTS_NEEDED

    def __post_init__(self) -> None:
        _check_knots(self)

    @classmethod
    def fit(
        cls,
        impostors: ArrayLike,
        *,
        people_pairs: int,
        people: int,
        behind: ArrayLike | None = None,
        copies: int = 1,
    ) -> Calibration:
        """Fit the map to the squared distances of impostor pairs.

        Args:
            impostors: squared distances of pairs of different people, float [P], in any order.
            people_pairs: how many pairs of people they come from.
            people: how many people they come from.
            behind: a number for the pair of people behind each distance, int [P]. Given, 50
                different ones must be among the accepts of a supported FAR.
            copies: 2 if every pair of images is there twice, as (i, j) and (j, i), else 1.

        Raises:
            EvaluationError: too few pairs or people, or no squared distances of unit vectors.
        """
        sample = _checked_sample(impostors, people_pairs, people)
        values, counts = np.unique(sample, return_counts=True)
        ranks = np.cumsum(counts)
        needed = _accepts_needed(sample, impostors, behind, copies)
        wanted = math.ceil(len(sample) * _tail_far(len(sample), people_pairs))
        first_rank = min(wanted, max(len(sample) // 4, FEWEST_EXCESSES))
        first = int(np.searchsorted(ranks, first_rank))
        shape, scale = _fit_tail(sample[: ranks[first]])
        kept = _thin(ranks, first)
        distances, at_or_below = values[kept].tolist(), ranks[kept].tolist()
        if distances[-1] == LARGEST_DISTANCE:
            distances.pop()
            at_or_below.pop()
        return cls(
            impostors=len(sample),
            people=int(people),
            people_pairs=int(people_pairs),
            distances=(*distances, LARGEST_DISTANCE),
            ranks=(*at_or_below, len(sample) + 1),
            shape=shape,
            scale=scale,
            accepts_needed=needed,
        )

    @property
    def smallest_far(self) -> float:
        """The smallest FAR that the data supports, 1 where it supports none.

        Its accepts hold at least 100 pairs of images, each counted once, and 50 pairs of people;
        and it is at least the share that 50 are of all pairs of people, so that other images of
        them would support it too.
        """
        needed = self.accepts_needed / self.impostors
        return min(1.0, max(needed, PEOPLE_PAIRS_NEEDED / self.people_pairs))

    def supports(self, far: float) -> bool:
        """Tell whether `far` is at least `smallest_far`, rounding apart.

        >>> distances = np.random.default_rng(0).normal(2, 0.2, 10_000)
        >>> calibration = Calibration.fit(distances, people_pairs=4950, people=100)
        >>> calibration.supports(0.02), calibration.supports(0.01)
        (True, False)
        """
        return far >= self.smallest_far * (1 - 1e-9)

    def log10_far(self, distance: ArrayLike) -> Doubles:
        """Return log10 of the FAR at a squared distance: the score that mixed lists merge by.

        Strictly increasing and finite from 0 to 4: two distances that differ by more than one part
        in 10^9, hence any two different float32 values, get different scores. Distances outside
        [0, 4] (rounding) count as its ends.

        Args:
            distance: squared distances, float [...].

        Returns:
            float64 of the same shape, <= 0.
        """
        logs = _log(np.clip(np.asarray(distance, dtype=np.float64), 0, LARGEST_DISTANCE))
        inside = np.minimum(np.interp(logs, self._logs, self._scores), 0)
        excess = np.maximum(self._logs[0] - logs, 0)
        return np.asarray(np.where(excess > 0, self._scores[0] - self._drop(excess), inside))

    def far(self, distance: ArrayLike) -> Doubles:
        """Return the FAR at a squared distance, float64 of its shape, in (0, 1].

        Values below 2.2e-308, which float64 cannot hold, become that; rank by `log10_far`.
        """
        power = np.power(10.0, self.log10_far(distance))
        return np.asarray(np.maximum(power, np.finfo(np.float64).tiny))

    def distance_at(self, far: float) -> float:
        """Return the squared distance at which the FAR is `far`, in the tail too (see `supports`).

        Raises:
            UsageError: `far` is not in (0, 1].
            UnsupportedFarError: even distance 0 has a larger FAR.
        """
        if not 0 < far <= 1:
            raise UsageError(f"{far!r} is no false accept rate; give one above 0 and at most 1")
        score = math.log10(far)
        if score >= self._scores[0]:
            log = float(np.interp(score, self._scores, self._logs))
            return 0.0 if log == _LOG_ZERO else min(math.exp(log), LARGEST_DISTANCE)
        lowest = float(self.log10_far(0.0))
        if score < lowest - 1e-9:
            raise UnsupportedFarError(far, float(self.far(0.0)))
        excess = self._excess(float(self._scores[0]) - score)
        log = float(self._logs[0]) - excess
        return math.exp(log) if log > _LOG_ZERO else 0.0

    def extrapolated(self, distance: ArrayLike) -> Bools:
        """Tell where the fitted tail speaks, not the data: bool of the shape of `distance`."""
        return np.asarray(np.asarray(distance, dtype=np.float64) < self.distances[0])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, of at most about 20 kB."""
        return {
            "format": FORMAT,
            "impostors": self.impostors,
            "people": self.people,
            "people_pairs": self.people_pairs,
            "accepts_needed": self.accepts_needed,
            "distances": list(self.distances),
            "ranks": list(self.ranks),
            "tail": {"shape": self.shape, "scale": self.scale},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """Read what `to_json` wrote.

        Raises:
            FormatError: written in a later format.
            EvaluationError: damaged.
        """
        if not isinstance(value, Mapping):
            raise _damaged("no JSON object")
        found = value.get("format", "none")
        if type(found) is bool or found not in (1, FORMAT):
            raise FormatError("the calibration", f"{found!s:.20}", FORMAT)
        needed = ACCEPTS_NEEDED if found == 1 else None
        try:
            return cls(
                impostors=_whole(value["impostors"]),
                people=_whole(value["people"]),
                people_pairs=_whole(value["people_pairs"]),
                distances=tuple(_number(x) for x in value["distances"]),
                ranks=tuple(_whole(x) for x in value["ranks"]),
                shape=_number(value["tail"]["shape"]),
                scale=_number(value["tail"]["scale"]),
                accepts_needed=_whole(value["accepts_needed"]) if needed is None else needed,
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _damaged(str(error)) from error

    @cached_property
    def _logs(self) -> Doubles:
        return _log(np.array(self.distances))

    @cached_property
    def _scores(self) -> Doubles:
        return np.log10(np.array(self.ranks) / (self.impostors + 1))

    def _drop(self, excess: Doubles) -> Doubles:
        """How far log10 FAR is below its first knot, `excess` beyond it in -log(distance)."""
        if self.shape == 0:
            return excess / (self.scale * _LN10)
        return np.asarray(np.log1p(self.shape * excess / self.scale) / (self.shape * _LN10))

    def _excess(self, drop: float) -> float:
        """Undo `_drop`."""
        if self.shape == 0:
            return drop * self.scale * _LN10
        exponent = min(self.shape * drop * _LN10, 700)  # exp(700) is near the largest float64
        return self.scale * math.expm1(exponent) / self.shape


def impostor_distances(
    a: Floats, labels_a: ArrayLike, b: Floats, labels_b: ArrayLike, *, same_images: bool
) -> Doubles:
    """Return the squared distances of all pairs of different people, one row of `a`, one of `b`.

    Args:
        a: unit vectors of the probe side, float [N, d].
        labels_a: who each row of `a` shows, [N]; the labels of both sides are one set of names.
        b: unit vectors of the stored side, float [M, d].
        labels_b: who each row of `b` shows, [M].
        same_images: row i of both sides is the same image. Then, if the vectors are the same too
            (one version with itself), each pair of images is counted once; two versions measure
            (i, j) and (j, i) apart.

    Returns:
        float64 [P], in no particular order.

    Raises:
        VectorError: no unit vectors, of two dimensions, or not one label per row.
        EvaluationError: `same_images` with different people per row.
    """
    people = _joint_labels(labels_a, len(a), labels_b, len(b))
    return _impostors(np.asarray(a), np.asarray(b), *people, same_images=same_images).distances


class _Impostors(NamedTuple):
    """Distances float64 [P], the pair of people behind each int64 [P], and `fit`'s copies."""

    distances: Doubles
    behind: Ints
    copies: int


def _impostors(
    left: Floats, right: Floats, people_a: Ints, people_b: Ints, *, same_images: bool
) -> _Impostors:
    """Measure all pairs of different people, who are numbered together on both sides."""
    if same_images and not np.array_equal(people_a, people_b):
        raise EvaluationError("same_images needs the same person in row i of both sides")
    once = same_images and np.array_equal(left, right)
    distances, behind = [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for start in range(0, len(left), _ROWS):
        rows = slice(start, start + _ROWS)
        different = people_a[rows, None] != people_b
        if once:
            different &= np.arange(start, start + len(different))[:, None] < np.arange(len(right))
        distances.append(squared_distances(left[rows], right)[different])
        smaller = np.minimum(people_a[rows, None], people_b).astype(np.int64)
        larger = np.maximum(people_a[rows, None], people_b)
        behind.append((smaller << 32 | larger)[different])
    return _Impostors(
        np.concatenate(distances, dtype=np.float64),
        np.concatenate(behind),
        copies=2 if same_images and not once else 1,
    )


def count_people_pairs(labels_a: ArrayLike, labels_b: ArrayLike) -> int:
    """Return how many unordered pairs of different people have one in `a` and the other in `b`.

    >>> count_people_pairs(["ann", "ann", "bob"], ["ann", "bob", "cy"])
    3
    """
    first, second = set(np.asarray(labels_a).tolist()), set(np.asarray(labels_b).tolist())
    both = len(first & second)
    return len(first) * len(second) - both - both * (both - 1) // 2


def calibrate(
    a: Floats, labels_a: ArrayLike, b: Floats, labels_b: ArrayLike, *, same_images: bool
) -> Calibration:
    """Fit a calibration to all impostor pairs of two sets of vectors (see `impostor_distances`)."""
    people_a, people_b = _joint_labels(labels_a, len(a), labels_b, len(b))
    found = _impostors(np.asarray(a), np.asarray(b), people_a, people_b, same_images=same_images)
    return Calibration.fit(
        found.distances,
        people_pairs=count_people_pairs(people_a, people_b),
        people=len(np.union1d(people_a, people_b)),
        behind=found.behind,
        copies=found.copies,
    )


def _joint_labels(
    labels_a: ArrayLike, count_a: int, labels_b: ArrayLike, count_b: int
) -> tuple[Ints, Ints]:
    """Number the people of both sides together."""
    first, second = np.asarray(labels_a), np.asarray(labels_b)
    check_labels(first, count_a)
    check_labels(second, count_b)
    joint = check_labels(np.array([*first.tolist(), *second.tolist()]), count_a + count_b)
    return joint[:count_a], joint[count_a:]


def _log(distance: Doubles) -> Doubles:
    positive = np.log(np.maximum(distance, np.finfo(np.float64).smallest_subnormal))
    return np.asarray(np.where(distance == 0, _LOG_ZERO, positive))


def _tail_far(impostors: int, people_pairs: int) -> float:
    """Return the FAR below which the tail is fitted."""
    return min(1.0, max(ACCEPTS_NEEDED / impostors, PEOPLE_PAIRS_NEEDED / people_pairs))


def _accepts_needed(
    sample: Doubles, impostors: ArrayLike, behind: ArrayLike | None, copies: int
) -> int:
    """Return the fewest accepts that hold enough pairs of images and of people, all if none do.

    Args:
        sample: the distances, sorted.
        impostors: the same as they were given.
        behind: the pair of people of each distance as it was given, or None.
        copies: how often each pair of images is there.
    """
    place = ACCEPTS_NEEDED * copies - 1
    if behind is not None:
        place = max(place, _place_of_people(np.ravel(impostors), np.ravel(behind)))
    if place >= len(sample):
        return len(sample)
    return int(np.searchsorted(sample, sample[place], side="right"))


def _place_of_people(distances: Doubles, behind: Ints) -> int:
    """Return the place, by distance, of the pair that completes the pairs of people needed.

    It is beyond the last place where there are fewer.
    """
    if distances.shape != behind.shape:
        raise EvaluationError("give one pair of people for each impostor distance")
    looked_at = 16 * PEOPLE_PAIRS_NEEDED
    while True:
        looked_at = min(looked_at, len(distances))
        lowest = np.argpartition(distances, looked_at - 1)[:looked_at]
        lowest = lowest[np.argsort(distances[lowest], kind="stable")]
        _, first_seen = np.unique(behind[lowest], return_index=True)
        if len(first_seen) >= PEOPLE_PAIRS_NEEDED:
            return int(np.sort(first_seen)[PEOPLE_PAIRS_NEEDED - 1])
        if looked_at == len(distances):
            return looked_at
        looked_at *= 8


def _checked_sample(impostors: ArrayLike, people_pairs: int, people: int) -> Doubles:
    sample = np.sort(np.asarray(impostors, dtype=np.float64).ravel())
    if len(sample) < FEWEST_IMPOSTORS or people < 2 or people_pairs < 1:
        raise EvaluationError(
            f"{len(sample)} impostor pairs of {people} people are too few to calibrate with; "
            f"give at least {FEWEST_IMPOSTORS} pairs of at least 2 people"
        )
    if not (sample[0] >= -1e-4 and sample[-1] <= LARGEST_DISTANCE + 1e-4):  # NaN sorts last
        raise EvaluationError(
            f"impostor distances span {sample[0]:g} to {sample[-1]:g}; "
            "give squared L2 distances of unit vectors, within 0 and 4"
        )
    return np.clip(sample, 0, LARGEST_DISTANCE)


def _thin(ranks: Ints, first: int) -> Ints:
    """Return the places of at most `KNOTS` - 1 knots from `first` on, evenly in log rank."""
    targets = np.geomspace(ranks[first], ranks[-1], KNOTS - 1)
    places = first + np.searchsorted(ranks[first:], targets)
    return np.unique(np.minimum(places, len(ranks) - 1))


def _fit_tail(lowest: Doubles) -> tuple[float, float]:
    """Return shape >= 0 and scale > 0 of the generalised Pareto excesses of -log(distance).

    Args:
        lowest: sorted distances from the smallest to the tail's first knot, which they exceed.
    """
    logs = np.log(np.maximum(lowest, RESOLUTION))
    excesses = (logs[-1] - logs[:-1])[::-1]  # ascending; the knot itself has no excess
    count = len(excesses)
    position = (np.arange(1, count + 1) - 0.35) / count
    mean = float(excesses.mean())
    moment = float(((1 - position) * excesses).mean())
    spread = mean - 2 * moment
    shape = 2 - mean / spread if spread > 0 else 0.0
    if shape <= 0:
        return 0.0, max(mean, SMALLEST_SCALE)
    return shape, max(2 * mean * moment / spread, SMALLEST_SCALE)


def _damaged(how: str) -> EvaluationError:
    return EvaluationError(f"the calibration is damaged ({how}); measure the edge again")


def _whole(value: Any) -> int:
    """Return a count as it is, a whole number that float64 holds exactly."""
    if type(value) is not int or abs(value) > _LARGEST_COUNT:
        raise ValueError(f"{value!r:.20} is no count")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r:.20} is no number")
    return float(value)


def _check_knots(calibration: Calibration) -> None:
    distances, ranks = np.array(calibration.distances), np.array(calibration.ranks)
    good = (
        1 <= len(distances) == len(ranks) <= KNOTS
        and np.isfinite(distances).all()
        and distances[0] >= 0
        and distances[-1] == LARGEST_DISTANCE
        and (np.diff(distances) > 0).all()
        and ranks[0] >= 1
        and ranks[-1] == calibration.impostors + 1
        and (np.diff(ranks) > 0).all()
        and 0 <= calibration.shape < math.inf
        and 0 < calibration.scale < math.inf
        and calibration.impostors >= 1
        and calibration.people >= 2
        and calibration.people_pairs >= 1
        and calibration.accepts_needed >= 1
    )
    if not good:
        raise _damaged("counts, knots or tail")
