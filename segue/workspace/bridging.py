"""Bridges between versions that were not trained together: fit, save on an edge, compare with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from segue.errors import UnknownNameError, UnmeasuredEdgeError, UsageError
from segue.images import FaceList, read_faces
from segue.types import DEFAULT_OUTPUT
from segue.workspace.people import fitted_on
from segue.workspace.retuning import old_outputs
from segue.workspace.unseen import Unseen, check_unseen

if TYPE_CHECKING:
    from pathlib import Path

    from segue.evaluation.protocols import CompatibilityData
    from segue.harmonic.bridges import Bridge, BridgeChoice
    from segue.registry import Edge, Version
    from segue.types import Floats, Progress
    from segue.workspace.core import Workspace

BEST = "best"
"""The kind that stands for whichever kind does best on held-out people."""

NEW_TO_OLD, OLD_TO_NEW = "new-to-old", "old-to-new"
DIRECTIONS = (NEW_TO_OLD, OLD_TO_NEW)
"""Probes of which version the bridge maps, and to which stored version."""

PARTS = ("validation", "calibration")
"""The parts that a bridge may be fitted on: no model saw these people, and no result is of them."""


@dataclass(frozen=True)
class TrainedBridge:
    """What `train_bridge` made.

    Attributes:
        number: the bridge's number in the registry.
        probe, stored: the edge that has it.
        bridge: the map from probe to stored version.
        table: what each kind that was tried does on held-out people, as JSON values, the best
            first.
        unrelated: the held-out distance of a map that has learned nothing: that of the mapped
            vectors to other people's.
        unseen: which versions are known not to have learned from any of these people.
    """

    number: int
    probe: str
    stored: str
    bridge: Bridge
    table: tuple[dict[str, Any], ...]
    unrelated: float
    unseen: Unseen


def train_bridge(
    workspace: Workspace,
    old: str,
    new: str,
    data: Path,
    *,
    kind: str,
    direction: str,
    part: str,
    old_vectors: Path | None,
    replace_calibrated: bool,
    seed: int,
    progress: Progress,
) -> TrainedBridge:
    """Fit a bridge on people that no model saw, and put it on the edge that it is for."""
    from segue.harmonic.bridges import check_choosable, choose_bridge, list_bridges

    for what, given, known in (
        ("kind of bridge", kind, (BEST, *list_bridges())),
        ("direction", direction, DIRECTIONS),
        ("part to fit a bridge on", part, PARTS),
    ):
        if given not in known:
            raise UnknownNameError(what, given, known)
    old_version, new_version = (workspace.registry.resolve(x) for x in (old, new))
    ends = (new_version, old_version) if direction == NEW_TO_OLD else (old_version, new_version)
    probe, stored = ends
    if probe.version == stored.version:
        raise UsageError(f"a bridge joins two versions; both are {probe.version}")
    since = _check_replaceable(workspace, probe, stored, replace_calibrated=replace_calibrated)
    faces = read_faces(data).part(part)
    check_choosable(faces.labels)
    unseen = check_unseen(workspace, [], faces.people, "fit it", versions=ends)
    drawn, vectors = _embed_both(
        workspace, old_version, new_version, faces, old_vectors=old_vectors, progress=progress
    )
    settings = {"kind": kind, "part": part, "seed": seed}
    name = f"{probe.version} to {stored.version} bridge"
    with workspace.registry.tracking.training_run(name, settings, drawn.fingerprint) as run:
        choice = choose_bridge(
            vectors[probe.version],
            vectors[stored.version],
            drawn.labels,
            source_version=probe.version,
            target_version=stored.version,
            source_fingerprint=probe.fingerprint,
            target_fingerprint=stored.fingerprint,
            kinds=None if kind == BEST else [kind],
            seed=seed,
        )
        for score in choice.scores:
            run.log(0, {f"held-out distance {score.kind}": score.distance})
    people = fitted_on(workspace, drawn, part)
    bridge = replace(choice.bridge, settings={**choice.bridge.settings, **people})
    table = tuple(choice.table())
    number = _save(workspace, bridge, {"part": part, "kinds": list(table)}, since)
    unrelated = choice.unrelated
    return TrainedBridge(number, probe.version, stored.version, bridge, table, unrelated, unseen)


def _check_replaceable(
    workspace: Workspace, probe: Version, stored: Version, *, replace_calibrated: bool
) -> str:
    """Refuse to take the place of an edge that is in use, unless told to.

    Returns:
        when the edge that may be replaced was saved, empty where there is none.
    """
    rows = workspace.registry.edge_rows(probe.version)  # also where its bridge is damaged
    ends = (probe.version, stored.version)
    known = next((row for row in rows if (row.probe, row.stored) == ends), None)
    if known is None or not known.calibrated or replace_calibrated:
        return "" if known is None else known.created_at
    found = "has a bridge" if known.bridge is not None else "compares its vectors as they are"
    raise UsageError(
        f"the edge {known.label} is calibrated and {found}; with another bridge no mixed gallery "
        "can be searched until it is calibrated again: pass --replace to do that"
    )


def _embed_both(
    workspace: Workspace,
    old: Version,
    new: Version,
    faces: FaceList,
    *,
    old_vectors: Path | None,
    progress: Progress,
) -> tuple[FaceList, dict[str, Floats]]:
    """Return the faces that count and each version's own vectors of them, [N, d]."""
    from segue.workspace.measuring import IMAGES_PER_PERSON, embed_faces

    drawn = faces.at_most(IMAGES_PER_PERSON, 0)
    frozen = old_outputs(workspace, old, drawn, old_vectors, progress)[DEFAULT_OUTPUT]
    fresh = embed_faces(workspace, new.version, drawn, progress)[DEFAULT_OUTPUT]
    return drawn, {old.version: frozen, new.version: fresh}


