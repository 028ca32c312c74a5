"""The ways back: `revert` restores the old version, `abort` throws the new vectors away."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from segue.errors import ItemsLeftError, LockedError, NoModelError, TransitionError, UsageError
from segue.migrations.heartbeat import UNDO, beating, held
from segue.migrations.left import ATTEMPTS, read_generation
from segue.migrations.rows import Row, advance, preference_before, read_row, release
from segue.migrations.serving import comparable, found_after_revert, serve
from segue.migrations.stall import Stall
from segue.migrations.states import commands, transition
from segue.types import no_progress

if TYPE_CHECKING:
    import sqlalchemy as sa

    from segue.index import Lease
    from segue.migrations.handle import Handle
    from segue.types import Embedder, Progress


def revert(
    handle: Handle, *, embedder: Embedder | None = None, progress: Progress = no_progress
) -> None:
    """Let the old version serve again and close the migration; see `Migration.revert`."""
    row = handle.row()
    if row.state != "reverting":
        transition(row.state, "revert")
    if embedder is not None and embedder.version != row.source:
        raise UsageError(f"a revert needs vectors of {row.source}, not of {embedder.version}")
    with held(handle.database, row.gallery, UNDO) as lease:
        if row.state != "reverting":
            with handle.database.write() as connection:
                advance(connection, row.number, "revert", complete_after=None)
        for _ in range(ATTEMPTS):
            generation, by_edge = _fill(handle, row, lease, embedder, progress)
            if _restore(handle, row, generation, by_edge=by_edge):
                return
    raise LockedError(f"gallery {row.gallery!r}", "processes that keep committing to it")


def _fill(
    handle: Handle, row: Row, lease: Lease, embedder: Embedder | None, progress: Progress
) -> tuple[int, bool]:
    """Give items that only the new version has their old vector, unless the edge finds them.

    Returns:
        The gallery's generation at which none was lacking, and whether it is the edge that finds
        them.

    Raises:
        ItemsLeftError: some cannot be embedded; the new version keeps serving.
    """
    gallery = handle.gallery
    while True:
        with handle.database.read() as connection:
            generation = read_generation(connection, row.gallery)
        if found_after_revert(handle.registry, row.source, row.target):
            return generation, True
        lacking = gallery.count_pending(row.source)
        if not lacking:
            return generation, False
        try:
            embedder = embedder or handle.registry.load(row.source)
        except NoModelError as error:
            raise ItemsLeftError(
                lacking,
                f"they were enrolled by {row.target} and {row.source} has no model to embed them; "
                f"measure the upgrade, so that a gate says GO with the edge {row.source} -> "
                f"{row.target}, or erase them, then revert again",
            ) from error
        _fill_once(handle, row, lease, embedder, progress)


def _fill_once(
    handle: Handle, row: Row, lease: Lease, embedder: Embedder, progress: Progress
) -> None:
    failed: dict[int, str] = {}
    stall = Stall()
    done = 0
    while items := handle.gallery.pending(
        row.source, order="oldest", limit=row.batch, skip=set(failed)
    ):
        with beating(lease):
            batch = handle.gallery.reembed(items, embedder)
        written = 0
        if batch.items:
            also = partial(_still_reverting, row)
            written = handle.gallery.commit_reembedded(batch, lease=lease, also=also)
        stall.note(batch.items, written + len(batch.failed))
        done += written
        failed.update(batch.failed)
        progress(done, None, f"items given a vector of {row.source}")
    if failed:
        raise ItemsLeftError(
            len(failed),
            f"they were enrolled by {row.target} and cannot be embedded by {row.source} "
            f"({next(iter(failed.values()))}); mend or erase them, then revert again",
        )


def _still_reverting(row: Row, connection: sa.Connection) -> None:
    state = read_row(connection, row.number, lock=True).state
    if state != "reverting":
        raise TransitionError("revert", state, commands(state))


def _restore(handle: Handle, row: Row, generation: int, *, by_edge: bool) -> bool:
    """Switch serving back and close.

    Returns:
        False if the gallery moved on since `generation`, or the edge that finds items no longer
        does.
    """
    with handle.database.write() as connection:
        if read_generation(connection, row.gallery, lock=True) != generation:
            return False
        if by_edge and not found_after_revert(handle.registry, row.source, row.target):
            return False
        _still_reverting(row, connection)
        before = preference_before(connection, row.number) or handle.gallery.preference
        others = [v for v in (*before, row.target) if v != row.source]
        answered = comparable(handle.registry, (row.source, row.target), row.source, others)
        serve(
            connection,
            handle.registry,
            handle.gallery,
            row.source,
            preference=list(dict.fromkeys([row.source, *answered])),
            companions=[],
            reason=f"migration {row.number} reverted",
        )
        release(connection, row.number)
        advance(connection, row.number, "finish", waiting=None)
    return True


def abort(handle: Handle) -> int:
    """Remove the new vectors and close the migration; see `Migration.abort`."""
    row = handle.row()
    transition(row.state, "abort")
    serving = handle.gallery.serving
    if serving != row.source:
        raise TransitionError(
            "abort",
            f"live (gallery served by {serving})",
            commands(row.state, served=serving == row.target),
        )
    if row.state == "running":  # so that no runner commits while rows are removed
        with handle.database.write() as connection:
            advance(connection, row.number, "pause")
    try:
        return handle.gallery.remove_version(
            row.target, keep_only_there=True, also=partial(_close, handle.gallery.name, row)
        )
    except BaseException:
        if row.state == "running":
            _resume(handle, row)
        raise


def _resume(handle: Handle, row: Row) -> None:
    """Let a migration that only an abort had paused run again, now that the abort failed."""
    with suppress(LockedError), handle.database.write() as connection:
        if read_row(connection, row.number, lock=True).state == "paused":
            advance(connection, row.number, "resume")


def _close(gallery: str, row: Row, connection: sa.Connection) -> None:
    state = read_row(connection, row.number, lock=True).state
    if state == "running":
        raise LockedError(f"gallery {gallery!r}", "a process that resumed the migration")
    release(connection, row.number)
    advance(connection, row.number, "abort", waiting=None)
