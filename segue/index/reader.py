"""Reading segments once per process: key files, item columns, whole rows."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import CorruptSegmentError
from segue.index.items import StoredItem
from segue.index.keys import open_keys
from segue.index.segments import read_rows, rows_of_table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from segue.index.keys import KeyFile
    from segue.index.rows import Rows
    from segue.index.segments import Segment
    from segue.types import Ints

_ITEM_COLUMNS = ["seq", "item_id", "identity", "source", "source_sha256"]
_KEPT_TABLES = 64  # segments whose item columns stay in memory


@dataclass(frozen=True)
class _Keys:
    file: KeyFile
    seqs: Ints  # sorted


class SegmentReader:
    """Opens the segments of one gallery and remembers what is asked for again and again.

    Files are immutable and their names never used again, so that what was read stays true;
    `keep_only` forgets what is not listed any more. Safe to share between threads.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._keys: dict[str, _Keys] = {}
        self._items: dict[str, Any] = {}

    def keys(self, segment: Segment) -> KeyFile:
        """Return a segment's mapped key file.

        Raises:
            FileNotFoundError: it is gone (the snapshot is old).
            CorruptSegmentError: it is damaged.
        """
        return self._keys_of(segment).file

    def fresh_keys(self, segment: Segment) -> KeyFile:
        """Check a key file's hash anew and map it.

        Raises:
            FileNotFoundError, CorruptSegmentError: as `keys`.
        """
        return open_keys(self.root / segment.key_path, segment.key_sha256)

    def seqs(self, segment: Segment) -> Ints:
        """Return the `seq` of a segment's rows: sorted int64."""
        return self._keys_of(segment).seqs

    def items(self, segment: Segment, seqs: Ints) -> list[StoredItem]:
        """Return those items of `seqs` that the segment holds, in the order of `seq`."""
        table = self._item_table(segment)
        stored = table["seq"]
        wanted = np.unique(seqs)
        places = np.searchsorted(stored, wanted)
        places = places[places < len(stored)]
        places = places[np.isin(stored[places], wanted)]
        taken = table["columns"].take(places).to_pylist()
        return [StoredItem(**row) for row in taken]

    def of_identity(self, segment: Segment, identity: str) -> Ints:
        """Return the `seq` of a segment's rows of one identity: sorted int64."""
        import pyarrow.compute as pc

        table = self._item_table(segment)
        same = pc.equal(table["columns"].column("identity"), identity)
        mask = same.fill_null(False).to_numpy()
        found: Ints = table["seq"][mask]
        return found

    def rows(self, segment: Segment, codec: str) -> Rows:
        """Check a segment's hash and read all of it."""
        return read_rows(self.root, segment, codec)

    def row(self, segment: Segment, seq: int, codec: str) -> Rows:
        """Read the row group of a segment that holds one item, and return its row."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.root / segment.path
        place = int(np.searchsorted(self.seqs(segment), seq))  # rows lie in the order of `seq`
        try:
            with path.open("rb") as content, pq.ParquetFile(content) as file:
                group = 0
                while place >= file.metadata.row_group(group).num_rows:
                    place -= file.metadata.row_group(group).num_rows
                    group += 1
                table = file.read_row_group(group).slice(place, 1)
        except (pa.ArrowException, IndexError) as error:
            raise CorruptSegmentError(path, "it is no readable Parquet file") from error
        return rows_of_table(table, segment.version, segment.output, codec)

    def some(self, segment: Segment, seqs: Ints, codec: str) -> Rows:
        """Read the row groups of a segment that hold some items, and return these items' rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.root / segment.path
        stored = self.seqs(segment)  # rows lie in the order of `seq`
        places = np.flatnonzero(np.isin(stored, seqs))
        try:
            with path.open("rb") as content, pq.ParquetFile(content) as file:
                counts = [
                    file.metadata.row_group(group).num_rows
                    for group in range(file.metadata.num_row_groups)
                ]
                ends = np.cumsum(counts)
                groups = np.unique(np.searchsorted(ends, places, side="right"))
                table = file.read_row_groups(groups.tolist())
        except (pa.ArrowException, IndexError) as error:
            raise CorruptSegmentError(path, "it is no readable Parquet file") from error
        rows = rows_of_table(table, segment.version, segment.output, codec)
        return rows.take(np.isin(rows.seqs, seqs))

    def keep_only(self, segments: Iterable[Segment]) -> None:
        """Forget every other segment."""
        listed = {segment.path for segment in segments}
        with self._lock:
            for cache in (self._keys, self._items):  # type: dict[str, Any]
                for gone in [path for path in cache if path not in listed]:
                    del cache[gone]

    def _keys_of(self, segment: Segment) -> _Keys:
        with self._lock:
            known = self._keys.get(segment.path)
        if known is None:
            file = open_keys(self.root / segment.key_path, segment.key_sha256)
            known = _Keys(file, np.sort(np.asarray(file.seqs)))
            with self._lock:
                self._keys[segment.path] = known
        return known

    def _item_table(self, segment: Segment) -> dict[str, Any]:
        with self._lock:
            known: dict[str, Any] | None = self._items.pop(segment.path, None)
        if known is None:
            columns = self._read_items(segment)
            known = {
                "seq": columns.column("seq").to_numpy().astype(np.int64, copy=False),
                "columns": columns,
            }
        with self._lock:
            self._items[segment.path] = known  # the most recently used is last
            while len(self._items) > _KEPT_TABLES:
                del self._items[next(iter(self._items))]
        return known

    def _read_items(self, segment: Segment) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.root / segment.path
        try:
            with path.open("rb") as file:
                return pq.read_table(file, columns=_ITEM_COLUMNS)
        except pa.ArrowException as error:
            raise CorruptSegmentError(path, "it is no readable Parquet file") from error