def _save(workspace: Workspace, bridge: Bridge, measured: dict[str, Any], since: str) -> int:
    """Save a bridge and its edge, not calibrated yet, together; return the bridge's number.

    Raises:
        StaleEdgeError: the edge was saved by somebody else while the bridge was fitted.
    """
    from segue.registry import Edge
    from segue.registry.edges import write_bridge, write_edge

    edge = Edge(
        bridge.source_version,
        bridge.target_version,
        bridge=bridge,
        measured={"bridge": {"kind": bridge.kind, **measured}},
    )
    with workspace.database.write() as connection:
        write_edge(connection, workspace.root, edge, since=since)
        return write_bridge(connection, workspace.root, bridge)  # there already: its number


def known_edge(workspace: Workspace, probe: str, stored: str) -> Edge | None:
    """Return the edge as it is stored, None where there is none."""
    try:
        return workspace.registry.edge(probe, stored)
    except UnmeasuredEdgeError:
        return None


def with_best_bridge(
    old: Version,
    twin: Version,
    measured: CompatibilityData,
    calibrating: CompatibilityData,
    fitting: CompatibilityData | None,
) -> tuple[CompatibilityData, CompatibilityData, BridgeChoice]:
    """Add to a report's data the twin's vectors, mapped into v1's space by the best bridge.

    Args:
        old: v1.
        twin: the independent v2.
        measured: the report's people.
        calibrating: the calibration people.
        fitting: other people to fit and choose the bridge on. Without any it is fitted on the
            calibration people, and calibrated on their vectors as bridges map them that were
            fitted without them.

    Returns:
        both sets of data with `bridged`, and the choice.
    """
    from segue.harmonic.bridges import choose_bridge

    people = calibrating if fitting is None else fitting
    assert people.twin is not None
    assert measured.twin is not None
    assert calibrating.twin is not None
    choice = choose_bridge(
        people.twin,
        people.v1,
        people.labels,
        source_version=twin.version,
        target_version=old.version,
    )
    mapped = choice.held_out
    if fitting is not None:
        mapped = choice.bridge.apply(calibrating.twin, version=twin.version)
    return (
        replace(measured, bridged=choice.bridge.apply(measured.twin, version=twin.version)),
        replace(calibrating, bridged=mapped),
        choice,
    )
