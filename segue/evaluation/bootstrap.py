"""95 % intervals by bootstrap over identities.

A resample draws as many people as there are, with replacement; a person drawn w times has weight w.
Pairs of two people weigh w_i * w_j, pairs of one person's images w_i: copies of one person are
never compared with each other, neither as impostors (they are none) nor as genuine pairs (they
would be image against image). Thresholds are found anew in each resample, by exact order statistics
of the weighted impostors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from segue.errors import EvaluationError
from segue.evaluation.roc import (
    LEAST_ACCEPTS,
    LEAST_PEOPLE_PAIRS,
    allowed_accepts,
    first_refused,
    sorted_auc,
)

if TYPE_CHECKING:
    from segue.types import Bools, Doubles, Floats, Ints

LEAST_RESAMPLES = 10
"""Below this a 2.5 % quantile has no meaning at all."""

_BLOCK = 4096
"""Impostor pairs weighed at once: small enough for float32 sums of whole numbers to be exact."""

_LOOKED_UP = 100_000
"""Impostors whose people are looked up at least, once somebody asks for any."""


@dataclass(frozen=True)
class Estimate:
    """A measured value and its 95 % interval (`low`, `high`), all in the measure's own unit."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, samples: Doubles) -> Estimate:
        """Return `value` with the 2.5 % and 97.5 % quantiles of its resamples float64 [B].

        NaN stands for a resample in which the value is not defined, and is left out.

        >>> Estimate.of(0.5, np.linspace(0, 1, 81)).low
        0.025
        """
        low, high = np.nanquantile(samples, [0.025, 0.975])
        return cls(float(value), float(low), float(high))

    def to_json(self) -> list[float]:
        """Return `[value, low, high]`."""
        return [self.value, self.low, self.high]

    @classmethod
    def from_json(cls, value: Any) -> Estimate:
        """Read what `to_json` wrote."""
        measured, low, high = value
        return cls(float(measured), float(low), float(high))

    @classmethod
    def or_none(cls, value: Any) -> Estimate | None:
        """Read what `to_json` wrote, or None where nothing was measured."""
        return None if value is None else cls.from_json(value)


@dataclass(frozen=True)
class Pairs:
    """Which pairs of images are compared, as positions in a flattened [N, N] matrix.

    `genuine` int64 [G] is sorted by person; `starts` and `owners` int64 [Q] tell where each person
    with two images begins and who it is. `impostor` int64 [I] with the two people `left` and
    `right` int32 [I]. `images` int64 [P] counts each person's images. `copies` is 2 where every
    pair stands in both directions, else 1.
    """

    genuine: Ints
    starts: Ints
    owners: Ints
    impostor: Ints
    left: Ints
    right: Ints
    images: Ints
    copies: int

    @property
    def impostor_images(self) -> int:
        """Pairs of images of different people, each counted once whatever its directions."""
        return len(self.impostor) // self.copies

    def can_support(self, far: float) -> bool:
        """Say whether a FAR allows 100 impostor accepts, counting each pair of images once."""
        return allowed_accepts(far, self.impostor_images) >= LEAST_ACCEPTS


