"""The one way that rows become part of a gallery.

Files are written under a temporary name, fsynced, renamed and their directory fsynced; then one SQL
transaction checks and lists them. What is refused inside the transaction leaves no file behind;
what a killed process leaves is never read, and removed by the next sweep.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import DuplicateItemError, GalleryError
from segue.index import catalog
from segue.index.rows import join, rows_of
from segue.index.segments import unlink_segment, write_segment
from segue.index.staging import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import sqlalchemy as sa

    from segue.index.items import NewItem
    from segue.index.rows import Rows
    from segue.index.segments import Segment
    from segue.index.shelf import Shelf
    from segue.index.snapshot import View
    from segue.types import Floats, Ints

    Also = Callable[[sa.Connection], None]

FRESH_BELOW = 1000
"""Rows: a commit smaller than this lands as fresh rows, a larger one as segments."""

FOLD_ABOVE = 4096
"""Fresh rows: above this many they are folded into segments."""


class _StaleError(Exception):
    """Rows that may not be written (any more), found after their file was; never leaves here.

    `seqs` are those of each part; an item may lack one output and have another already.
    """

    def __init__(self, seqs: Sequence[Ints]) -> None:
        self.seqs = seqs
        super().__init__()


def enroll_rows(
    shelf: Shelf,
    items: Sequence[NewItem],
    vectors: Mapping[str, Mapping[str, Floats]],
    *,
    replace: bool,
    fresh: bool | None = None,
) -> int:
    """Enrol items with their checked vectors by version and output, as one commit.

    Returns:
        How many items were enrolled.

    Raises:
        DuplicateItemError: one is there already and `replace` is false; nothing was changed.
        GalleryError: no item may be live in any of these versions; nothing was changed.
        DiskFullError, ReadOnlyError, LockedError: nothing was changed.
    """
    if not items:
        return 0
    as_fresh = len(items) < FRESH_BELOW if fresh is None else fresh
    seqs, codec = _reserve(shelf, items, replace=replace)
    parts = [
        part
        for version, outputs in vectors.items()
        for part in rows_of(items, seqs, version, outputs, codec)
    ]

    def finish(connection: sa.Connection, view: View) -> None:
        _check_versions(view, list(vectors))
        taken = find_taken(connection, shelf, view, [item.item_id for item in items])
        if taken and not replace:
            raise DuplicateItemError(next(iter(taken)), len(taken))
        new = {item.item_id: int(seq) for item, seq in zip(items, seqs, strict=True)}
        replaced_by = {old: new[item_id] for item_id, old in taken.items()}
        bury(connection, shelf.name, sorted(replaced_by), replaced_by)

    publish(shelf, parts, finish, as_fresh=as_fresh)
    return len(items)


def _reserve(shelf: Shelf, items: Sequence[NewItem], *, replace: bool) -> tuple[Ints, str]:
    """Give the items their `seq`; what is given and then not used is never given again."""
    with shelf.database.write() as connection:
        row = catalog.read_gallery(connection, shelf.name, lock=True)
        if not replace:
            ids = [item.item_id for item in items]
            taken = find_taken(connection, shelf, shelf.view_in(connection), ids)
            if taken:
                raise DuplicateItemError(next(iter(taken)), len(taken))
        catalog.update_gallery(connection, shelf.name, next_seq=row.next_seq + len(items))
    return np.arange(row.next_seq, row.next_seq + len(items), dtype=np.int64), row.codec


def find_taken(
    connection: sa.Connection, shelf: Shelf, view: View, item_ids: Sequence[str]
) -> dict[str, int]:
    """Return those of `item_ids` that are in the gallery, with their `seq`, in the order given."""
    found = view.find_in_segments(item_ids)
    found.update(catalog.fresh_seqs_of(connection, shelf.name, item_ids))
    return {item_id: found[item_id] for item_id in item_ids if item_id in found}


def _check_versions(view: View, versions: Sequence[str]) -> None:
    allowed = {*view.row.preference, *view.row.companions}
    if set(versions) - allowed or not set(versions) & set(view.row.preference):
        raise GalleryError(
            f"gallery {view.row.gallery!r} takes vectors of {', '.join(sorted(allowed))}, not "
            f"{', '.join(sorted(versions))}; embed with its serving version, or start a migration"
        )


def bury(
    connection: sa.Connection,
    name: str,
    seqs: Sequence[int],
    replaced_by: Mapping[int, int],
) -> None:
    """Write tombstones, and remove what the catalog itself holds of those items.

    `replaced_by` gives the new `seq` of those that were replaced; the others are erased.
    """
    catalog.insert_tombstones(connection, name, seqs, replaced_by)
    catalog.delete_fresh(connection, name, np.array(seqs, dtype=np.int64))
    catalog.delete_touched(connection, name, seqs)


def publish(
    shelf: Shelf,
    parts: Sequence[Rows],
    finish: Callable[[sa.Connection, View], None],
    *,
    as_fresh: bool,
    refused: Callable[[sa.Connection, View, Rows], Ints] | None = None,
) -> int:
    """Write rows and list them in one transaction; return of how many items any were written.

    Args:
        shelf: the gallery.
        parts: rows by version and output.
        finish: checks, and whatever else belongs to the commit; an error rolls all of it back.
        as_fresh: whether the rows go into the catalog itself instead of segments.
        refused: of some rows, those `seq` that may not be written; they are left out.
    """
    left = [part for part in parts if len(part)]
    with nullcontext() if as_fresh else writing(shelf.folder):
        while True:
            written = [] if as_fresh else _write_all(shelf, left)
            try:
                done = _list(shelf, left, written, finish, refused)
            except _StaleError as error:
                _unlink_all(shelf, written)
                kept = zip(left, error.seqs, strict=True)
                left = [part for part in (part.without(seqs) for part, seqs in kept) if len(part)]
                continue
            except BaseException:
                _unlink_unlisted(shelf, written)
                raise
            break
    if as_fresh:
        fold_if_many(shelf)
    return done


def _list(
    shelf: Shelf,
    parts: Sequence[Rows],
    written: Sequence[Segment],
    finish: Callable[[sa.Connection, View], None],
    refused: Callable[[sa.Connection, View, Rows], Ints] | None,
) -> int:
    with shelf.database.write() as connection:
        row = catalog.read_gallery(connection, shelf.name, lock=True)
        view = shelf.view_in(connection)
        if refused is not None:
            stale = [refused(connection, view, part) for part in parts]
            if written and any(len(seqs) for seqs in stale):
                raise _StaleError(stale)
            parts = [part.without(seqs) for part, seqs in zip(parts, stale, strict=True)]
        finish(connection, view)
        if written:
            catalog.insert_segments(connection, shelf.name, written)
        else:
            catalog.insert_fresh(connection, shelf.name, parts)
        catalog.bump(connection, row)
    return len(np.unique(np.concatenate([part.seqs for part in parts]))) if parts else 0


def _write_all(shelf: Shelf, parts: Sequence[Rows]) -> list[Segment]:
    codec = shelf.view().row.codec
    written: list[Segment] = []
    try:
        for part in parts:
            written.append(write_segment(shelf.root, shelf.name, part, codec))  # noqa: PERF401
    except BaseException:
        _unlink_all(shelf, written)
        raise
    return written


def _unlink_all(shelf: Shelf, written: Sequence[Segment]) -> None:
    for segment in written:
        unlink_segment(shelf.root, segment)


def _unlink_unlisted(shelf: Shelf, written: Sequence[Segment]) -> None:
    """Remove files of a commit that failed, unless it was the answer that was lost."""
    with shelf.database.read() as connection:
        listed = {segment.path for segment in catalog.read_segments(connection, shelf.name)}
    _unlink_all(shelf, [segment for segment in written if segment.path not in listed])


def fold_if_many(shelf: Shelf) -> None:
    """Fold the fresh rows once there are more than `FOLD_ABOVE`."""
    with shelf.database.read() as connection:
        many = catalog.count_fresh(connection, shelf.name) > FOLD_ABOVE
    if many:
        fold(shelf)


def fold(shelf: Shelf) -> int:
    """Move the fresh rows into segments, one for each version and output; return how many rows.

    Rows that are erased or folded by somebody else meanwhile are left out.
    """
    with writing(shelf.folder):
        while True:
            with shelf.database.read() as connection:
                fresh = catalog.read_fresh(connection, shelf.name)
            written = _write_all(shelf, [join([rows]) for rows in fresh.values()])
            try:
                return _swap_fresh(shelf, fresh, written)
            except _StaleError:
                _unlink_all(shelf, written)
            except BaseException:
                _unlink_unlisted(shelf, written)
                raise


def _swap_fresh(
    shelf: Shelf, fresh: Mapping[tuple[str, str], Rows], written: Sequence[Segment]
) -> int:
    with shelf.database.write() as connection:
        row = catalog.read_gallery(connection, shelf.name, lock=True)
        for key, rows in fresh.items():
            if catalog.delete_fresh(connection, shelf.name, rows.seqs, key) != len(rows):
                raise _StaleError([rows.seqs])
        if written:
            catalog.insert_segments(connection, shelf.name, written)
            catalog.bump(connection, row)
    return sum(len(rows) for rows in fresh.values())
