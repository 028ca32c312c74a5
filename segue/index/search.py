"""Mixed search: each version searched through its own edge, the lists merged by log FAR.

The k nearest live items of every version are found exactly; replaced by the log FAR of their edge,
distances of several versions speak one language. A gallery whose items are all live in one version
is ranked by distance, which is the same order. Ties go to the item enrolled first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import GalleryError, UnmeasuredEdgeError, UsageError
from segue.index import catalog
from segue.index.edges import checked_probe
from segue.index.items import Hit, PairResult
from segue.index.nearest import exact_distances
from segue.index.threshold import Limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segue.index.catalog import GalleryRow
    from segue.index.edges import Way, Ways
    from segue.index.items import Probe, Threshold
    from segue.index.nearest import NearestItems
    from segue.index.shelf import Shelf
    from segue.index.snapshot import View
    from segue.types import Bools, Doubles, Ints


@dataclass(frozen=True)
class _Answers:
    """One version's answers to one probe, nearest first.

    Attributes:
        scores: what lists merge by: log10 FAR, or the distance where there is one list only.
    """

    way: Way
    seqs: Ints
    distances: Doubles
    scores: Doubles


@dataclass(frozen=True)
class _Question:
    """A checked probe, the view it is asked of, and the ways to the versions with live items."""

    probe: Probe
    view: View
    ways: Mapping[str, Way]
    live: Mapping[str, Bools]
    limit: Limit | None


class Searcher:
    """Answers probes of any version; safe to share between threads."""

    def __init__(self, shelf: Shelf, ways: Ways, nearest: NearestItems) -> None:
        self._shelf, self._ways, self._nearest = shelf, ways, nearest

    def search(
        self, probe: Probe, k: int, threshold: Threshold | None
    ) -> tuple[list[list[Hit]], GalleryRow]:
        """Return the k best hits of each vector, and the gallery as it was searched.

        Raises:
            UnmeasuredEdgeError: an item is live in a version without a measured edge.
            GalleryError: an item has no vector that the probe can be compared with.
            VectorError: vectors that are not the version's.
        """
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least one hit")

        def answer(_: View) -> tuple[list[list[Hit]], GalleryRow]:
            question = self._prepare(probe, threshold)
            return self._answer(question, k), question.view.row

        return self._shelf.reading(answer)

    def compare(self, a: Probe, b: Probe, threshold: Threshold | None) -> PairResult:
        """Compare two single probes over the edge from `a`'s version to `b`'s.

        Raises:
            UnmeasuredEdgeError, GalleryError, VectorError: as `search`.
        """
        with self._shelf.database.read() as connection:
            view = self._shelf.view_in(connection)
            a, b = (
                checked_probe(x, catalog.version_outputs(connection, x.version)) for x in (a, b)
            )
            way = self._ways.get(connection, a.version, b.version)
            limit = Limit.of(threshold, connection, self._ways, view)
        if len(a) != 1 or len(b) != 1:
            raise UsageError("verifying compares one vector with one vector")
        if way.stored_output not in b.vectors:
            raise UsageError(f"the second vector has no output {way.stored_output!r}")
        distances = exact_distances(way.vectors(a)[0], b.vectors[way.stored_output])
        distance = float(distances[0])
        same = None if limit is None else bool(limit.accepts(way, distances)[0])
        if way.calibration is None:
            return PairResult(distance, None, same)
        far = float(way.calibration.far(distances)[0])
        return PairResult(distance, far, same, bool(way.calibration.extrapolated(distances)[0]))

    def _prepare(self, probe: Probe, threshold: Threshold | None) -> _Question:
        with self._shelf.database.read() as connection:
            view = self._shelf.view_in(connection)
            outputs = catalog.version_outputs(connection, probe.version)
            checked = checked_probe(probe, outputs)
            found = {v: self._ways.find(connection, probe.version, v) for v in view.row.preference}
            ways = {version: way for version, way in found.items() if way is not None}
            live = _live(view, probe.version, ways)
            limit = Limit.of(threshold, connection, self._ways, view)
        used = {version: ways[version] for version in live}
        if len(used) > 1:
            for way in used.values():
                if way.calibration is None:
                    raise UnmeasuredEdgeError(way.probe, way.stored)
        return _Question(checked, view, used, live, limit)

    def _answer(self, question: _Question, k: int) -> list[list[Hit]]:
        merged: list[list[_Answers]] = [[] for _ in range(len(question.probe))]
        mixed = len(question.ways) > 1
        for version, way in question.ways.items():
            vectors = way.vectors(question.probe)
            key = (version, way.stored_output)
            found = self._nearest.search(question.view, key, question.live[version], vectors, k)
            for answers, (seqs, distances) in zip(merged, found, strict=True):
                if question.limit is not None:
                    kept = question.limit.accepts(way, distances)
                    seqs, distances = seqs[kept], distances[kept]  # noqa: PLW2901
                scores = distances
                if mixed:
                    assert way.calibration is not None
                    scores = way.calibration.log10_far(distances)
                answers.append(_Answers(way, seqs, distances, scores))
        return _hits(question.view, [_merge(answers, k) for answers in merged])


def _live(view: View, probe: str, ways: Mapping[str, Way]) -> dict[str, Bools]:
    """Return, for each version with items that this probe finds there, which items these are.

    Raises:
        UnmeasuredEdgeError, GalleryError: some live item could not be found at all.
    """
    wanted = tuple((v, ways[v].stored_output) for v in view.row.preference if v in ways)
    reachable = view.live(wanted)
    left = view.alive().copy()
    for mask in reachable.values():
        left &= ~mask
    if left.any():
        for version, mask in view.live().items():
            if version not in ways and (mask & left).any():
                raise UnmeasuredEdgeError(probe, version)
        raise GalleryError(
            f"{int(left.sum())} items have no vector that a probe of {probe} can be compared with; "
            f"embed the probe with {view.row.serving}"
        )
    return {version: mask for version, mask in reachable.items() if mask.any()}


def _merge(answers: Sequence[_Answers], k: int) -> list[tuple[int, float, Way]]:
    """Merge the lists of several versions by score, then by `seq`; keep k."""
    if not answers:
        return []
    seqs = np.concatenate([a.seqs for a in answers])
    scores = np.concatenate([a.scores for a in answers])
    distances = np.concatenate([a.distances for a in answers])
    lists = np.repeat(np.arange(len(answers)), [len(a.seqs) for a in answers])
    order = np.lexsort((seqs, scores))[:k]
    return [(int(seqs[i]), float(distances[i]), answers[lists[i]].way) for i in order.tolist()]


def _hits(view: View, merged: Sequence[Sequence[tuple[int, float, Way]]]) -> list[list[Hit]]:
    items = view.items({seq for found in merged for seq, _, _ in found})
    results: list[list[Hit]] = []
    for found in merged:
        hits = []
        for seq, distance, way in found:
            item = items[seq]
            far, extrapolated = None, False
            if way.calibration is not None:
                far = float(way.calibration.far(np.array([distance]))[0])
                extrapolated = bool(way.calibration.extrapolated(np.array([distance]))[0])
            hits.append(
                Hit(
                    item.item_id,
                    item.identity,
                    item.source,
                    seq,
                    way.stored,
                    way.stored_output,
                    distance,
                    far,
                    extrapolated,
                )
            )
        results.append(hits)
    return results
