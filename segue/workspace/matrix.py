"""Every version against every other: embed the same people by all, measure, write the matrix."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segue.errors import EvaluationError, UnknownNameError, UsageError
from segue.images import read_faces
from segue.synthetic import NOTICE, NOTICE_FILE
from segue.workspace.lineage import in_one_space
from segue.workspace.measuring import (
    REPORT_PARTS,
    TOLD_APART,
    counted,
    embed_faces,
    find_edge,
    new_folder,
    told_of_draw,
)
from segue.workspace.unseen import Unseen, check_unseen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from segue.evaluation.matrix import MatrixCell, VersionMatrix
    from segue.images import FaceList
    from segue.registry import Edge, Version
    from segue.types import Floats, Progress
    from segue.workspace.core import Workspace


@dataclass(frozen=True)
class Matrix:
    """What `evaluate_matrix` measured, and where matrix.md, matrix.json and matrix.png lie.

    Attributes:
        saved: the edges that were stored, such as `faces/2 -> faces/1`.
        left_out: the edges that were measured and not stored, though edges were to be: no training
            put the two versions into one space, and no bridge does.
        unseen: which versions are known not to have learned from the people that it is of.
    """

    matrix: VersionMatrix
    folder: Path
    saved: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unseen: Unseen = field(default_factory=Unseen)


def matrix(
    workspace: Workspace,
    references: Sequence[str],
    data: Path,
    *,
    part: str,
    fars: Sequence[float],
    bootstrap: int,
    seed: int,
    save_edges: bool,
    progress: Progress,
) -> Matrix:
    """Measure every ordered pair of versions on `part`, write it, and save its edges if wished.

    Raises:
        StaleEdgeError: an edge was saved by somebody else meanwhile; nothing was saved.
    """
    from segue.evaluation.matrix import measure_matrix
    from segue.evaluation.matrix_report import write_matrix

    versions = [workspace.registry.resolve(each) for each in references]
    names = [version.version for version in versions]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise UsageError(f"a matrix is of two versions or more, each once; these are {names}")
    if part not in REPORT_PARTS:
        raise UnknownNameError("part to measure on", part, REPORT_PARTS)
    everyone = read_faces(data)
    edges = _known_edges(workspace, versions)
    drawn = counted(everyone.part(part), seed)
    parts = [part, *(["calibration"] if save_edges else [])]
    unseen = _check_people(workspace, edges, everyone, parts)
    vectors = {name: embed_faces(workspace, name, drawn, progress) for name in names}
    measured = measure_matrix(
        vectors,
        drawn.labels,
        outputs=_compared(versions, edges),
        mapped=_mapped(edges, vectors),
        fars=fars,
        bootstrap=bootstrap,
        seed=seed,
        progress=progress,
    )
    some = told_of_draw(everyone.part(part), drawn)
    note = ". ".join(filter(None, (f"People of part {part}", unseen.sentence(), some)))
    if (data / NOTICE_FILE).is_file():
        note = f"{NOTICE}. {note}"
    saved: list[Edge] = []
    left_out: list[str] = []
    if save_edges:
        kept, left_out = _related(workspace, versions, edges, measured)
        calibrating = counted(everyone.part("calibration"), seed)
        there = {name: embed_faces(workspace, name, calibrating, progress) for name in names}
        asked = unseen.to_json()
        saved = [
            _calibrated(edge, there, calibrating, cell, measured, unseen=asked)
            for edge, cell in kept
        ]
    folder = new_folder(workspace.root / "reports", "matrix")
    try:
        write_matrix(folder, measured, title=f"Matrix of {', '.join(names)}", note=note)
        _save(workspace, saved)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Matrix(measured, folder, tuple(edge.label for edge in saved), tuple(left_out), unseen)


def _known_edges(workspace: Workspace, versions: Sequence[Version]) -> dict[tuple[str, str], Edge]:
    """Return how each pair is compared: as its stored edge says, else by outputs that fit."""
    found = {}
    for probe, stored in itertools.product(versions, versions):
        try:
            found[probe.version, stored.version] = find_edge(workspace, probe, stored)
        except EvaluationError:  # no outputs that can be compared: the matrix says so
            continue
    return found


def _related(
    workspace: Workspace,
    versions: Sequence[Version],
    edges: Mapping[tuple[str, str], Edge],
    measured: VersionMatrix,
) -> tuple[list[tuple[Edge, MatrixCell]], list[str]]:
    """Return the edges that may be searched by, each with its cell, and the labels of the others.

    Two outputs of one dimension can be measured whatever they are; by the edge of two that nothing
    joins, a mixed search would rank by noise.
    """
    by_name = {version.version: version for version in versions}
    kept, left_out = [], []
    for cell in measured.cells:
        if not cell.comparable:
            continue
        edge = edges[cell.probe, cell.stored]
        ends = by_name[cell.probe], by_name[cell.stored]
        outputs = edge.probe_output, edge.stored_output
        known = edge.bridge is not None or TOLD_APART in edge.measured
        if known or in_one_space(workspace.registry, *ends, outputs):
            kept.append((edge, cell))
        else:
            left_out.append(edge.label)
    return kept, left_out


def _compared(
    versions: Sequence[Version], edges: Mapping[tuple[str, str], Edge]
) -> dict[tuple[str, str], tuple[str, str] | None]:
    """Return the outputs that each pair is compared in, None where it cannot be."""
    names = [version.version for version in versions]
    found: dict[tuple[str, str], tuple[str, str] | None] = dict.fromkeys(
        itertools.product(names, names)
    )
    return found | {pair: (edge.probe_output, edge.stored_output) for pair, edge in edges.items()}


def _check_people(
    workspace: Workspace,
    edges: Mapping[tuple[str, str], Edge],
    everyone: FaceList,
    parts: Sequence[str],
) -> Unseen:
    """Refuse parts, the one to measure on and the one to calibrate on, that were learned from."""
    unseen = Unseen()
    for name, purpose in zip(parts, ("measure it", "calibrate it"), strict=False):
        unseen = check_unseen(workspace, edges.values(), everyone.part(name).people, purpose)
    return unseen


def _mapped(
    edges: Mapping[tuple[str, str], Edge], vectors: Mapping[str, Mapping[str, Floats]]
) -> dict[tuple[str, str], Floats]:
    """Return the probes' vectors of every edge that has a bridge, mapped by it."""
    return {
        pair: edge.bridge.apply(vectors[edge.probe][edge.probe_output], version=edge.probe)
        for pair, edge in edges.items()
        if edge.bridge is not None
    }


