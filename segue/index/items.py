"""The values that a gallery takes and gives: items, probes, hits, thresholds, counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from segue.types import Floats


@dataclass(frozen=True)
class NewItem:
    """One face image to enrol.

    Attributes:
        item_id: the user's own name of it, unique in the gallery.
        identity: the person, where known.
        source: path or `file://` URI of the image, or any other URI; only files can be embedded.
        source_sha256: of the image file, where known; enrolling from images records it.
    """

    item_id: str
    identity: str | None = None
    source: str | None = None
    source_sha256: str | None = None


@dataclass(frozen=True)
class StoredItem:
    """One stored item, with the `seq` that is its own for ever."""

    seq: int
    item_id: str
    identity: str | None
    source: str | None
    source_sha256: str | None


@dataclass(frozen=True)
class StoredRow:
    """One stored vector of an item: `vector` is unit float32 [d]."""

    item: StoredItem
    version: str
    output: str
    embedded_at: str
    vector: Floats = field(repr=False)


@dataclass(frozen=True)
class Probe:
    """Vectors to search with: `vectors` maps outputs of `version` to unit float32 [N, d]."""

    version: str
    vectors: Mapping[str, Floats]

    def __len__(self) -> int:
        return min((len(array) for array in self.vectors.values()), default=0)


@dataclass(frozen=True)
class Hit:
    """One answer of a search.

    Attributes:
        distance: squared L2 on the edge from the probe's version to `version`, in [0, 4].
        far: the false accept rate of that distance on that edge; None until it is calibrated.
        extrapolated: whether `far` comes from the fitted tail and not from the data.
    """

    item_id: str
    identity: str | None
    source: str | None
    seq: int
    version: str
    output: str
    distance: float
    far: float | None
    extrapolated: bool


@dataclass(frozen=True)
class Threshold:
    """Which hits count as the same person, stated once; it keeps its meaning at every ρ.

    Exactly one of `far`, `false_hits` and `distance`, or none. A FAR that is stated, that follows
    from expected false hits, or that a distance is translated into, is refused if it is below what
    an edge's calibration supports (`Calibration.smallest_far`), unless `extrapolate` trusts the
    fitted tail.

    Attributes:
        far: false accept rate of one comparison, in (0, 1].
        false_hits: expected false hits of one search: live items x FAR.
        distance: squared L2 that the application uses today, in [0, 4]. Between vectors of
            `version` it is taken as it is, on every other edge through the calibration of
            `version` compared with itself. From a cosine c it is 2 - 2c.
        version: the version in whose scale `distance` is. Without it, the one that the gallery was
            served by first, also when its vectors are gone: a migration changes no threshold.
        extrapolate: whether a FAR below the measured ones may be used.
    """

    far: float | None = None
    false_hits: float | None = None
    distance: float | None = None
    version: str | None = None
    extrapolate: bool = False

    def __post_init__(self) -> None:
        stated = [x for x in (self.far, self.false_hits, self.distance) if x is not None]
        if len(stated) > 1:
            raise UsageError("state one threshold: a FAR, expected false hits, or a distance")
        if self.far is not None and not 0 < self.far <= 1:
            raise UsageError(
                f"FAR {self.far:g} is out of range; give one above 0 and at most 1, such as 0.001"
            )
        if self.false_hits is not None and not self.false_hits > 0:
            raise UsageError("expected false hits per search must be above 0, such as 0.1")
        if self.distance is not None and not 0 <= self.distance <= 4:  # of unit vectors
            raise UsageError(
                f"squared distance {self.distance:g} is out of range; give one from 0 to 4"
            )

    @classmethod
    def from_cosine(
        cls, cosine: float, version: str | None = None, *, extrapolate: bool = False
    ) -> Threshold:
        """Return the threshold of a cosine similarity: squared distance 2 - 2 · cosine.

        >>> Threshold.from_cosine(0.5).distance
        1.0
        """
        if not -1 <= cosine <= 1:
            raise UsageError(f"cosine {cosine:g} is out of range; give one from -1 to 1")
        return cls(distance=2 - 2 * cosine, version=version, extrapolate=extrapolate)


@dataclass(frozen=True)
class AppliedThreshold:
    """What a threshold comes to on the edges that it is applied to.

    Attributes:
        far: what every edge is held to; None where the version of a distance is not calibrated,
            and the distance is taken as it is.
        smallest_far: the smallest FAR that all calibrations support that it rests on.
        extrapolated: whether `far` is smaller, so that a fitted tail speaks and not the data.
        distance: the squared L2 that was stated, None where another threshold was.
        version: the version in whose scale `distance` is, and whose calibration translated it.
    """

    far: float | None
    smallest_far: float | None
    extrapolated: bool
    distance: float | None = None
    version: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a search found, and by which threshold.

    Attributes:
        hits: for each vector of the probe its hits, best first.
        threshold: what the threshold came to on the edges that were searched; None without one.
    """

    hits: list[list[Hit]]
    threshold: AppliedThreshold | None


