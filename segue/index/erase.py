"""Erasure: a tombstone first, then no file or row holds the item any more.

From the tombstone's commit on an item is never served and never written again. The sweep rewrites
the segments and key files that hold it and unlinks the old ones, overwrites index files, removes
what crashed commits left, and has the database overwrite and give back its freed pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.errors import LockedError, UnknownItemError, UsageError
from segue.index import catalog
from segue.index.commit import bury
from segue.index.index_files import forget_indexes, overwrite_and_unlink
from segue.index.items import Erasure
from segue.index.keys import hash_ids
from segue.index.orphans import remove_orphans
from segue.index.segments import unlink_segment, write_segment
from segue.index.staging import WAIT_SECONDS, sweeping

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from segue.index.segments import Segment
    from segue.index.shelf import Shelf
    from segue.types import Ints

_ATTEMPTS = 5  # commits that may come between reading and rewriting


def erase_items(
    shelf: Shelf,
    item_ids: Sequence[str],
    identity: str | None,
    wait: float = WAIT_SECONDS,
) -> Erasure:
    """Erase items by id, or every item of an identity.

    Asking again for what is erased but not yet swept finishes the sweep.

    Raises:
        UnknownItemError: an item or identity is not in the gallery, nor erased and not yet swept;
            nothing was changed.
        UsageError: neither ids nor an identity, or both.
    """
    if bool(item_ids) == (identity is not None):
        raise UsageError("name the items to erase, or one identity")
    ids = list(dict.fromkeys(item_ids))
    with shelf.database.write() as connection:
        row = catalog.read_gallery(connection, shelf.name, lock=True)
        found = _find(connection, shelf, ids, identity)
        seqs = list(found)
        bury(connection, shelf.name, seqs, {})
        catalog.condemn_replaced(connection, shelf.name, seqs)
        catalog.mark_erasing(connection, shelf.name, found)
        catalog.bump(connection, row, erased=bool(seqs))
    return Erasure(len(seqs), swept=sweep(shelf, wait))


def _find(
    connection: sa.Connection, shelf: Shelf, ids: Sequence[str], identity: str | None
) -> dict[int, str]:
    """Return the `seq` to erase, each with the mark that knows its item until it is swept."""
    view = shelf.view_in(connection)
    if identity is not None:
        found = [int(seq) for seq in view.find_identity(identity)]
        missing = [] if found else [identity]
    else:
        known = view.find(ids)
        found = [known[item_id] for item_id in ids if item_id in known]
        missing = [item_id for item_id in ids if item_id not in known]
    if missing:  # unless it is what an earlier erasure could not yet sweep
        place = 0 if identity is None else 1
        marks = catalog.read_erasing(connection, shelf.name)
        erasing = {mark.split(" ")[place] for mark in marks}
        for name in missing:
            if _hash(name) not in erasing:
                raise UnknownItemError(name, shelf.name)
    items = view.items(found)
    return {seq: f"{_hash(items[seq].item_id)} {_hash(items[seq].identity)}" for seq in found}


def _hash(name: str | None) -> str:
    """Return what stands for an id or identity in the tombstone of an item not yet swept."""
    return "-" if name is None else f"{int(hash_ids([name])[0]):016x}"


def sweep(shelf: Shelf, wait: float = WAIT_SECONDS) -> bool:
    """Remove every tombstoned item from every file and row; return whether all of it is done.

    False when a writer or reader held on for longer than `wait` seconds; it can be called again.
    """
    with shelf.database.read() as connection:
        dead = catalog.unswept(connection, shelf.name)
    if not len(dead):
        return True
    try:
        with sweeping(shelf.folder, wait):
            _rewrite_without(shelf, dead)
            remove_orphans(shelf)
            if not purge_database(shelf, wait):
                return False
            with shelf.database.write() as connection:
                catalog.mark_swept(connection, shelf.name, dead.tolist())
                row = catalog.read_gallery(connection, shelf.name, lock=True)
                catalog.bump(connection, row)
            _write_back(shelf)
    except LockedError:
        return False
    return True


def _write_back(shelf: Shelf) -> None:
    """Have SQLite overwrite what stood for the items in their tombstones, as far as it can."""
    if shelf.database.is_sqlite:
        with shelf.database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").close()


def _rewrite_without(shelf: Shelf, dead: Ints) -> None:
    for attempt in range(_ATTEMPTS):
        view = shelf.view()
        hit = [
            segment
            for segment in view.snapshot.segments
            if np.isin(view.reader.seqs(segment), dead, assume_unique=True).any()
        ]
        written: list[Segment] = []
        try:
            for segment in hit:
                rows = view.reader.rows(segment, view.row.codec).without(dead)
                if len(rows):
                    written.append(write_segment(shelf.root, shelf.name, rows, view.row.codec))
            replaced = swap_segments(shelf, hit, written, dead)
        except LockedError:
            for segment in written:
                unlink_segment(shelf.root, segment)
            if attempt + 1 == _ATTEMPTS:
                raise
            continue
        for segment in hit:
            unlink_segment(shelf.root, segment)
        for path in replaced:
            overwrite_and_unlink(shelf.root / path)
        return


def swap_segments(
    shelf: Shelf, old: Sequence[Segment], new: Sequence[Segment], dead: Ints
) -> list[str]:
    """List `new` in the place of `old`, and forget the index files of `old`; return their paths.

    Raises:
        LockedError: one of `old` is not listed any more.
    """
    with shelf.database.write() as connection:
        row = catalog.read_gallery(connection, shelf.name, lock=True)
        catalog.delete_segments(connection, shelf.name, old)
        catalog.insert_segments(connection, shelf.name, new)
        catalog.delete_fresh(connection, shelf.name, dead)
        paths = forget_indexes(connection, shelf.name, [segment.segment for segment in old])
        catalog.bump(connection, row)
    return paths


def purge_database(shelf: Shelf, wait: float = WAIT_SECONDS) -> bool:
    """Have SQLite overwrite and give back freed pages, its log too; return whether it could.

    A reader's open transaction blocks it. PostgreSQL's own files are its administrator's.
    """
    if not shelf.database.is_sqlite:
        return True
    with shelf.database.engine.connect() as connection:
        before = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(wait * 1000)}")
        try:
            return _vacuum(connection)
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(before)}")


def _vacuum(connection: sa.Connection) -> bool:
    import sqlalchemy as sa

    try:
        connection.exec_driver_sql("VACUUM")
        row = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    except sa.exc.OperationalError as error:
        if "locked" in str(error.orig) or "busy" in str(error.orig):
            return False
        raise
    return int(row[0]) == 0  # the first column tells whether a reader was in the way
