"""What a restore keeps of the catalog it replaces: tombstones, and the numbers given so far."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import sqlalchemy as sa

from segue import database as tables

if TYPE_CHECKING:
    from pathlib import Path

    from segue.database import Database


def carry_over(prepared: Path, database: Database) -> None:
    """Write into a copied catalog what the live one knows better.

    A gallery is the same gallery if it was created at the same moment. Its tombstones are added,
    unswept; its `next_seq` and generation never go back. Leases and index files are dropped: nobody
    works on the copy, and indexes are built again.
    """
    with closing(sqlite3.connect(prepared)) as connection, connection:
        connection.execute("PRAGMA secure_delete=ON").close()
        for statement in ("DELETE FROM leases", "DELETE FROM index_files"):
            connection.execute(statement)
        for name, created_at, next_seq, generation, dead in _known(database):
            same = connection.execute(
                "SELECT 1 FROM galleries WHERE gallery = ? AND created_at = ?", (name, created_at)
            ).fetchone()
            if same is None:
                _move_on(connection, name, 0, generation)
                continue
            _move_on(connection, name, next_seq, generation)
            for seq, why, at in dead:
                _bury(connection, name, seq, why, at)


_Known = tuple[str, str, int, int, list[tuple[int, str, str]]]


def _known(database: Database) -> list[_Known]:
    """Return the live galleries: name, created_at, next_seq, generation, tombstones."""
    if not sa.inspect(database.engine).has_table("galleries"):
        return []
    galleries, tombstones = tables.galleries.c, tables.tombstones.c
    with database.read() as connection:
        rows = connection.execute(
            sa.select(
                galleries.gallery,
                galleries.created_at,
                galleries.next_seq,
                galleries.generation,
            )
        ).all()
        dead = connection.execute(
            sa.select(tombstones.gallery, tombstones.seq, tombstones.why, tombstones.at)
        ).all()
    return [
        (name, created, next_seq, generation, [(d[1], d[2], d[3]) for d in dead if d[0] == name])
        for name, created, next_seq, generation in rows
    ]


def _move_on(connection: sqlite3.Connection, name: str, next_seq: int, generation: int) -> None:
    connection.execute(
        """UPDATE galleries SET next_seq = max(next_seq, ?),
           generation = max(generation, ?) + 1, erased_generation = max(generation, ?) + 1
           WHERE gallery = ?""",
        (next_seq, generation, generation, name),
    )


def _bury(connection: sqlite3.Connection, name: str, seq: int, why: str, at: str) -> None:
    connection.execute(
        """INSERT INTO tombstones (gallery, seq, why, swept, at) VALUES (?, ?, ?, 0, ?)
           ON CONFLICT (gallery, seq) DO UPDATE SET swept = 0""",
        (name, seq, why, at),
    )
    for table in ("fresh_rows", "touched"):
        connection.execute(
            f"DELETE FROM {table} WHERE gallery = ? AND seq = ?",  # noqa: S608 - two fixed names
            (name, seq),
        )
