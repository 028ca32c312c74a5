"""Fewer and larger files: fold fresh rows, sweep tombstones, merge segments, remove leftovers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.errors import LockedError
from segue.index.commit import fold
from segue.index.erase import swap_segments, sweep
from segue.index.index_files import overwrite_and_unlink
from segue.index.orphans import remove_orphans
from segue.index.rows import join
from segue.index.segments import unlink_segment, write_segment
from segue.index.staging import WAIT_SECONDS, sweeping

if TYPE_CHECKING:
    from pathlib import Path

    from segue.index.segments import Segment
    from segue.index.shelf import Shelf

MERGED_ROWS = 1_000_000
"""Rows: segments are merged up to this size."""


def compact_gallery(shelf: Shelf, wait: float = WAIT_SECONDS) -> None:
    """Leave as few segments as `MERGED_ROWS` allows, no fresh rows and no leftovers.

    Raises:
        LockedError: a writer or reader was in the way; what was done stays done.
    """
    fold(shelf)
    if not sweep(shelf, wait):
        raise LockedError(f"gallery {shelf.name!r}", "a reader or writer")
    with sweeping(shelf.folder, wait):
        remove_orphans(shelf)
        view = shelf.view()
        for key in view.keys:
            for group in _groups(view.segments(key)):
                rows = join([view.reader.rows(segment, view.row.codec) for segment in group])
                merged = write_segment(shelf.root, shelf.name, rows, view.row.codec)
                try:
                    paths = swap_segments(shelf, group, [merged], np.empty(0, dtype=np.int64))
                except BaseException:
                    unlink_segment(shelf.root, merged)
                    raise
                for segment in group:
                    unlink_segment(shelf.root, segment)
                for path in paths:
                    overwrite_and_unlink(shelf.root / path)


def _groups(segments: list[Segment]) -> list[list[Segment]]:
    """Return the segments that are merged with each other, none larger than `MERGED_ROWS`."""
    groups: list[list[Segment]] = []
    current: list[Segment] = []
    for segment in segments:
        if current and sum(s.rows for s in current) + segment.rows > MERGED_ROWS:
            groups.append(current)
            current = []
        current.append(segment)
    return [group for group in [*groups, current] if len(group) > 1]


def gallery_files(shelf: Shelf, wait: float = WAIT_SECONDS) -> list[Path]:
    """Fold fresh rows, sweep tombstones, and return the segments' paths.

    Raises:
        LockedError: an erased item could not be swept out of them yet.
    """
    fold(shelf)
    if not sweep(shelf, wait):
        raise LockedError(f"gallery {shelf.name!r}", "a reader or writer")
    return [shelf.root / segment.path for segment in shelf.view().snapshot.segments]
