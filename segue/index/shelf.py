"""Where one gallery lives: its database, its folder, and the newest view of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from segue.errors import CorruptSegmentError
from segue.index import catalog
from segue.index.reader import SegmentReader
from segue.index.snapshot import View, take_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import sqlalchemy as sa

    from segue.database import Database

    T = TypeVar("T")

_ATTEMPTS = 8  # snapshots that may be swept away under one reader


class Shelf:
    """A gallery's database, folder and name, shared by all that works on it.

    Args:
        database: the workspace's database.
        root: the workspace's folder.
        name: the gallery.
    """

    def __init__(self, database: Database, root: Path, name: str) -> None:
        self.database, self.root, self.name = database, root, name
        self.reader = SegmentReader(root)
        self._lock = threading.Lock()
        self._view: View | None = None

    @property
    def folder(self) -> Path:
        """The gallery's folder: segments, key files, index files."""
        return self.root / "galleries" / self.name

    def view(self) -> View:
        """Return the gallery as of now; the last view again while nothing was committed.

        Raises:
            UnknownGalleryError: there is none of that name.
        """
        with self.database.read() as connection:
            view = self.view_in(connection)
        with self._lock:
            self._view = view
        self.reader.keep_only(view.snapshot.segments)
        return view

    def view_in(self, connection: sa.Connection) -> View:
        """Do as `view` within an open transaction that has not yet written to this gallery."""
        row = catalog.read_gallery(connection, self.name)
        with self._lock:
            known = self._view
        if known is not None and known.row == row:
            return known
        return View(take_snapshot(connection, self.name), self.reader)

    def reading(self, action: Callable[[View], T]) -> T:
        """Run `action` on the newest view; again on a newer one when a file of it was swept away.

        Raises:
            CorruptSegmentError: a file that the catalog still lists is missing.
        """
        view = self.view()
        for _ in range(_ATTEMPTS):
            try:
                return action(view)
            except FileNotFoundError as error:
                newer = self.view()
                if newer is view:
                    raise CorruptSegmentError(
                        error.filename or self.folder, "the file is missing"
                    ) from error
                view = newer
        return action(view)
