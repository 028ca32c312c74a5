"""Checking a gallery: every file, every key, one row for each item, version and output."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import CorruptSegmentError, SegueError
from segue.index.keys import hash_ids
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from segue.index.rows import Rows
    from segue.index.segments import Segment
    from segue.index.shelf import Shelf
    from segue.index.snapshot import View


def check_gallery(shelf: Shelf) -> list[str]:
    """Read all of a gallery and return what is wrong, in sentences without item ids."""
    try:
        return shelf.reading(_problems)
    except CorruptSegmentError as error:
        return [str(error)]


def _problems(view: View) -> list[str]:
    problems: list[str] = []
    seq_of: dict[str, int] = {}
    clashes = 0
    for key in view.keys:
        parts: list[Rows] = []
        for segment in view.segments(key):
            problems += _check_segment(view, segment, parts)
        if key in view.snapshot.fresh:
            parts.append(view.snapshot.fresh[key])
        counts = Counter(seq for part in parts for seq in part.seqs.tolist())
        twice = sum(count > 1 for count in counts.values())
        if twice:
            problems.append(f"{twice} items have several rows of {key[0]} {key[1]}")
        for part in parts:
            alive = part.without(view.snapshot.dead)
            for item_id, seq in zip(alive.item_ids, alive.seqs.tolist(), strict=True):
                clashes += seq_of.setdefault(item_id, seq) != seq
        problems += _check_vectors(view, key, parts)
    if clashes:
        problems.append(f"{clashes} rows have an item_id that another item has")
    lost = int((view.stored() & ~view.alive()).sum())
    if lost:
        problems.append(f"{lost} items are live in no version of {', '.join(view.row.preference)}")
    return problems


def _check_segment(view: View, segment: Segment, parts: list[Rows]) -> list[str]:
    """Check one segment's two files; append its rows to `parts` if they can be read."""
    try:
        rows = view.reader.rows(segment, view.row.codec)
        keys = view.reader.fresh_keys(segment)
    except SegueError as error:
        return [str(error)]
    parts.append(rows)
    problems = []
    if len(rows) != segment.rows:
        problems.append(f"{segment.path} has {len(rows)} rows, the catalog says {segment.rows}")
    hashes = hash_ids(rows.item_ids)
    order = np.lexsort((rows.seqs, hashes))
    same = np.array_equal(hashes[order], keys.hashes)
    if not same or not np.array_equal(rows.seqs[order], keys.seqs):
        problems.append(f"{segment.key_path} does not name the rows of its segment")
    if len(rows) and int(rows.seqs[-1]) >= view.row.next_seq:
        problems.append(f"{segment.path} holds numbers that were never given")
    return problems


def _check_vectors(view: View, key: tuple[str, str], parts: list[Rows]) -> list[str]:
    bad = 0
    for part in parts:
        lengths = np.linalg.norm(part.vectors(view.row.codec).astype(np.float64), axis=1)
        bad += int((~(np.abs(lengths - 1) < 1e-3)).sum())  # also counts NaN
    name = key[0] if key[1] == DEFAULT_OUTPUT else f"{key[0]} {key[1]}"
    return [f"{bad} vectors of {name} are not of unit length"] if bad else []
