"""A gallery in numbers, and a sample of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.index.items import GalleryStats
from segue.index.rows import join
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from segue.index.snapshot import View
    from segue.types import Floats


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


def sample_rows(view: View, version: str, limit: int, seed: int) -> tuple[Floats, list[str]]:
    """Draw rows of a version whose item has an identity, without replacement.

    Returns:
        Unit float32 [N, d] and N identities, in the order of `seq`; N is at most `limit`.
    """
    parts = [
        part.take(np.array([name is not None for name in part.identities], dtype=np.bool_))
        for part in view.rows((version, DEFAULT_OUTPUT))
    ]
    parts = [part for part in parts if len(part)]
    if not parts:
        return np.empty((0, 0), dtype=np.float32), []
    rows = join(parts)
    if len(rows) > limit:
        chosen = np.random.default_rng(seed).choice(len(rows), limit, replace=False)
        rows = rows.take(np.sort(chosen))
    return rows.vectors(view.row.codec), [str(name) for name in rows.identities]
