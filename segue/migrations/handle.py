"""The pieces that every step of a migration is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from segue.migrations.clock import CLOCK, Clock
from segue.migrations.rows import Row, read_row

if TYPE_CHECKING:
    from pathlib import Path

    from segue.database import Database
    from segue.index import Gallery
    from segue.registry import Registry


@dataclass(frozen=True)
class Handle:
    """One migration of one gallery, and where its parts live.

    Attributes:
        database: the workspace's database.
        root: the workspace folder.
        registry: versions, edges, reports and the ledger.
        gallery: the gallery that migrates.
        number: the migration's number.
        clock: the time.
    """

    database: Database
    root: Path
    registry: Registry
    gallery: Gallery
    number: int
    clock: Clock = CLOCK

    def row(self) -> Row:
        """Read the migration's row as it is now."""
        with self.database.read() as connection:
            return read_row(connection, self.number)
