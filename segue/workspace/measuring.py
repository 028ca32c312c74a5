"""Measure versions on people that no model saw, and store what was measured."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import replace
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
from segue.workspace.lineage import edge_outputs, has_no_model, may_share_space
from segue.workspace.unseen import Unseen, check_unseen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segue.evaluation.verification import Verification
    from segue.harmonic.calibration import Calibration
    from segue.registry import Edge, Version
    from segue.types import Floats, Ints, Progress
    from segue.workspace.core import Workspace

IMAGES_PER_PERSON = 10
"""At most so many images of a person count in a measurement (design §6)."""

MOST_IMAGES = 5_000
"""At most so many images are compared with each other: a report of so many takes some 3.5 GiB."""

EMBED_BATCH = 128
"""Images embedded at once; bounds the memory, not the result."""

ASKED_FAR, LEAST_VAL = 0.1, 0.3
"""What versions have to reach that were put into one space elsewhere: three times chance."""

TOLD_APART = "told_apart"
"""The name under which `Edge.measured` keeps what they reached."""

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


def counted(faces: FaceList, seed: int) -> FaceList:
    """Return the faces that count in a measurement: ten of a person, of as many people as fit."""
    return faces.at_most(IMAGES_PER_PERSON, seed).sample(MOST_IMAGES, seed)


def told_of_draw(faces: FaceList, kept: FaceList) -> str:
    """Say in a sentence that only some people are counted; empty where all are."""
    everybody, some = len(faces.people), len(kept.people)
    if everybody == some:
        return ""
    return (
        f"{some:,} of {everybody:,} people are measured, drawn by seed: every image is compared "
        f"with every other, and more than {MOST_IMAGES:,} take too much memory"
    )


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
    old_vectors: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """Calibrate one edge on people that nothing was trained on, and store it.

    A bridge that the edge has maps the probe's vectors first. Two versions that neither training
    nor a bridge put into one space, as far as is known here, must tell people apart.
    """
    from segue.harmonic.calibration import calibrate as fit
    from segue.workspace.retuning import old_outputs

    if part == "train":
        raise UsageError("people of part train were trained on; calibrate on part calibration")
    registry = workspace.registry
    probe_version = registry.resolve(probe)
    stored_version = registry.resolve(stored) if stored else probe_version
    known = find_edge(workspace, probe_version, stored_version)
    everyone = read_faces(data).part(part)
    faces = counted(everyone, 0)
    unseen = check_unseen(workspace, [known], faces.people, "calibrate it")
    from_file = probe_version if has_no_model(registry, probe_version) else stored_version

    def outputs(version: Version) -> dict[str, Floats]:
        file = old_vectors if version == from_file else None
        return old_outputs(workspace, version, faces, file, progress)

    vectors = outputs(probe_version)[known.probe_output]
    against = (
        vectors if stored_version == probe_version else outputs(stored_version)[known.stored_output]
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
    outputs_compared = known.probe_output, known.stored_output
    if known.bridge is None and not may_share_space(
        registry, probe_version, stored_version, outputs_compared
    ):
        found = _told_apart(vectors, against, faces.labels, known.label)
        known = replace(known, measured={**known.measured, TOLD_APART: found})
    value = _save_calibrated(workspace, known, calibration, f"part {part}", unseen)
    return {**value, "note": told_of_draw(everyone, faces)}


def _told_apart(vectors: Floats, against: Floats, labels: Ints, label: str) -> float:
    """Return VAL at FAR 1e-1 of two versions that nothing is known to join, where it is no chance.

    Args:
        vectors: of the probe side, unit [N, d].
        against: of the stored side, unit [N, d], of the same images.
        labels: who each row shows, [N].
        label: the edge's, for the error.

    Raises:
        EvaluationError: it is too low, or nobody has two images.
    """
    from segue.evaluation.bootstrap import all_pairs
    from segue.evaluation.roc import val_at_far
    from segue.harmonic.distances import squared_distances

    pairs = all_pairs(labels, directed=True)
    flat = squared_distances(vectors, against).reshape(-1)
    found = val_at_far(flat[pairs.genuine], flat[pairs.impostor], ASKED_FAR).val
    if found >= LEAST_VAL:
        return found
    raise EvaluationError(
        f"nothing put the versions of {label} into one space (`segue train harmonic` or `segue "
        f"train bridge` does), and their distances do not tell people apart: VAL {found:.2f} at "
        f"FAR {ASKED_FAR:g}, where chance is {ASKED_FAR:g} and {LEAST_VAL:g} is wanted"
    )


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
