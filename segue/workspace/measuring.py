"""Measure versions on people that no model saw, and store what was measured."""

from __future__ import annotations

import itertools
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import (
    EvaluationError,
    MissingPathError,
    PeopleError,
    UnknownNameError,
    UnmeasuredEdgeError,
    UsageError,
)
from segue.files import translated
from segue.images import FaceList, decode, read_faces
from segue.synthetic import NOTICE, NOTICE_FILE
from segue.types import DEFAULT_OUTPUT, no_progress
from segue.workspace.lineage import edge_outputs
from segue.workspace.retuning import old_outputs
from segue.workspace.unseen import Unseen, check_unseen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segue.evaluation.gate import GateResult
    from segue.evaluation.protocols import CompatibilityData
    from segue.evaluation.results import CompatibilityReport, Row
    from segue.evaluation.verification import Verification
    from segue.harmonic.bridges import BridgeChoice
    from segue.harmonic.calibration import Calibration
    from segue.registry import Edge, Version
    from segue.types import Floats, Progress
    from segue.workspace.core import Workspace

IMAGES_PER_PERSON = 10
"""At most so many images of a person count in a measurement (design §6)."""

EMBED_BATCH = 128
"""Images embedded at once; bounds the memory, not the result."""

REPORT_PARTS = ("validation", "test")
"""The parts that a report may be of: nobody in them is trained or calibrated on."""

FITTED_ON = "validation"
"""The part that the report's bridge is fitted on, unless the report is of it."""


@dataclass(frozen=True)
class Compatibility:
    """What `evaluate_compatibility` measured, and where its report lies.

    `unseen` says which versions are known not to have learned from the people that it is of.
    """

    report: CompatibilityReport
    gate: GateResult
    folder: Path
    number: int
    unseen: Unseen = field(default_factory=Unseen)


def embed_faces(
    workspace: Workspace, reference: str, faces: FaceList, progress: Progress = no_progress
) -> dict[str, Floats]:
    """Embed every face with a version: per output, float32 [N, d] of unit length."""
    return _embed_files(workspace, reference, [face.path for face in faces.faces], progress)


def _embed_files(
    workspace: Workspace, reference: str, paths: Sequence[Path], progress: Progress
) -> dict[str, Floats]:
    embedder = workspace.registry.load(reference)
    parts: dict[str, list[Floats]] = {output: [] for output in embedder.outputs}
    for start in range(0, len(paths), EMBED_BATCH):
        chunk = paths[start : start + EMBED_BATCH]
        images = np.stack([decode(path, embedder.input_size) for path in chunk])
        for output, vectors in embedder.embed(images).items():
            parts[output].append(vectors)
        progress(start + len(chunk), len(paths), f"faces embedded by {embedder.version}")
    return {output: np.concatenate(vectors) for output, vectors in parts.items()}


def verification(
    workspace: Workspace, reference: str, data: Path, progress: Progress
) -> Verification:
    """Measure ten-fold accuracy on `DATA/pairs.txt`; every image of a pair is embedded once."""
    from segue.evaluation.verification import read_pairs, verify

    pairs_file, root = data / "pairs.txt", data / "images"
    if not pairs_file.is_file():
        raise MissingPathError(pairs_file, "list of pairs")
    pairs = read_pairs(pairs_file)
    paths = [name.path(root) for name in pairs.images]
    rows = _embed_files(workspace, reference, paths, progress)[DEFAULT_OUTPUT]
    left, right = pairs.rows()
    distances = ((rows[left] - rows[right]) ** 2).sum(axis=1)
    return verify(distances, pairs.same, pairs.folds)