@dataclass(frozen=True)
class PairResult:
    """Two images compared: `same` is None where no threshold was given."""

    distance: float
    far: float | None
    same: bool | None
    extrapolated: bool = False
    threshold: AppliedThreshold | None = None


@dataclass(frozen=True)
class ItemFailure:
    """An item that was not enrolled, with a reason that holds neither path nor item id."""

    item_id: str
    reason: str


@dataclass(frozen=True)
class Enrolment:
    """What an enrolment did."""

    enrolled: int
    failed: tuple[ItemFailure, ...] = ()


@dataclass(frozen=True)
class Erasure:
    """What an erasure did.

    With `swept` False the items are gone from every answer and not yet from every file; the same
    call finishes it.
    """

    items: int
    swept: bool


@dataclass(frozen=True)
class Reembedded:
    """A batch embedded by another version, not yet committed.

    Attributes:
        version: the version that embedded it.
        items: the items that succeeded.
        vectors: per output unit float32 [len(items), d].
        failed: `seq` and reason of those that did not; reasons hold neither path nor item id.
    """

    version: str
    items: tuple[StoredItem, ...]
    vectors: Mapping[str, Floats]
    failed: tuple[tuple[int, str], ...] = ()

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows by output."""
        return {output: len(array) for output, array in self.vectors.items()}


@dataclass(frozen=True)
class GalleryStats:
    """A gallery in numbers.

    Attributes:
        items: live items.
        rows: stored rows by (version, output), without erased ones.
        live: live items by the version they are live in.
        rho: `live` as a share of the items.
        fresh: rows that are in the catalog and not yet in a segment.
        segments: number of segments.
        bytes: size of segments and key files.
        pending_erasures: erased or replaced items not yet swept out of every file.
    """

    items: int
    rows: dict[tuple[str, str], int]
    live: dict[str, int]
    rho: dict[str, float]
    fresh: int
    segments: int
    bytes: int
    pending_erasures: int


def check_items(items: Iterable[NewItem]) -> list[NewItem]:
    """Return the items as a list, each id used once.

    Raises:
        DataError: an id is no text, empty, longer than 1024 characters, or there twice.
    """
    listed = list(items)
    seen: set[str] = set()
    for number, item in enumerate(listed):
        if not isinstance(item.item_id, str) or not item.item_id or "\0" in item.item_id:
            raise DataError(f"item {number} has no usable item_id; give each a text of its own")
        if len(item.item_id) > 1024:
            raise DataError(f"the item_id of item {number} is longer than 1024 characters")
        if item.item_id in seen:
            raise DataError(f"item_id {item.item_id!r} is given twice; give each item its own")
        seen.add(item.item_id)
    return listed


def seqs_of(items: Sequence[StoredItem]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the items' numbers: int64 [N]."""
    return np.array([item.seq for item in items], dtype=np.int64)
