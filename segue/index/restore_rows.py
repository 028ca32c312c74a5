"""The rows of a restored catalog, in the place of the live ones, within one transaction.

The live catalog knows some things better than the backup, and they are read and written under the
same lock: tombstones, and the numbers given so far.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from segue import database as tables
from segue.errors import LockedError
from segue.index.leases import holder_is_gone

if TYPE_CHECKING:
    from pathlib import Path

_LEFT_OUT = ("leases", "index_files")  # nobody works on the copy, and indexes are built again


def refuse_if_in_use(connection: sa.Connection) -> None:
    """Refuse to replace a catalog that somebody holds a lease of.

    Raises:
        LockedError: a migration's runner works on it.
    """
    leases = tables.leases.c
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    query = sa.select(leases.gallery, leases.purpose, leases.holder).where(leases.expires_at > now)
    for gallery, purpose, holder in connection.execute(query):
        if not holder_is_gone(holder):
            raise LockedError(f"the {purpose} of gallery {gallery!r}", holder)


def replace_rows(connection: sa.Connection, prepared: Path) -> None:
    """Put the rows of a checked catalog in the place of the live ones, in `connection`'s write.

    A gallery is the same gallery if it was created at the same moment: its live tombstones stay,
    unswept. No gallery's `next_seq` or generation goes back.
    """
    known = _known(connection)
    live = connection.connection.driver_connection
    assert isinstance(live, sqlite3.Connection)
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    triggers = live.execute(query).fetchall()  # they refuse to change the ledger
    for name, _ in triggers:
        live.execute(f'DROP TRIGGER "{name}"')
    for table in reversed(tables.metadata.sorted_tables):
        live.execute(f'DELETE FROM "{table.name}"')  # noqa: S608 - names of our own schema
    with closing(sqlite3.connect(prepared)) as new:
        for table in tables.metadata.sorted_tables:
            if table.name not in _LEFT_OUT:
                _copy_rows(new, live, table)
    for _, statement in triggers:
        live.execute(statement)
    for gallery in known:
        _carry_over(live, gallery)


def _copy_rows(new: sqlite3.Connection, live: sqlite3.Connection, table: sa.Table) -> None:
    names = [column.name for column in table.columns]
    columns = ", ".join(f'"{name}"' for name in names)
    marks = ", ".join("?" * len(names))
    live.executemany(
        f'INSERT INTO "{table.name}" ({columns}) VALUES ({marks})',  # noqa: S608 - our own schema
        new.execute(f'SELECT {columns} FROM "{table.name}"'),  # noqa: S608 - our own schema
    )


_Known = tuple[str, str, int, int, list[tuple[int, str, str]]]


def _known(connection: sa.Connection) -> list[_Known]:
    """Return the live galleries: name, created_at, next_seq, generation, erased items.

    A replaced item comes back as the backup knew it; an erased one never does.
    """
    galleries, tombstones = tables.galleries.c, tables.tombstones.c
    rows = connection.execute(
        sa.select(galleries.gallery, galleries.created_at, galleries.next_seq, galleries.generation)
    ).all()
    dead: dict[str, list[tuple[int, str, str]]] = {}
    query = sa.select(tombstones.gallery, tombstones.seq, tombstones.why, tombstones.at).where(
        tombstones.why.startswith("erase")
    )
    for name, seq, why, at in connection.execute(query):
        dead.setdefault(name, []).append((seq, why, at))
    return [
        (name, created, next_seq, generation, dead.get(name, []))
        for name, created, next_seq, generation in rows
    ]


def _carry_over(live: sqlite3.Connection, known: _Known) -> None:
    name, created_at, next_seq, generation, dead = known
    live.execute(
        """UPDATE galleries SET next_seq = max(next_seq, ?),
           generation = max(generation, ?) + 1, erased_generation = max(generation, ?) + 1
           WHERE gallery = ?""",
        (next_seq, generation, generation, name),
    )
    same = live.execute(
        "SELECT 1 FROM galleries WHERE gallery = ? AND created_at = ?", (name, created_at)
    ).fetchone()
    if same is None:
        return
    live.executemany(
        """INSERT INTO tombstones (gallery, seq, why, swept, at) VALUES (?, ?, ?, 0, ?)
           ON CONFLICT (gallery, seq) DO UPDATE SET why = excluded.why, swept = 0""",
        [(name, *row) for row in dead],
    )
    for table in ("fresh_rows", "touched"):
        live.executemany(
            f"DELETE FROM {table} WHERE gallery = ? AND seq = ?",  # noqa: S608 - two fixed names
            [(name, seq) for seq, _, _ in dead],
        )
