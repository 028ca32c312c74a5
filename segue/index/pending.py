"""Which items a migration still has to embed, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.errors import UnknownNameError
from segue.index import catalog
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Collection

    from segue.index.items import StoredItem
    from segue.index.shelf import Shelf
    from segue.index.snapshot import View
    from segue.types import Bools, Doubles, Ints

ORDERS = ("oldest", "random", "farthest")
"""The orders in which items are embedded anew, after those that searches touched."""


class PendingItems:
    """Answers what is left of a migration; remembers the class means that `farthest` needs."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._farness: dict[str, Doubles] = {}

    def count(self, target: str) -> int:
        """Return how many live items have no row of `target`.

        Raises:
            UnknownVersionError: it is not registered.
        """
        return int(np.count_nonzero(self._pending(target)[1]))

    def take(
        self, target: str, order: str, limit: int, skip: Collection[int], seed: int
    ) -> list[StoredItem]:
        """Return the next items to embed by `target`: touched ones first, then by `order`.

        Raises:
            UnknownNameError: there is no such order.
            UnknownVersionError: the version is not registered.
        """
        if order not in ORDERS:
            raise UnknownNameError("order", order, ORDERS)

        def choose(_: View) -> list[StoredItem]:
            view, pending, touched = self._pending(target)
            pending = pending.copy()
            skipped = np.fromiter(skip, dtype=np.int64)
            pending[skipped[skipped < len(pending)]] = False
            first = touched[touched < len(pending)]
            first = first[pending[first]][:limit]
            pending[first] = False
            rest = np.flatnonzero(pending)
            rest = self._ordered(view, target, rest, order=order, seed=seed)[: limit - len(first)]
            seqs = [int(seq) for seq in np.concatenate([first, rest])]
            items = view.items(seqs)
            return [items[seq] for seq in seqs if seq in items]

        return self._shelf.reading(choose)

    def _pending(self, target: str) -> tuple[View, Bools, Ints]:
        with self._shelf.database.read() as connection:
            view = self._shelf.view_in(connection)
            catalog.version_outputs(connection, target)
            outputs = catalog.outputs_needed(connection, view.row, target)
            touched = catalog.read_touched(connection, self._shelf.name)
        complete = np.ones(view.row.next_seq, dtype=np.bool_)
        for output in outputs:
            complete &= view.mask(target, output)
        return view, view.alive() & ~complete, touched

    def _ordered(self, view: View, target: str, seqs: Ints, *, order: str, seed: int) -> Ints:
        if order == "oldest":
            return seqs
        if order == "random":
            scores: Doubles = _scatter(seqs, seed).astype(np.float64)
        else:
            scores = -self._far(view, target)[seqs]
        return seqs[np.lexsort((seqs, scores))]

    def _far(self, view: View, target: str) -> Doubles:
        """Return each item's squared distance to its identity's mean: float64 by `seq`."""
        known = self._farness.get(target, np.empty(0))
        if len(known) >= view.row.next_seq:
            return known
        far = np.zeros(view.row.next_seq)
        for version, mask in view.live().items():
            if version != target and mask.any():
                _measure_far(view, version, mask, far)
        self._farness[target] = far
        return far


def _scatter(seqs: Ints, seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return a pseudo-random rank for each item that depends on nothing but `seed` and `seq`."""
    with np.errstate(over="ignore"):  # SplitMix64 is arithmetic modulo 2^64
        x = seqs.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def _measure_far(view: View, version: str, mask: Bools, far: Doubles) -> None:
    """Write the distance to the identity's mean into `far`, for the items of one version."""
    numbers: dict[str, int] = {}
    for part in view.rows((version, DEFAULT_OUTPUT)):
        for identity in part.identities:
            if identity is not None:
                numbers.setdefault(identity, len(numbers))
    if not numbers:
        return
    sums: Doubles | None = None
    parts = []
    for part in view.rows((version, DEFAULT_OUTPUT)):
        named = np.array([x is not None for x in part.identities], dtype=np.bool_)
        part = part.take(named & mask[part.seqs])  # noqa: PLW2901 - the rest has no class
        labels = np.array([numbers[x] for x in part.identities if x is not None], dtype=np.int64)
        vectors = part.vectors(view.row.codec).astype(np.float64)
        sums = np.zeros((len(numbers), vectors.shape[1])) if sums is None else sums
        np.add.at(sums, labels, vectors)
        parts.append((part.seqs, labels, vectors))
    for seqs, labels, vectors in parts:
        assert sums is not None
        means = sums[labels]
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        far[seqs] = ((vectors - means) ** 2).sum(axis=1)
