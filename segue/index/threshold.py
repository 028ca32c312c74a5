"""One threshold, stated once, as a limit on every edge."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import GalleryError, UnmeasuredEdgeError, UnsupportedFarError
from segue.index import catalog
from segue.index.items import AppliedThreshold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import sqlalchemy as sa

    from segue.harmonic.calibration import Calibration
    from segue.index.edges import Way, Ways
    from segue.index.items import Threshold
    from segue.index.snapshot import View
    from segue.types import Bools, Doubles


@dataclass(frozen=True)
class Limit:
    """A threshold of one gallery: a distance of one version's own edge, and its log10 FAR.

    Attributes:
        log10_far: what every calibrated edge is held to; None if nothing is calibrated.
        distance: what the edge of `version` with itself is held to directly.
        version: the version in whose scale `distance` is.
        own: the calibration of `version` with itself, which translated `distance`.
        measured: whether the data of every calibration used must support the FAR.
    """

    log10_far: float | None
    distance: float | None = None
    version: str | None = None
    own: Calibration | None = None
    measured: bool = False

    @classmethod
    def of(
        cls, threshold: Threshold | None, connection: sa.Connection, ways: Ways, view: View
    ) -> Limit | None:
        """Translate a threshold for one gallery; None if it states none.

        Raises:
            UnknownVersionError: it names a version that is not registered.
        """
        if threshold is None:
            return None
        measured = not threshold.extrapolate
        if threshold.far is not None:
            return cls(math.log10(threshold.far), measured=measured)
        if threshold.false_hits is not None:
            items = max(int(np.count_nonzero(view.alive())), 1)
            far = min(threshold.false_hits / items, 1.0)
            return cls(math.log10(far), measured=measured)
        if threshold.distance is None:
            return None
        version = threshold.version or catalog.first_served(connection, view.row)
        catalog.version_outputs(connection, version)
        way = ways.find(connection, version, version)
        own = None if way is None else way.calibration
        log10_far = None
        if own is not None:
            log10_far = float(own.log10_far(np.array([threshold.distance]))[0])
        return cls(log10_far, threshold.distance, version, own, measured)

    def apply(self, ways: Iterable[Way]) -> AppliedThreshold:
        """Return what the threshold comes to on the edges to search by.

        Raises:
            UnsupportedFarError: a FAR in the fitted tail of a calibration, which was not allowed.
                A distance between vectors of its own version is no FAR and never refused.
            GalleryError, UnmeasuredEdgeError: as `accepts`.
        """
        listed = list(ways)
        for way in listed:
            self.accepts(way, np.empty(0))
        if self.log10_far is None:
            return AppliedThreshold(None, None, False, self.distance, self.version)
        far = max(10**self.log10_far, sys.float_info.min)
        used = list(self._calibrations(listed))
        lacking = [(edge, each) for edge, each in used if not each.supports(far)]
        if lacking and self.measured and not all(self._is_own(way) for way in listed):
            raise self._refusal(far, *lacking[0])
        smallest = max((each.smallest_far for _, each in used), default=None)
        return AppliedThreshold(far, smallest, bool(lacking), self.distance, self.version)

    def accepts(self, way: Way, distances: Doubles) -> Bools:
        """Return which distances on an edge are within the threshold: bool [N].

        Raises:
            GalleryError: the threshold cannot be translated to this edge.
            UnmeasuredEdgeError: the edge between two versions was never calibrated.
        """
        if self.distance is not None and self._is_own(way):
            return np.asarray(distances <= self.distance)
        if self.log10_far is None:
            raise GalleryError(
                f"{self.version} is not calibrated, so that its distance means nothing on other "
                f"versions; run `segue calibrate {self.version}`, or name the version in whose "
                "scale it is (--for-version; Threshold's version)"
            )
        if way.calibration is None:
            if way.probe != way.stored:
                raise UnmeasuredEdgeError(way.probe, way.stored)
            raise GalleryError(
                f"{way.stored} is not calibrated, so that a false accept rate means nothing yet; "
                "run `segue calibrate`, or give its distance"
            )
        return np.asarray(way.calibration.log10_far(distances) <= self.log10_far)

    def _is_own(self, way: Way) -> bool:
        """Whether an edge is held to the distance itself."""
        return self.distance is not None and way.probe == way.stored == self.version

    def _calibrations(self, ways: Iterable[Way]) -> Iterator[tuple[str, Calibration]]:
        """Yield the edges whose calibrations the threshold rests on, and these."""
        if self.own is not None:
            yield f"{self.version} -> {self.version}", self.own
        for way in ways:
            if way.calibration is not None and not self._is_own(way):
                yield f"{way.probe} -> {way.stored}", way.calibration

    def _refusal(self, far: float, edge: str, calibration: Calibration) -> UnsupportedFarError:
        larger = "FAR"
        where = f"on the edge {edge}"
        if self.distance is not None:
            larger = "distance"
            where = f"{where} (squared distance {self.distance:g} of {self.version} is that FAR)"
        return UnsupportedFarError(
            far,
            calibration.smallest_far,
            where,
            f"calibrate on more than its {calibration.people} people, use a larger {larger}, or "
            "trust the fitted tail by --extrapolate",
        )
