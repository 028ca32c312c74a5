"""One exact Faiss index for each version and output, in memory and cached on disk.

The truth is in segments and fresh rows; an index is only quick. It holds the rows of segments under
their `seq`; fresh rows are compared directly. What must not be answered (erased items, items live
in another version) is left out by a selector while Faiss searches, so that k answers are k live
ones.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.index.index_files import load_index, save_index

if TYPE_CHECKING:
    from segue.index.shelf import Shelf
    from segue.index.snapshot import View
    from segue.types import Bools, Doubles, Floats, Images, Ints

_MARGIN = 16  # candidates beyond k, so that ties at the end are seen
_ROUNDING = 1e-5  # squared distance: how far Faiss's float32 arithmetic may be off
_SAVED_GROWTH = 1.1  # an index file is written again when the index has grown so much


@dataclass(frozen=True)
class BuiltIndex:
    """A Faiss `IndexFlatL2` over the segments it names.

    Attributes:
        id_map: the `IndexIDMap` around it, whose ids are `seq`.
        flat: the `IndexFlatL2` itself, whose ids are row numbers.
        segments: the paths of the segments it holds.
        seqs: int64 [rows], the `seq` of each row, in the order of the index.
        vectors: float32 [rows, d], the index's own memory.
    """

    id_map: Any
    flat: Any
    segments: frozenset[str]
    seqs: Ints
    vectors: Floats

    def __len__(self) -> int:
        return len(self.seqs)


class NearestItems:
    """Finds the nearest live items of each version; safe to share between threads."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._built: dict[tuple[str, str], BuiltIndex] = {}
        self._selected: dict[tuple[str, str], tuple[Bools, BuiltIndex, Images | None, int]] = {}

    def search(
        self, view: View, key: tuple[str, str], live: Bools, probes: Floats, k: int
    ) -> list[tuple[Ints, Doubles]]:
        """Return, for each probe, the `seq` and squared distances of its k nearest live items.

        Exact: distances are summed in float64 from the stored vectors, and ties are ordered by
        `seq`.

        Args:
            view: the snapshot to search.
            key: version and output.
            live: bool by `seq`: the items that may be answered.
            probes: unit float32 [N, d].
            k: how many.
        """
        index = self._index(view, key)
        fresh_seqs, fresh_vectors = _fresh(view, key, live)
        answers = []
        for probe in probes:
            seqs, vectors = self._candidates(key, index, live, probe, k)
            seqs = np.concatenate([seqs, fresh_seqs])
            vectors = np.concatenate([vectors, fresh_vectors]) if len(fresh_seqs) else vectors
            distances = exact_distances(probe, vectors)
            order = np.lexsort((seqs, distances))[:k]
            answers.append((seqs[order], distances[order]))
        return answers

    def _candidates(
        self, key: tuple[str, str], index: BuiltIndex | None, live: Bools, probe: Floats, k: int
    ) -> tuple[Ints, Floats]:
        """Return at least the k nearest live rows of an index, with all that tie with the last."""
        nothing = np.empty(0, dtype=np.int64), np.empty((0, len(probe)), dtype=np.float32)
        if index is None:
            return nothing
        parameters, allowed = self._selector(key, index, live)
        wanted = min(allowed, k + _MARGIN)
        while wanted:
            found, places = index.flat.search(probe[None], wanted, params=parameters)
            rows = places[0]
            exact = exact_distances(probe, index.vectors[rows])
            end = np.partition(exact, min(k, wanted) - 1)[min(k, wanted) - 1]
            if wanted == allowed or found[0, -1] > end + _ROUNDING:
                return index.seqs[rows], index.vectors[rows]
            wanted = min(allowed, 4 * wanted)
        return nothing

    def _selector(self, key: tuple[str, str], index: BuiltIndex, live: Bools) -> tuple[Any, int]:
        """Return Faiss's search parameters that allow only live rows, and how many they are."""
        import faiss

        known = self._selected.get(key)
        if known is None or known[0] is not live or known[1] is not index:
            rows = live[index.seqs]
            allowed = int(np.count_nonzero(rows))
            bits = None if allowed == len(rows) else np.packbits(rows, bitorder="little")
            known = (live, index, bits, allowed)
            self._selected[key] = known
        bits, allowed = known[2], known[3]
        if bits is None:
            return None, allowed
        selector: Any = faiss  # its type stubs describe the C++ signatures, not Python's
        return selector.SearchParameters(sel=selector.IDSelectorBitmap(bits)), allowed

    def _index(self, view: View, key: tuple[str, str]) -> BuiltIndex | None:
        wanted = {segment.path for segment in view.segments(key)}
        with self._lock:
            for gone in [other for other in self._built if other not in view.keys]:
                del self._built[gone]
                self._selected.pop(gone, None)
            if not wanted:
                self._built.pop(key, None)
                return None
            built = self._built.get(key)
            if built is None or not built.segments <= wanted:
                built = self._load(view, key)
            if built is None or built.segments != wanted:
                built = self._extend(view, key, built)
            self._built[key] = built
            return built

    def _load(self, view: View, key: tuple[str, str]) -> BuiltIndex | None:
        """Read the cached index, if all that it holds is still listed."""
        cached = load_index(self._shelf, key)
        path_of = {segment.segment: segment.path for segment in view.segments(key)}
        if cached is None or not cached.segments <= set(path_of):
            return None
        return _wrap(cached.faiss_index, frozenset(path_of[number] for number in cached.segments))

    def _extend(self, view: View, key: tuple[str, str], base: BuiltIndex | None) -> BuiltIndex:
        """Return a new index of all of a view's segments; the old one stays as it is."""
        import faiss

        before = base.segments if base is not None else frozenset[str]()
        parts = [
            view.reader.rows(segment, view.row.codec).without(view.snapshot.dead)
            for segment in view.segments(key)
            if segment.path not in before
        ]
        if base is None:
            width = parts[0].vectors(view.row.codec).shape[1]
            index: Any = faiss.IndexIDMap(faiss.IndexFlatL2(width))
        else:
            index = faiss.clone_index(base.id_map)
        for part in parts:
            index.add_with_ids(part.vectors(view.row.codec), part.seqs)
        if base is None or index.ntotal > _SAVED_GROWTH * len(base):
            save_index(self._shelf, view, key, index)
        return _wrap(index, frozenset(segment.path for segment in view.segments(key)))


