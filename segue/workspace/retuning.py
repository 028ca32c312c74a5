"""Retune a deployed version: fit a map of its vectors, register the version that it makes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from segue.errors import UsageError, VectorError
from segue.images import read_faces
from segue.types import BASE_OUTPUT, DEFAULT_OUTPUT
from segue.workspace.unseen import Unseen, check_unseen

if TYPE_CHECKING:
    from pathlib import Path

    from segue.harmonic.bridges import Bridge
    from segue.harmonic.calibration import Calibration
    from segue.images import FaceList
    from segue.registry import Edge, Version
    from segue.types import Floats, Ints, Progress
    from segue.workspace.core import Workspace

FARS = (1e-2, 1e-3)
"""False accept rates at which a retuning is told, as far as the people support them."""

FITTED_ON, MEASURED_ON, CALIBRATED_ON = "train", "validation", "calibration"
"""Parts of the people: those that v2 is trained on, and two that nothing is fitted on."""


@dataclass(frozen=True)
class Retuned:
    """What `retune` made.

    Attributes:
        version: the retuned version.
        old: the id of the version that it retunes.
        bridge: the map.
        measured: `old` and `retuned` -> measure -> value on the validation people, whom the map
            never saw: `VAL@1e-2`, `VAL@1e-3` as far as measurable, and `rank-1`. Empty where there
            are no such people, or no vectors of them.
        calibrated: whether its edges are calibrated.
        unseen: whether `old` is known not to have learned from the people of either part.
    """

    version: Version
    old: str
    bridge: Bridge
    measured: dict[str, dict[str, float]]
    calibrated: bool
    unseen: Unseen


def retune(
    workspace: Workspace,
    old: str,
    data: Path,
    *,
    old_vectors: Path | None,
    seed: int,
    progress: Progress,
) -> Retuned:
    """Fit the map on part `train`, measure it on part `validation`, register what it makes."""
    from segue.harmonic.bridges import check_retunable, fit_retuning
    from segue.workspace.people import fitted_on, shown_settings

    version = workspace.registry.resolve(old)
    if version.kind == "mapped":
        raise UsageError(
            f"{version.version} holds mapped vectors already; retune "
            f"{version.details['source']} anew instead"
        )
    everyone = read_faces(data)
    faces = everyone.part(FITTED_ON)
    check_retunable(faces.labels, version=version.version)
    unseen = _check_others(workspace, version, everyone)
    vectors = _vectors(workspace, version, faces, old_vectors, progress)
    others = partial(_others, workspace, version, everyone, file=old_vectors, progress=progress)
    settings = {"old": version.version, "seed": seed}
    name = f"{version.version} retuned"
    with workspace.registry.tracking.training_run(name, settings, faces.fingerprint) as run:
        started = time.monotonic()
        bridge = fit_retuning(
            vectors,
            faces.labels,
            version=version.version,
            fingerprint=version.fingerprint,
            seed=seed,
        )
        seconds = time.monotonic() - started
        people = fitted_on(workspace, faces, FITTED_ON)
        bridge = replace(bridge, settings={**bridge.settings, **people})
        seen = others(MEASURED_ON)
        measured = {} if seen is None else _measured(bridge, *seen)
        for side, figures in measured.items():
            run.log(0, {f"{measure} {side}": value for measure, value in figures.items()})
    calibrating = others(CALIBRATED_ON)
    details = {
        "run_id": run.run_id,
        "training": shown_settings(bridge),
        "data": faces.fingerprint,
        "people": len(faces.people),
        "images": len(faces),
        "seconds": round(seconds, 1),
        "measured": measured,
    }
    made = _register(workspace, bridge, details, calibrating)
    found = workspace.registry.bridge(int(made.details["bridge"]))
    return Retuned(made, version.version, found, measured, calibrating is not None, unseen)


def _check_others(workspace: Workspace, old: Version, everyone: FaceList) -> Unseen:
    """Refuse people to measure and calibrate on whom the old version learned from."""
    unseen = Unseen()
    for part in (MEASURED_ON, CALIBRATED_ON):
        people = {face.person for face in everyone.faces if face.part == part}
        if people:
            purpose = "measure and calibrate the map"
            unseen = check_unseen(
                workspace, [], people, purpose, versions=[old], options="other --data"
            )
    return unseen


def old_outputs(
    workspace: Workspace,
    old: Version,
    faces: FaceList,
    file: Path | None,
    progress: Progress,
) -> dict[str, Floats]:
    """Return the old version's vectors of every face, by output: embedded, or read from a file.

    The file of a retuned version holds the vectors of the version that it retunes; they are mapped.

    Raises:
        VectorError: the file lacks a face, or its vectors have another dimension.
    """
    if file is None:
        from segue.workspace.measuring import embed_faces

        return embed_faces(workspace, old.version, faces, progress)
    from segue.registry import RetunedEmbedder
    from segue.train import old_vectors_from_file

    vectors = old_vectors_from_file(file, faces)
    wanted = old.outputs.get(BASE_OUTPUT, old.dimension) if old.retuned_from else old.dimension
    if vectors.shape[1] != wanted:
        raise VectorError(
            f"the old vectors have dimension {vectors.shape[1]}, "
            f"{old.retuned_from or old.version} has {wanted}; they come from another model"
        )
    if old.retuned_from is None:
        return {DEFAULT_OUTPUT: vectors}
    embedder = workspace.registry.load(old.version)
    assert isinstance(embedder, RetunedEmbedder)
    return embedder.embed_vectors(vectors)


def _vectors(
    workspace: Workspace, old: Version, faces: FaceList, file: Path | None, progress: Progress
) -> Floats:
    return old_outputs(workspace, old, faces, file, progress)[DEFAULT_OUTPUT]


def _others(
    workspace: Workspace,
    old: Version,
    everyone: FaceList,
    part: str,
    *,
    file: Path | None,
    progress: Progress,
) -> tuple[Floats, Ints] | None:
    """Return vectors and labels of a part that nothing was fitted on; None where there are none."""
    from segue.workspace.measuring import counted

    if not any(face.part == part for face in everyone.faces):
        return None
    faces = counted(everyone.part(part), 0)
    try:
        return _vectors(workspace, old, faces, file, progress), faces.labels
    except VectorError:
        if file is None:
            raise
        return None  # the file has the training images only


def _measured(bridge: Bridge, vectors: Floats, labels: Ints) -> dict[str, dict[str, float]]:
    """Return VAL and rank-1 of the vectors with themselves, before and after the map."""
    from segue.evaluation.bootstrap import all_pairs
    from segue.evaluation.identification import rank1
    from segue.evaluation.results import RANK1, metric_of
    from segue.evaluation.roc import val_at_far
    from segue.harmonic.distances import squared_distances

    pairs = all_pairs(labels, directed=False)
    mapped = bridge.apply(vectors, version=bridge.source_version)
    found: dict[str, dict[str, float]] = {}
    for side, own in (("old", vectors), ("retuned", mapped)):
        scores = squared_distances(own, own)
        flat = scores.reshape(-1)
        figures = {
            metric_of(far): val_at_far(flat[pairs.genuine], flat[pairs.impostor], far).val
            for far in FARS
            if pairs.can_support(far)
        }
        figures[RANK1] = rank1(scores, labels, labels, same_images=True)
        found[side] = figures
    return found


def _register(
    workspace: Workspace,
    bridge: Bridge,
    details: dict[str, Any],
    calibrating: tuple[Floats, Ints] | None,
) -> Version:
    """Register the version with its bridge and its edges, calibrated where people are there.

    Edges that are calibrated already stay as they are: a report may be of them.
    """
    from segue.registry import Edge, read_edge
    from segue.registry.edges import calibrated, write_edge
    from segue.registry.retuned import edges_of, write_retuned

    calibrations: tuple[Calibration, Calibration] | None = None
    if calibrating is not None:
        from segue.harmonic.calibration import calibrate

        vectors, labels = calibrating
        mapped = bridge.apply(vectors, version=bridge.source_version)
        own, before = (calibrate(x, labels, x, labels, same_images=True) for x in (mapped, vectors))
        calibrations = own, before
    with workspace.database.write() as connection:
        version = write_retuned(connection, workspace.root, bridge, details, None)
        if calibrations is not None:
            through, back = edges_of(replace(bridge, target_version=version))
            # A probe that is mapped and a stored vector that is mapped are of one space.
            edges: list[tuple[Edge, Calibration]] = [
                (Edge(version, version), calibrations[0]),
                (through, calibrations[0]),
                (back, calibrations[1]),
            ]
            for edge, calibration in edges:
                root = workspace.root
                there = read_edge(connection, root, edge.probe, edge.stored, lock=True)
                if there is None or (there.calibration is None and _alike(there, edge)):
                    made = calibrated(edge, calibration, on=f"part {CALIBRATED_ON}")
                    write_edge(connection, root, made)
    return workspace.registry.resolve(version)


def _alike(one: Edge, other: Edge) -> bool:
    """Tell whether two edges of one pair compare the same outputs, through the same map."""
    marks = [
        (edge.probe_output, edge.stored_output, edge.bridge and edge.bridge.to_bytes())
        for edge in (one, other)
    ]
    return marks[0] == marks[1]
