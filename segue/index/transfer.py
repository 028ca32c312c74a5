"""Vectors in and out of a gallery as Parquet and .npy."""

from __future__ import annotations

import csv
import math
import tokenize
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from segue.arrays import normalise
from segue.errors import DataError, MissingPathError, UsageError, VectorError
from segue.files import staged
from segue.index.codec import decode_vectors
from segue.index.items import NewItem
from segue.index.segments import vector_codes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segue.index.rows import Rows
    from segue.index.snapshot import View
    from segue.types import Floats

_ITEM_FIELDS = ("item_id", "identity", "source", "source_sha256")


@dataclass(frozen=True)
class Imported:
    """What a file holds: N items, and by output float [N, d]."""

    items: list[NewItem]
    vectors: dict[str, Floats]


def read_file(path: Path, version: str, output: str, ids: Path | None) -> Imported:
    """Read a Parquet file, or a .npy file with its ids.

    A Parquet file has columns `item_id` and `vector` (lists of numbers, or one signed byte for each
    dimension as this project stores it), and if it likes `identity`, `source`, `source_sha256`,
    `version` and `output`; with `output`, each item has a row for every output. The ids of a .npy
    file are one a line in a .txt file, or a .csv file with the column `item_id` and if it likes
    `identity` and `source`; by default the file of the same name beside it.

    Raises:
        MissingPathError: a file is missing.
        DataError, VectorError: it holds something else.
    """
    if not path.is_file():
        raise MissingPathError(path, "file of vectors")
    if path.suffix == ".parquet":
        return _read_parquet(path, version, output)
    if path.suffix == ".npy":
        return _read_npy(path, output, ids)
    raise UsageError(f"{path} is neither .parquet nor .npy; give the vectors as one of them")


def normalised(imported: Imported) -> Imported:
    """Return the vectors divided by their lengths."""
    vectors = {output: normalise(array) for output, array in imported.vectors.items()}
    return Imported(imported.items, vectors)


def read_npy(path: Path) -> NDArray[Any]:
    """Read a .npy array of real numbers, of the shape and dtype that it has.

    The header is read first: what it declares must be in the file before memory is taken for it.

    Raises:
        MissingPathError: there is no such file.
        VectorError: no .npy file, a truncated one, or one that holds something else than numbers.
    """
    if not path.is_file():
        raise MissingPathError(path, "file of vectors")
    try:
        with path.open("rb") as file:
            shape, dtype = _read_header(file)
            needed = math.prod(shape) * dtype.itemsize
            if min(shape, default=1) < 0 or needed > path.stat().st_size - file.tell():
                raise VectorError(f"{path} is truncated: its header says {shape} of {dtype}")
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise VectorError(f"{path} is no .npy file of numbers: {error}") from error
    return array


