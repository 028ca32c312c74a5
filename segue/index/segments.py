"""Immutable Parquet segments: rows of one version and output, readable by any Parquet reader."""

from __future__ import annotations

import io
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import CorruptSegmentError, WorkspaceError
from segue.files import sha256_bytes, sha256_file, staged
from segue.index.keys import write_keys
from segue.index.rows import Rows
from segue.types import VersionId

if TYPE_CHECKING:
    from pathlib import Path

    from segue.types import Images

FORMAT = b"1"
"""Of the segment's columns, in its Parquet metadata under `segue.format`."""

COLUMNS = (
    "seq",
    "item_id",
    "identity",
    "source",
    "source_sha256",
    "version",
    "output",
    "vector",
    "embedded_at",
)
"""The columns of a segment, in order."""

_PLACE = re.compile(r"galleries/(?P<gallery>[^/\\\0.][^/\\\0]*)/segments/[^/\\\0.][^/\\\0]*")
_ROW_GROUP = 16_384  # rows; small enough to read one for a few items


@dataclass(frozen=True)
class Segment:
    """A segment's row in the catalog; `segment` is 0 before it is committed.

    Paths are relative to the workspace, in a gallery's folder of segments (`check_place`).

    Raises:
        WorkspaceError: a path is elsewhere.
    """

    segment: int
    version: str
    output: str
    path: str
    rows: int
    bytes: int
    sha256: str
    key_path: str
    key_sha256: str
    min_seq: int
    max_seq: int

    def __post_init__(self) -> None:
        """Refuse paths that no segment has, before anything is read, written or removed there."""
        for path in (self.path, self.key_path):
            check_place(path)

    @property
    def key(self) -> tuple[str, str]:
        """Version and output."""
        return self.version, self.output


def segments_folder(root: Path, gallery: str) -> Path:
    """Return the folder of a gallery's segments and key files."""
    return root / "galleries" / gallery / "segments"


def check_place(path: str, gallery: str | None = None) -> None:
    """Refuse a listed path that is not of a file in the segments' folder of its gallery.

    Without `gallery` it may be any gallery's.

    Raises:
        WorkspaceError: it is elsewhere.
    """
    found = _PLACE.fullmatch(path)
    if found is None or gallery not in {None, found["gallery"]}:
        raise WorkspaceError(
            f"the catalog lists {path!r} as a segment, outside the gallery's folder; "
            "it was tampered with: restore it from a backup that you trust"
        )


def write_segment(root: Path, gallery: str, rows: Rows, codec: str) -> Segment:
    """Write a segment and its key file durably; it counts once a transaction lists it.

    Raises:
        DiskFullError, ReadOnlyError: it cannot be written; nothing is left behind.
    """
    import pyarrow.parquet as pq

    rows = rows.sorted()
    slug = VersionId.parse(rows.version).slug
    stem = f"{slug}-{rows.output}-{secrets.token_hex(8)}"
    path = segments_folder(root, gallery) / f"{stem}.parquet"
    keys = path.with_suffix(".keys")
    try:
        with staged(path) as temporary:
            pq.write_table(
                arrow_table(rows, codec),
                temporary,
                row_group_size=_ROW_GROUP,
                compression="zstd",
                use_dictionary=["identity", "version", "output", "embedded_at"],
            )
        key_sha256 = write_keys(keys, rows.item_ids, rows.seqs)
    except BaseException:
        for written in (path, keys):
            written.unlink(missing_ok=True)
        raise
    return Segment(
        0,
        rows.version,
        rows.output,
        path.relative_to(root).as_posix(),
        len(rows),
        path.stat().st_size + keys.stat().st_size,
        sha256_file(path),
        keys.relative_to(root).as_posix(),
        key_sha256,
        int(rows.seqs[0]),
        int(rows.seqs[-1]),
    )


def unlink_segment(root: Path, segment: Segment) -> None:
    """Remove a segment's two files, if they are there."""
    (root / segment.path).unlink(missing_ok=True)
    (root / segment.key_path).unlink(missing_ok=True)


def arrow_table(rows: Rows, codec: str) -> Any:
    """Return rows as a `pyarrow.Table` with the columns of a segment.

    `vector` is a fixed-size list of float32, or fixed-size binary with one signed byte for each
    dimension.
    """
    import pyarrow as pa

    text = pa.string()
    count = len(rows)
    table = pa.table(
        {
            "seq": pa.array(rows.seqs, pa.int64()),
            "item_id": pa.array(rows.item_ids, text),
            "identity": pa.array(rows.identities, text),
            "source": pa.array(rows.sources, text),
            "source_sha256": pa.array(rows.source_sha256s, text),
            "version": pa.array([rows.version] * count, text),
            "output": pa.array([rows.output] * count, text),
            "vector": _vector_array(rows.codes, codec),
            "embedded_at": pa.array(rows.embedded_at, text),
        }
    )
    return table.replace_schema_metadata({b"segue.format": FORMAT, b"segue.codec": codec.encode()})


def _vector_array(codes: Images, codec: str) -> Any:
    import pyarrow as pa

    codes = np.ascontiguousarray(codes)
    width = codes.shape[1]
    if codec == "int8":
        buffers = [None, pa.py_buffer(codes)]
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(codes), buffers)
    values = pa.array(codes.view("<f4").ravel(), pa.float32())
    return pa.FixedSizeListArray.from_arrays(values, width // 4)  # bytes of a float32


def vector_codes(column: Any, codec: str) -> Images:
    """Return a segment's `vector` column (a `pyarrow.ChunkedArray`) as codes: uint8 [N, bytes]."""
    array = column.combine_chunks()
    count = len(array)
    if codec == "int8":
        width = array.type.byte_width
        raw = np.frombuffer(array.buffers()[1], dtype=np.uint8)
        start = array.offset * width
        return raw[start : start + count * width].reshape(count, width)
    values = array.flatten().to_numpy(zero_copy_only=False).astype("<f4", copy=False)
    width = 4 * array.type.list_size  # bytes of a float32
    return np.ascontiguousarray(values).view(np.uint8).reshape(count, width)


def rows_of_table(table: Any, version: str, output: str, codec: str) -> Rows:
    """Return a segment's `pyarrow.Table` as rows."""

    def texts(name: str) -> list[Any]:
        listed: list[Any] = table.column(name).to_pylist()
        return listed

    return Rows(
        version,
        output,
        table.column("seq").to_numpy().astype(np.int64, copy=False),
        texts("item_id"),
        texts("identity"),
        texts("source"),
        texts("source_sha256"),
        texts("embedded_at"),
        vector_codes(table.column("vector"), codec),
    )


def read_table(root: Path, segment: Segment, columns: list[str] | None = None) -> Any:
    """Check a segment's hash and read it as a `pyarrow.Table`.

    Raises:
        FileNotFoundError: it is gone (the reader's snapshot is old).
        CorruptSegmentError: its content is not what was committed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = root / segment.path
    content = path.read_bytes()
    if sha256_bytes(content) != segment.sha256:
        raise CorruptSegmentError(path, "its sha256 is not the one in the catalog")
    try:
        return pq.read_table(io.BytesIO(content), columns=columns)
    except pa.ArrowException as error:
        raise CorruptSegmentError(path, "it is no readable Parquet file") from error


def read_rows(root: Path, segment: Segment, codec: str) -> Rows:
    """Check and read a whole segment.

    Raises:
        FileNotFoundError, CorruptSegmentError: as `read_table`.
    """
    return rows_of_table(read_table(root, segment), segment.version, segment.output, codec)