def all_pairs(labels: Ints, *, directed: bool) -> Pairs:
    """Return all pairs of different images; `directed` takes (i, j) and (j, i) as two pairs.

    Args:
        labels: int64 [N], people numbered from 0 without gaps.
        directed: for edges between versions, whose two directions differ.

    Raises:
        EvaluationError: no two images of one person, or of two people.
    """
    count = len(labels)
    compared = ~np.eye(count, dtype=np.bool_) if directed else np.triu(np.ones((count,) * 2), 1) > 0
    same = labels[:, None] == labels[None, :]
    genuine = np.flatnonzero(compared & same)
    impostor = np.flatnonzero(compared & ~same)
    if not len(genuine) or not len(impostor):
        raise EvaluationError(
            "a FAR needs people with two images and images of two people; give more people"
        )
    persons = labels[genuine // count]
    order = np.argsort(persons, kind="stable")
    owners, starts = np.unique(persons[order], return_index=True)
    small = labels.astype(np.int32)
    left, right = small[impostor // count], small[impostor % count]
    return Pairs(
        genuine=genuine[order],
        starts=starts,
        owners=owners,
        impostor=impostor,
        left=np.minimum(left, right),
        right=np.maximum(left, right),
        images=np.bincount(labels),
        copies=2 if directed else 1,
    )


@dataclass(frozen=True)
class Resamples:
    """How often each person is in each resample: `weights` float32 [P, B], whole numbers."""

    weights: Floats

    @property
    def count(self) -> int:
        """The number of resamples B."""
        return int(self.weights.shape[1])

    @classmethod
    def draw(cls, images: Ints, count: int, seed: int) -> Resamples:
        """Draw `count` resamples of the people whose numbers of images are int64 [P].

        A resample without a person of two images, or of a single person, is drawn again.

        Raises:
            EvaluationError: fewer than 10 resamples or 2 people.
        """
        if count < LEAST_RESAMPLES:
            raise EvaluationError(f"{count} resamples give no interval; use 200, at least 10")
        people = len(images)
        if people < 2 or not (images > 1).any():
            raise EvaluationError("too few people for a bootstrap; give more people")
        random = np.random.default_rng(seed)
        drawn: list[Ints] = []
        while len(drawn) < count:
            weights = random.multinomial(people, np.full(people, 1 / people))
            if weights[images > 1].any() and np.count_nonzero(weights) > 1:
                drawn.append(weights)
        return cls(np.stack(drawn, axis=1).astype(np.float32))

    @classmethod
    def point(cls, people: int) -> Resamples:
        """Return the one 'resample' in which everybody is once: it gives the point estimate."""
        return cls(np.ones((people, 1), dtype=np.float32))

    def mean_of(self, values: Doubles | Bools, people: Ints) -> Doubles:
        """Return the weighted mean of `values` [Q], each of a person in int64 [Q]: float64 [B]."""
        weights = self.weights[people].astype(np.float64)
        return np.asarray((values @ weights) / weights.sum(axis=0))


class Curve:
    """The distances (or scores) of one row of a report, ready to be weighed.

    Sorting is done once; a resample then costs one pass over the impostors up to the largest FAR.
    Whose pair an impostor is, is looked up only for the lowest scores, as far as somebody asks.
    """

    def __init__(self, pairs: Pairs, scores: Doubles | Floats) -> None:
        """Take the pairs out of `scores` [N, N]."""
        flat = scores.reshape(-1)
        self._pairs = pairs
        self.genuine: Doubles = flat[pairs.genuine].astype(np.float64)
        self._scores = flat[pairs.impostor]
        self.impostor: Doubles = np.sort(self._scores).astype(np.float64)
        self._lowest: tuple[Ints, Ints] = (pairs.left[:0], pairs.right[:0])

    def _people(self, stop: int) -> tuple[Ints, Ints]:
        """Return the people left and right of the lowest impostors, at least as many as `stop`."""
        if len(self._lowest[0]) < stop:
            count = min(len(self.impostor), max(stop, 4 * len(self._lowest[0]), _LOOKED_UP))
            chosen = np.flatnonzero(self._scores <= self.impostor[count - 1])
            # Stable: what a longer look finds begins with what a shorter one found, ties too.
            chosen = chosen[np.argsort(self._scores[chosen], kind="stable")]
            self._lowest = self._pairs.left[chosen], self._pairs.right[chosen]
        return self._lowest

    def _weights(self, resamples: Resamples, start: int, stop: int) -> tuple[Floats, Floats]:
        """Return how often both people of some impostors are in each resample: [I, B] each."""
        left, right = self._people(stop)
        return resamples.weights[left[start:stop]], resamples.weights[right[start:stop]]

    @property
    def auc(self) -> float:
        """The area under the ROC, ties counting one half."""
        return sorted_auc(self.genuine, self.impostor)

    def auc_in(self, resamples: Resamples) -> Doubles:
        """Return `auc` in each resample, but for what is of second order: float64 [B].

        AUC is linear in the weights of the genuine pairs and in those of the impostors. Resampling
        each of them alone is exact; that both move together is left out, a product of two small
        deviations, so that a resample costs people squared and not pairs times pairs.
        """
        weights = resamples.weights.astype(np.float64)
        genuine = np.sort(self.genuine)
        right = (self._beyond("left") + self._beyond("right")) / 2 / len(self.impostor)
        pairs = np.diff(self._pairs.starts, append=len(self.genuine))
        owners = weights[self._pairs.owners]
        by_genuine = (np.add.reduceat(right, self._pairs.starts) @ owners) / (pairs @ owners)
        nearer = np.searchsorted(genuine, self._scores, "left").astype(np.float64)
        nearer += np.searchsorted(genuine, self._scores, "right")
        people = len(weights)
        both = self._pairs.left.astype(np.int64) * people + self._pairs.right
        beaten = np.bincount(both, nearer / 2 / len(genuine), people**2).reshape(people, people)
        by_impostor = ((beaten @ weights) * weights).sum(axis=0) / self.total(resamples)
        return np.asarray(by_genuine + by_impostor - self.auc)

    def _beyond(self, side: Literal["left", "right"]) -> Doubles:
        """Return how many impostors score above each genuine pair, with its ties or without."""
        return (len(self.impostor) - np.searchsorted(self.impostor, self.genuine, side)).astype(
            np.float64
        )

    def refused(self, far: float) -> float:
        """Return the smallest impostor score that a FAR refuses; lower scores are accepted."""
        return first_refused(self.impostor, allowed_accepts(far, len(self.impostor)))

    def accepts_below(self, refused: float) -> int:
        """Return how many impostor pairs of images score below `refused`, each counted once."""
        return int(np.searchsorted(self.impostor, refused)) // self._pairs.copies

    def measurable(self, far: float) -> bool:
        """Say whether a FAR accepts 100 pairs of images, of 50 pairs of people.

        It may allow more than it accepts: impostors tied with the first refused one stay out.
        """
        accepts = int(np.searchsorted(self.impostor, self.refused(far)))
        if accepts // self._pairs.copies < LEAST_ACCEPTS:
            return False
        looked_at = 0
        while looked_at < accepts:
            looked_at = min(accepts, 2 * looked_at + 1000)
            left, right = self._people(looked_at)
            both = left[:looked_at].astype(np.int64) << 32 | right[:looked_at]
            if len(np.unique(both)) >= LEAST_PEOPLE_PAIRS:
                return True
        return False

    def refused_in(self, resamples: Resamples, fars: tuple[float, ...]) -> Doubles:
        """Return `refused` of each FAR in each resample: float64 [F, B]."""
        allowed = np.array(fars)[:, None] * self.total(resamples) * (1 + 1e-12)
        refused = np.full(allowed.shape, np.inf)
        open_ = np.ones(allowed.shape, dtype=np.bool_)
        before = np.zeros(resamples.count)
        for start in range(0, len(self.impostor), _BLOCK):
            stop = min(start + _BLOCK, len(self.impostor))
            left, right = self._weights(resamples, start, stop)
            after = before + np.einsum("ib,ib->b", left, right)
            for far, resample in np.argwhere(open_ & (after > allowed)):
                room = allowed[far, resample] - before[resample]
                first = _first_beyond(left[:, resample] * right[:, resample], room)
                refused[far, resample] = self.impostor[start + first]
                open_[far, resample] = False
            if not open_.any():
                break
            before = after
        return refused

    def far_below(self, resamples: Resamples, refused: float) -> Doubles:
        """Return the FAR of accepting scores below `refused`, in each resample: float64 [B]."""
        accepts = int(np.searchsorted(self.impostor, refused))
        weight = np.zeros(resamples.count)
        for start in range(0, accepts, _BLOCK):
            left, right = self._weights(resamples, start, min(start + _BLOCK, accepts))
            weight += np.einsum("ib,ib->b", left, right)
        return weight / self.total(resamples)

    def val_below(self, resamples: Resamples, refused: Doubles) -> tuple[Doubles, Doubles]:
        """Return VAL, and VAL averaged over identities, of accepting scores below `refused` [B].

        Both float64 [B]. VAL weighs pairs alike, so people with many images count most; the second
        gives each person the same say.
        """
        accepted = (self.genuine < refused[:, None]).astype(np.int32)
        per_person = np.add.reduceat(accepted, self._pairs.starts, axis=1)
        pairs = np.diff(self._pairs.starts, append=len(self.genuine))
        weights = resamples.weights[self._pairs.owners].T.astype(np.float64)
        val = (weights * per_person).sum(axis=1) / (weights @ pairs)
        averaged = (weights * per_person / pairs).sum(axis=1) / weights.sum(axis=1)
        return val, averaged

    def total(self, resamples: Resamples) -> Doubles:
        """Return the weight of all impostor pairs in each resample: float64 [B]."""
        images = resamples.weights.astype(np.float64) * self._pairs.images[:, None]
        directed = images.sum(axis=0) ** 2 - (images**2).sum(axis=0)
        return np.asarray(directed * (self._pairs.copies / 2))


def _first_beyond(weights: Floats, room: np.float64) -> int:
    """Return where the running sum of `weights` [I] first exceeds `room`; somewhere it does."""
    step = math.isqrt(len(weights))
    sums = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), step)), dtype=np.float64)
    place = int(np.argmax(sums > room))
    left = room - (sums[place - 1] if place else 0.0)
    start = place * step
    inside = np.cumsum(weights[start : start + step], dtype=np.float64)
    return start + int(np.argmax(inside > left))
