"""What a migration is doing, counted from the gallery at the moment of asking."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from segue import database as tables
from segue.index.leases import holder_is_gone
from segue.migrations.heartbeat import RUN
from segue.migrations.left import Left, count_left
from segue.migrations.rows import Event, Row, read_events
from segue.migrations.states import SETTLED, commands
from segue.types import utc_now

if TYPE_CHECKING:
    from segue.migrations.handle import Handle

ETA_SHARE = 0.01
"""Share of the items that a run must have done before a time is estimated from it."""


@dataclass(frozen=True)
class Status:
    """A migration at one moment.

    Attributes:
        state: one of `STATES`; a settled state reads `running` again as soon as items came in.
        serving: the version that serves the gallery now.
        items: live items.
        migrated: those with a vector of the target.
        left: those without.
        quarantined: reason -> number of items put aside; part of `left`.
        share: `migrated` as a share of `items`, 1 for an empty gallery.
        throttle: items per second allowed, None for unlimited.
        runner: `host:pid` of a runner that is alive, None if there is none.
        waiting: why nothing moves; None only while a runner works or nothing is to be done.
        rate: items per second of the current run, None before 1 % of them is done.
        eta_seconds: estimated time for what is left, None before 1 % is done or while it waits.
        complete_after: end of the grace period, if completion was asked for.
        forced: the reason given for overriding the gate.
        commands: what an operator can ask for now.
    """

    migration: int
    gallery: str
    source: str
    target: str
    strategy: str
    order: str
    batch: int
    state: str
    serving: str
    items: int
    migrated: int
    left: int
    quarantined: dict[str, int]
    share: float
    throttle: float | None
    runner: str | None
    waiting: str | None
    rate: float | None
    eta_seconds: float | None
    complete_after: str | None
    forced: str | None
    commands: tuple[str, ...]
    started_at: str
    updated_at: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "commands": list(self.commands)}


def read_status(handle: Handle) -> Status:
    """Count and tell how a migration stands; nothing is written."""
    row = handle.row()
    left = count_left(handle)
    items = handle.gallery.count_items()
    serving = handle.gallery.serving
    with handle.database.read() as connection:
        events = read_events(connection, row.number)
    runner = live_runner(handle)
    state = "running" if row.state in SETTLED and left.to_do else row.state
    waiting = _why(row, state, left, serving=serving, runner=runner, events=events)
    rate = None
    if state == "running" and runner is not None:
        rate = measured_rate(events, left.left, items, handle.clock.now())
    to_try = max(0, left.left - len(left.quarantine))
    return Status(
        migration=row.number,
        gallery=row.gallery,
        source=row.source,
        target=row.target,
        strategy=row.strategy,
        order=row.order,
        batch=row.batch,
        state=state,
        serving=serving,
        items=items,
        migrated=items - left.left,
        left=left.left,
        quarantined=dict(Counter(left.quarantine.values())),
        share=(items - left.left) / items if items else 1.0,
        throttle=row.throttle,
        runner=runner,
        waiting=waiting,
        rate=rate,
        eta_seconds=to_try / rate if rate and waiting is None else None,
        complete_after=row.complete_after,
        forced=row.forced,
        commands=commands(state, served=serving == row.target),
        started_at=row.created_at,
        updated_at=row.updated_at,
    )


def measured_rate(events: tuple[Event, ...], left: int, items: int, now: datetime) -> float | None:
    """Return the items per second since the current run began, or was resumed or throttled anew.

    None before 1 % of the gallery's items was done in that time.
    """
    begun = [event for event in events if event.name in ("run", "resume", "throttle")]
    begun = [event for event in begun if "left" in event.details]
    if not begun:
        return None
    done = int(begun[-1].details["left"]) - left
    seconds = (now - datetime.fromisoformat(begun[-1].at)).total_seconds()
    if done < max(1.0, ETA_SHARE * items) or seconds <= 0:
        return None
    return done / seconds


def live_runner(handle: Handle) -> str | None:
    """Return `host:pid` of the runner that holds the gallery's lease, if it is not known dead."""
    leases = tables.leases
    with handle.database.read() as connection:
        holder = connection.scalar(
            sa.select(leases.c.holder).where(
                leases.c.gallery == handle.gallery.name,
                leases.c.purpose == RUN,
                leases.c.expires_at > utc_now(),
            )
        )
    return None if holder is None or holder_is_gone(str(holder)) else str(holder)


def _why(
    row: Row,
    state: str,
    left: Left,
    *,
    serving: str,
    runner: str | None,
    events: tuple[Event, ...],
) -> str | None:
    """Say in one sentence why nothing moves, and what would make it."""
    aside = len(left.quarantine)
    mend = (
        f"; {aside} item(s) quarantined: mend them, then `segue migrate run --retry`"
        if aside
        else ""
    )
    if state == "paused":
        return "paused; go on with `segue migrate resume`"
    if state == "failed":
        reason = next(
            (str(e.details["reason"]) for e in reversed(events) if e.name == "fail"), "unknown"
        )
        return f"failed ({reason}); go on with `segue migrate run`"
    if state == "running" and runner is None:
        since = " (items came in since it was caught up)" if row.state != state else ""
        return f"no runner is at work{since}; start one with `segue migrate run`"
    if state == "running":
        return row.waiting
    if row.complete_after is not None and state in ("verified", "cut_over"):
        return f"grace period until {row.complete_after}; then `segue migrate complete` goes on"
    return _next_step(row, state, serving) + mend if state in _OPEN_ENDS else None


_OPEN_ENDS = ("planned", "caught_up", "verified", "cut_over", "completing", "reverting")


def _next_step(row: Row, state: str, serving: str) -> str:
    if state == "verified" and serving != row.target:
        return "verified; go on with `segue migrate cutover`"
    return {
        "planned": "planned; go on with `segue migrate start`",
        "caught_up": "caught up; go on with `segue migrate verify`",
        "verified": "verified; go on with `segue migrate complete`",
        "cut_over": "cut over; go on with `segue migrate complete`",
        "completing": "removing old rows; if that was interrupted, `segue migrate complete`",
        "reverting": "reverting; if that was interrupted, `segue migrate revert`",
    }[state]
