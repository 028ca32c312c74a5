"""Which kind of bridge to use: every kind fitted, compared on people that it was not fitted on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.arrays import check_labels
from segue.errors import PeopleError, UsageError
from segue.harmonic.bridges.fit import (
    FITTERS,
    FOLDS,
    check_pairs,
    fit_bridge,
    mapped_distances,
    people_folds,
)
from segue.harmonic.calibration import ACCEPTS_NEEDED
from segue.harmonic.distances import squared_distances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from segue.harmonic.bridges.bridge import Bridge
    from segue.types import Doubles, Floats, Ints

FEWEST_PEOPLE = 3

FAR = 1e-2
"""The false accept rate at which VAL is told beside the distance."""


@dataclass(frozen=True)
class KindScore:
    """How one kind of bridge does on people that it was not fitted on.

    Attributes:
        kind: its registered name.
        distance: mean squared distance of a mapped vector to its target; kinds are chosen by it.
        val: share of the pairs of one person (two images, one mapped) accepted at FAR 1e-2; None
            where too few pairs of different people are there. Only told: it is noisy.
        settings: what the kind chose when it was fitted on everybody.
    """

    kind: str
    distance: float
    val: float | None
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class BridgeChoice:
    """The bridge that was chosen, and what it was chosen from.

    Attributes:
        bridge: of the best kind, fitted on all rows.
        scores: every kind, the best first.
        held_out: the source's rows mapped by bridges of the best kind that were fitted without
            their person: unit float32 [N, d2]. A calibration on the very people that the bridge is
            fitted on takes these.
        unrelated: mean squared distance of these to the targets of other people. A bridge whose own
            distance is no smaller has learned nothing.
    """

    bridge: Bridge
    scores: tuple[KindScore, ...]
    held_out: Floats = field(repr=False)
    unrelated: float

    def table(self) -> list[dict[str, Any]]:
        """Return the kinds and their figures as JSON values, the best first."""
        return [score.to_json() for score in self.scores]


def choose_bridge(
    source: ArrayLike,
    target: ArrayLike,
    labels: ArrayLike,
    *,
    source_version: str,
    target_version: str,
    source_fingerprint: str = "",
    target_fingerprint: str = "",
    kinds: Sequence[str] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> BridgeChoice:
    """Fit every kind of bridge and return the best, by cross-validation over people.

    The people are dealt into folds; each fold is mapped by bridges fitted on the others, which
    choose their own settings among those. The kind with the smallest mean squared distance of a
    mapped vector to its target is fitted on everybody. On a few hundred people this figure decides
    better than those that count in the end: in six trials on LFW (460 people, models of 64
    dimensions) the kind chosen by it was within 0.5 points of the best VAL at FAR 1e-2 on other
    people, the one chosen by VAL up to 2 points and by rank-1 up to 4 points below. It misleads
    where the target's vectors crowd around one direction: a map to that direction is near them
    all, and VAL, told beside it, is low.

    Args:
        source: unit vectors of the source version, float [N, d1].
        target: unit vectors of the target version of the same images, float [N, d2].
        labels: who each row shows, [N].
        source_version: the version of `source`.
        target_version: the version of `target`.
        source_fingerprint: fingerprint of the source version.
        target_fingerprint: fingerprint of the target version.
        kinds: the kinds to choose from; all that are registered if None. Of equally good ones the
            first is taken, of ours the simplest.
        folds: folds of people, at least 2; fewer where there are fewer people.
        seed: of the folds, and as in `fit_bridge`.

    Raises:
        UsageError: no kinds, or fewer than two folds; otherwise as `fit_bridge`.
        PeopleError: fewer than three people: two to choose settings on, and one to compare on.
    """
    chosen_from = tuple(FITTERS if kinds is None else kinds)
    if not chosen_from or folds < 2:
        raise UsageError("give at least one kind of bridge and two folds to choose with")
    _, right = check_pairs(source, target)
    given, wanted = np.asarray(source), np.asarray(target)
    groups = check_labels(labels, len(right))
    check_choosable(groups)
    fold_of = people_folds(groups, seed, folds)

    def fit(kind: str, rows: Any) -> Bridge:
        return fit_bridge(
            kind,
            given[rows],
            wanted[rows],
            labels=groups[rows],
            source_version=source_version,
            target_version=target_version,
            source_fingerprint=source_fingerprint,
            target_fingerprint=target_fingerprint,
            seed=seed,
        )

    scores, held_out, bridges = [], {}, {}
    for kind in chosen_from:
        mapped = np.empty(right.shape, dtype=np.float32)
        for fold in np.unique(fold_of):
            held = fold_of == fold
            mapped[held] = fit(kind, ~held).apply(given[held], version=source_version)
        bridges[kind], held_out[kind] = fit(kind, slice(None)), mapped
        distance = float(mapped_distances(mapped.astype(np.float64), right).mean())
        val = _val(mapped, right, groups, fold_of)
        scores.append(KindScore(kind, distance, val, dict(bridges[kind].settings)))
    scores.sort(key=lambda score: round(score.distance, 6))  # float32's noise decides nothing
    best = scores[0].kind
    unrelated = _unrelated(held_out[best], right, groups)
    return BridgeChoice(bridges[best], tuple(scores), held_out[best], unrelated)


def check_choosable(labels: ArrayLike) -> None:
    """Refuse too few people to choose a bridge on: two to choose settings, one to compare on.

    Raises:
        PeopleError: fewer than three.
    """
    people = len(np.unique(np.asarray(labels)))
    if people < FEWEST_PEOPLE:
        raise PeopleError(
            f"a bridge is chosen on images of at least {FEWEST_PEOPLE} people, and is good on "
            f"hundreds; these are of {people}: give more people"
        )


def _unrelated(mapped: Floats, target: Doubles, groups: Ints) -> float:
    """Return the mean squared distance of unit vectors [N, d] to the targets of other people.

    By sums, since for unit vectors it is 2 - 2 times the mean inner product.
    """
    people = int(groups.max()) + 1
    counts = np.bincount(groups, minlength=people)
    left, right = np.zeros((people, target.shape[1])), np.zeros((people, target.shape[1]))
    np.add.at(left, groups, mapped)
    np.add.at(right, groups, target)
    products = left.sum(axis=0) @ right.sum(axis=0) - (left * right).sum()
    return float(2 - 2 * products / (counts.sum() ** 2 - (counts**2).sum()))


def _val(mapped: Floats, target: Doubles, groups: Ints, folds: Ints) -> float | None:
    """Return VAL at `FAR` of pairs that no bridge saw either person of; None if too few.

    The threshold is the largest that accepts no more impostors than the FAR allows.
    """
    genuine, impostor = [], []
    for fold in np.unique(folds):
        held = np.flatnonzero(folds == fold)
        distances = squared_distances(mapped[held], target[held].astype(np.float32))
        same = groups[held, None] == groups[held]
        genuine.append(distances[same & ~np.eye(len(held), dtype=bool)])
        impostor.append(distances[~same])
    matches, others = np.concatenate(genuine), np.sort(np.concatenate(impostor))
    allowed = math.floor(FAR * len(others) * (1 + 1e-12))  # FAR is no binary fraction
    if allowed < ACCEPTS_NEEDED or not len(matches):
        return None
    return float((matches < others[allowed]).mean())
