"""Backup and restore: catalog, segments and everything else of a workspace, together.

A backup is one snapshot: the catalog is copied by SQLite's own backup while every gallery's folder
is held, so that no file of it is swept away meanwhile. A restore replays the tombstones that the
target still holds, so that what was erased since stays erased, and no `seq` is given twice.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from segue.errors import (
    DataError,
    FormatError,
    LockedError,
    MissingPathError,
    TamperedError,
    UsageError,
    WorkspaceError,
)
from segue.files import sha256_file, translated, write_durably
from segue.index import catalog
from segue.index.erase import sweep
from segue.index.orphans import remove_orphans
from segue.index.restore_check import check_catalog
from segue.index.restore_files import (
    beside,
    check_files,
    copy_file,
    copy_sqlite,
    left_to_copy,
    put_in_place,
)
from segue.index.restore_rows import refuse_if_in_use, replace_rows
from segue.index.shelf import Shelf
from segue.index.staging import sweeping, writing
from segue.registry.moved_store import STORE, relocate_store
from segue.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from segue.database import Database

FORMAT = 1
"""The version of a backup's layout."""

MANIFEST = "backup.json"
"""Written last: a folder without it is no backup."""

_GALLERIES = "galleries"


def backup(database: Database, root: Path, target: Path) -> None:
    """Copy a workspace into a new folder.

    Raises:
        UsageError: the folder is there and not empty, or within the workspace.
        WorkspaceError: the catalog is not SQLite; its administrator backs it up.
        DiskFullError, ReadOnlyError: it cannot be written.
    """
    source = _sqlite_path(database)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is not an empty folder; name a new one for the backup")
    if target.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"{target} is inside the workspace; name a folder outside it")
    with translated(target), ExitStack() as held:
        target.mkdir(parents=True, exist_ok=True)
        for name in _names(database):
            held.enter_context(writing(root / _GALLERIES / name))
        copy_sqlite(source, target / source.name)
        for path in _listed_files(target / source.name):
            copy_file(root / path, target / path)
        for path in _other_files(root, source):
            if path.suffix == ".db":
                copy_sqlite(root / path, target / path)
            else:
                copy_file(root / path, target / path)
        _write_manifest(target, source.name)


def restore(source: Path, database: Database, root: Path) -> None:
    """Put a backup in the place of what a workspace holds.

    What was erased since the backup stays erased. Files that the backup does not know are left
    alone, except for those of galleries, which are removed. MLflow's store speaks of the files
    here, not of those of the workspace that was backed up. Everything is checked and copied beside
    its place first; then the catalog's write lock is held until files and catalog are replaced, so
    that no other process commits in between.

    Raises:
        MissingPathError, DataError: no whole backup there.
        TamperedError: a file of it is not what was backed up; nothing was changed.
        FormatError: a newer Segue wrote it.
        RegistryError: its store of MLflow's is damaged; nothing was changed.
        WorkspaceError: it names files outside the workspace, or it is of another workspace and
            would overwrite segments of this one; nothing was changed.
        LockedError: the workspace is in use; nothing was changed.
    """
    live = _sqlite_path(database)
    manifest = _read_manifest(source)
    name = str(manifest["database"])
    for path, sha256 in manifest["files"].items():
        found = sha256_file(source / path)
        if found != sha256:
            raise TamperedError(source / path, sha256, found)
    with translated(root), ExitStack() as held:
        root.mkdir(parents=True, exist_ok=True)
        held.enter_context(sweeping(root / _GALLERIES))  # one restore at a time
        prepared = held.enter_context(beside(source / name, root / live.name))
        incoming = check_catalog(prepared, source / name)
        files = {path: sha for path, sha in manifest["files"].items() if path != name}
        check_files(source, files, incoming, live)
        names = {*_names(database), *incoming.galleries}
        for gallery in sorted(names):
            held.enter_context(sweeping(root / _GALLERIES / gallery))
        wanted = left_to_copy(database, root, files)
        staged = [(held.enter_context(beside(source / x, root / x)), root / x) for x in wanted]
        for temporary, target in staged:
            if target == root / STORE:
                relocate_store(temporary, root)
        _replace(database, names, prepared, staged)
        for gallery in sorted(names):
            remove_orphans(Shelf(database, root, gallery))
    for gallery in _names(database):
        sweep(Shelf(database, root, gallery))


def _replace(
    database: Database, names: set[str], prepared: Path, staged: Sequence[tuple[Path, Path]]
) -> None:
    if not _has_tables(database):
        database.create()
    try:
        with database.write() as connection:
            refuse_if_in_use(connection)
            if not names.issuperset(catalog.list_names(connection)):
                raise LockedError("the workspace", "a process that just made a gallery")
            replace_rows(connection, prepared)
            put_in_place(staged)  # after all else that can fail, and before the commit
    except (sqlite3.IntegrityError, sa.exc.IntegrityError) as error:
        raise WorkspaceError(f"the backup's catalog contradicts itself ({error})") from error
    except (sqlite3.DatabaseError, sa.exc.DatabaseError) as error:
        raise WorkspaceError(
            f"{database.location} is damaged and cannot be replaced ({error}); move it away and "
            "restore again (what was erased since the backup is then to be erased again)"
        ) from error


def _sqlite_path(database: Database) -> Path:
    if not database.is_sqlite:
        raise WorkspaceError(
            "the catalog is not SQLite; back it up with its own tools (pg_dump), and the folder "
            "galleries/ with it while nothing writes"
        )
    return Path(str(database.engine.url.database))


def _has_tables(database: Database) -> bool:
    return sa.inspect(database.engine).has_table("galleries")


def _names(database: Database) -> list[str]:
    if not _has_tables(database):
        return []
    with database.read() as connection:
        return catalog.list_names(connection)


def _listed_files(path: Path) -> Iterator[Path]:
    """Yield the files of the segments that a copied catalog lists, relative to the workspace."""
    with closing(sqlite3.connect(path)) as connection:
        for row in connection.execute("SELECT path, key_path FROM segments").fetchall():
            yield from (Path(row[0]), Path(row[1]))


def _other_files(root: Path, database: Path) -> Iterator[Path]:
    """Yield what else belongs to the workspace, relative to it: models, reports, MLflow."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        first = relative.parts[0]
        own = first == _GALLERIES or first.startswith(database.name) or path == database
        hidden = any(part.startswith(".") for part in relative.parts)
        beside = path.name.endswith((".db-wal", ".db-shm", ".db-journal"))
        if path.is_file() and not path.is_symlink() and not (own or hidden or beside):
            yield relative


def _write_manifest(target: Path, database: str) -> None:
    files = {
        path.relative_to(target).as_posix(): sha256_file(path)
        for path in sorted(target.rglob("*"))
        if path.is_file()
    }
    value = {"format": FORMAT, "created_at": utc_now(), "database": database, "files": files}
    write_durably(target / MANIFEST, json.dumps(value, indent=1, sort_keys=True).encode())


def _read_manifest(source: Path) -> dict[str, Any]:
    path = source / MANIFEST
    if not path.is_file():
        raise MissingPathError(path, "whole backup")
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
        found = value["format"]
        files: Iterable[str] = [*value["files"], value["database"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no description of a backup") from error
    if found != FORMAT:
        raise FormatError(path, found, FORMAT)
    for name in files:
        relative = Path(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise DataError(f"{path} names a file outside the backup")
        if not (source / relative).is_file():
            raise MissingPathError(source / relative, "file of the backup")
    return value
