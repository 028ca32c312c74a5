"""Every version against every other: a matrix of measured edges, for a chain of upgrades.

Compatibility is not transitive: that v3 was trained against v2, and v2 against v1, says nothing of
v3 against v1. So every ordered pair is measured, on the same people and the same resamples, and
pairs that have no outputs to be compared in are marked and never filled in.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from segue.arrays import check_labels, check_vectors
from segue.errors import EvaluationError, FormatError, UnknownNameError, VectorError
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.meter import Meter, Metric, Plan
from segue.evaluation.plans import IMAGES_PER_PERSON
from segue.evaluation.protocols import chosen_images
from segue.evaluation.results import RANK1, metric_of
from segue.evaluation.roc import check_far
from segue.harmonic.distances import squared_distances
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT, no_progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segue.types import Floats, Progress

Edge: TypeAlias = tuple[str, str]
"""(probe version, stored version)."""

FORMAT = 1
"""The version of the matrix's JSON form."""


@dataclass(frozen=True)
class MatrixCell:
    """What was measured of one edge.

    `outputs` are the probe's and the stored version's that were compared; None where they have none
    of one dimension, and then nothing was measured. `bridged` probes were mapped first. `val`
    belongs to the matrix's FARs, None where the people cannot measure one. The `against_stored`
    are differences to the stored version compared with itself: what going live with the new
    probes brings (criterion: above 0).
    """

    probe: str
    stored: str
    outputs: tuple[str, str] | None
    bridged: bool
    val: tuple[Estimate | None, ...]
    val_against_stored: tuple[Estimate | None, ...]
    rank1: Estimate | None
    rank1_against_stored: Estimate | None
    auc: float | None

    @property
    def comparable(self) -> bool:
        """Whether the two versions have outputs that can be compared."""
        return self.outputs is not None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MatrixCell:
        """Read what `VersionMatrix.to_json` wrote."""
        outputs = value["outputs"]
        return cls(
            probe=str(value["probe"]),
            stored=str(value["stored"]),
            outputs=None if outputs is None else (str(outputs[0]), str(outputs[1])),
            bridged=bool(value["bridged"]),
            val=tuple(Estimate.or_none(each) for each in value["val"]),
            val_against_stored=tuple(
                Estimate.or_none(each) for each in value["val_against_stored"]
            ),
            rank1=Estimate.or_none(value["rank1"]),
            rank1_against_stored=Estimate.or_none(value["rank1_against_stored"]),
            auc=None if value["auc"] is None else float(value["auc"]),
        )


