"""Mixed search: each version searched through its own edge, the lists merged by log FAR.

The k nearest live items of every version are found exactly; replaced by the log FAR of their edge,
distances of several versions speak one language. A gallery whose items are all live in one version
is ranked by distance, which is the same order. Ties go to the item enrolled first.

`rank_merge` is the serving baseline that needs no edge between versions: the probe is embedded by
every version that items are live in, each searches its own items, and the nearer ones are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import GalleryError, UnknownNameError, UnmeasuredEdgeError, UsageError
from segue.index import catalog
from segue.index.edges import checked_probe
from segue.index.items import Answer, Hit, PairResult
from segue.index.nearest import exact_distances
from segue.index.threshold import Limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

    from segue.index.catalog import GalleryRow
    from segue.index.edges import Way, Ways
    from segue.index.items import AppliedThreshold, Probe, Threshold
    from segue.index.nearest import NearestItems
    from segue.index.shelf import Shelf
    from segue.index.snapshot import View
    from segue.types import Bools, Doubles, Ints


MERGE_BY = ("far", "distance")
"""What `rank_merge` keeps the nearer by: the FAR of each version's own edge, or raw distances."""


@dataclass(frozen=True)
class _Answers:
    """One version's answers to one probe, nearest first.

    Attributes:
        scores: what lists merge by: log10 FAR; the distance where there is one list only, or where
            that is asked for.
    """

    way: Way
    seqs: Ints
    distances: Doubles
    scores: Doubles


@dataclass(frozen=True)
class _Question:
    """Checked probes, the view they are asked of, and the ways to the versions with live items.

    `probes`, `ways` and `live` are by stored version; the probes hold equally many vectors.
    `applied` is what the limit comes to on these ways.
    """

    count: int
    probes: Mapping[str, Probe]
    view: View
    ways: Mapping[str, Way]
    live: Mapping[str, Bools]
    limit: Limit | None
    applied: AppliedThreshold | None
    by_far: bool


