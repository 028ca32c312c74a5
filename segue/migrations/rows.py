"""What the database keeps of a migration: its row, its events, its quarantine.

Progress is not kept: it is counted from the gallery each time. What changes something works on a
connection that somebody else opened, so that a state commits together with what belongs to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from segue import database as tables
from segue.errors import LockedError, UnknownMigrationError
from segue.migrations.actor import actor
from segue.migrations.plan import Plan
from segue.migrations.states import CLOSED, transition
from segue.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from segue.database import Database

_M, _E, _Q = tables.migrations, tables.migration_events, tables.quarantine


@dataclass(frozen=True)
class Row:
    """One migration as its row says; see `segue.database.migrations` for the columns."""

    number: int
    gallery: str
    source: str
    target: str
    strategy: str
    state: str
    order: str
    batch: int
    throttle: float | None
    waiting: str | None
    plan: Plan
    forced: str | None
    verified: dict[str, Any] | None
    complete_after: str | None
    created_at: str
    updated_at: str


@dataclass(frozen=True)
class Event:
    """One thing that happened to a migration: when, by whom, and the state after it."""

    migration: int
    at: str
    actor: str
    name: str
    state: str
    details: dict[str, Any]


def open_migration(database: Database, gallery: str) -> int | None:
    """Return the number of the gallery's open migration, None if there is none."""
    with database.read() as connection:
        found = connection.scalar(
            sa.select(_M.c.migration).where(_M.c.gallery == gallery, _M.c.state.not_in(CLOSED))
        )
    return None if found is None else int(found)


def list_migrations(database: Database, gallery: str) -> tuple[Row, ...]:
    """Return all migrations of a gallery, closed ones too, oldest first."""
    with database.read() as connection:
        rows = connection.execute(
            sa.select(_M).where(_M.c.gallery == gallery).order_by(_M.c.migration)
        ).all()
    return tuple(_row(row) for row in rows)


def read_row(connection: sa.Connection, number: int, *, lock: bool = False) -> Row:
    """Read one migration; with `lock` nobody else changes it before the transaction ends.

    Raises:
        UnknownMigrationError: no such number.
    """
    query = sa.select(_M).where(_M.c.migration == number)
    found = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if found is None:
        raise UnknownMigrationError(f"#{number}")
    return _row(found)


def insert_row(connection: sa.Connection, plan: Plan, forced: str | None) -> int:
    """Add a `planned` migration and its first event; return its number.

    Raises:
        LockedError: the gallery has an open migration already.
    """
    now = utc_now()
    row = {
        "gallery": plan.gallery,
        "source": plan.source,
        "target": plan.target,
        "strategy": plan.strategy,
        "state": "planned",
        "items_order": plan.order,
        "batch": plan.batch,
        "plan": plan.to_json(),
        "forced": forced,
        "created_at": now,
        "updated_at": now,
    }
    try:
        insert = _M.insert().values(row).returning(_M.c.migration)
        number = int(connection.execute(insert).scalar_one())
    except sa.exc.IntegrityError as error:
        raise LockedError(
            f"gallery {plan.gallery!r}", "its open migration (`segue migrate status`)"
        ) from error
    add_event(connection, number, "plan", "planned", {"items": plan.items})
    return number


def advance(
    connection: sa.Connection,
    number: int,
    event: str,
    *,
    details: Mapping[str, Any] | None = None,
    **values: Any,
) -> str:
    """Move a migration by `event`, set further columns by `values`; return the new state.

    Raises:
        TransitionError: its state has no such step.
    """
    state = transition(read_row(connection, number, lock=True).state, event)
    update(connection, number, state=state, **values)
    add_event(connection, number, event, state, details or {})
    return state


def update(connection: sa.Connection, number: int, **values: Any) -> None:
    """Set columns of a migration's row."""
    connection.execute(
        _M.update().where(_M.c.migration == number).values(updated_at=utc_now(), **values)
    )


def add_event(
    connection: sa.Connection, number: int, name: str, state: str, details: Mapping[str, Any]
) -> None:
    """Append one event; `details` never hold a path, an item id or an identity."""
    connection.execute(
        _E.insert().values(
            migration=number,
            at=utc_now(),
            actor=actor(),
            event_name=name,
            state=state,
            details=dict(details),
        )
    )


def read_events(connection: sa.Connection, number: int) -> tuple[Event, ...]:
    """Return a migration's events, oldest first."""
    rows = connection.execute(
        sa.select(_E).where(_E.c.migration == number).order_by(_E.c.event)
    ).all()
    return tuple(
        Event(row.migration, row.at, row.actor, row.event_name, row.state, row.details)
        for row in rows
    )


def preference_before(connection: sa.Connection, number: int) -> tuple[str, ...]:
    """Return the gallery's preferred versions before the migration started."""
    for event in read_events(connection, number):
        if event.name == "start":
            return tuple(event.details["preference"])
    return ()


# --- quarantine -----------------------------------------------------------------------------


def add_quarantine(
    connection: sa.Connection, number: int, failures: Iterable[tuple[int, str]]
) -> None:
    """Put items aside, each with its reason; an item that is there already gets the new reason."""
    now = utc_now()
    failures = list(failures)
    release(connection, number, [seq for seq, _ in failures])
    for seq, reason in failures:
        connection.execute(_Q.insert().values(migration=number, seq=seq, reason=reason, at=now))


def read_quarantine(connection: sa.Connection, row: Row) -> dict[int, str]:
    """Return `seq` -> reason of the items put aside that are still in the gallery."""
    dead = sa.select(tables.tombstones.c.seq).where(tables.tombstones.c.gallery == row.gallery)
    found = connection.execute(
        sa.select(_Q.c.seq, _Q.c.reason).where(_Q.c.migration == row.number, _Q.c.seq.not_in(dead))
    )
    return {int(seq): str(reason) for seq, reason in found}


def release(connection: sa.Connection, number: int, seqs: Iterable[int] | None = None) -> int:
    """Take items out of quarantine, all of them with `seqs` None; return how many were in it."""
    if seqs is None:
        return connection.execute(_Q.delete().where(_Q.c.migration == number)).rowcount
    delete = _Q.delete().where(_Q.c.migration == number, _Q.c.seq == sa.bindparam("one"))
    return sum(connection.execute(delete, {"one": seq}).rowcount for seq in seqs)


def _row(row: sa.Row[Any]) -> Row:
    return Row(
        number=row.migration,
        gallery=row.gallery,
        source=row.source,
        target=row.target,
        strategy=row.strategy,
        state=row.state,
        order=row.items_order,
        batch=row.batch,
        throttle=row.throttle,
        waiting=row.waiting,
        plan=Plan.from_json(row.plan),
        forced=row.forced,
        verified=row.verified,
        complete_after=row.complete_after,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
