"""The steps that end a migration well: cut-over, and the removal of the old rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from segue.errors import (
    ConsentError,
    DriftError,
    ItemsLeftError,
    MismatchError,
    TransitionError,
    UsageError,
)
from segue.migrations.clock import TICK
from segue.migrations.heartbeat import FINISH, held
from segue.migrations.left import Left, commit_counted
from segue.migrations.rows import (
    Row,
    add_event,
    advance,
    preference_before,
    read_events,
    read_row,
    release,
    update,
)
from segue.migrations.serving import companions_of, comparable, serve
from segue.migrations.states import commands, transition
from segue.migrations.verify import reopen_if_unfinished
from segue.types import no_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from segue.migrations.handle import Handle
    from segue.types import Progress


@dataclass(frozen=True)
class Completion:
    """What `complete` did.

    Attributes:
        state: `completed`; without waiting also the state before, while the grace period lasts.
        removed: rows of the old versions that were removed, and those of the new version's outputs
            that only they were compared with.
        left: items left on an old version, as asked.
        after: the end of the grace period, UTC.
    """

    state: str
    removed: int
    left: int
    after: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def cutover(handle: Handle) -> None:
    """Let the target serve a blue-green gallery; see `Migration.cutover`."""
    row = handle.row()
    transition(row.state, "cutover")
    if handle.gallery.serving == row.target:
        raise TransitionError(
            "cut over", f"served by {row.target} already", commands(row.state, served=True)
        )
    before = handle.gallery.preference

    def act(connection: sa.Connection, left: Left) -> None:
        pair = row.source, row.target
        answered = comparable(handle.registry, pair, row.target, before)
        if left.left and row.source not in answered:
            raise ItemsLeftError(
                left.left,
                f"without the edge {row.target} -> {row.source} and a gate that says GO they could "
                "not be found; mend them and `segue migrate run --retry`, or erase them",
            )
        advance(connection, row.number, "cutover", details={"preference": list(before)})
        serve(
            connection,
            handle.registry,
            handle.gallery,
            row.target,
            preference=[row.target, *answered],
            companions=companions_of(handle.registry, row.source, row.target),
            reason=f"migration {row.number} cut over",
        )

    _commit_undrifted(handle, row, act)


def complete(
    handle: Handle,
    *,
    yes: bool,
    grace: float,
    leave_old: bool,
    wait: bool,
    progress: Progress = no_progress,
) -> Completion:
    """Remove the old version's rows after a grace period; see `Migration.complete`."""
    row = handle.row()
    if row.state != "completing":
        _check_completable(handle, row)
    if not (grace >= 0):
        raise UsageError(f"a grace period of {grace} seconds makes no sense; give 0 or more")
    if not yes:
        raise ConsentError(
            f"completing removes the vectors of {row.source} from gallery {row.gallery!r}, after "
            "which there is no way back to it"
        )
    with held(handle.database, row.gallery, FINISH):
        if row.state != "completing":
            _refuse_left(handle, row, leave_old=leave_old)
            end = _grace_end(handle, row, grace)
            if not _waited(handle, end, wait=wait, progress=progress):
                return Completion(handle.row().state, 0, 0, end.isoformat())
            _enter(handle, row, leave_old=leave_old)
        return _remove(handle, handle.row(), progress)


def _check_completable(handle: Handle, row: Row) -> None:
    transition(row.state, "complete")
    if handle.gallery.serving != row.target:
        raise TransitionError(
            "complete", f"{row.state} but not cut over", commands(row.state, served=False)
        )


def _refuse_left(handle: Handle, row: Row, *, leave_old: bool) -> None:
    """Refuse early what `_enter` would refuse after the grace period."""
    _commit_undrifted(handle, row, lambda _, left: _check_left(left, leave_old=leave_old))


def _check_left(left: Left, *, leave_old: bool) -> None:
    if left.left and not leave_old:
        raise ItemsLeftError(
            left.left,
            "removing the old version would lose them: mend them and `segue migrate run --retry`, "
            "erase them, or leave them searchable as they are with `--leave-old`",
        )


