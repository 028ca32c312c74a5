"""The compatibility report: measure an upgrade, judge it, and store what was measured."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from segue.errors import EvaluationError, UnknownNameError, UsageError
from segue.files import sha256_bytes
from segue.images import FaceList, read_faces
from segue.synthetic import NOTICE, NOTICE_FILE
from segue.types import DEFAULT_OUTPUT, VersionId
from segue.workspace.lineage import edge_outputs, may_share_space
from segue.workspace.measuring import (
    REPORT_PARTS,
    TOLD_APART,
    counted,
    embed_faces,
    new_folder,
    told_of_draw,
)
from segue.workspace.retuning import old_outputs
from segue.workspace.unseen import Unseen, check_unseen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segue.evaluation.gate import GateResult
    from segue.evaluation.protocols import CompatibilityData
    from segue.evaluation.results import CompatibilityReport, Row
    from segue.evaluation.subject import Subject
    from segue.harmonic.bridges import BridgeChoice
    from segue.registry import Edge, Version
    from segue.types import Progress
    from segue.workspace.core import Workspace

FITTED_ON = "validation"
"""The part that the report's bridge is fitted on, unless the report is of it."""


@dataclass(frozen=True)
class Compatibility:
    """What `evaluate_compatibility` measured, and where its report lies.

    Attributes:
        left_out: the edges that were measured and not stored: no training put the two versions into
            one space, and no bridge does.
        unseen: which versions are known not to have learned from the people that it is of.
        drawn: where there were too many people to measure them all, a sentence that says so.
    """

    report: CompatibilityReport
    gate: GateResult
    folder: Path
    number: int
    left_out: tuple[str, ...] = ()
    unseen: Unseen = field(default_factory=Unseen)
    drawn: str = ""


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
    twin_version = find_twin(workspace, new_version, twin)
    if part not in REPORT_PARTS:
        raise UnknownNameError("part to measure on", part, REPORT_PARTS)
    registry.tracking.connect()  # MLflow out of reach is told before anything is measured
    everyone = read_faces(data)
    chosen = (old_version, new_version, twin_version)
    parts = [part, "calibration"]
    if part != FITTED_ON and any(face.part == FITTED_ON for face in everyone.faces):
        parts.append(FITTED_ON)
    edge = _cross_edge(workspace, new_version, old_version)
    edges, left_out = _edges_to_measure(workspace, old_version, new_version, edge)
    unseen = _check_report_people(workspace, edge, chosen, everyone, parts)
    drawn = [counted(everyone.part(name), seed) for name in parts]
    some = told_of_draw(everyone.part(part), drawn[0])
    measured, calibrating, *fitting = (
        _vectors(workspace, chosen, faces, edge, old_vectors, progress=progress) for faces in drawn
    )
    measured, calibrating, choice = with_best_bridge(
        old_version, twin_version, measured, calibrating, fitting[0] if fitting else None
    )
    report = measure_compatibility(
        measured, calibrating, bootstrap=bootstrap, seed=seed, progress=progress
    )
    gate = evaluate_gate(report)
    synthetic = (data / NOTICE_FILE).is_file()
    remark = f"{_remark(old_version, choice)} {unseen.sentence()}."
    if some:
        remark = f"{remark} {some}."
    told = _note(chosen, part, edge, drawn=synthetic), remark
    made = _store(
        workspace,
        _subject(chosen, drawn, edges),
        report,
        gate,
        told=told,
        edges=edges,
        unseen=unseen,
    )
    return replace(made, left_out=left_out, drawn=some)


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


def _subject(
    chosen: tuple[Version, Version, Version], drawn: Sequence[FaceList], edges: Sequence[Edge]
) -> Subject:
    """Return what the report is of: v1, v2 and the twin, the faces, and the edges it will give."""
    from segue.evaluation.subject import Named, Subject, SubjectEdge

    old, new, twin = (Named(version.version, version.fingerprint) for version in chosen)
    pair = {old.version, new.version}
    return Subject(
        old,
        new,
        twin,
        measured_on=drawn[0].fingerprint,
        calibrated_on=drawn[1].fingerprint,
        edges=tuple(
            SubjectEdge(
                edge.probe,
                edge.stored,
                edge.probe_output,
                edge.stored_output,
                None if edge.bridge is None else sha256_bytes(edge.bridge.to_bytes()),
            )
            for edge in edges
            if {edge.probe, edge.stored} <= pair
        ),
    )