@dataclass(frozen=True)
class VersionMatrix:
    """Every ordered pair of some versions, measured on the same people; see `measure_matrix`.

    `cells` stand row by row: the probes of the first version against all, then of the second.
    """

    versions: tuple[str, ...]
    fars: tuple[float, ...]
    people: int
    people_with_mates: int
    images: int
    impostor_pairs: int
    bootstrap: int
    seed: int
    cells: tuple[MatrixCell, ...]

    def cell(self, probe: str, stored: str) -> MatrixCell:
        """Return one edge.

        Raises:
            UnknownNameError: a version that is not in the matrix.
        """
        for name in (probe, stored):
            if name not in self.versions:
                raise UnknownNameError("version of the matrix", name, self.versions)
        return next(each for each in self.cells if (each.probe, each.stored) == (probe, stored))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with `"format": 1`; what was not measured is None."""
        value: dict[str, Any] = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name != "cells"
        }
        value |= {name: list(value[name]) for name in ("versions", "fars")}
        return {"format": FORMAT, **value, "cells": [_plain(cell) for cell in self.cells]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> VersionMatrix:
        """Read what `to_json` wrote.

        Raises:
            FormatError: it has another format.
            EvaluationError: it is damaged.
        """
        if value.get("format") != FORMAT:
            raise FormatError("the matrix of versions", str(value.get("format")), FORMAT)
        counts = (
            "people",
            "people_with_mates",
            "images",
            "impostor_pairs",
            "bootstrap",
            "seed",
        )
        try:
            return cls(
                **{name: int(value[name]) for name in counts},
                versions=tuple(str(name) for name in value["versions"]),
                fars=tuple(float(far) for far in value["fars"]),
                cells=tuple(MatrixCell.from_json(cell) for cell in value["cells"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise EvaluationError(
                f"the matrix of versions is damaged ({error!r}); measure again"
            ) from error


def comparable_outputs(
    probe: Mapping[str, int], stored: Mapping[str, int]
) -> tuple[str, str] | None:
    """Return the outputs in which two different versions can be compared, None if in none.

    A head made for being compared (`compatible`) is preferred to a version's own output.

    Args:
        probe: output -> dimension of the probe version.
        stored: output -> dimension of the stored version.

    >>> comparable_outputs({"embedding": 128, "compatible": 64}, {"embedding": 64})
    ('compatible', 'embedding')
    """
    preferred = (COMPATIBLE_OUTPUT, DEFAULT_OUTPUT)
    for first, second in itertools.product(preferred, preferred):
        if probe.get(first, -1) == stored.get(second, -2):
            return first, second
    return None


def measure_matrix(
    vectors_by_version: Mapping[str, Floats | Mapping[str, Floats]],
    labels: Any,
    *,
    outputs: Mapping[Edge, tuple[str, str] | None] | None = None,
    mapped: Mapping[Edge, Floats] | None = None,
    fars: Sequence[float] = (1e-2, 1e-3),
    bootstrap: int = 200,
    seed: int = 0,
    progress: Progress = no_progress,
) -> VersionMatrix:
    """Measure every version's probes against every version's stored vectors.

    Args:
        vectors_by_version: version -> unit vectors [N, d] of the same images, or output -> vectors
            where it has several. The order is that of the matrix, oldest first.
        labels: the person of each image, [N]; of more than ten images of a person, a seeded choice
            of ten counts.
        outputs: edge -> outputs to compare, where it must not be the first pair that fits; None
            where there are none.
        mapped: edge -> the probe's vectors mapped by the edge's bridge, [N, d of the stored].
        fars: false accept rates to measure VAL at.
        bootstrap: resamples of people behind the 95 % intervals; at least 10.
        seed: of the choice of images and of the resamples.
        progress: told after each edge.

    Raises:
        EvaluationError: fewer than two versions, too few people or resamples, or no FAR.
        VectorError: arrays that do not fit.
    """
    if len(vectors_by_version) < 2:
        raise EvaluationError("a matrix needs two versions or more; name each once")
    rates = tuple(sorted({check_far(far) for far in fars}, reverse=True))
    if not rates:
        raise EvaluationError("give at least one FAR to measure")
    everyone = np.unique(check_labels(labels, len(np.asarray(labels))), return_inverse=True)[1]
    rows = chosen_images(everyone, IMAGES_PER_PERSON, seed)
    vectors = {
        version: _checked(version, given, len(everyone), rows)
        for version, given in vectors_by_version.items()
    }
    mapped = {edge: check_vectors(each, name="mapped") for edge, each in (mapped or {}).items()}
    people = np.unique(everyone[rows], return_inverse=True)[1]
    meter = Meter(people, None, rates, bootstrap, seed)
    versions = tuple(vectors)
    compared: dict[Edge, _Compared | None] = {}
    # Each version with itself comes first: the others are compared with it.
    edges = sorted(itertools.product(versions, versions), key=lambda edge: edge[0] != edge[1])
    for done, edge in enumerate(edges, start=1):
        named = outputs[edge] if outputs and edge in outputs else _outputs(edge, vectors)
        bridged = mapped[edge][rows] if edge in mapped else None
        compared[edge] = _measure(meter, edge, named, vectors, bridged) if named else None
        progress(done, len(edges), "edges of the matrix")
    pairs = meter.pairs(directed=False)
    return VersionMatrix(
        versions=versions,
        fars=rates,
        people=len(pairs.images),
        people_with_mates=len(pairs.owners),
        images=len(people),
        impostor_pairs=len(pairs.impostor),
        bootstrap=bootstrap,
        seed=seed,
        cells=tuple(_cell(edge, compared, rates) for edge in itertools.product(versions, versions)),
    )


@dataclass(frozen=True, eq=False)
class _Compared:
    outputs: tuple[str, str]
    bridged: bool
    metrics: dict[str, Metric]
    measurable: frozenset[float]
    auc: float


def _checked(
    version: str, given: Floats | Mapping[str, Floats], count: int, rows: Any
) -> dict[str, Floats]:
    named = given if hasattr(given, "items") else {DEFAULT_OUTPUT: given}
    checked = {}
    for output, each in named.items():
        checked[output] = check_vectors(each, name=f"{output} of {version}")
        if len(checked[output]) != count:
            raise VectorError(
                f"{output} of {version} has {len(checked[output])} rows for {count} images; embed "
                "the same images by every version"
            )
    if DEFAULT_OUTPUT not in checked:
        raise VectorError(f"{version} has no vectors of its own output {DEFAULT_OUTPUT!r}")
    return {output: each[rows] for output, each in checked.items()}


def _outputs(edge: Edge, vectors: Mapping[str, Mapping[str, Floats]]) -> tuple[str, str] | None:
    if edge[0] == edge[1]:
        return DEFAULT_OUTPUT, DEFAULT_OUTPUT
    probe, stored = (
        {output: each.shape[1] for output, each in vectors[version].items()} for version in edge
    )
    return comparable_outputs(probe, stored)


def _measure(
    meter: Meter,
    edge: Edge,
    outputs: tuple[str, str],
    vectors: Mapping[str, Mapping[str, Floats]],
    bridged: Floats | None,
) -> _Compared:
    for version, output in zip(edge, outputs, strict=True):
        if output not in vectors[version]:
            raise UnknownNameError(f"output of {version}", output, vectors[version])
    probe = vectors[edge[0]][outputs[0]] if bridged is None else bridged
    plan = Plan(
        f"{edge[0]} -> {edge[1]}",
        "matrix",
        partial(squared_distances, probe, vectors[edge[1]][outputs[1]]),
        directed=edge[0] != edge[1],
    )
    weighed = meter.weigh(plan, precision=False)
    measurable = frozenset(far for far in meter.fars if weighed.curve.measurable(far))
    return _Compared(outputs, bridged is not None, weighed.metrics, measurable, weighed.curve.auc)


def _cell(
    edge: Edge, compared: Mapping[Edge, _Compared | None], fars: tuple[float, ...]
) -> MatrixCell:
    found, own = compared[edge], compared[edge[1], edge[1]]
    assert own is not None
    if found is None:
        nothing = (None,) * len(fars)
        return MatrixCell(*edge, None, False, nothing, nothing, None, None, None)
    val: list[Estimate | None] = []
    against: list[Estimate | None] = []
    for far in fars:
        name = metric_of(far)
        known = far in found.measurable
        val.append(found.metrics[name].estimate() if known else None)
        known = known and far in own.measurable
        against.append((found.metrics[name] - own.metrics[name]).estimate() if known else None)
    return MatrixCell(
        *edge,
        outputs=found.outputs,
        bridged=found.bridged,
        val=tuple(val),
        val_against_stored=tuple(against),
        rank1=found.metrics[RANK1].estimate(),
        rank1_against_stored=(found.metrics[RANK1] - own.metrics[RANK1]).estimate(),
        auc=found.auc,
    )


def _plain(cell: MatrixCell) -> dict[str, Any]:
    def told(value: Any) -> Any:
        if isinstance(value, Estimate):
            return value.to_json()
        return [told(each) for each in value] if isinstance(value, tuple) else value

    return {name: told(getattr(cell, name)) for name in cell.__dataclass_fields__}