def compatibility(
    workspace: Workspace,
    old: str,
    new: str,
    data: Path,
    *,
    twin: str | None,
    old_vectors: Path | None,
    part: str,
    bootstrap: int,
    seed: int,
    progress: Progress,
) -> Compatibility:
    """Measure old and new and their twin on `part`, calibrated on part `calibration`."""
    from segue.evaluation.compatibility import measure_compatibility
    from segue.evaluation.gate import evaluate_gate
    from segue.workspace.bridging import with_best_bridge

    registry = workspace.registry
    old_version, new_version = registry.resolve(old), registry.resolve(new)
    if old_version.version == new_version.version:
        raise UsageError(
            f"the old and the new version are the same, {old_version.version}; name two versions"
        )
    twin_version = registry.resolve(twin) if twin else find_twin(workspace, new_version)
    if part not in REPORT_PARTS:
        raise UnknownNameError("part to measure on", part, REPORT_PARTS)
    registry.tracking.connect()  # MLflow out of reach is told before anything is measured
    everyone = read_faces(data)
    chosen = (old_version, new_version, twin_version)
    parts = [part, "calibration"]
    if part != FITTED_ON and any(face.part == FITTED_ON for face in everyone.faces):
        parts.append(FITTED_ON)
    edge = _cross_edge(workspace, new_version, old_version)
    unseen = _check_report_people(workspace, edge, chosen, everyone, parts)
    measured, calibrating, *fitting = (
        _vectors(
            workspace, chosen, everyone.part(name), edge, old_vectors, seed=seed, progress=progress
        )
        for name in parts
    )
    measured, calibrating, choice = with_best_bridge(
        old_version, twin_version, measured, calibrating, fitting[0] if fitting else None
    )
    report = measure_compatibility(
        measured, calibrating, bootstrap=bootstrap, seed=seed, progress=progress
    )
    gate = evaluate_gate(report)
    drawn = (data / NOTICE_FILE).is_file()
    remark = f"{_remark(old_version, choice)} {unseen.sentence()}."
    told = _note(chosen, part, edge, drawn=drawn), remark
    return replace(_store(workspace, chosen, report, gate, told=told, cross=edge), unseen=unseen)


def _check_report_people(
    workspace: Workspace,
    edge: Edge,
    chosen: Sequence[Version],
    everyone: FaceList,
    parts: Sequence[str],
) -> Unseen:
    """Refuse parts of people that were learned from: to measure on, to calibrate on, to fit on.

    On the third the report's own bridge is fitted, as the edge's bridge may have been before.
    """
    measured, calibrating, *fitting = (everyone.part(name).people for name in parts)
    for people in fitting:
        check_unseen(workspace, [], people, "fit the report's bridge", versions=chosen)
    purpose = "measure and calibrate it"
    check_unseen(workspace, [edge], measured, purpose, versions=chosen)
    return check_unseen(workspace, [edge], calibrating, purpose, versions=chosen)


def _cross_edge(workspace: Workspace, new: Version, old: Version) -> Edge:
    """Return how new probes are compared with old vectors: by the edge's bridge, or as they are.

    Raises:
        EvaluationError: they cannot be, or the old version is the one that was trained for this.
    """
    from segue.registry import Edge
    from segue.workspace.bridging import known_edge

    known = known_edge(workspace, new.version, old.version)
    if known is not None and known.bridge is not None:
        return known
    outputs = edge_outputs(workspace.registry, new, old)
    if outputs[1] != DEFAULT_OUTPUT:
        raise EvaluationError(
            f"{old.version} was trained to be compared with {new.version}; measure the upgrade "
            f"with --old {new.version} --new {old.version}"
        )
    return Edge(new.version, old.version, *outputs)


def _note(chosen: tuple[Version, Version, Version], part: str, cross: Edge, *, drawn: bool) -> str:
    """Return what a report's pictures need beside them, what is not usual first."""
    old, _, twin = chosen
    facts = []
    if old.retuned_from is not None:
        facts.append(f"v1 is {old.version}, the retuned {old.retuned_from}")
    if cross.bridge is not None:
        facts.append("v2 is compared with v1 through a bridge")
    if drawn:
        facts.append(f"Measured on {NOTICE}")
    facts.append(f"People of part {part}, calibrated on part calibration; twin {twin.version}")
    return ". ".join(facts)


def _remark(old: Version, choice: BridgeChoice) -> str:
    """Return what report.md alone tells: what v1 stands for, what the bridge was chosen from."""
    listed = ", ".join(f"{score.kind} {score.distance:.3f}" for score in choice.scores)
    told = (
        f"The best bridge is {choice.bridge.kind}, of {listed} (squared distance from v1's "
        "vectors, people held out)."
    )
    if old.retuned_from is None:
        return told
    return (
        f"v1, with which everything is compared, is {old.version}, the retuned "
        f"{old.retuned_from}: what a gallery serves that was moved to it. {told}"
    )


def find_twin(workspace: Workspace, new: Version) -> Version:
    """Return the twin trained with a harmonic version, or the version itself if independent.

    Raises:
        EvaluationError: it is harmonic and has no twin.
    """
    if new.details.get("kind") != "harmonic":
        return new
    for version in workspace.registry.list():
        if version.details.get("twin_of") == new.version:
            return version
    raise EvaluationError(
        f"{new.version} has no twin: without the same training minus the old vectors, gain and tax "
        "mean nothing; name one with --twin, or train again without --no-twin"
    )


