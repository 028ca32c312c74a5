"""Measure versions on people that no model saw, and store what was measured."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import EvaluationError, MissingPathError, PeopleError
from segue.images import FaceList, decode, read_faces
from segue.synthetic import NOTICE, NOTICE_FILE
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT, no_progress

if TYPE_CHECKING:
    from pathlib import Path

    from segue.evaluation.gate import GateResult
    from segue.evaluation.protocols import CompatibilityData
    from segue.evaluation.results import CompatibilityReport, Row
    from segue.evaluation.verification import Verification
    from segue.harmonic.bridges import Bridge
    from segue.harmonic.calibration import Calibration
    from segue.registry import Version
    from segue.types import Floats, Progress
    from segue.workspace.core import Workspace

IMAGES_PER_PERSON = 10
"""At most so many images of a person count in a measurement (design §6)."""

EMBED_BATCH = 128
"""Images embedded at once; bounds the memory, not the result."""

BRIDGES = ("procrustes", "ridge")
"""The maps that stand in the report as what untrained compatibility gives."""


@dataclass(frozen=True)
class Compatibility:
    """What `evaluate_compatibility` measured, and where its report lies."""

    report: CompatibilityReport
    gate: GateResult
    folder: Path
    number: int


def embed_faces(
    workspace: Workspace, reference: str, faces: FaceList, progress: Progress = no_progress
) -> dict[str, Floats]:
    """Embed every face with a version: per output, float32 [N, d] of unit length."""
    embedder = workspace.registry.load(reference)
    parts: dict[str, list[Floats]] = {output: [] for output in embedder.outputs}
    for start in range(0, len(faces), EMBED_BATCH):
        chunk = faces.faces[start : start + EMBED_BATCH]
        images = np.stack([decode(face.path, embedder.input_size) for face in chunk])
        for output, vectors in embedder.embed(images).items():
            parts[output].append(vectors)
        progress(start + len(chunk), len(faces), f"faces embedded by {embedder.version}")
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
    embedder = workspace.registry.load(reference)
    images, vectors = pairs.images, []
    for start in range(0, len(images), EMBED_BATCH):
        chunk = images[start : start + EMBED_BATCH]
        decoded = np.stack([decode(name.path(root), embedder.input_size) for name in chunk])
        vectors.append(embedder.embed(decoded)[DEFAULT_OUTPUT])
        progress(start + len(chunk), len(images), f"faces embedded by {embedder.version}")
    rows = np.concatenate(vectors)
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
    part: str,
    bootstrap: int,
    seed: int,
    progress: Progress,
) -> Compatibility:
    """Measure old and new and their twin on `part`, calibrated on part `calibration`."""
    from segue.evaluation.compatibility import measure_compatibility
    from segue.evaluation.gate import evaluate_gate

    registry = workspace.registry
    old_version, new_version = registry.resolve(old), registry.resolve(new)
    twin_version = registry.resolve(twin) if twin else find_twin(workspace, new_version)
    if part == "calibration":
        raise PeopleError("part calibration fits the calibrations; measure on another part")
    registry.tracking.connect()  # MLflow out of reach is told before anything is measured
    everyone = read_faces(data)
    chosen = (old_version, new_version, twin_version)
    measured = _vectors(workspace, chosen, everyone.part(part), seed, progress)
    calibrating = _vectors(workspace, chosen, everyone.part("calibration"), seed, progress)
    measured, calibrating, bridge = _with_bridge(chosen, measured, calibrating)
    report = measure_compatibility(
        measured, calibrating, bootstrap=bootstrap, seed=seed, progress=progress
    )
    gate = evaluate_gate(report)
    note = (
        f"People of part {part}, calibrated on part calibration; twin {twin_version.version}, "
        f"best bridge {bridge}"
    )
    if (data / NOTICE_FILE).is_file():
        note = f"{NOTICE}. {note}"
    return _store(workspace, chosen, report, gate, note)


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
    seed: int,
    progress: Progress,
) -> CompatibilityData:
    from segue.evaluation.protocols import CompatibilityData

    drawn = faces.at_most(IMAGES_PER_PERSON, seed)
    old, new, twin = (embed_faces(workspace, v.version, drawn, progress) for v in chosen)
    cross = new.get(COMPATIBLE_OUTPUT, new[DEFAULT_OUTPUT])
    if cross.shape[1] != old[DEFAULT_OUTPUT].shape[1]:
        raise EvaluationError(
            f"{chosen[1].version} has dimension {cross.shape[1]}, {chosen[0].version} has "
            f"{old[DEFAULT_OUTPUT].shape[1]}, and no output {COMPATIBLE_OUTPUT!r} of that "
            "dimension: they cannot be compared; train one with `segue train harmonic`"
        )
    return CompatibilityData(
        labels=drawn.labels,
        v1=old[DEFAULT_OUTPUT],
        v2=new[DEFAULT_OUTPUT],
        v2_cross=cross,
        twin=twin[DEFAULT_OUTPUT],
        bridged=None,
    )


def _with_bridge(
    chosen: tuple[Version, Version, Version],
    measured: CompatibilityData,
    calibrating: CompatibilityData,
) -> tuple[CompatibilityData, CompatibilityData, str]:
    """Add the twin mapped into v1's space by the better bridge.

    Bridges are fitted on calibration people; which is the better is decided there too, by fitting
    on one half of those people and measuring rank-1 against v1 on the other.
    """
    from segue.evaluation.identification import rank1
    from segue.harmonic.bridges import fit_bridge
    from segue.harmonic.distances import squared_distances

    old, _, twin = chosen

    def fit(kind: str, data: CompatibilityData) -> Bridge:
        assert data.twin is not None
        return fit_bridge(
            kind,
            data.twin,
            data.v1,
            labels=data.labels,
            source_version=twin.version,
            target_version=old.version,
        )

    def apply(bridge: Bridge, data: CompatibilityData) -> Floats:
        assert data.twin is not None
        return bridge.apply(data.twin, version=twin.version)

    half = calibrating.labels % 2 == 0
    fitting, choosing = calibrating.take(half), calibrating.take(~half)
    scores = {}
    for kind in BRIDGES:
        mapped = apply(fit(kind, fitting), choosing)
        distances = squared_distances(mapped, choosing.v1)
        scores[kind] = rank1(distances, choosing.labels, choosing.labels, same_images=True)
    best = max(BRIDGES, key=lambda kind: scores[kind])
    bridge = fit(best, calibrating)
    return (
        replace(measured, bridged=apply(bridge, measured)),
        replace(calibrating, bridged=apply(bridge, calibrating)),
        best,
    )


def _store(
    workspace: Workspace,
    chosen: tuple[Version, Version, Version],
    report: CompatibilityReport,
    gate: GateResult,
    note: str,
) -> Compatibility:
    """Write the report, register it with its gate and edges, and log it to MLflow."""
    from segue.evaluation.report import write_report

    old, new, _ = chosen
    registry = workspace.registry
    stem = f"{old.slug}-to-{new.slug}"
    taken = len(list((workspace.root / "reports").glob(f"{stem}-*")))
    folder = workspace.root / "reports" / f"{stem}-{taken + 1}"
    title = f"Compatibility of {new.version} with {old.version}"
    try:
        write_report(folder, report, gate, title=title, note=note)
        number = registry.save_report(old.version, new.version, folder, gate.to_json())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    save_edges(workspace, old, new, report, number)
    registry.tracking.compatibility_run(report, gate, folder, old=old.version, new=new.version)
    return Compatibility(report, gate, folder, number)


def save_edges(
    workspace: Workspace, old: Version, new: Version, report: CompatibilityReport, number: int
) -> None:
    """Store the four edges that the report measured, each with its calibration."""
    cross = COMPATIBLE_OUTPUT if COMPATIBLE_OUTPUT in new.outputs else DEFAULT_OUTPUT
    versions = {"v1": old.version, "v2": new.version}
    for (probe, stored), calibration in report.calibrations.items():
        if probe not in versions or stored not in versions:
            continue
        mixed = probe != stored
        workspace.registry.save_edge(
            probe=versions[probe],
            stored=versions[stored],
            probe_output=cross if mixed and probe == "v2" else DEFAULT_OUTPUT,
            stored_output=cross if mixed and stored == "v2" else DEFAULT_OUTPUT,
            calibration=calibration,
            measured=_summary(report.row(f"{probe} -> {stored}" if mixed else probe)),
            report=number,
        )


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
    """Measure one edge on calibration people and store it."""
    from segue.harmonic.calibration import Calibration, impostor_distances

    registry = workspace.registry
    probe_version = registry.resolve(probe)
    stored_version = registry.resolve(stored) if stored else probe_version
    faces = read_faces(data).part(part).at_most(IMAGES_PER_PERSON, 0)
    outputs = edge_outputs(probe_version, stored_version)
    vectors = embed_faces(workspace, probe_version.version, faces, progress)[outputs[0]]
    against = (
        vectors
        if stored_version == probe_version
        else embed_faces(workspace, stored_version.version, faces, progress)[outputs[1]]
    )
    distances = impostor_distances(vectors, faces.labels, against, faces.labels, same_images=True)
    people = len(faces.people)
    calibration = Calibration.fit(distances, people_pairs=people * (people - 1) // 2, people=people)
    return _save_calibrated(
        workspace, (probe_version, stored_version), outputs, calibration, f"part {part}"
    )


def calibrate_from_gallery(workspace: Workspace, gallery: str, seed: int) -> dict[str, Any]:
    """Calibrate the serving version on random pairs of different identities of a gallery."""
    from segue.harmonic.calibration import Calibration, impostor_distances

    opened = workspace.gallery(gallery)
    version = workspace.registry.resolve(opened.serving)
    vectors, identities = opened.sample_vectors(version.version, limit=2000, seed=seed)
    people = len(set(identities))
    if people < 2:
        raise PeopleError(
            f"gallery {gallery!r} has {people} identity; calibration needs pairs of different "
            "people: enrol more, with identities"
        )
    labels = np.unique(np.asarray(identities), return_inverse=True)[1].astype(np.int64)
    distances = impostor_distances(vectors, labels, vectors, labels, same_images=True)
    calibration = Calibration.fit(distances, people_pairs=people * (people - 1) // 2, people=people)
    outputs = (DEFAULT_OUTPUT, DEFAULT_OUTPUT)
    source = f"gallery {gallery}"
    return _save_calibrated(workspace, (version, version), outputs, calibration, source)


def edge_outputs(probe: Version, stored: Version) -> tuple[str, str]:
    """Return the outputs in which two versions can be compared.

    Raises:
        EvaluationError: they have none of the same dimension.
    """
    if probe.version == stored.version:
        return DEFAULT_OUTPUT, DEFAULT_OUTPUT
    for first in (COMPATIBLE_OUTPUT, DEFAULT_OUTPUT):
        for second in (COMPATIBLE_OUTPUT, DEFAULT_OUTPUT):
            if probe.outputs.get(first, -1) == stored.outputs.get(second, -2):
                return first, second
    raise EvaluationError(
        f"{probe.version} ({probe.outputs}) and {stored.version} ({stored.outputs}) have no "
        "output of the same dimension; they cannot be compared"
    )


def _save_calibrated(
    workspace: Workspace,
    versions: tuple[Version, Version],
    outputs: tuple[str, str],
    calibration: Calibration,
    source: str,
) -> dict[str, Any]:
    measured = {
        "calibrated_on": source,
        "impostors": calibration.impostors,
        "people": calibration.people,
        "smallest_far": calibration.smallest_far,
    }
    workspace.registry.save_edge(
        probe=versions[0].version,
        stored=versions[1].version,
        probe_output=outputs[0],
        stored_output=outputs[1],
        calibration=calibration,
        measured=measured,
        report=None,
    )
    return {"probe": versions[0].version, "stored": versions[1].version, **measured}