def _wrap(id_map: Any, segments: frozenset[str]) -> BuiltIndex:
    import faiss

    flat: Any = faiss.downcast_index(id_map.index)
    seqs = faiss.vector_to_array(id_map.id_map).astype(np.int64, copy=False)
    if flat.ntotal == 0:
        return BuiltIndex(id_map, flat, segments, seqs, np.empty((0, flat.d), dtype=np.float32))
    memory = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    return BuiltIndex(id_map, flat, segments, seqs, memory.reshape(flat.ntotal, flat.d))


def _fresh(view: View, key: tuple[str, str], live: Bools) -> tuple[Ints, Floats]:
    """Return `seq` and vectors of the live fresh rows of one key."""
    rows = view.snapshot.fresh.get(key)
    if rows is None:
        return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
    chosen = live[rows.seqs]
    return rows.seqs[chosen], rows.vectors(view.row.codec)[chosen]


def exact_distances(probe: Floats, vectors: Floats) -> Doubles:
    """Return squared L2 distances of one float32 [d] to float32 [N, d]: float64 [N] in [0, 4].

    >>> exact_distances(np.array([1, 0], np.float32), np.array([[0, 1]], np.float32)).tolist()
    [2.0]
    """
    difference = vectors.astype(np.float64) - probe.astype(np.float64)
    return np.asarray(np.minimum(np.einsum("nd,nd->n", difference, difference), 4.0))
