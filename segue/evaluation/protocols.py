"""Which vectors meet in a half-migrated gallery: the score matrices of every row of a report.

A share rho of the items is migrated, chosen once by a seed and nested: an item migrated at one rho
is migrated at every larger one, so that neighbouring points of a curve differ by the items moved
between them and by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from segue.arrays import check_labels, check_vectors
from segue.errors import EvaluationError, VectorError
from segue.evaluation.results import STATUS_QUO
from segue.harmonic.calibration import Calibration, calibrate
from segue.harmonic.distances import squared_distances

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.types import Bools, Doubles, Floats, Ints

Scored: TypeAlias = "Callable[[str, str], Floats | Doubles]"
"""From (probe role, stored role) to a matrix [N, N]: distances, or calibrated scores."""


@dataclass(frozen=True, eq=False)
class CompatibilityData:
    """The same images seen by every version: row i of each array is image i.

    Attributes:
        labels: the person of each image, [N]; any hashable values, kept as int64 0 … P - 1.
        v1: unit vectors [N, d1] of the deployed version.
        v2: unit vectors [N, d2] of the new version, its own output.
        v2_cross: unit vectors [N, d1] of the output that is compared with v1; `v2` if not given.
        twin: unit vectors [N, dt] of the independent v2 (same further steps, same self loss).
        bridged: unit vectors [N, d1] of the twin taken to v1's space by the best bridge.
        status_quo: unit vectors [N, d0] of the version deployed today, where `v1` holds its
            retuned vectors; everything is then compared with this one.

    Raises:
        VectorError: arrays that do not fit each other.
    """

    labels: Ints
    v1: Floats
    v2: Floats
    v2_cross: Floats | None = None
    twin: Floats | None = None
    bridged: Floats | None = None
    status_quo: Floats | None = None

    def __post_init__(self) -> None:
        own = check_vectors(self.v1, name="v1")
        numbers = check_labels(self.labels, len(own))
        cross = self.v2 if self.v2_cross is None else self.v2_cross
        dimension = own.shape[1]
        checked: dict[str, Any] = {
            "labels": np.unique(numbers, return_inverse=True)[1].astype(np.int64),
            "v1": own,
            "v2": check_vectors(self.v2, name="v2"),
            "v2_cross": check_vectors(cross, dimension=dimension, name="v2_cross"),
        }
        if self.twin is not None:
            checked["twin"] = check_vectors(self.twin, name="twin")
        if self.bridged is not None:
            checked["bridged"] = check_vectors(self.bridged, dimension=dimension, name="bridged")
        if self.status_quo is not None:
            checked["status_quo"] = check_vectors(self.status_quo, name="status_quo")
        for name, value in checked.items():
            if len(value) != len(own):
                raise VectorError(f"{name} has {len(value)} rows and v1 {len(own)}; embed the same")
            object.__setattr__(self, name, value)

    @property
    def people(self) -> int:
        """How many people there are."""
        return int(self.labels.max(initial=-1)) + 1

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """The (probe role, stored role) pairs that can be measured here."""
        found = [("v1", "v1"), ("v2", "v1"), ("v1", "v2"), ("v2", "v2")]
        found += [] if self.twin is None else [("twin", "twin")]
        found += [] if self.bridged is None else [("bridge", "v1")]
        found += [] if self.status_quo is None else [self.deployed]
        return tuple(found)

    @property
    def deployed(self) -> tuple[str, str]:
        """The edge of the deployed version with itself, which everything is compared with."""
        return ("v1", "v1") if self.status_quo is None else (STATUS_QUO, STATUS_QUO)

    def vectors(self, probe: str, stored: str) -> tuple[Floats, Floats]:
        """Return what probe and stored side of an edge are compared by: [N, d] each."""
        own = {
            "v1": self.v1,
            "v2": self.v2,
            "twin": self.twin,
            "bridge": self.bridged,
            STATUS_QUO: self.status_quo,
        }
        left, right = own[probe], own[stored]
        if {probe, stored} == {"v1", "v2"}:
            left, right = (self.v2_cross, self.v1) if probe == "v2" else (self.v1, self.v2_cross)
        if left is None or right is None:
            raise EvaluationError(f"no vectors to measure {probe} -> {stored} with; give them")
        return left, right

    def take(self, rows: Ints | Bools) -> CompatibilityData:
        """Return only some images."""
        return CompatibilityData(
            labels=self.labels[rows],
            v1=self.v1[rows],
            v2=self.v2[rows],
            v2_cross=None if self.v2_cross is None else self.v2_cross[rows],
            twin=None if self.twin is None else self.twin[rows],
            bridged=None if self.bridged is None else self.bridged[rows],
            status_quo=None if self.status_quo is None else self.status_quo[rows],
        )

    def at_most(self, images_per_person: int, seed: int) -> CompatibilityData:
        """Return a seeded choice of at most so many images of each person."""
        return self.take(chosen_images(self.labels, images_per_person, seed))


def chosen_images(labels: Ints, images_per_person: int, seed: int) -> Ints:
    """Return the rows of a seeded choice of at most so many images of each person, ascending."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_person = order[np.argsort(labels[order], kind="stable")]
    people = labels[by_person]
    nth = np.arange(len(people)) - np.searchsorted(people, people, side="left")
    return np.sort(by_person[nth < images_per_person])


