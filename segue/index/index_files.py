"""Index files: published by a catalog transaction, checked by hash, overwritten on erasure."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from segue import database as tables
from segue.errors import DiskFullError, LockedError, ReadOnlyError
from segue.files import sha256_bytes, write_durably
from segue.index import catalog
from segue.index.staging import writing
from segue.types import VersionId

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from segue.index.shelf import Shelf
    from segue.index.snapshot import View


@dataclass(frozen=True)
class CachedIndex:
    """An index read from its file, and the numbers of the segments it was built from."""

    faiss_index: Any
    segments: frozenset[int]


def load_index(shelf: Shelf, key: tuple[str, str]) -> CachedIndex | None:
    """Read the index file of one version and output; None if there is none that can be trusted."""
    import faiss

    table = tables.index_files
    with shelf.database.read() as connection:
        query = sa.select(table).where(*_of(shelf, key))
        row = connection.execute(query).mappings().first()
    if row is None:
        return None
    try:
        content = (shelf.root / row["path"]).read_bytes()
    except FileNotFoundError:
        return None
    if sha256_bytes(content) != row["sha256"]:
        return None
    index = faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))
    return CachedIndex(index, frozenset(row["segments"]))


def save_index(shelf: Shelf, view: View, key: tuple[str, str], index: Any) -> bool:
    """Write the index of a view's segments and publish it; return whether it was.

    Refused when an erasure came after the snapshot it was built from. An index is only quick: a
    full or read-only disk, or a lock, leaves the search without a cache.
    """
    import faiss

    slug = VersionId.parse(key[0]).slug
    path = shelf.folder / "indexes" / f"{slug}-{key[1]}-{secrets.token_hex(8)}.faiss"
    with (
        suppress(DiskFullError, ReadOnlyError, LockedError),
        writing(shelf.folder),
    ):
        content = faiss.serialize_index(index).tobytes()
        try:
            write_durably(path, content)
            old = _publish(shelf, view, key, path, sha256_bytes(content))
        except BaseException:
            overwrite_and_unlink(path)
            raise
        if old is None:
            overwrite_and_unlink(path)
            return False
        for name in old:
            overwrite_and_unlink(shelf.root / name)
        return True
    return False


def _publish(
    shelf: Shelf,
    view: View,
    key: tuple[str, str],
    path: Path,
    sha256: str,
) -> list[str] | None:
    """List an index file; return the paths it replaces, or None if it is too old."""
    table = tables.index_files
    segments = [segment.segment for segment in view.segments(key)]
    with shelf.database.write() as connection:
        row = catalog.read_gallery(connection, shelf.name, lock=True)
        listed = {segment.segment for segment in catalog.read_segments(connection, shelf.name)}
        if row.erased_generation > view.row.generation or not listed.issuperset(segments):
            return None
        old = list(connection.scalars(sa.select(table.c.path).where(*_of(shelf, key))))
        connection.execute(table.delete().where(*_of(shelf, key)))
        connection.execute(
            table.insert().values(
                gallery=shelf.name,
                version=key[0],
                output=key[1],
                path=path.relative_to(shelf.root).as_posix(),
                sha256=sha256,
                rows=sum(s.rows for s in view.segments(key)),
                segments=sorted(segments),
                generation=view.row.generation,
            )
        )
    return old


def forget_indexes(connection: sa.Connection, name: str, segments: Collection[int]) -> list[str]:
    """Take the index files that hold rows of some segments off the list; return their paths."""
    table = tables.index_files
    query = sa.select(table).where(table.c.gallery == name)
    gone = [
        row
        for row in connection.execute(query).mappings().all()
        if not set(row["segments"]).isdisjoint(segments)
    ]
    for row in gone:
        connection.execute(table.delete().where(table.c.path == row["path"]))
    return [str(row["path"]) for row in gone]


def overwrite_and_unlink(path: Path) -> None:
    """Overwrite a file with zeros, make that durable, and remove it."""
    with suppress(FileNotFoundError), path.open("r+b") as file:
        left = path.stat().st_size
        while left > 0:
            left -= file.write(bytes(min(left, 2**20)))
        file.flush()
        os.fsync(file.fileno())
    path.unlink(missing_ok=True)


def _of(shelf: Shelf, key: tuple[str, str]) -> tuple[sa.ColumnElement[bool], ...]:
    table = tables.index_files
    return (
        table.c.gallery == shelf.name,
        table.c.version == key[0],
        table.c.output == key[1],
    )