def _vectors(
    workspace: Workspace,
    chosen: tuple[Version, Version, Version],
    faces: FaceList,
    edge: Edge,
    old_vectors: Path | None,
    *,
    seed: int,
    progress: Progress,
) -> CompatibilityData:
    """Embed people by v1, v2 and the twin; `edge` says how v2 is compared with v1."""
    from segue.evaluation.protocols import CompatibilityData

    drawn = faces.at_most(IMAGES_PER_PERSON, seed)
    old = old_outputs(workspace, chosen[0], drawn, old_vectors, progress)
    new, twin = (embed_faces(workspace, v.version, drawn, progress) for v in chosen[1:])
    cross = new[edge.probe_output]
    if edge.bridge is not None:
        cross = edge.bridge.apply(cross, version=chosen[1].version)
    return CompatibilityData(
        labels=drawn.labels,
        v1=old[DEFAULT_OUTPUT],
        v2=new[DEFAULT_OUTPUT],
        v2_cross=cross,
        twin=twin[DEFAULT_OUTPUT],
        bridged=None,
    )


def _store(
    workspace: Workspace,
    chosen: tuple[Version, Version, Version],
    report: CompatibilityReport,
    gate: GateResult,
    *,
    told: tuple[str, str],
    cross: Edge,
) -> Compatibility:
    """Write the report, register it with its gate and edges, and log it to MLflow."""
    from segue.evaluation.report import write_report
    from segue.registry.edges import write_edge

    old, new, _ = chosen
    registry = workspace.registry
    folder = new_folder(workspace.root / "reports", f"{old.slug}-to-{new.slug}")
    title = f"Compatibility of {new.version} with {old.version}"
    try:
        write_report(folder, report, gate, title=title, note=told[0], remark=told[1])
        # MLflow first: where it fails, the workspace is as it was.
        registry.tracking.compatibility_run(report, gate, folder, old=old.version, new=new.version)
        with workspace.database.write() as connection:
            number = registry.save_report(
                old.version, new.version, folder, gate.to_json(), connection=connection
            )
            edges = measured_edges(old, new, report, number, cross)
            for edge in [*edges, *through_base(workspace, old, new, edges)]:
                write_edge(connection, workspace.root, edge)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Compatibility(report, gate, folder, number)