class Searcher:
    """Answers probes of any version; safe to share between threads."""

    def __init__(self, shelf: Shelf, ways: Ways, nearest: NearestItems) -> None:
        self._shelf, self._ways, self._nearest = shelf, ways, nearest

    def search(
        self, probe: Probe, k: int, threshold: Threshold | None
    ) -> tuple[Answer, GalleryRow]:
        """Return the k best hits of each vector, and the gallery as it was searched.

        Raises:
            UnmeasuredEdgeError: an item is live in a version without a measured edge.
            GalleryError: an item has no vector that the probe can be compared with.
            UnsupportedFarError: the threshold is a FAR that no data supports.
            VectorError: vectors that are not the version's.
        """
        return self._ask(lambda: self._prepare(probe, threshold), k)

    def rank_merge(
        self, probes: Sequence[Probe], k: int, threshold: Threshold | None, by: str
    ) -> tuple[Answer, GalleryRow]:
        """Search each version's live items by the probe of that version, and merge the lists.

        Raises:
            UnknownNameError: `by` is none of `MERGE_BY`.
            UsageError: two probes of one version, or of unequal numbers of vectors.
            GalleryError: items are live in a version without a probe, or uncalibrated FARs.
            UnsupportedFarError, VectorError: as `search`.
        """
        if by not in MERGE_BY:
            raise UnknownNameError("score to merge by", by, MERGE_BY)
        given = {probe.version: probe for probe in probes}
        if not given or len(given) < len(probes) or len({len(probe) for probe in probes}) > 1:
            raise UsageError("give one probe of each version, of the same images in the same order")
        return self._ask(lambda: self._prepare_each(given, threshold, by_far=by == "far"), k)

    def check(self, version: str, threshold: Threshold | None) -> AppliedThreshold | None:
        """Refuse now what a search by probes of `version` would be refused for.

        Returns:
            what the threshold comes to, None if there is none.

        Raises:
            UnmeasuredEdgeError, GalleryError, UnsupportedFarError: as `search`.
        """
        with self._shelf.database.read() as connection:
            view = self._shelf.view_in(connection)
            ways, _ = self._reach(connection, view, version)
            limit = Limit.of(threshold, connection, self._ways, view)
        return None if limit is None else limit.apply(ways.values())

    def _ask(self, prepare: Callable[[], _Question], k: int) -> tuple[Answer, GalleryRow]:
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least one hit")

        def answer(_: View) -> tuple[Answer, GalleryRow]:
            question = prepare()
            return Answer(self._answer(question, k), question.applied), question.view.row

        return self._shelf.reading(answer)

    def compare(self, a: Probe, b: Probe, threshold: Threshold | None) -> PairResult:
        """Compare two single probes over the edge from `a`'s version to `b`'s.

        Raises:
            UnmeasuredEdgeError, GalleryError, UnsupportedFarError, VectorError: as `search`.
        """
        with self._shelf.database.read() as connection:
            view = self._shelf.view_in(connection)
            a, b = (
                checked_probe(x, catalog.version_outputs(connection, x.version)) for x in (a, b)
            )
            way = self._ways.get(connection, a.version, b.version)
            limit = Limit.of(threshold, connection, self._ways, view)
        applied = None if limit is None else limit.apply([way])
        if len(a) != 1 or len(b) != 1:
            raise UsageError("verifying compares one vector with one vector")
        if way.stored_output not in b.vectors:
            raise UsageError(f"the second vector has no output {way.stored_output!r}")
        distances = exact_distances(way.vectors(a)[0], b.vectors[way.stored_output])
        distance = float(distances[0])
        same = None if limit is None else bool(limit.accepts(way, distances)[0])
        if way.calibration is None:
            return PairResult(distance, None, same, threshold=applied)
        far = float(way.calibration.far(distances)[0])
        extrapolated = bool(way.calibration.extrapolated(distances)[0])
        return PairResult(distance, far, same, extrapolated, applied)

    def _prepare(self, probe: Probe, threshold: Threshold | None) -> _Question:
        with self._shelf.database.read() as connection:
            view = self._shelf.view_in(connection)
            checked = checked_probe(probe, catalog.version_outputs(connection, probe.version))
            ways, live = self._reach(connection, view, probe.version)
            limit = Limit.of(threshold, connection, self._ways, view)
        applied = None if limit is None else limit.apply(ways.values())
        probes = dict.fromkeys(ways, checked)
        return _Question(
            len(checked), probes, view, ways, live, limit, applied, by_far=len(ways) > 1
        )

    def _reach(
        self, connection: Connection, view: View, probe: str
    ) -> tuple[dict[str, Way], dict[str, Bools]]:
        """Return the ways from a probe's version to every version with live items, and these."""
        found = {v: self._ways.find(connection, probe, v) for v in view.row.preference}
        ways = {version: way for version, way in found.items() if way is not None}
        live = _live(view, probe, ways)
        used = {version: ways[version] for version in live}
        if len(used) > 1:
            for way in used.values():
                if way.calibration is None:
                    raise UnmeasuredEdgeError(way.probe, way.stored)
        return used, live

    def _prepare_each(
        self, given: Mapping[str, Probe], threshold: Threshold | None, *, by_far: bool
    ) -> _Question:
        with self._shelf.database.read() as connection:
            view = self._shelf.view_in(connection)
            checked = {
                version: checked_probe(probe, catalog.version_outputs(connection, version))
                for version, probe in given.items()
            }
            ways = {v: self._ways.get(connection, v, v) for v in view.row.preference if v in given}
            limit = Limit.of(threshold, connection, self._ways, view)
        live = _live_in(view, ways)
        used = {version: ways[version] for version in live}
        applied = None if limit is None else limit.apply(used.values())
        by_far = by_far and len(used) > 1
        for way in used.values():
            if by_far and way.calibration is None:
                raise GalleryError(
                    f"{way.stored} is not calibrated, so that its distances do not merge by FAR; "
                    "run `segue calibrate`, or merge by distance"
                )
        count = len(next(iter(checked.values())))
        return _Question(count, checked, view, used, live, limit, applied, by_far=by_far)

    def _answer(self, question: _Question, k: int) -> list[list[Hit]]:
        merged: list[list[_Answers]] = [[] for _ in range(question.count)]
        for version, way in question.ways.items():
            vectors = way.vectors(question.probes[version])
            key = (version, way.stored_output)
            found = self._nearest.search(question.view, key, question.live[version], vectors, k)
            for answers, (seqs, distances) in zip(merged, found, strict=True):
                if question.limit is not None:
                    kept = question.limit.accepts(way, distances)
                    seqs, distances = seqs[kept], distances[kept]  # noqa: PLW2901
                scores = distances
                if question.by_far:
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


def _live_in(view: View, ways: Mapping[str, Way]) -> dict[str, Bools]:
    """Return the items that are live in each of some versions, as if there were no others.

    Raises:
        GalleryError: some item has no vector of any of them.
    """
    reachable = view.live(tuple((version, way.stored_output) for version, way in ways.items()))
    left = view.alive().copy()
    for mask in reachable.values():
        left &= ~mask
    if left.any():
        lacking = [version for version, mask in view.live().items() if (mask & left).any()]
        raise GalleryError(
            f"{int(left.sum())} items have vectors of {', '.join(lacking)} only; give a probe of "
            "that version too"
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
