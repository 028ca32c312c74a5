"""Measured edges as they are listed: what is known of each, also where its bridge is damaged.

What compares vectors reads an `Edge` instead, which is whole or not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from segue.database import bridges as bridges_table
from segue.database import edges as edges_table
from segue.errors import MissingPathError, SegueError, TamperedError
from segue.files import read_checked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class EdgeRow:
    """A measured edge for people to look at.

    Attributes:
        probe, stored: version ids.
        probe_output, stored_output: the output that is compared on each side.
        bridge: number of the bridge that maps the probe's vector; None where there is none.
        calibrated: whether it has a calibration.
        measured: what was measured, as JSON values.
        report: number of the compatibility report it came from.
        created_at: when it was saved.
        damage: why nothing can be compared by it, empty where all is well.
    """

    probe: str
    stored: str
    probe_output: str
    stored_output: str
    bridge: int | None
    calibrated: bool
    measured: dict[str, Any]
    report: int | None
    created_at: str
    damage: str

    @property
    def label(self) -> str:
        """How the ledger names it: `faces/2 -> faces/1`."""
        return f"{self.probe} -> {self.stored}"


def read_edge_rows(
    connection: sa.Connection, root: Path, version: str | None = None
) -> list[EdgeRow]:
    """Return every measured edge (from or to one version), by probe and stored version.

    Args:
        connection: an open read or write connection.
        root: the workspace's folder, for the bridge files.
        version: a version id; None for the edges of all.
    """
    table = edges_table.c
    query = (
        sa.select(edges_table, bridges_table.c.path, bridges_table.c.sha256)
        .select_from(edges_table.outerjoin(bridges_table))
        .order_by(table.probe, table.stored)
    )
    if version is not None:
        query = query.where(sa.or_(table.probe == version, table.stored == version))
    return [_to_row(row, root) for row in connection.execute(query).mappings()]


def bridge_damage(root: Path, path: str, sha256: str) -> str:
    """Return what is wrong with a bridge's file, empty where nothing is."""
    from segue.harmonic.bridges import Bridge

    return file_damage(path, lambda: Bridge.from_bytes(read_checked(root / path, sha256), path))


def file_damage(path: Path | str, read: Callable[[], object]) -> str:
    """Return what is wrong with a file that `read` reads and checks, empty where nothing is."""
    try:
        read()
    except MissingPathError:
        return f"its file {path} is missing"
    except TamperedError:
        return f"its file {path} is not what was saved"
    except OSError as error:
        return f"its file {path} cannot be read ({error.strerror})"
    except SegueError as error:
        return str(error)
    return ""


def calibration_damage(value: Mapping[str, Any] | None) -> str:
    """Return what is wrong with a stored calibration, empty where nothing is or there is none."""
    from segue.harmonic.calibration import Calibration

    if value is None:
        return ""
    try:
        Calibration.from_json(value)
    except SegueError as error:
        return str(error)
    return ""


def _to_row(row: sa.RowMapping, root: Path) -> EdgeRow:
    damage = [calibration_damage(row["calibration"])]
    if row["bridge"] is not None:
        wrong = bridge_damage(root, row["path"], row["sha256"])
        damage.append(wrong and f"bridge {row['bridge']} is damaged: {wrong}")
    return EdgeRow(
        row["probe"],
        row["stored"],
        row["probe_output"],
        row["stored_output"],
        row["bridge"],
        row["calibration"] is not None,
        row["measured"],
        row["report"],
        row["created_at"],
        "; ".join(filter(None, damage)),
    )