def new_folder(parent: Path, stem: str) -> Path:
    """Make the first of `STEM-1`, `STEM-2` … that nobody has, and return it."""
    with translated(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = parent / f"{stem}-{number}"
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
    raise AssertionError("numbers do not end")


def measured_edges(
    old: Version,
    new: Version,
    report: CompatibilityReport,
    number: int,
    cross: Edge,
) -> list[Edge]:
    """Return the edges that a report measured, each with its calibration.

    These are the four among both versions. Where the edge new -> old, `cross`, has a bridge, it
    keeps it, and old -> new, which would need a bridge of its own, is not among them.
    """
    from segue.registry import Edge

    v1, v2 = old.version, new.version
    ways = {("v1", "v1"): Edge(v1, v1), ("v2", "v2"): Edge(v2, v2), ("v2", "v1"): cross}
    if cross.bridge is None:
        ways["v1", "v2"] = Edge(v1, v2, cross.stored_output, cross.probe_output)
    found = []
    for (probe, stored), calibration in report.calibrations.items():
        if (probe, stored) not in ways:
            continue
        edge = ways[probe, stored]
        row = report.row(_row_of(probe, stored))
        measured = {**edge.measured, **_summary(row)}
        found.append(replace(edge, calibration=calibration, measured=measured, report=number))
    return found


def through_base(
    workspace: Workspace, old: Version, new: Version, edges: Sequence[Edge]
) -> list[Edge]:
    """Return how probes of the version that `old` retunes are compared with `new`.

    They take the map that made `old`, so that what was measured of old -> new is true of them:
    application servers that still embed by the deployed version find what is migrated.
    """
    if old.retuned_from is None:
        return []
    bridge = workspace.registry.bridge(int(old.details["bridge"]))
    onward = replace(bridge, target_version=new.version, target_fingerprint=new.fingerprint)
    return [
        replace(edge, probe=old.retuned_from, probe_output=DEFAULT_OUTPUT, bridge=onward)
        for edge in edges
        if (edge.probe, edge.stored) == (old.version, new.version)
    ]


def _row_of(probe: str, stored: str) -> str:
    """Return the row of an edge."""
    return probe if probe == stored else f"{probe} -> {stored}"


def _summary(row: Row) -> dict[str, Any]:
    return {
        "val": {f"{point.far:g}": point.val.value for point in row.points if point.measurable},
        "rank1": row.rank1.value,
        "auc": row.auc,
    }


def calibrate(
    workspace: Workspace,
    probe: str,
    data: Path,
    *,
    stored: str | None,
    part: str,
    progress: Progress,
) -> dict[str, Any]:
    """Calibrate one edge on people that nothing was trained on, and store it.

    A bridge that the edge has maps the probe's vectors first.
    """
    from segue.harmonic.calibration import calibrate as fit

    if part == "train":
        raise UsageError("people of part train were trained on; calibrate on part calibration")
    registry = workspace.registry
    probe_version = registry.resolve(probe)
    stored_version = registry.resolve(stored) if stored else probe_version
    known = find_edge(workspace, probe_version, stored_version)
    faces = read_faces(data).part(part).at_most(IMAGES_PER_PERSON, 0)
    unseen = check_unseen(workspace, [known], faces.people, "calibrate it")
    vectors = embed_faces(workspace, probe_version.version, faces, progress)[known.probe_output]
    against = (
        vectors
        if stored_version == probe_version
        else embed_faces(workspace, stored_version.version, faces, progress)[known.stored_output]
    )
    if known.bridge is not None:
        vectors = known.bridge.apply(vectors, version=probe_version.version)
    try:
        calibration = fit(vectors, faces.labels, against, faces.labels, same_images=True)
    except EvaluationError as error:
        other = (
            "; or take the pairs of a gallery that it serves (--from-gallery GALLERY)"
            if stored_version == probe_version
            else ""
        )
        raise EvaluationError(f"part {part} of {data}: {error}{other}") from error
    return _save_calibrated(workspace, known, calibration, f"part {part}", unseen)


def calibrate_from_gallery(workspace: Workspace, gallery: str, seed: int) -> dict[str, Any]:
    """Calibrate the serving version on random pairs of different identities of a gallery.

    Raises:
        PeopleError: fewer than two identities.
        UsageError: it is calibrated on calibration people, which is better.
    """
    from segue.harmonic.calibration import calibrate as fit

    opened = workspace.gallery(gallery)
    version = workspace.registry.resolve(opened.serving)
    known = find_edge(workspace, version, version)
    source = str(known.measured.get("calibrated_on", ""))
    if known.calibration is not None and not source.startswith("gallery"):
        raise UsageError(
            f"{version.version} is calibrated on people kept for it, which a gallery would only "
            "make worse; calibrate again with --data"
        )
    vectors, identities = opened.sample_vectors(version.version, limit=2000, seed=seed)
    people = len(set(identities))
    if people < 2:
        raise PeopleError(
            f"gallery {gallery!r} has {people} identities; calibration needs pairs of different "
            "people: enrol more, with identities"
        )
    calibration = fit(vectors, identities, vectors, identities, same_images=True)
    return _save_calibrated(workspace, known, calibration, f"gallery {gallery}")


def find_edge(workspace: Workspace, probe: Version, stored: Version) -> Edge:
    """Return the edge as it is stored, or a new one that nothing is known of yet.

    Raises:
        EvaluationError: the versions have no outputs that can be compared.
    """
    from segue.registry import Edge

    try:
        return workspace.registry.edge(probe.version, stored.version)
    except UnmeasuredEdgeError:
        outputs = edge_outputs(workspace.registry, probe, stored)
        return Edge(probe.version, stored.version, outputs[0], outputs[1])


def _save_calibrated(
    workspace: Workspace,
    known: Edge,
    calibration: Calibration,
    source: str,
    unseen: Unseen | None = None,
) -> dict[str, Any]:
    """Store a calibration; what else is known of the edge stays.

    Raises:
        StaleEdgeError: the edge was saved by somebody else since it was read.
    """
    from segue.registry.edges import write_edge

    found = {
        "calibrated_on": source,
        "impostors": calibration.impostors,
        "people": calibration.people,
        "smallest_far": calibration.smallest_far,
        "unseen": None if unseen is None else unseen.to_json(),
    }
    edge = replace(known, calibration=calibration, measured={**known.measured, **found})
    with workspace.database.write() as connection:
        write_edge(connection, workspace.root, edge, since=known.created_at)
    return {"probe": known.probe, "stored": known.stored, **found}
