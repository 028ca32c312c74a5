"""Verifying a migration by content: vectors embedded again, files, rows, and known items found."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import ItemsLeftError, MismatchError, UnknownItemError, UsageError
from segue.index import Probe
from segue.migrations.left import Left, commit_counted, count_left
from segue.migrations.rows import Row, advance, read_row
from segue.migrations.states import SETTLED, transition
from segue.types import DEFAULT_OUTPUT, no_progress, utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import sqlalchemy as sa

    from segue.index import Gallery, Reembedded, StoredItem, StoredRow
    from segue.migrations.handle import Handle
    from segue.types import Doubles, Embedder, Floats, Progress

TOLERANCE = 1e-5
"""Squared distance that two embeddings of one image by one model may have, as for witnesses."""

NEIGHBOURS = 10
"""Among so many nearest a known item must be found."""


@dataclass(frozen=True)
class Verification:
    """What a verification saw.

    Attributes:
        items: live items of the gallery.
        left: those without a vector of the target (all of them quarantined).
        sample: items drawn.
        compared: items of the sample that could be embedded again and compared.
        skipped: reason -> number of items of the sample that could not.
        worst: largest squared distance between a stored vector and the same embedded again.
        searched: items looked for end to end, with probes of `probe_version`; all were found.
        seed: the sample's seed.
        fingerprint: the target's fingerprint.
        at: when, UTC.
    """

    items: int
    left: int
    sample: int
    compared: int
    skipped: dict[str, int]
    worst: float
    searched: int
    probe_version: str
    seed: int
    fingerprint: str
    at: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def verify(
    handle: Handle,
    *,
    sample: int = 200,
    seed: int = 0,
    embedder: Embedder | None = None,
    progress: Progress = no_progress,
) -> Verification:
    """Verify a migration that is caught up; see `Migration.verify`."""
    row = handle.row()
    transition(row.state, "verify")
    if sample < 1:
        raise UsageError(f"a sample of {sample} items verifies nothing; give 1 or more")
    refuse_unfinished(handle)
    problems = handle.gallery.check()
    if problems:
        raise MismatchError(
            f"{len(problems)} problem(s) in gallery {row.gallery!r}: {'; '.join(problems[:5])}"
        )
    drawn = draw(handle.gallery, row.target, sample, seed)
    again = handle.gallery.reembed(
        [rows[0].item for rows in drawn], embedder or handle.registry.load(row.target)
    )
    progress(len(drawn), len(drawn), "items embedded again")
    worst = _compare(handle.gallery, row, drawn, again)
    probe_version, searched = _find_known(handle.gallery, row, drawn, again)
    skipped: dict[str, int] = {}
    for _, reason in again.failed:
        skipped[reason] = skipped.get(reason, 0) + 1
    left = count_left(handle)
    seen = Verification(
        items=handle.gallery.count_items(),
        left=left.left,
        sample=len(drawn),
        compared=len(again.items),
        skipped=skipped,
        worst=worst,
        searched=searched,
        probe_version=probe_version,
        seed=seed,
        fingerprint=handle.registry.resolve(row.target).fingerprint,
        at=utc_now(),
    )
    _record(handle, seen)
    return seen


def refuse_unfinished(handle: Handle) -> Left:
    """Reopen a settled migration that has something to do again.

    Raises:
        ItemsLeftError: it had.
    """

    def act(connection: sa.Connection, left: Left) -> Left:
        reopen_if_unfinished(connection, handle.number, left)
        return left

    left = commit_counted(handle, act)
    if left.to_do:
        raise ItemsLeftError(
            left.left - len(left.quarantine),
            "they came in since it was caught up; go on with `segue migrate run`",
        )
    return left


def reopen_if_unfinished(connection: sa.Connection, number: int, left: Left) -> None:
    """Take a migration that something is left of back to `running`."""
    if left.to_do and read_row(connection, number, lock=True).state in SETTLED:
        advance(connection, number, "reopen", complete_after=None, details={"left": left.left})


def draw(gallery: Gallery, version: str, sample: int, seed: int) -> list[list[StoredRow]]:
    """Draw items that have a vector of `version`: for each, all its stored rows.

    The same gallery, sample and seed give the same items.
    """
    _, found = gallery.sql(
        "SELECT item_id FROM embeddings "  # noqa: S608 - a version's id and our own numbers
        f"WHERE version = '{version}' AND output = '{DEFAULT_OUTPUT}' "
        f"ORDER BY hash(seq + {int(seed)} * 1000003), seq LIMIT {int(sample)}"
    )
    drawn = []
    for (item_id,) in found:
        with suppress(UnknownItemError):  # erased since
            drawn.append(gallery.item(item_id))
    return drawn


def tolerances(vectors: Floats, codec: str) -> Doubles:
    """Return the squared distance allowed between each fresh vector and the stored one: [N].

    1e-5 for float32. int8 moves each of d components by at most max|v| / 254, so the vector by at
    most sqrt(d) · max|v| / 254, and giving it unit length again at most doubles that.

    >>> tolerances(np.eye(4, dtype=np.float32)[:1], "float32").tolist()
    [1e-05]
    """
    if codec != "int8":
        return np.full(len(vectors), TOLERANCE)
    moved = np.sqrt(vectors.shape[1]) * np.abs(vectors).max(axis=1).astype(np.float64) / 254
    return np.asarray((np.sqrt(TOLERANCE) + 2 * moved) ** 2, dtype=np.float64)


def _compare(
    gallery: Gallery, row: Row, drawn: Sequence[Sequence[StoredRow]], again: Reembedded
) -> float:
    """Return the worst squared distance between stored and fresh vectors.

    Raises:
        MismatchError: one is beyond its tolerance, is not stored, or nothing could be compared.
    """
    if drawn and not again.items:
        raise MismatchError(
            f"none of {len(drawn)} sampled items could be embedded again "
            f"({again.failed[0][1]}), so nothing is verified; bring the images back"
        )
    stored = {
        (line.item.seq, line.output): line.vector
        for rows in drawn
        for line in rows
        if line.version == row.target
    }
    worst, wrong = 0.0, 0
    for output, fresh in again.vectors.items():
        missing = [item for item in again.items if (item.seq, output) not in stored]
        if missing:
            raise MismatchError(
                f"{len(missing)} of {len(again.items)} sampled items have no output {output!r} of "
                f"{row.target}; abort or revert, and migrate anew"
            )
        if not len(fresh):
            continue
        kept = np.stack([stored[item.seq, output] for item in again.items])
        d2 = ((kept.astype(np.float64) - fresh) ** 2).sum(axis=1)
        worst = max(worst, float(d2.max()))
        wrong += int((d2 > tolerances(fresh, gallery.codec)).sum())
    if wrong:
        raise MismatchError(
            f"{wrong} of {len(again.items)} sampled vectors are not what {row.target} gives for "
            f"their image (worst squared distance {worst:.2e}, tolerance {TOLERANCE:.0e} and the "
            "codec's); the model or the images changed: abort or revert, and migrate anew"
        )
    return worst


def _find_known(
    gallery: Gallery, row: Row, drawn: Sequence[Sequence[StoredRow]], again: Reembedded
) -> tuple[str, int]:
    """Search the serving version for items that are known to be there: each must find itself.

    The target's probes are embedded anew. Where the old version still serves, its stored vectors
    are the probes. Distances that tie with the item's own count as found.

    Raises:
        MismatchError: some were not found.
    """
    serving = gallery.serving
    items: Sequence[StoredItem] = again.items
    vectors: Mapping[str, Floats] = again.vectors
    if serving != row.target:
        items, vectors = _stored_probes(drawn, serving)
    if not items:
        return serving, 0
    found = gallery.search(Probe(serving, vectors), k=NEIGHBOURS, touch=False)
    lost = 0
    for item, hits in zip(items, found, strict=True):
        nearest = hits[0].distance if hits else np.inf
        crowded = len(hits) == NEIGHBOURS and hits[-1].distance <= nearest + TOLERANCE
        lost += all(hit.seq != item.seq for hit in hits) and not crowded
    if lost:
        raise MismatchError(
            f"{lost} of {len(items)} known items were not found by a search with {serving}; "
            f"do not go on: look at `segue migrate status` and `segue gallery verify`"
        )
    return serving, len(items)


def _stored_probes(
    drawn: Sequence[Sequence[StoredRow]], version: str
) -> tuple[list[StoredItem], Mapping[str, Floats]]:
    """Return the drawn items that have rows of `version`, and their vectors by output."""
    by_item = [{line.output: line for line in rows if line.version == version} for rows in drawn]
    whole = [lines for lines in by_item if DEFAULT_OUTPUT in lines]
    outputs = set.intersection(*(set(lines) for lines in whole)) if whole else set()
    vectors = {output: np.stack([lines[output].vector for lines in whole]) for output in outputs}
    return [lines[DEFAULT_OUTPUT].item for lines in whole], vectors


def _record(handle: Handle, seen: Verification) -> None:
    """Move to `verified`, in a transaction in which still nothing is left.

    Raises:
        ItemsLeftError: items came in while it was verified.
    """

    def act(connection: sa.Connection, left: Left) -> Left:
        reopen_if_unfinished(connection, handle.number, left)
        if not left.to_do:
            details = {"sample": seen.sample, "compared": seen.compared, "worst": seen.worst}
            advance(connection, handle.number, "verify", verified=seen.to_json(), details=details)
        return left

    left = commit_counted(handle, act)
    if left.to_do:
        raise ItemsLeftError(
            left.left - len(left.quarantine),
            "they came in while it was verified; go on with `segue migrate run`",
        )
