"""Measure versions on people that no model saw, and store what was measured."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import (
    EvaluationError,
    MissingPathError,
    PeopleError,
    UnmeasuredEdgeError,
    UsageError,
)
from segue.files import translated
from segue.images import FaceList, decode, read_faces
from segue.types import DEFAULT_OUTPUT, no_progress
from segue.workspace.lineage import edge_outputs
from segue.workspace.unseen import Unseen, check_unseen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segue.evaluation.verification import Verification
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
    from segue.registry.edges import calibrated, calibration_figures, write_edge

    told = None if unseen is None else unseen.to_json()
    edge = calibrated(known, calibration, on=source, unseen=told)
    with workspace.database.write() as connection:
        write_edge(connection, workspace.root, edge, since=known.created_at)
    figures = calibration_figures(calibration, source, told)
    return {"probe": known.probe, "stored": known.stored, **figures}