_BAD_HEADER = (SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError)
"""What Python's own parser, which NumPy reads headers with, raises besides a ValueError."""


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read what a .npy file declares; a ValueError if that is no array of real numbers."""
    version = npy.read_magic(file)
    if version not in {(1, 0), (2, 0)}:
        raise ValueError(f"its format {version[0]}.{version[1]} is not one for numbers")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, _, dtype = read(file)
    except _BAD_HEADER as error:
        raise ValueError("its header cannot be understood") from error
    if dtype.kind not in "iuf":
        raise ValueError(f"it holds {dtype}")
    return shape, dtype


def _read_npy(path: Path, output: str, ids: Path | None) -> Imported:
    array = read_npy(path)
    if ids is None:
        beside = [path.with_suffix(suffix) for suffix in (".csv", ".txt")]
        ids = next((found for found in beside if found.is_file()), beside[0])
    if not ids.is_file():
        raise MissingPathError(ids, "file of item ids")
    return Imported(_read_ids(ids), {output: array})


def _read_ids(path: Path) -> list[NewItem]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if path.suffix != ".csv":
                return [NewItem(line.rstrip("\r\n")) for line in file]
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no list of ids in UTF-8: {error}") from error
    if rows and "item_id" not in rows[0]:
        raise DataError(f"{path} has no column item_id")
    return [
        NewItem(row["item_id"], *(row.get(field) or None for field in _ITEM_FIELDS[1:]))
        for row in rows
    ]


def _read_parquet(path: Path, version: str, output: str) -> Imported:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
    except pa.ArrowException as error:
        raise DataError(f"{path} is no readable Parquet file: {error}") from error
    missing = {"item_id", "vector"} - set(table.column_names)
    if missing:
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}")
    if "version" in table.column_names:
        others = set(table.column("version").to_pylist()) - {version}
        if others:
            named = ", ".join(sorted(str(other) for other in others))
            raise DataError(f"{path} holds vectors of {named}, not only of {version}")
    if "output" not in table.column_names:
        return Imported(_items_of(table), {output: _vectors_of(table, path)})
    outputs = sorted({str(name) for name in table.column("output").to_pylist()})
    parts = {name: table.filter(pc.equal(table.column("output"), name)) for name in outputs}
    parts = {name: part.sort_by("item_id") for name, part in parts.items()}
    items = [_items_of(part) for part in parts.values()]
    if any(other != items[0] for other in items):
        raise DataError(f"{path} has not the same items for each of {', '.join(outputs)}")
    vectors = {name: _vectors_of(part, path) for name, part in parts.items()}
    return Imported(items[0] if items else [], vectors or {output: np.empty((0, 0), np.float32)})


def _items_of(table: Any) -> list[NewItem]:
    count = table.num_rows
    columns = [
        table.column(field).to_pylist() if field in table.column_names else [None] * count
        for field in _ITEM_FIELDS
    ]
    return [NewItem(*values) for values in zip(*columns, strict=True)]


def _vectors_of(table: Any, path: Path) -> Floats:
    import pyarrow as pa

    column = table.column("vector")
    if pa.types.is_fixed_size_binary(column.type):
        return decode_vectors(vector_codes(column, "int8"), "int8")
    lists = column.to_pylist()
    if any(row is None for row in lists) or len({len(row) for row in lists}) > 1:
        raise VectorError(f"{path} has vectors of several dimensions, or none at all in some rows")
    try:
        return np.array(lists, dtype=np.float32).reshape(len(lists), -1)
    except (TypeError, ValueError) as error:
        raise VectorError(f"{path} has vectors that are no lists of numbers: {error}") from error


# --- out ------------------------------------------------------------------------------------


def write_file(view: View, path: Path, version: str | None, output: str) -> int:
    """Write vectors to a .parquet file, or a .npy file with its items in a .csv file beside it.

    The rows of one version, or each item's live row; float32, in the order of `seq`.

    Raises:
        UsageError: another kind of file.
        DataError: live rows of several dimensions cannot be one .npy array.
        DiskFullError, ReadOnlyError: it cannot be written.
    """
    if path.suffix not in {".parquet", ".npy"}:
        raise UsageError(f"{path} is neither .parquet nor .npy; name the file as one of them")
    parts = _parts(view, version, output)
    if path.suffix == ".parquet":
        _write_parquet(path, parts, view.row.codec)
    else:
        _write_npy(path, parts, view.row.codec)
    return sum(len(part) for part in parts)


def _parts(view: View, version: str | None, output: str) -> list[Rows]:
    if version is not None:
        return [part for part in view.rows((version, output)) if len(part)]
    live = view.live(tuple((preferred, output) for preferred in view.row.preference))
    parts = [
        part.take(mask[part.seqs])
        for preferred, mask in live.items()
        if mask.any()
        for part in view.rows((preferred, output))
    ]
    return [part for part in parts if len(part)]


def _order(parts: Sequence[Rows]) -> list[int]:
    seqs = np.concatenate([part.seqs for part in parts]) if parts else np.empty(0, np.int64)
    return [int(place) for place in np.argsort(seqs, kind="stable")]


def _write_parquet(path: Path, parts: Sequence[Rows], codec: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [] for name in (*_ITEM_FIELDS, "version", "output")}
    vectors: list[Any] = []
    for part in parts:
        for name, values in _fields(part).items():
            columns[name] += values
        vectors += list(part.vectors(codec))
    order = _order(parts)
    arrays = {
        name: pa.array([column[i] for i in order], pa.string()) for name, column in columns.items()
    }
    arrays["vector"] = pa.array([vectors[i] for i in order], pa.list_(pa.float32()))
    with staged(path) as temporary:
        pq.write_table(pa.table(arrays), temporary)


def _write_npy(path: Path, parts: Sequence[Rows], codec: str) -> None:
    arrays = [part.vectors(codec) for part in parts]
    if len({array.shape[1] for array in arrays}) > 1:
        raise DataError("the live vectors have several dimensions; export .parquet or one version")
    joined = np.concatenate(arrays) if arrays else np.empty((0, 0), dtype=np.float32)
    order = _order(parts)
    rows = [
        values
        for part in parts
        for values in zip(*(_fields(part)[name] for name in _CSV_FIELDS), strict=True)
    ]
    with (
        staged(path.with_suffix(".csv")) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(_CSV_FIELDS)
        writer.writerows([rows[i] for i in order])
    with staged(path) as temporary, temporary.open("wb") as binary:
        np.save(binary, joined[order], allow_pickle=False)


_CSV_FIELDS = (*_ITEM_FIELDS, "version")


def _fields(part: Rows) -> Mapping[str, Sequence[str | None]]:
    return {
        "item_id": part.item_ids,
        "identity": part.identities,
        "source": part.sources,
        "source_sha256": part.source_sha256s,
        "version": [part.version] * len(part),
        "output": [part.output] * len(part),
    }
