"""Removing a version's rows: the end of a migration, or of an aborted one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.errors import ItemsLeftError, LockedError
from segue.index import catalog
from segue.index.index_files import forget_indexes, overwrite_and_unlink
from segue.index.segments import unlink_segment, write_segment
from segue.index.staging import sweeping
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import sqlalchemy as sa

    from segue.index.segments import Segment
    from segue.index.shelf import Shelf
    from segue.index.snapshot import View
    from segue.types import Bools, Ints

    Key = tuple[str, str]  # version and output

_ATTEMPTS = 5  # commits that may come between reading and rewriting


def remove_rows(
    shelf: Shelf,
    version: str,
    *,
    keep_only_there: bool,
    also: Callable[[sa.Connection], None] | None,
) -> int:
    """Remove the rows of a version in one commit; return how many.

    Items that no other preferred version has keep theirs with `keep_only_there`.

    Raises:
        ItemsLeftError: there are such items, and they may not stay; nothing was changed.
        LockedError: others kept committing; nothing was changed.
    """

    def choose(view: View) -> tuple[list[Key], Bools]:
        only = _only_there(view, version)
        if only.any() and not keep_only_there:
            raise ItemsLeftError(
                int(only.sum()),
                f"removing {version} would lose them; embed them first, or leave them there",
            )
        return [key for key in view.keys if key[0] == version], only

    return _remove(shelf, choose, also)


def remove_unneeded(shelf: Shelf, version: str) -> int:
    """Remove a version's rows of outputs that no probe of the gallery asks for; return how many.

    Raises:
        LockedError: others kept committing; nothing was changed.
    """

    def choose(view: View) -> tuple[list[Key], Bools]:
        with shelf.database.read() as connection:
            needed = catalog.outputs_needed(connection, view.row, version)
        keys = [key for key in view.keys if key[0] == version and key[1] not in needed]
        return keys, np.zeros(view.row.next_seq, dtype=np.bool_)

    return _remove(shelf, choose, None)


def _remove(
    shelf: Shelf,
    choose: Callable[[View], tuple[list[Key], Bools]],
    also: Callable[[sa.Connection], None] | None,
) -> int:
    """Remove the rows of the keys that are chosen, but for the items that stay, in one commit."""
    with sweeping(shelf.folder):
        for _ in range(_ATTEMPTS):
            view = shelf.view()
            keys, keep = choose(view)
            if not keys and also is None:
                return 0
            old = [s for s in view.snapshot.segments if s.key in keys]
            kept, new = _without(shelf, view, old, keep)
            try:
                gone = [segment for segment in old if segment not in kept]
                removed = _commit(shelf, view, keep, (keys, gone, new), also)
            except BaseException:
                for segment in new:
                    unlink_segment(shelf.root, segment)
                raise
            if removed is not None:
                return removed
            for segment in new:
                unlink_segment(shelf.root, segment)
    raise LockedError(f"gallery {shelf.name!r}", "processes that keep committing to it")


def _only_there(view: View, version: str) -> Bools:
    """Return which items have a row of `version`, and of no other preferred version."""
    here = np.zeros(view.row.next_seq, dtype=np.bool_)
    for key in view.keys:
        if key[0] == version:
            here |= view.mask(*key)
    for other in view.row.preference:
        if other != version:
            here &= ~view.mask(other, DEFAULT_OUTPUT)
    return here


def _without(
    shelf: Shelf, view: View, old: Sequence[Segment], keep: Bools
) -> tuple[list[Segment], list[Segment]]:
    """Return the segments that stay whole, and new ones with the rows of others to be kept."""
    whole: list[Segment] = []
    new: list[Segment] = []
    for segment in old:
        kept = keep[view.reader.seqs(segment)]
        if kept.all():
            whole.append(segment)
        elif kept.any():
            rows = view.reader.rows(segment, view.row.codec)
            rows = rows.take(keep[rows.seqs])
            new.append(write_segment(shelf.root, shelf.name, rows, view.row.codec))
    return whole, new


def _commit(
    shelf: Shelf,
    view: View,
    keep: Bools,
    change: tuple[Sequence[Key], Sequence[Segment], Sequence[Segment]],
    also: Callable[[sa.Connection], None] | None,
) -> int | None:
    """Swap the segments and drop the fresh rows; None if the gallery moved on meanwhile."""
    keys, old, new = change
    removed = sum(int(np.count_nonzero(view.mask(*key) & ~keep)) for key in keys)
    with shelf.database.write() as connection:
        row = catalog.read_gallery(connection, shelf.name, lock=True)
        if row != view.row:
            return None
        catalog.delete_segments(connection, shelf.name, old)
        catalog.insert_segments(connection, shelf.name, new)
        for key, rows in view.snapshot.fresh.items():
            if key in keys:
                gone: Ints = rows.seqs[~keep[rows.seqs]]
                catalog.delete_fresh(connection, shelf.name, gone, key)
        indexes = forget_indexes(connection, shelf.name, [s.segment for s in old])
        catalog.bump(connection, row)
        if also is not None:
            also(connection)
    for segment in old:
        unlink_segment(shelf.root, segment)
    for path in indexes:
        overwrite_and_unlink(shelf.root / path)
    return removed
