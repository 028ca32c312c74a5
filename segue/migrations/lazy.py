"""Re-embedding the hits of a search within the query: `--inline-ms`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from segue.errors import LockedError, SegueError, UnknownItemError
from segue.migrations.clock import CLOCK, Clock
from segue.migrations.heartbeat import INLINE, held
from segue.migrations.rows import open_migration, read_row, release

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import sqlalchemy as sa

    from segue.index import Gallery, Hit, Lease, StoredItem
    from segue.types import Embedder

AT_ONCE = 4
"""Hits embedded together; between such groups the time is looked at."""


class _PausedError(SegueError):
    """The migration is not `running` any more: what was embedded is not committed."""


def reembed_hits(
    gallery: Gallery,
    hits: Iterable[Hit],
    embedder: Embedder,
    milliseconds: float,
    *,
    clock: Clock = CLOCK,
) -> int:
    """Re-embed those hits that came from another version than `embedder`'s, nearest first.

    Groups of four are embedded and committed; a further group is begun only while the time used
    so far and as much again as the slowest group took stay within `milliseconds`. Does nothing
    unless the gallery's migration to that version is running, so that `pause` holds here too, and
    leaves it to the others when another process re-embeds inline at this moment. Items that fail
    are left to the runner.

    Args:
        gallery: the gallery that was searched.
        hits: its hits, nearest first; several searches' lists one after the other.
        embedder: of the migration's target.
        milliseconds: the time that may be spent; 0 does nothing.
        clock: the time.

    Returns:
        The number of items that got their new vector.
    """
    started = clock.monotonic()
    number = open_migration(gallery.database, gallery.name)
    old = {hit.seq: hit for hit in hits if hit.version != embedder.version}
    if number is None or not old or milliseconds <= 0:
        return 0
    with gallery.database.read() as connection:
        row = read_row(connection, number)
    if row.state != "running" or row.target != embedder.version:
        return 0
    try:
        with held(gallery.database, gallery.name, INLINE) as lease:
            work = _Inline(gallery, embedder, number, lease)
            return work.spend(list(old.values()), started, milliseconds / 1000, clock)
    except (LockedError, _PausedError):
        return 0


class _Inline:
    def __init__(self, gallery: Gallery, embedder: Embedder, number: int, lease: Lease) -> None:
        self.gallery, self.embedder, self.number, self.lease = gallery, embedder, number, lease

    def spend(self, hits: Sequence[Hit], started: float, seconds: float, clock: Clock) -> int:
        done, slowest = 0, 0.0
        for first in range(0, len(hits), AT_ONCE):
            begun = clock.monotonic()
            if begun - started + slowest > seconds:
                break
            done += self._group(hits[first : first + AT_ONCE])
            slowest = max(slowest, clock.monotonic() - begun)
        return done

    def _group(self, hits: Sequence[Hit]) -> int:
        items: list[StoredItem] = []
        for hit in hits:
            with suppress(UnknownItemError):  # erased since the search
                rows = self.gallery.item(hit.item_id)
                if rows[0].item.seq == hit.seq:  # else it was replaced
                    items.append(rows[0].item)
        batch = self.gallery.reembed(items, self.embedder)
        if not batch.items:
            return 0
        seqs = [item.seq for item in batch.items]

        def also(connection: sa.Connection) -> None:
            if read_row(connection, self.number, lock=True).state != "running":
                raise _PausedError(f"migration {self.number} is not running")
            release(connection, self.number, seqs)

        return self.gallery.commit_reembedded(batch, lease=self.lease, also=also)
