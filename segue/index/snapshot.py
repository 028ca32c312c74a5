"""One transaction's list of a gallery: what is stored, in which version each item is live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segue.index import catalog
from segue.index.items import StoredRow
from segue.index.keys import hash_ids
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import sqlalchemy as sa

    from segue.index.catalog import GalleryRow
    from segue.index.items import StoredItem
    from segue.index.reader import SegmentReader
    from segue.index.rows import Rows
    from segue.index.segments import Segment
    from segue.types import Bools, Floats, Ints


@dataclass(frozen=True)
class Snapshot:
    """What one transaction saw of a gallery.

    Attributes:
        dead: the tombstoned `seq` that files may still hold: sorted int64.
    """

    row: GalleryRow
    segments: tuple[Segment, ...]
    fresh: Mapping[tuple[str, str], Rows]
    dead: Ints


def take_snapshot(connection: sa.Connection, name: str) -> Snapshot:
    """Read a gallery within a transaction.

    Raises:
        UnknownGalleryError: there is none of that name.
    """
    return Snapshot(
        catalog.read_gallery(connection, name),
        catalog.read_segments(connection, name),
        catalog.read_fresh(connection, name),
        catalog.unswept(connection, name),
    )


class View:
    """A snapshot with the questions that are asked of it; nothing in it ever changes.

    Masks are bool arrays indexed by `seq`, long enough for every `seq` given so far.
    """

    def __init__(self, snapshot: Snapshot, reader: SegmentReader) -> None:
        self.snapshot, self.reader = snapshot, reader
        self.row = snapshot.row
        self._masks: dict[tuple[str, str], Bools] = {}
        self._live: dict[tuple[tuple[str, str], ...], dict[str, Bools]] = {}
        self._alive: Bools | None = None

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Every stored (version, output), sorted."""
        return sorted({s.key for s in self.snapshot.segments} | set(self.snapshot.fresh))

    def segments(self, key: tuple[str, str]) -> list[Segment]:
        """Return the segments of one version and output."""
        return [segment for segment in self.snapshot.segments if segment.key == key]

    def mask(self, version: str, output: str = DEFAULT_OUTPUT) -> Bools:
        """Return which items have a row of that version and output."""
        key = (version, output)
        known = self._masks.get(key)
        if known is None:
            known = np.zeros(self.row.next_seq, dtype=np.bool_)
            for segment in self.segments(key):
                known[self.reader.seqs(segment)] = True
            if key in self.snapshot.fresh:
                known[self.snapshot.fresh[key].seqs] = True
            known[self.snapshot.dead] = False
            self._masks[key] = known
        return known

    def stored(self) -> Bools:
        """Return which items have any row."""
        anywhere = np.zeros(self.row.next_seq, dtype=np.bool_)
        for version, output in self.keys:
            anywhere |= self.mask(version, output)
        return anywhere

    def live(self, wanted: tuple[tuple[str, str], ...] | None = None) -> dict[str, Bools]:
        """Return, for each version, which items are live in it.

        An item is live in the first version of `wanted` that it has a row of. `wanted` lists
        (version, output); by default the gallery's preferred versions with their own output.
        """
        if wanted is None:
            wanted = tuple((version, DEFAULT_OUTPUT) for version in self.row.preference)
        known = self._live.get(wanted)
        if known is None:
            known = {}
            left = np.ones(self.row.next_seq, dtype=np.bool_)
            for version, output in wanted:
                known[version] = self.mask(version, output) & left
                left = left & ~known[version]
            self._live[wanted] = known
        return known

    def alive(self) -> Bools:
        """Return which items are live in any preferred version."""
        if self._alive is None:
            self._alive = np.zeros(self.row.next_seq, dtype=np.bool_)
            for mask in self.live().values():
                self._alive |= mask
        return self._alive

    def find(self, item_ids: Sequence[str]) -> dict[str, int]:
        """Return the `seq` of those of `item_ids` that are stored and have no tombstone."""
        found = self.find_in_segments(item_ids)
        wanted = set(item_ids)
        for rows in self.snapshot.fresh.values():
            found.update(
                (item_id, int(seq))
                for item_id, seq in zip(rows.item_ids, rows.seqs, strict=True)
                if item_id in wanted
            )
        return found

    def find_in_segments(self, item_ids: Sequence[str]) -> dict[str, int]:
        """Do as `find`, without the fresh rows: by key files, each match read to be sure."""
        hashes, wanted = hash_ids(item_ids), set(item_ids)
        found: dict[str, int] = {}
        resolved = self.snapshot.dead
        for segment in self.snapshot.segments:
            candidates = np.setdiff1d(self.reader.keys(segment).find(hashes), resolved)
            if len(candidates):
                for item in self.reader.items(segment, candidates):
                    if item.item_id in wanted:
                        found[item.item_id] = item.seq
                resolved = np.union1d(resolved, candidates)
        return found

    def find_identity(self, identity: str) -> Ints:
        """Return the `seq` of every stored item of one identity: sorted int64."""
        parts = [self.reader.of_identity(s, identity) for s in self.snapshot.segments]
        for rows in self.snapshot.fresh.values():
            same = np.array([x == identity for x in rows.identities], dtype=np.bool_)
            parts.append(rows.seqs[same])
        merged = np.unique(np.concatenate([*parts, np.empty(0, dtype=np.int64)]))
        return np.setdiff1d(merged, self.snapshot.dead)

    def items(self, seqs: Iterable[int]) -> dict[int, StoredItem]:
        """Return items by `seq`."""
        missing = set(seqs)
        found: dict[int, StoredItem] = {}
        for rows in self.snapshot.fresh.values():
            if not missing:
                return found
            places = np.flatnonzero(np.isin(rows.seqs, list(missing)))
            found.update((int(rows.seqs[i]), rows.item(i)) for i in places.tolist())
            missing -= found.keys()
        for segment in self.snapshot.segments:
            if not missing:
                break
            left = np.array(sorted(missing), dtype=np.int64)
            here = left[np.isin(left, self.reader.seqs(segment))]
            if len(here):
                found.update((item.seq, item) for item in self.reader.items(segment, here))
                missing -= found.keys()
        return found

    def rows(self, key: tuple[str, str], *, fresh: bool = True) -> list[Rows]:
        """Return every part of one version and output, without tombstoned rows."""
        parts = [self.reader.rows(s, self.row.codec) for s in self.segments(key)]
        if fresh and key in self.snapshot.fresh:
            parts.append(self.snapshot.fresh[key])
        return [part.without(self.snapshot.dead) for part in parts]

    def rows_of(self, key: tuple[str, str], seq: int) -> list[StoredRow]:
        """Return one item's row of a key, if it has one."""
        parts = [self.snapshot.fresh[key]] if key in self.snapshot.fresh else []
        parts = [part.take(part.seqs == seq) for part in parts]
        parts += [
            self.reader.row(segment, seq, self.row.codec)
            for segment in self.segments(key)
            if np.isin(self.reader.seqs(segment), seq).any()
        ]
        return [
            StoredRow(
                part.item(0),
                part.version,
                part.output,
                part.embedded_at[0],
                part.vectors(self.row.codec)[0],
            )
            for part in parts
            if len(part)
        ]

    def vectors_of(self, key: tuple[str, str], seqs: Ints) -> tuple[Ints, Floats]:
        """Do as `vectors`, of some items only; those without a row of the key are left out."""
        parts = [
            self.reader.some(segment, seqs, self.row.codec)
            for segment in self.segments(key)
            if np.isin(seqs, self.reader.seqs(segment)).any()
        ]
        if key in self.snapshot.fresh:
            rows = self.snapshot.fresh[key]
            parts.append(rows.take(np.isin(rows.seqs, seqs)))
        return _joined([part.without(self.snapshot.dead) for part in parts], self.row.codec)

    def vectors(self, key: tuple[str, str]) -> tuple[Ints, Floats]:
        """Return `seq` int64 [N], sorted, and unit vectors float32 [N, d] of one key."""
        return _joined(self.rows(key), self.row.codec)


def _joined(parts: Sequence[Rows], codec: str) -> tuple[Ints, Floats]:
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
    seqs = np.concatenate([part.seqs for part in parts])
    vectors = np.concatenate([part.vectors(codec) for part in parts])
    order = np.argsort(seqs)
    return seqs[order], vectors[order]
