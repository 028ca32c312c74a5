"""A gallery in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.index.items import GalleryStats

if TYPE_CHECKING:
    from segue.index.snapshot import View


def count_gallery(view: View) -> GalleryStats:
    """Count a view of a gallery."""
    live = {version: int(np.count_nonzero(mask)) for version, mask in view.live().items()}
    items = sum(live.values())
    return GalleryStats(
        items=items,
        rows={key: int(np.count_nonzero(view.mask(*key))) for key in view.keys},
        live=live,
        rho={version: count / items if items else 0.0 for version, count in live.items()},
        fresh=sum(len(rows) for rows in view.snapshot.fresh.values()),
        segments=len(view.snapshot.segments),
        bytes=sum(segment.bytes for segment in view.snapshot.segments),
        pending_erasures=len(view.snapshot.dead),
    )
