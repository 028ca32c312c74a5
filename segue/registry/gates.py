"""The gate as it stands now: the newest report of two versions, held against what is stored.

A GO is of the very edges that the report measured. Where one of them has been calibrated again or
has another bridge since, where the report's files are damaged or where the report is of other
models, the gate says NO-GO until the upgrade is measured again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from segue.errors import SegueError
from segue.registry.edges import bridge_sha256, read_edge
from segue.registry.reports import read_reports
from segue.registry.versions import find_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import sqlalchemy as sa

    from segue.evaluation.gate import GateResult
    from segue.harmonic.calibration import Calibration
    from segue.registry.edges import Edge
    from segue.registry.reports import StoredReport

AS_MEASURED = "as measured"
"""The name of the check, added to a report's own, that fails where a report no longer holds."""


@dataclass(frozen=True)
class Gate:
    """What the gate says of an upgrade now.

    Attributes:
        old, new: the versions.
        report: the newest report of them, None where they were never measured.
        result: the verdict, with a check `as measured` that failed where the report no longer
            holds; None without a report.
        edges: (probe, stored) of the edges that a GO is of; empty unless GO.
        reports: how many reports of the two there are.
    """

    old: str
    new: str
    report: StoredReport | None = None
    result: GateResult | None = None
    edges: frozenset[tuple[str, str]] = frozenset()
    reports: int = 0

    @property
    def go(self) -> bool:
        """Whether a gallery may serve both versions mixed."""
        return self.result is not None and self.result.go

    @property
    def stale(self) -> tuple[str, ...]:
        """Why the newest report no longer holds; empty where it does, or where there is none."""
        checks = () if self.result is None else self.result.checks
        return tuple(check.sentence for check in checks if check.name == AS_MEASURED)

    def to_json(self) -> dict[str, Any] | None:
        """Return the verdict as plain JSON values, None where the versions were never measured."""
        return None if self.result is None else self.result.to_json()


def read_gate(connection: sa.Connection, root: Path, old: str, new: str) -> Gate:
    """Return what the gate says of `new` in place of `old` (version ids) now.

    A report that is damaged, missing or of other models raises nothing: it is a NO-GO that says so.

    Args:
        connection: an open read or write connection.
        root: the workspace's folder.
        old: id of the deployed version.
        new: id of the version to upgrade to.
    """
    found = read_reports(connection, root, (old, new))
    if not found:
        return Gate(old, new)
    report = found[-1]
    try:
        result = report.verdict()
        measured = _measured(connection, report) if result.go else {}
        problems = list(_problems(connection, root, report, measured))
    except (SegueError, OSError) as error:
        return Gate(old, new, report, _refused(None, report, [str(error)]), reports=len(found))
    if problems:
        return Gate(old, new, report, _refused(result, report, problems), reports=len(found))
    return Gate(old, new, report, result, frozenset(measured), len(found))


@dataclass(frozen=True)
class _Measured:
    """What a report says of an edge; `compared` is None in a report of the older form."""

    calibration: Calibration | None
    compared: tuple[str, str, str | None] | None  # probe's output, stored output, bridge


def _measured(connection: sa.Connection, report: StoredReport) -> dict[tuple[str, str], _Measured]:
    """Return the edges that a report measured for a gallery to be searched by.

    Without old with itself, new with itself and new -> old no gallery is searched on the way; a
    report of the older form measured old -> new too, but not where new -> old has a bridge.
    """
    from segue.evaluation.results import calibrations_of
    from segue.evaluation.subject import Subject

    value = report.read()
    subject = Subject.from_json(value)
    old, new = report.old, report.new
    pairs = [(new, old), (new, new), (old, old)]
    compared = {}
    if subject is not None:
        compared = {
            (e.probe, e.stored): (e.probe_output, e.stored_output, e.bridge) for e in subject.edges
        }
    elif bridge_sha256(connection, new, old) is None:
        pairs.append((old, new))
    roles = {old: "v1", new: "v2"}
    calibrations = calibrations_of(value)
    return {
        (probe, stored): _Measured(
            calibrations.get((roles.get(probe, ""), roles.get(stored, ""))),
            compared.get((probe, stored)),
        )
        for probe, stored in dict.fromkeys([*pairs, *compared])
    }


def _problems(
    connection: sa.Connection,
    root: Path,
    report: StoredReport,
    measured: dict[tuple[str, str], _Measured],
) -> Iterator[str]:
    """Yield in what the workspace is no longer what the report measured."""
    for named in report.fingerprints():
        if find_version(connection, named.version).fingerprint != named.fingerprint:
            yield f"{named.version} is another model than was measured"
    for (probe, stored), edge in measured.items():
        found = read_edge(connection, root, probe, stored)
        bridge = bridge_sha256(connection, probe, stored)
        problem = _difference(found, bridge, edge, report.report)
        if problem is not None:
            yield f"the edge {probe} -> {stored} {problem}"


def _difference(
    found: Edge | None, bridge: str | None, measured: _Measured, number: int
) -> str | None:
    """Say how a stored edge differs from the one that the report measured; None if it does not.

    The edge of a version with itself belongs to every report of that version: it may carry another
    report's number, as long as it has this one's calibration.
    """
    if found is None or measured.calibration is None:
        return "is not stored"
    compared = (found.probe_output, found.stored_output, bridge)
    if measured.compared is not None and compared != measured.compared:
        return "has another bridge, or compares other outputs, than was measured"
    if found.calibration is None:
        return "is not calibrated any more"
    if found.calibration != measured.calibration:
        return "has another calibration than was measured"
    if found.probe != found.stored and found.report != number:
        return "was saved again since"
    return None


def _refused(result: GateResult | None, report: StoredReport, problems: list[str]) -> GateResult:
    """Return a verdict with the check that failed: the report no longer holds."""
    from segue.evaluation.gate import Check, GateResult

    sentence = (
        f"report {report.report} of {report.new} against {report.old} cannot be relied on: "
        f"{'; '.join(problems)}. Measure again: `segue evaluate compatibility --old {report.old} "
        f"--new {report.new} --data DIR`"
    )
    check = Check(AS_MEASURED, False, None, 0.0, sentence)
    if result is None:
        return GateResult(False, (check,))
    return replace(result, go=False, checks=(*result.checks, check))