def _grace_end(handle: Handle, row: Row, grace: float) -> datetime:
    """Return when the old rows may go: `grace` seconds after completion was first asked for."""
    with handle.database.write() as connection:
        asked = handle.clock.now()
        if row.complete_after is not None:
            events = [e for e in read_events(connection, row.number) if e.name == "grace"]
            asked = datetime.fromisoformat(events[-1].details["asked"])
        end = asked + timedelta(seconds=grace)
        state = read_row(connection, row.number, lock=True).state
        transition(state, "complete")
        update(connection, row.number, complete_after=end.isoformat())
        details = {"asked": asked.isoformat(), "seconds": grace}
        add_event(connection, row.number, "grace", state, details)
    return end


def _waited(handle: Handle, end: datetime, *, wait: bool, progress: Progress) -> bool:
    """Wait for the end of the grace period; False if it is not over and nobody wants to wait.

    Raises:
        TransitionError: the migration was reverted or reopened meanwhile.
    """
    while True:
        transition(handle.row().state, "complete")
        rest = (end - handle.clock.now()).total_seconds()
        if rest <= 0:
            return True
        if not wait:
            return False
        progress(0, None, f"grace period, {rest:.0f} s left; `segue migrate revert` still works")
        handle.clock.sleep(min(TICK, rest))


def _enter(handle: Handle, row: Row, *, leave_old: bool) -> None:
    """Go `completing`: from this commit on the gallery takes no items of the old version alone.

    Raises:
        MismatchError: a file of the gallery is damaged; the old vectors are kept.
    """
    problems = handle.gallery.check()
    if problems:
        raise MismatchError(
            f"{len(problems)} problem(s) in gallery {row.gallery!r}, so that the old vectors are "
            f"kept: {'; '.join(problems[:5])}"
        )

    def act(connection: sa.Connection, left: Left) -> None:
        _check_left(left, leave_old=leave_old)
        now = handle.gallery.preference
        started = preference_before(connection, row.number) or now
        old = sorted({row.source, *now, *started} - {row.target})
        kept = [version for version in now if version != row.target] if left.left else []
        details = {"leave_old": bool(kept), "left": left.left, "old": old}
        advance(connection, row.number, "complete", details=details)
        handle.gallery.set_serving(
            connection, serving=row.target, preference=[row.target, *kept], companions=[]
        )

    _commit_undrifted(handle, row, act)


def _remove(handle: Handle, row: Row, progress: Progress) -> Completion:
    """Remove the old rows; what a kill interrupted goes on here."""
    with handle.database.read() as connection:
        events = read_events(connection, row.number)
    entered = next(event for event in reversed(events) if event.name == "complete")
    leave_old = bool(entered.details["leave_old"])
    old = list(entered.details["old"])
    removed = 0
    for number, version in enumerate(old):
        progress(number, len(old), f"removing {version}")
        removed += handle.gallery.remove_version(version, keep_only_there=leave_old, also=None)
    removed += handle.gallery.remove_unneeded(row.target)
    left = int(entered.details["left"])
    with handle.database.write() as connection:
        release(connection, row.number)
        details = {"removed": removed, "left": left}
        advance(connection, row.number, "finish", details=details, waiting=None)
        handle.registry.record(
            connection,
            "complete",
            row.gallery,
            None,
            {"migration": row.number, "removed": old, "left": left},
        )
    return Completion("completed", removed, left, row.complete_after or "")


def _commit_undrifted(handle: Handle, row: Row, act: Callable[[sa.Connection, Left], None]) -> None:
    """Run `act` in a transaction in which what was verified still holds.

    Raises:
        DriftError: it does not; items of the old version reopened the migration.
    """
    verified = row.verified or {}
    fingerprint = handle.registry.resolve(row.target).fingerprint
    if verified.get("fingerprint") != fingerprint:
        raise DriftError(
            f"{row.target} is not the model that was verified; run `segue migrate verify` again"
        )

    def checked(connection: sa.Connection, left: Left) -> Left:
        if left.to_do:
            reopen_if_unfinished(connection, row.number, left)
        else:
            act(connection, left)
        return left

    left = commit_counted(handle, checked)
    if left.to_do:
        raise DriftError(
            f"{left.left - len(left.quarantine)} item(s) without a vector of {row.target} came in "
            "since the verification; go on with `segue migrate run`, then `segue migrate verify`"
        )
