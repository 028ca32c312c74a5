"""Compatibility reports as rows: where the files are, and what the gate said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from segue.database import reports as reports_table
from segue.errors import MissingPathError, RegistryError, UsageError
from segue.files import read_checked, sha256_bytes
from segue.registry.ledger import record
from segue.registry.versions import find_version
from segue.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segue.evaluation.gate import GateResult
    from segue.evaluation.subject import Named
    from segue.registry.versions import Version

REPORT = "report.json"


@dataclass(frozen=True)
class StoredReport:
    """A compatibility report that is kept.

    Attributes:
        report: its number.
        old, new: the versions that it compares.
        path: its folder, with report.json, report.md and pictures.
        sha256: of report.json.
        gate: the gate's result as JSON; `verdict` reads it, and whether it is the file's.
        created_at: when it was saved.
    """

    report: int
    old: str
    new: str
    path: Path
    sha256: str
    gate: dict[str, Any]
    created_at: str

    def read(self) -> dict[str, Any]:
        """Return report.json.

        Raises:
            TamperedError, MissingPathError: it is not the file that was saved.
            RegistryError: it was no report when it was saved.
        """
        return _parsed(read_checked(self.path / REPORT, self.sha256), self.path)

    def verdict(self) -> GateResult:
        """Return what the gate said: as it was saved, as the file has it, and true to its checks.

        Raises:
            TamperedError, MissingPathError: the file is not the one that was saved.
            RegistryError: it holds another gate's result, or is of other versions.
            FormatError, EvaluationError: the gate's result cannot be read or contradicts itself.
        """
        from segue.evaluation.gate import GateResult

        value = self.read()
        if value.get("gate") != self.gate:
            raise RegistryError(
                f"the gate's result of report {self.report} is not the one in "
                f"{self.path / REPORT}; measure again"
            )
        _check_versions(value, self.old, self.new)
        return GateResult.from_json(self.gate)

    def fingerprints(self) -> tuple[Named, ...]:
        """Return both versions with the fingerprints that were measured; none in older reports.

        Raises:
            TamperedError, MissingPathError, RegistryError, EvaluationError: as `verdict`.
        """
        from segue.evaluation.subject import Subject

        subject = Subject.from_json(self.read())
        return () if subject is None else (subject.old, subject.new)


def write_report(
    connection: sa.Connection,
    root: Path,
    versions: tuple[str, str],
    folder: Path,
    gate: GateResult,
    *,
    actor: str | None = None,
) -> int:
    """Keep a report whose files are in `folder` already, and return its number.

    `versions` are (old, new).

    Raises:
        UnknownVersionError: one of them is not registered.
        UsageError: the folder is outside the workspace, or its report.json is of other versions or
            holds another gate's result.
        MissingPathError: it holds no report.json.
        RegistryError, EvaluationError: report.json is damaged, or the gate contradicts its checks.
    """
    old, new = (find_version(connection, x) for x in versions)
    file = folder / REPORT
    if not file.is_file():
        raise MissingPathError(file, REPORT)
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"the report in {folder} is outside the workspace {root}; write it inside")
    content = file.read_bytes()
    _check_written(_parsed(content, folder), folder, (old, new), gate)
    number = connection.execute(
        reports_table.insert()
        .values(
            old=old.version,
            new=new.version,
            path=folder.resolve().relative_to(root.resolve()).as_posix(),
            sha256=sha256_bytes(content),
            gate=gate.to_json(),
            created_at=utc_now(),
        )
        .returning(reports_table.c.report)
    ).scalar_one()
    details = {"report": number, "go": gate.go}
    label = f"{new.version} -> {old.version}"
    record(connection, "report", label, details=details, actor=actor)
    return int(number)


def read_report(connection: sa.Connection, root: Path, old: str, new: str) -> StoredReport | None:
    """Return the newest report of `new` against `old`, or None."""
    found = read_reports(connection, root, (old, new))
    return found[-1] if found else None


def read_reports(
    connection: sa.Connection, root: Path, versions: tuple[str, str] | None = None
) -> list[StoredReport]:
    """Return every report, or those of `versions` (old, new), the oldest first."""
    query = sa.select(reports_table).order_by(reports_table.c.report)
    if versions is not None:
        old, new = versions
        query = query.where(reports_table.c.old == old, reports_table.c.new == new)
    rows = connection.execute(query).mappings()
    return [StoredReport(**{**row, "path": root / row["path"]}) for row in rows]


def _parsed(content: bytes, folder: Path) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise RegistryError(f"{folder / REPORT} is no JSON ({error}); measure again") from error
    if not isinstance(value, dict):
        raise RegistryError(f"{folder / REPORT} is no report; measure again")
    return value


def _check_written(
    value: Mapping[str, Any], folder: Path, versions: tuple[Version, Version], gate: GateResult
) -> None:
    """Refuse a file that does not say what is to be kept of it."""
    from segue.evaluation.gate import GateResult
    from segue.evaluation.subject import Subject

    GateResult.from_json(gate.to_json())
    if value.get("gate") != gate.to_json():
        raise UsageError(
            f"{folder / REPORT} holds another gate's result than the one to be kept; write the "
            "report with this gate (`segue.evaluation.write_report`)"
        )
    subject = Subject.from_json(value)
    wanted = [(version.version, version.fingerprint) for version in versions]
    if subject is None or wanted != [
        (named.version, named.fingerprint) for named in (subject.old, subject.new)
    ]:
        raise UsageError(
            f"{folder / REPORT} does not say that it is of {versions[1].version} against "
            f"{versions[0].version} as they are registered; write it with its `Subject`"
        )


def _check_versions(value: Mapping[str, Any], old: str, new: str) -> None:
    """Refuse a report of other versions; one of the older form does not name any.

    Raises:
        RegistryError: it names others.
    """
    from segue.evaluation.subject import Subject

    subject = Subject.from_json(value)
    if subject is not None and (subject.old.version, subject.new.version) != (old, new):
        raise RegistryError(
            f"the report of {new} against {old} is of {subject.new.version} against "
            f"{subject.old.version}; measure again"
        )
