"""Leases: one worker at a time for one purpose, checked inside each of its commits."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa

from segue import database as tables
from segue.errors import LockedError

if TYPE_CHECKING:
    from segue.database import Database


@dataclass(frozen=True)
class Lease:
    """The right to commit to a gallery for one purpose, until it expires or is released.

    `token` is new with every acquisition: a worker that slept past its lease finds another token
    in the catalog and cannot commit.
    """

    database: Database
    gallery: str
    purpose: str
    token: str
    holder: str
    seconds: float

    def renew(self) -> None:
        """Move the end of the lease away again.

        Raises:
            LockedError: somebody else has it now.
        """
        with self.database.write() as connection:
            self.check(connection)
            connection.execute(
                tables.leases.update()
                .where(*self._mine(), tables.leases.c.token == self.token)
                .values(expires_at=_later(self.seconds))
            )

    def check(self, connection: sa.Connection) -> None:
        """Refuse to go on unless this is the current lease; for use inside a commit.

        Raises:
            LockedError: somebody else has it now.
        """
        query = sa.select(tables.leases.c.token, tables.leases.c.holder).where(*self._mine())
        row = connection.execute(query).first()
        if row is None or row.token != self.token:
            holder = "nobody any more" if row is None else str(row.holder)
            raise LockedError(_what(self.gallery, self.purpose), holder)

    def release(self) -> None:
        """Give the lease back; of no effect if somebody else has it."""
        with self.database.write() as connection:
            connection.execute(
                tables.leases.delete().where(*self._mine(), tables.leases.c.token == self.token)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _mine(self) -> tuple[sa.ColumnElement[bool], ...]:
        return (
            tables.leases.c.gallery == self.gallery,
            tables.leases.c.purpose == self.purpose,
        )


def acquire_lease(database: Database, gallery: str, purpose: str, seconds: float = 60) -> Lease:
    """Take a gallery's lease for one purpose.

    It can be taken when nobody has it, when it expired, or when its holder was a process of this
    machine that is gone.

    Raises:
        LockedError: somebody has it, naming them.
    """
    lease = Lease(
        database,
        gallery,
        purpose,
        secrets.token_hex(16),
        f"{socket.gethostname()}:{os.getpid()}",
        seconds,
    )
    table = tables.leases
    with database.write() as connection:
        query = sa.select(table).where(*lease._mine()).with_for_update()  # noqa: SLF001
        held = connection.execute(query).mappings().first()
        if (
            held is not None
            and held["expires_at"] > _later(0)
            and not holder_is_gone(held["holder"])
        ):
            raise LockedError(_what(gallery, purpose), held["holder"])
        connection.execute(table.delete().where(*lease._mine()))  # noqa: SLF001
        connection.execute(
            table.insert().values(
                gallery=gallery,
                purpose=purpose,
                token=lease.token,
                holder=lease.holder,
                expires_at=_later(seconds),
            )
        )
    return lease


def _what(gallery: str, purpose: str) -> str:
    return f"the {purpose} of gallery {gallery!r}"


def _later(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def holder_is_gone(holder: str) -> bool:
    """Return whether a holder was a process of this machine that does not run any more."""
    host, _, process = holder.rpartition(":")
    if host != socket.gethostname() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)  # signal 0 only asks
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
