"""Compatibility reports as rows: where the files are, and what the gate said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from segue.database import reports as reports_table
from segue.errors import MissingPathError, UsageError
from segue.files import read_checked, sha256_file
from segue.registry.ledger import record
from segue.registry.versions import find_version
from segue.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REPORT = "report.json"


@dataclass(frozen=True)
class StoredReport:
    """A compatibility report that is kept.

    Attributes:
        report: its number.
        old, new: the versions that it compares.
        path: its folder, with report.json, report.md and pictures.
        sha256: of report.json.
        gate: `{"go": bool, "checks": [...]}`.
        created_at: when it was saved.
    """

    report: int
    old: str
    new: str
    path: Path
    sha256: str
    gate: dict[str, Any]
    created_at: str

    @property
    def go(self) -> bool:
        """Whether the gate said GO."""
        return bool(self.gate["go"])

    def read(self) -> dict[str, Any]:
        """Return report.json.

        Raises:
            TamperedError, MissingPathError: it is not the file that was saved.
        """
        value: dict[str, Any] = json.loads(read_checked(self.path / REPORT, self.sha256))
        return value


def write_report(
    connection: sa.Connection,
    root: Path,
    versions: tuple[str, str],
    folder: Path,
    gate: Mapping[str, Any],
    *,
    actor: str | None = None,
) -> int:
    """Keep a report whose files are in `folder` already, and return its number.

    `versions` are (old, new).

    Raises:
        UnknownVersionError: one of them is not registered.
        UsageError: the folder is outside the workspace, or the gate says neither GO nor NO-GO.
        MissingPathError: it holds no report.json.
    """
    old, new = (find_version(connection, x).version for x in versions)
    file = folder / REPORT
    if not file.is_file():
        raise MissingPathError(file, REPORT)
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"the report in {folder} is outside the workspace {root}; write it inside")
    if not isinstance(gate.get("go"), bool):
        raise UsageError("a gate says 'go': true or false")
    number = connection.execute(
        reports_table.insert()
        .values(
            old=old,
            new=new,
            path=folder.resolve().relative_to(root.resolve()).as_posix(),
            sha256=sha256_file(file),
            gate=dict(gate),
            created_at=utc_now(),
        )
        .returning(reports_table.c.report)
    ).scalar_one()
    details = {"report": number, "go": gate["go"]}
    record(connection, "report", f"{new} -> {old}", details=details, actor=actor)
    return int(number)


def read_report(connection: sa.Connection, root: Path, old: str, new: str) -> StoredReport | None:
    """Return the newest report of `new` against `old`, or None."""
    row = (
        connection.execute(
            sa.select(reports_table)
            .where(reports_table.c.old == old, reports_table.c.new == new)
            .order_by(reports_table.c.report.desc())
            .limit(1)
        )
        .mappings()
        .one_or_none()
    )
    return None if row is None else StoredReport(**{**row, "path": root / row["path"]})
