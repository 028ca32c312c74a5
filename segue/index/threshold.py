"""One threshold, stated once, as a limit on every edge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import GalleryError, UnmeasuredEdgeError, UnsupportedFarError
from segue.index import catalog

if TYPE_CHECKING:
    from collections.abc import Iterable

    import sqlalchemy as sa

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
        measured: whether every edge's data must support the FAR.
    """

    log10_far: float | None
    distance: float | None = None
    version: str | None = None
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
        version = threshold.version
        if version is None:
            version = catalog.first_registered(connection, view.row.preference)
        catalog.version_outputs(connection, version)
        own = ways.find(connection, version, version)
        log10_far = None
        if own is not None and own.calibration is not None:
            log10_far = float(own.calibration.log10_far(np.array([threshold.distance]))[0])
        return cls(log10_far, threshold.distance, version)

    def check(self, ways: Iterable[Way]) -> None:
        """Refuse a threshold that means nothing on one of the edges to search by.

        Raises:
            UnsupportedFarError: a FAR in the fitted tail of a calibration, which was not allowed.
            GalleryError, UnmeasuredEdgeError: as `accepts`.
        """
        for way in ways:
            self.accepts(way, np.empty(0))
            if self.measured and way.calibration is not None and self.log10_far is not None:
                far = 10**self.log10_far
                if not way.calibration.supports(far):
                    raise UnsupportedFarError(
                        far,
                        way.calibration.smallest_far,
                        f"on the edge {way.probe} -> {way.stored}",
                        f"calibrate on more than its {way.calibration.people} people, use a larger "
                        "FAR, or trust the fitted tail (--extrapolate; Threshold's extrapolate)",
                    )

    def accepts(self, way: Way, distances: Doubles) -> Bools:
        """Return which distances on an edge are within the threshold: bool [N].

        Raises:
            GalleryError: the threshold cannot be translated to this edge.
            UnmeasuredEdgeError: the edge between two versions was never calibrated.
        """
        if self.distance is not None and way.probe == way.stored == self.version:
            return np.asarray(distances <= self.distance)
        if self.log10_far is None:
            raise GalleryError(
                f"{self.version} is not calibrated, so that its distance means nothing on other "
                "versions; run `segue calibrate`"
            )
        if way.calibration is None:
            if way.probe != way.stored:
                raise UnmeasuredEdgeError(way.probe, way.stored)
            raise GalleryError(
                f"{way.stored} is not calibrated, so that a false accept rate means nothing yet; "
                "run `segue calibrate`, or give its distance"
            )
        return np.asarray(way.calibration.log10_far(distances) <= self.log10_far)
