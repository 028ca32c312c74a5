"""Checking what the registry keeps beside models: bridges, calibrations and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from segue.database import bridges as bridges_table
from segue.database import edges as edges_table
from segue.harmonic.bridges import RETUNING
from segue.registry.edge_rows import bridge_damage, calibration_damage, file_damage
from segue.registry.reports import REPORT, read_reports
from segue.registry.versions import Version, list_versions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def check_records(connection: sa.Connection, root: Path) -> list[str]:
    """Read every bridge, calibration and report; say what is damaged and what to do about it."""
    return [
        *_check_bridges(connection, root),
        *_check_calibrations(connection),
        *_check_reports(connection, root),
    ]


def _check_bridges(connection: sa.Connection, root: Path) -> Iterator[str]:
    versions = list_versions(connection)
    table = bridges_table
    for row in connection.execute(sa.select(table).order_by(table.c.bridge)).all():
        wrong = bridge_damage(root, row.path, row.sha256)
        if wrong:
            users = _users(connection, row.bridge, versions)
            used = f"used by {', '.join(users)}" if users else "nothing uses it"
            yield (
                f"bridge {row.bridge}, {row.source} -> {row.target} ({used}): {wrong}; restore it "
                f"from a backup (`segue restore`), or make it again from the same data: "
                f"{_how_made(row)}"
            )


def _users(connection: sa.Connection, bridge: int, versions: list[Version]) -> list[str]:
    """Return the edges and mapped versions that a bridge is of, as people call them."""
    table = edges_table.c
    query = sa.select(table.probe, table.stored).where(table.bridge == bridge)
    edges = [f"edge {probe} -> {stored}" for probe, stored in connection.execute(query)]
    mapped = [v.version for v in versions if v.kind == "mapped" and v.details["bridge"] == bridge]
    return [*(f"version {version}" for version in mapped), *sorted(edges)]


def _how_made(row: sa.Row[tuple[int, str, str, str, str]]) -> str:
    """Say what makes a bridge again."""
    if row.kind != RETUNING:
        return f"`segue train bridge --old {row.target} --new {row.source} --replace`"
    if row.target.startswith(f"{row.source}~"):
        return f"`segue train retune --old {row.source}`"
    return f"`segue evaluate compatibility --new {row.target}`, the retuned {row.source} as --old"


def _check_calibrations(connection: sa.Connection) -> Iterator[str]:
    table = edges_table.c
    query = sa.select(table.probe, table.stored, table.calibration)
    for probe, stored, calibration in connection.execute(query.order_by(table.probe, table.stored)):
        wrong = calibration_damage(calibration)
        if wrong:
            yield f"edge {probe} -> {stored}: {wrong}"


def _check_reports(connection: sa.Connection, root: Path) -> Iterator[str]:
    for report in read_reports(connection, root):
        wrong = file_damage(report.path / REPORT, report.verdict)
        if wrong:
            yield (
                f"report {report.report}, {report.new} against {report.old}: {wrong}; restore it "
                "from a backup (`segue restore`), or measure again with `segue evaluate "
                f"compatibility --old {report.old} --new {report.new}`"
            )
