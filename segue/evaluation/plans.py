"""What is compared with what: the rows that a report of an upgrade measures, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from segue.errors import EvaluationError
from segue.evaluation.meter import Plan
from segue.evaluation.protocols import (
    CompatibilityData,
    EdgeScores,
    bridge_scores,
    calibrate_edges,
    migrated_items,
    rank_merge_scores,
    search_scores,
    stored_scores,
)
from segue.evaluation.results import BRIDGE, RANK_MERGE, RETUNED, SEARCH, STORED, mixed_name
from segue.evaluation.roc import check_far

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.harmonic.calibration import Calibration
    from segue.types import Doubles, Floats

IMAGES_PER_PERSON = 10
"""More images of a person would let a few people decide the result."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What a report is measured on: people, calibrated edges, FARs and mixing ratios.

    `fars` descend, `rhos` ascend; of `data` no person has more than ten images.
    """

    data: CompatibilityData
    calibrations: dict[tuple[str, str], Calibration]
    scores: EdgeScores
    fars: tuple[float, ...]
    rhos: tuple[float, ...]
    seed: int


def prepare(
    data: CompatibilityData,
    calibration_data: CompatibilityData,
    fars: Sequence[float],
    rhos: Sequence[float],
    seed: int,
) -> Setting:
    """Check what is to be measured, choose the images, and calibrate every edge.

    Raises:
        EvaluationError: no such rates, too few people, or calibration data without an array that
            `data` has.
    """
    rates = tuple(sorted({check_far(far) for far in fars}, reverse=True))
    shares = tuple(sorted({_check_rho(rho) for rho in rhos}))
    if not rates or not shares:
        raise EvaluationError("give at least one FAR and one rho to measure")
    if missing := set(data.edges) - set(calibration_data.edges):
        edges = ", ".join(f"{probe} -> {stored}" for probe, stored in sorted(missing))
        raise EvaluationError(f"the calibration people have no vectors for {edges}; embed them too")
    chosen = data.at_most(IMAGES_PER_PERSON, seed)
    calibrations = calibrate_edges(calibration_data.at_most(IMAGES_PER_PERSON, seed))
    return Setting(chosen, calibrations, EdgeScores(chosen, calibrations), rates, shares, seed)


def row_plans(setting: Setting) -> Iterator[Plan]:
    """Yield every row, v1 as it is deployed first: the others are compared with it."""
    data, raw = setting.data, setting.scores.raw
    yield Plan("v1", "self", partial(raw, *data.deployed), directed=False, deployed=True)
    if data.status_quo is not None:
        yield Plan(RETUNED, "self", partial(raw, "v1", "v1"), directed=False)
    if data.twin is not None:
        yield Plan("twin", "self", partial(raw, "twin", "twin"), directed=False)
    yield Plan("v2", "self", partial(raw, "v2", "v2"), directed=False)
    yield Plan("v2 -> v1", "cross", partial(raw, "v2", "v1"))
    yield Plan("v1 -> v2", "cross", partial(raw, "v1", "v2"))
    if data.bridged is not None:
        yield Plan("bridge -> v1", "cross", partial(raw, "bridge", "v1"))
    for group, mix, modes in _mixed_groups(data):
        for calibrated in modes:
            scored = setting.scores.calibrated if calibrated else raw
            for rho in setting.rhos:
                migrated = migrated_items(len(data.labels), rho, setting.seed)
                yield Plan(
                    name=mixed_name(group, rho, calibrated=calibrated),
                    group=group,
                    scores=partial(mix, scored, migrated),
                    directed=group != STORED,
                    rho=rho,
                    calibrated=calibrated,
                    deployed=True,
                )


def _mixed_groups(
    data: CompatibilityData,
) -> list[tuple[str, Callable[..., Floats | Doubles], tuple[bool, ...]]]:
    """Return the mixed groups that `data` allows: name, mixture, and whether calibrated."""
    groups: list[tuple[str, Callable[..., Floats | Doubles], tuple[bool, ...]]] = [
        (SEARCH, search_scores, (False, True)),
        (STORED, stored_scores, (False, True)),
    ]
    if data.twin is not None:
        groups.append((RANK_MERGE, rank_merge_scores, (True,)))
        if data.bridged is not None:
            groups.append((BRIDGE, bridge_scores, (True,)))
    return groups


def _check_rho(rho: float) -> float:
    if not 0 <= rho <= 1:
        raise EvaluationError(f"{rho!r} is no mixing ratio; give shares within 0 and 1")
    return float(rho)
