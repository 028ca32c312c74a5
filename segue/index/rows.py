"""Rows of one version and output, as they are stored: the unit that segments and commits move."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from segue.index.codec import decode_vectors, encode
from segue.index.items import StoredItem
from segue.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from segue.index.items import NewItem
    from segue.types import Bools, Floats, Images, Ints


@dataclass(frozen=True)
class Rows:
    """Stored rows of one version and output.

    Attributes:
        seqs: int64 [N].
        codes: uint8 [N, bytes]: the encoded vectors, so that moving rows never changes a bit.
    """

    version: str
    output: str
    seqs: Ints
    item_ids: Sequence[str]
    identities: Sequence[str | None]
    sources: Sequence[str | None]
    source_sha256s: Sequence[str | None]
    embedded_at: Sequence[str]
    codes: Images

    def __len__(self) -> int:
        return len(self.seqs)

    @property
    def key(self) -> tuple[str, str]:
        """Version and output."""
        return self.version, self.output

    def take(self, where: Ints | Bools) -> Rows:
        """Return the rows at positions, or where a mask is true."""
        positions = np.flatnonzero(where) if where.dtype == np.bool_ else where
        chosen = positions.tolist()
        return replace(
            self,
            seqs=self.seqs[positions],
            item_ids=[self.item_ids[i] for i in chosen],
            identities=[self.identities[i] for i in chosen],
            sources=[self.sources[i] for i in chosen],
            source_sha256s=[self.source_sha256s[i] for i in chosen],
            embedded_at=[self.embedded_at[i] for i in chosen],
            codes=self.codes[positions],
        )

    def without(self, seqs: Ints) -> Rows:
        """Return the rows whose `seq` is none of `seqs`."""
        dead = np.isin(self.seqs, seqs)
        return self.take(~dead) if dead.any() else self

    def sorted(self) -> Rows:
        """Return the rows in the order of `seq`."""
        if bool((self.seqs[1:] > self.seqs[:-1]).all()):
            return self
        return self.take(np.argsort(self.seqs, kind="stable"))

    def vectors(self, codec: str) -> Floats:
        """Return the decoded vectors: unit float32 [N, d]."""
        return decode_vectors(self.codes, codec)

    def item(self, position: int) -> StoredItem:
        """Return the item of one row."""
        return StoredItem(
            int(self.seqs[position]),
            self.item_ids[position],
            self.identities[position],
            self.sources[position],
            self.source_sha256s[position],
        )


def join(parts: Iterable[Rows]) -> Rows:
    """Return the rows of several parts of the same version and output, sorted by `seq`."""
    listed = list(parts)
    if len(listed) == 1:
        return listed[0].sorted()
    return replace(
        listed[0],
        seqs=np.concatenate([part.seqs for part in listed]),
        item_ids=[x for part in listed for x in part.item_ids],
        identities=[x for part in listed for x in part.identities],
        sources=[x for part in listed for x in part.sources],
        source_sha256s=[x for part in listed for x in part.source_sha256s],
        embedded_at=[x for part in listed for x in part.embedded_at],
        codes=np.concatenate([part.codes for part in listed]),
    ).sorted()


def rows_of(
    items: Sequence[NewItem] | Sequence[StoredItem],
    seqs: Ints,
    version: str,
    vectors: Mapping[str, Floats],
    codec: str,
) -> list[Rows]:
    """Return the rows that give `items` under `seqs` vectors, one `Rows` for each output."""
    now = [utc_now()] * len(items)
    return [
        Rows(
            version,
            output,
            seqs,
            [item.item_id for item in items],
            [item.identity for item in items],
            [item.source for item in items],
            [item.source_sha256 for item in items],
            now,
            encode(array, codec),
        )
        for output, array in vectors.items()
    ]
