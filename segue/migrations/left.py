"""What is left to migrate, counted from the gallery, and commits that rest on that count.

Counting takes long, a transaction must not. So the gallery's generation, which grows with every
commit, is read before counting and compared inside the transaction: if it moved, all is done again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa

from segue import database as tables
from segue.errors import LockedError
from segue.migrations.rows import read_quarantine, read_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.migrations.handle import Handle

Result = TypeVar("Result")

ATTEMPTS = 50
"""How often a count is repeated because other processes committed meanwhile."""


@dataclass(frozen=True)
class Left:
    """One count of a gallery.

    Attributes:
        generation: the gallery's generation before counting.
        left: live items without a vector of the target.
        quarantine: `seq` -> reason of those that were put aside.
        to_do: whether a runner has something to try, which is `left` without the quarantined.
    """

    generation: int
    left: int
    quarantine: dict[int, str]
    to_do: bool


def count_left(handle: Handle) -> Left:
    """Count what is left of a migration."""
    with handle.database.read() as connection:
        generation = read_generation(connection, handle.gallery.name)
        row = read_row(connection, handle.number)
        aside = read_quarantine(connection, row)
    left = handle.gallery.count_pending(row.target)
    to_do = left > 0 and (
        not aside
        or bool(handle.gallery.pending(row.target, order="oldest", limit=1, skip=set(aside)))
    )
    return Left(generation, left, aside, to_do)


def commit_counted(handle: Handle, act: Callable[[sa.Connection, Left], Result]) -> Result:
    """Run `act` in a transaction in which the count given to it is true.

    Raises:
        LockedError: others committed to the gallery during each of 50 counts.
    """
    for _ in range(ATTEMPTS):
        left = count_left(handle)
        with handle.database.write() as connection:
            if read_generation(connection, handle.gallery.name, lock=True) == left.generation:
                return act(connection, left)
    raise LockedError(f"gallery {handle.gallery.name!r}", "processes that keep committing to it")


def read_generation(connection: sa.Connection, gallery: str, *, lock: bool = False) -> int:
    """Read a gallery's generation; with `lock` nobody else commits before the transaction ends."""
    query = sa.select(tables.galleries.c.generation).where(tables.galleries.c.gallery == gallery)
    return int(connection.execute(query.with_for_update() if lock else query).scalar_one())
