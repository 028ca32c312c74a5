"""Key files: which items a segment holds, without opening it.

A key file is a header, then the sorted 64-bit hashes of the segment's item ids, then their `seq`
in the same order; both little-endian, mapped into memory. Two ids may share a hash: whoever finds
one reads the item id itself to be sure.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import CorruptSegmentError, FormatError
from segue.files import sha256_file, staged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segue.types import Ints

_MAGIC = b"SEGUEKEY"
_FORMAT = 1
_HEADER = struct.Struct("<8sIQ4x")  # magic, format, rows; 24 bytes keep the arrays aligned


def hash_ids(item_ids: Sequence[str]) -> NDArray[np.uint64]:
    """Return the first 64 bits of each id's BLAKE2b: uint64 [N]."""
    digests = b"".join(
        hashlib.blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for item_id in item_ids
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64, copy=False)


@dataclass(frozen=True)
class KeyFile:
    """A mapped key file: `hashes` uint64 [N] sorted, `seqs` int64 [N] in the same order."""

    hashes: NDArray[np.uint64]
    seqs: Ints

    def find(self, hashes: NDArray[np.uint64]) -> Ints:
        """Return the `seq` of every row whose hash is one of `hashes`, sorted."""
        wanted = np.unique(hashes)
        first = np.searchsorted(self.hashes, wanted, side="left")
        last = np.searchsorted(self.hashes, wanted, side="right")
        found = [self.seqs[a:b] for a, b in zip(first, last, strict=True) if b > a]
        return np.sort(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


def write_keys(path: Path, item_ids: Sequence[str], seqs: Ints) -> str:
    """Write a key file durably and return its sha256.

    Raises:
        DiskFullError, ReadOnlyError: it cannot be written; nothing is left behind.
    """
    hashes = hash_ids(item_ids)
    order = np.lexsort((seqs, hashes))
    with staged(path) as temporary, temporary.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, _FORMAT, len(seqs)))
        file.write(hashes[order].astype("<u8").tobytes())
        file.write(np.asarray(seqs)[order].astype("<i8").tobytes())
    return sha256_file(path)


def open_keys(path: Path, sha256: str) -> KeyFile:
    """Check a key file's hash and map it.

    Raises:
        FileNotFoundError: it is gone (the reader's snapshot is old).
        CorruptSegmentError: it is not the file of the catalog.
        FormatError: a newer Segue wrote it.
    """
    if sha256_file(path) != sha256:
        raise CorruptSegmentError(path, "its sha256 is not the one in the catalog")
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    magic, version, rows = _HEADER.unpack(head)
    if magic != _MAGIC:
        raise CorruptSegmentError(path, "it is no key file")
    if version != _FORMAT:
        raise FormatError(path, version, _FORMAT)
    if rows == 0:
        return KeyFile(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))
    hashes = np.memmap(path, dtype="<u8", mode="r", offset=_HEADER.size, shape=(rows,))
    seqs = np.memmap(path, dtype="<i8", mode="r", offset=_HEADER.size + 8 * rows, shape=(rows,))
    return KeyFile(hashes, seqs)
