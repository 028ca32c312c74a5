"""What a backup's catalog may say: a backup comes from anywhere, and its rows name files."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from segue import database as tables
from segue.errors import FormatError, InvalidNameError, WorkspaceError
from segue.index.segments import check_place
from segue.types import VersionId, check_name

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Incoming:
    """What a checked catalog lists.

    Attributes:
        galleries: their names.
        segment_files: segments and key files, relative to the workspace.
    """

    galleries: tuple[str, ...]
    segment_files: frozenset[str]


def check_catalog(path: Path, label: Path) -> Incoming:
    """Check a copied catalog before any row of it is used; `label` names it in errors.

    Raises:
        FormatError: a newer Segue wrote it.
        WorkspaceError: it is damaged, no catalog, or it names something outside the workspace.
    """
    try:
        with closing(sqlite3.connect(path)) as connection:
            _check_whole(connection, label)
            return _check_names(connection, label)
    except (sqlite3.DatabaseError, ValueError, TypeError, AttributeError) as error:
        raise WorkspaceError(f"{label} is no catalog that can be restored ({error})") from error
    except InvalidNameError as error:
        raise WorkspaceError(f"{label} cannot be restored: {error}") from error


def is_inside(path: str) -> bool:
    """Whether a path, relative to some folder, stays in it.

    >>> is_inside("models/faces-1"), is_inside("../x"), is_inside("/etc/x"), is_inside("")
    (True, False, False, False)
    """
    parts = PurePosixPath(path).parts
    strange = "\0" in path or "\\" in path
    return bool(parts) and not (strange or ".." in parts or path.startswith("/"))


def _check_whole(connection: sqlite3.Connection, label: Path) -> None:
    connection.execute("PRAGMA trusted_schema=OFF").close()
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise WorkspaceError(f"{label} is damaged ({found}); restore another backup")
    there = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for table in tables.metadata.sorted_tables:
        info = connection.execute(f'PRAGMA table_info("{table.name}")').fetchall()
        if (table.name,) not in there or not {c.name for c in table.columns} <= {
            x[1] for x in info
        }:
            raise WorkspaceError(f"{label} has no whole table {table.name!r}: no Segue catalog")
    query = "SELECT value FROM workspace WHERE key = 'format'"
    written = [json.loads(value) for (value,) in connection.execute(query)]
    if written != [tables.FORMAT]:
        raise FormatError(label, ", ".join(map(str, written)) or "none", tables.FORMAT)
    if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise WorkspaceError(f"{label} contradicts itself: a row names another that is not there")


def _check_names(connection: sqlite3.Connection, label: Path) -> Incoming:
    galleries = [str(row[0]) for row in connection.execute("SELECT gallery FROM galleries")]
    for gallery in galleries:
        check_name(gallery, "gallery name")
    for version, files in connection.execute("SELECT version, files FROM versions"):
        VersionId.parse(version)
        for name in json.loads(files):
            if "/" in name or not is_inside(name):
                raise _outside(label, name)
    for (path,) in connection.execute("SELECT path FROM bridges UNION SELECT path FROM reports"):
        if not is_inside(path):
            raise _outside(label, path)
    query = "SELECT version, output FROM segments UNION SELECT version, output FROM fresh_rows"
    for version, output in connection.execute(query):
        VersionId.parse(version)
        check_name(output, "output")
    listed: set[str] = set()
    for gallery, *paths in connection.execute("SELECT gallery, path, key_path FROM segments"):
        for path in paths:
            check_place(path, gallery)
        listed.update(paths)
    return Incoming(tuple(sorted(galleries)), frozenset(listed))


def _outside(label: Path, path: str) -> WorkspaceError:
    return WorkspaceError(
        f"{label} names {path!r}, outside the workspace: the backup was tampered with"
    )
