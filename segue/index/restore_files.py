"""The files of a backup: copied durably, staged beside their places, put there all at once."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing, contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import sqlalchemy as sa

from segue import database as tables
from segue.errors import DataError, LockedError, WorkspaceError
from segue.files import fsync_directory, fsync_file, sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from segue.database import Database
    from segue.index.restore_check import Incoming

_BESIDE = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a database
_SECONDS = 0.5  # how long SQLite itself waits for a lock before we look at the clock


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a SQLite database into another one, as one transaction of each.

    Raises:
        LockedError: somebody held one of them for longer than `BUSY_SECONDS`.
    """
    deadline = time.monotonic() + tables.BUSY_SECONDS

    def look(status: int, _remaining: int, _total: int) -> None:
        # Python itself tries again for ever.
        if status in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} and time.monotonic() > deadline:
            raise LockedError(f"database {target}")

    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        closing(sqlite3.connect(source, timeout=_SECONDS)) as old,
        closing(sqlite3.connect(target, timeout=_SECONDS)) as new,
    ):
        old.backup(new, progress=look)
    fsync_file(target)
    fsync_directory(target.parent)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file durably: a crash leaves the old one or the new one, whole."""
    with beside(source, target) as temporary:
        temporary.replace(target)
        fsync_directory(target.parent)


@contextmanager
def beside(source: Path, target: Path) -> Iterator[Path]:
    """Give a durable copy of `source` in the folder of `target`; it is gone afterwards if unused.

    Its name is always the same, so that the next try overwrites what a killed one left.
    """
    temporary = target.with_name(f".{target.name}.staged")
    leftovers = [temporary, *(temporary.with_name(temporary.name + end) for end in _BESIDE)]
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in leftovers:
        path.unlink(missing_ok=True)
    try:
        shutil.copyfile(source, temporary)
        fsync_file(temporary)
        yield temporary
    finally:
        for path in leftovers:
            path.unlink(missing_ok=True)


def check_files(source: Path, files: Mapping[str, str], incoming: Incoming, live: Path) -> None:
    """Refuse a backup whose files are not those that a backup of a workspace has.

    Raises:
        DataError: it lacks a segment, or it holds a file that a restore must not write.
    """
    for path in sorted(incoming.segment_files - files.keys()):
        raise DataError(f"{source} lacks {path}, which its catalog lists; restore another backup")
    for path in files:
        parts = PurePosixPath(path).parts
        own = path in incoming.segment_files
        hidden = any(part.startswith(".") for part in parts)
        kept = parts[0] == "galleries" or parts[0].startswith(live.name) or path.endswith(_BESIDE)
        if hidden or (kept and not own):
            raise DataError(f"{source} holds {path}, which no backup has; restore another one")


def left_to_copy(database: Database, root: Path, files: Mapping[str, str]) -> list[str]:
    """Return which of a backup's files (path to sha256) are to be copied into the workspace.

    A segment that is there already is left alone; a damaged one is copied again.

    Raises:
        WorkspaceError: a live segment has the name of another one of the backup.
    """
    live = _live_segments(database)
    wanted = []
    for path, sha256 in files.items():
        segment = PurePosixPath(path).parts[0] == "galleries" and (root / path).is_file()
        found = sha256_file(root / path) if segment else None
        if found is not None and found != sha256 and live.get(path) == found:
            raise WorkspaceError(
                f"{root / path} is another file in the backup; restore into an empty workspace"
            )
        if found is None or found != sha256:
            wanted.append(path)
    return wanted


def _live_segments(database: Database) -> dict[str, str]:
    """Return the sha256 of every listed segment and key file."""
    if not sa.inspect(database.engine).has_table("segments"):
        return {}
    table = tables.segments.c
    query = sa.select(table.path, table.sha256, table.key_path, table.key_sha256)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return {**{row[0]: row[1] for row in rows}, **{row[2]: row[3] for row in rows}}


def put_in_place(staged: Sequence[tuple[Path, Path]]) -> None:
    """Give staged files their names. A database that is there is replaced by its content.

    So whoever has it open goes on with the new content. Databases come first: only they can be
    locked.

    Raises:
        LockedError: a database is in use; nothing was changed.
        WorkspaceError: a database that is there is damaged; nothing was changed.
    """
    databases = [(old, new) for old, new in staged if new.suffix == ".db" and new.exists()]
    for temporary, target in databases:
        try:
            copy_sqlite(temporary, target)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise WorkspaceError(
                f"{target} is damaged ({error}); move it away and restore again"
            ) from error
    for temporary, target in staged:
        if (temporary, target) not in databases:
            temporary.replace(target)
    for folder in {target.parent for _, target in staged}:
        fsync_directory(folder)