def calibrate_edges(data: CompatibilityData) -> dict[tuple[str, str], Calibration]:
    """Return the calibration of every edge that `data` can measure, by all its impostor pairs.

    Raises:
        EvaluationError: too few people.
    """
    calibrations = {}
    for probe, stored in data.edges:
        left, right = data.vectors(probe, stored)
        calibrations[probe, stored] = calibrate(
            left, data.labels, right, data.labels, same_images=True
        )
    return calibrations


class EdgeScores:
    """All distances of every edge, raw and calibrated, each computed once."""

    def __init__(
        self, data: CompatibilityData, calibrations: dict[tuple[str, str], Calibration]
    ) -> None:
        self._data, self._calibrations = data, calibrations
        self._raw: dict[tuple[str, str], Floats] = {}
        self._calibrated: dict[tuple[str, str], Doubles] = {}

    def raw(self, probe: str, stored: str) -> Floats:
        """Return squared distances float32 [N, N]; row: probe, column: stored."""
        edge = probe, stored
        if edge == ("v1", "v2"):
            return self.raw("v2", "v1").T
        if edge not in self._raw:
            self._raw[edge] = squared_distances(*self._data.vectors(probe, stored))
        return self._raw[edge]

    def calibrated(self, probe: str, stored: str) -> Doubles:
        """Return log10 of the FAR of each distance on its edge: float64 [N, N]."""
        edge = probe, stored
        if edge not in self._calibrated:
            calibration = self._calibrations[edge]
            self._calibrated[edge] = calibration.log10_far(self.raw(probe, stored))
        return self._calibrated[edge]


def migrated_items(count: int, rho: float, seed: int) -> Bools:
    """Return which of `count` items are migrated at `rho`: bool [count], nested over rho.

    >>> a, b = migrated_items(10, 0.3, seed=1), migrated_items(10, 0.6, seed=1)
    >>> int(a.sum()), int(b.sum()), bool((b | ~a).all())
    (3, 6, True)
    """
    return np.asarray(migration_turns(count, seed) < round(rho * count))


def migration_turns(count: int, seed: int) -> Ints:
    """Return when each item migrates in random order: its turn from 0, int64 [count]."""
    return np.random.default_rng(seed).permutation(count)


def search_scores(scored: Scored, migrated: Bools) -> Floats | Doubles:
    """Return v2 probes against the gallery: v2 -> v2 where the item is migrated, else v2 -> v1."""
    return np.where(migrated[None, :], scored("v2", "v2"), scored("v2", "v1"))


def stored_scores(scored: Scored, migrated: Bools) -> Floats | Doubles:
    """Return stored items against each other, each by its live version: four edges."""
    return np.where(
        migrated[:, None],
        np.where(migrated[None, :], scored("v2", "v2"), scored("v2", "v1")),
        np.where(migrated[None, :], scored("v1", "v2"), scored("v1", "v1")),
    )


def rank_merge_scores(scored: Scored, migrated: Bools) -> Floats | Doubles:
    """Return probes embedded twice: by v1 against the v1 items, by the twin against the rest."""
    return np.where(migrated[None, :], scored("twin", "twin"), scored("v1", "v1"))


def bridge_scores(scored: Scored, migrated: Bools) -> Floats | Doubles:
    """Return twin probes: mapped to v1's space for the v1 items, as they are for the rest."""
    return np.where(migrated[None, :], scored("twin", "twin"), scored("bridge", "v1"))
