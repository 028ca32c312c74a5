"""Noticing that work goes in circles: the same items taken again and again, and never written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.errors import MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segue.index import StoredItem


class Stall:
    """Told of every batch that was committed; refuses the second in a row that changed nothing.

    One such batch is no fault: another process may have written or erased all of its items first,
    but then they do not come again.
    """

    def __init__(self) -> None:
        self._stuck: frozenset[int] = frozenset()

    def note(self, items: Iterable[StoredItem], progress: int) -> None:
        """Note one batch and how many of its items were written or put aside.

        Raises:
            MigrationError: items of it were in the batch before, and neither changed anything.
        """
        before = self._stuck
        self._stuck = frozenset() if progress else frozenset(item.seq for item in items)
        again = len(before & self._stuck)
        if again:
            raise MigrationError(
                f"{again} items were embedded twice and both times nothing of them was stored, "
                "though their vectors are missing; see `segue doctor`"
            )