def _edges_to_measure(
    workspace: Workspace, old: Version, new: Version, cross: Edge
) -> tuple[list[Edge], tuple[str, ...]]:
    """Return the edges that a report will give, as they are now, and the labels of those left out.

    They are the four among both versions. Where the edge new -> old, `cross`, has a bridge, it
    keeps it, and old -> new, which would need a bridge of its own, is not among them. Between
    versions that neither training nor a bridge put into one space there is none, as a search would
    rank by noise; unless a calibration found that they tell people apart.
    """
    from segue.registry import Edge

    v1, v2 = old.version, new.version
    own = [_in_place(workspace, Edge(version, version)) for version in (v1, v2)]
    if cross.bridge is not None:
        return [*own, cross], ()
    outputs = cross.probe_output, cross.stored_output
    back = Edge(v1, v2, outputs[1], outputs[0])
    apart = not may_share_space(workspace.registry, new, old, outputs)
    if apart and TOLD_APART not in cross.measured:
        return own, (cross.label, back.label)
    onward = through_base(workspace, old, new, [back])
    return [*own, cross, *(_in_place(workspace, edge) for edge in (back, *onward))], ()


def _in_place(workspace: Workspace, edge: Edge) -> Edge:
    """Return an edge with the time at which the one was saved that it is to take the place of."""
    from segue.workspace.bridging import known_edge

    known = known_edge(workspace, edge.probe, edge.stored)
    return replace(edge, created_at="" if known is None else known.created_at)


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
    found = Edge(new.version, old.version, *outputs)
    if known is None:
        return found
    told = known.measured.get(TOLD_APART)
    kept = {} if told is None else {TOLD_APART: told}
    return replace(found, measured=kept, created_at=known.created_at)


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


def find_twin(workspace: Workspace, new: Version, named: str | None = None) -> Version:
    """Return the twin trained with a harmonic version, or the version itself if independent.

    Against a model that did not take the same steps a harmonic version's tax is always small.

    Raises:
        UsageError: it is harmonic, and the version that is `named` is no twin of it.
        EvaluationError: it is harmonic and has no twin.
    """
    harmonic = new.details.get("kind") == "harmonic"
    if named is not None:
        twin = workspace.registry.resolve(named)
        if harmonic and twin.details.get("twin_of") != new.version:
            raise UsageError(
                f"{twin.version} is no twin of {new.version}: it did not take the same steps "
                "without the old vectors, so that the tax would mean nothing; leave --twin out, "
                "or run the same `segue train harmonic` without --no-twin, which trains the twin"
            )
        return twin
    if not harmonic:
        return new
    for version in workspace.registry.list():
        if version.details.get("twin_of") == new.version:
            return version
    raise EvaluationError(
        f"{new.version} has no twin: without the same training minus the old vectors, gain and tax "
        "mean nothing; run the same `segue train harmonic` without --no-twin, which trains it"
    )


def _vectors(
    workspace: Workspace,
    chosen: tuple[Version, Version, Version],
    drawn: FaceList,
    edge: Edge,
    old_vectors: Path | None,
    *,
    progress: Progress,
) -> CompatibilityData:
    """Embed people by v1, v2 and the twin; `edge` says how v2 is compared with v1."""
    from segue.evaluation.protocols import CompatibilityData

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
    subject: Subject,
    report: CompatibilityReport,
    gate: GateResult,
    *,
    told: tuple[str, str],
    edges: Sequence[Edge],
    unseen: Unseen,
) -> Compatibility:
    """Write the report, register it with its gate and edges, and log it to MLflow.

    `told` are the note that its pictures have room for, and the remark that they have not.

    Raises:
        StaleEdgeError: one of the edges was saved by somebody else meanwhile; nothing was kept.
    """
    from segue.evaluation.report import write_report
    from segue.registry.edges import check_unchanged, write_edge

    old, new = (VersionId.parse(named.version) for named in (subject.old, subject.new))
    registry = workspace.registry
    folder = new_folder(workspace.root / "reports", f"{old.slug}-to-{new.slug}")
    title = f"Compatibility of {new} with {old}"
    try:
        write_report(
            folder, report, gate, title=title, note=told[0], remark=told[1], subject=subject
        )
        with workspace.database.read() as connection:
            check_unchanged(connection, edges)
        # MLflow first: where it fails, the workspace is as it was; where this fails, MLflow is.
        logged = registry.tracking.compatibility_run(
            report, gate, folder, old=str(old), new=str(new)
        )
        with logged, workspace.database.write() as connection:
            number = registry.save_report(str(old), str(new), folder, gate, connection=connection)
            made = Compatibility(report, gate, folder, number, unseen=unseen)
            for edge in measured_edges(edges, str(new), made):
                write_edge(connection, workspace.root, edge, since=edge.created_at)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return made


def measured_edges(edges: Sequence[Edge], new: str, made: Compatibility) -> list[Edge]:
    """Return edges as a report measured them, each with its calibration and the report's number.

    Every end but `new` stands for the old version, also the base that it was retuned from.
    """
    from segue.registry.edges import calibrated

    found = []
    for edge in edges:
        roles = ["v2" if end == new else "v1" for end in (edge.probe, edge.stored)]
        found.append(
            calibrated(
                edge,
                made.report.calibrations[roles[0], roles[1]],
                on="part calibration",
                unseen=made.unseen.to_json(),
                figures=_summary(made.report.row(_row_of(*roles))),
                report=made.number,
            )
        )
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