def _calibrated(
    edge: Edge,
    vectors: Mapping[str, Mapping[str, Floats]],
    faces: FaceList,
    cell: MatrixCell,
    measured: VersionMatrix,
    *,
    unseen: dict[str, Any],
) -> Edge:
    """Return the edge with what was measured of it, calibrated on the calibration people."""
    from segue.harmonic.calibration import calibrate
    from segue.registry.edges import calibrated

    probe = vectors[edge.probe][edge.probe_output]
    if edge.bridge is not None:
        probe = edge.bridge.apply(probe, version=edge.probe)
    stored = vectors[edge.stored][edge.stored_output]
    calibration = calibrate(probe, faces.labels, stored, faces.labels, same_images=True)
    figures = {
        "val": {
            f"{far:g}": val.value
            for far, val in zip(measured.fars, cell.val, strict=True)
            if val is not None
        },
        "rank1": None if cell.rank1 is None else cell.rank1.value,
        "auc": cell.auc,
    }
    return calibrated(edge, calibration, on="part calibration", unseen=unseen, figures=figures)


def _save(workspace: Workspace, edges: Sequence[Edge]) -> None:
    from segue.registry.edges import write_edge

    if edges:
        with workspace.database.write() as connection:
            for edge in edges:
                write_edge(connection, workspace.root, edge, since=edge.created_at)
