"""Remembering which old-version items searches return, without making a search wait for a disk."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import sqlalchemy as sa

from segue.errors import SegueError
from segue.index import catalog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segue.index.shelf import Shelf


class TouchLog:
    """Collects touched items and writes them in batches from a thread of its own.

    Lossy on purpose: what cannot be written is forgotten, the next search tells it again. What was
    written is not written again while the gallery stays as it is; only its commits, each of which
    moves its generation, take items off the list.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        self._written: set[int] = set()
        self._generation = -1
        self._thread: threading.Thread | None = None

    def add(self, seqs: Iterable[int], generation: int) -> None:
        """Note items that a search found at a generation of the gallery; returns at once."""
        with self._lock:
            if generation != self._generation:
                self._generation, self._written = generation, set()
            self._waiting |= set(seqs) - self._written
            if self._waiting and self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="segue-touched")
                self._thread.start()

    def flush(self) -> None:
        """Wait until everything noted so far is written or given up."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _write_all(self) -> None:
        while True:
            with self._lock:
                batch, self._waiting = self._waiting, set()
                if not batch:
                    self._thread = None
                    return
                generation = self._generation
            with suppress(SegueError, sa.exc.SQLAlchemyError):
                with self._shelf.database.write() as connection:
                    catalog.insert_touched(connection, self._shelf.name, batch)
                with self._lock:
                    if generation == self._generation:
                        self._written |= batch
