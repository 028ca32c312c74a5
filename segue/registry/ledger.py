"""The append-only ledger: who changed what, when and why.

MLflow keeps no history of its aliases, so this is the only place that knows when a version went
live and on whose word. The database refuses to change or delete an entry.
"""

from __future__ import annotations

import getpass
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from segue.database import ledger as ledger_table
from segue.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class LedgerEntry:
    """One line of the ledger; entries are numbered in the order they were committed."""

    entry: int
    at: str
    actor: str
    action: str
    subject: str
    reason: str | None
    details: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def default_actor() -> str:
    """Return the user's login name, or `unknown` where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in the password database (a bare container)
        return "unknown"


def record(  # noqa: PLR0917 -- an entry has this many parts, in this order
    connection: sa.Connection,
    action: str,
    subject: str,
    reason: str | None = None,
    details: Mapping[str, Any] | None = None,
    actor: str | None = None,
) -> int:
    """Append one entry inside the caller's open write transaction; it is kept if that commits.

    Args:
        connection: an open `Database.write()` connection.
        action: what was done: register, promote, alias, edge, bridge, report, force, serving …
        subject: the version, edge (`faces/2 -> faces/1`) or gallery that it was done to.
        reason: why, in the user's words.
        details: further JSON values; never item ids, identities or vectors.
        actor: who; the login name by default.

    Returns:
        The entry's number.
    """
    entry = connection.execute(
        ledger_table.insert()
        .values(
            at=utc_now(),
            actor=actor or default_actor(),
            action=action,
            subject=subject,
            reason=reason,
            details=dict(details or {}),
        )
        .returning(ledger_table.c.entry)
    ).scalar_one()
    return int(entry)


def first_entry(connection: sa.Connection, action: str, subject: str) -> LedgerEntry | None:
    """Return the oldest entry of an action on a subject, None if there is none."""
    table = ledger_table
    query = (
        sa.select(table)
        .where(table.c.action == action, table.c.subject == subject)
        .order_by(table.c.entry)
        .limit(1)
    )
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else LedgerEntry(**row)


def read_ledger(connection: sa.Connection, subject: str | None = None) -> list[LedgerEntry]:
    """Return the entries, oldest first; with `subject`, those about it."""
    query = sa.select(ledger_table).order_by(ledger_table.c.entry)
    if subject is not None:
        query = query.where(ledger_table.c.subject == subject)
    return [LedgerEntry(**row) for row in connection.execute(query).mappings()]
