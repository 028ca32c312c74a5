"""Leases of a migration's steps, kept alive while a batch is embedded."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from segue.errors import LockedError
from segue.index import acquire_lease

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.database import Database
    from segue.index import Lease

LEASE_SECONDS = 60
"""A lease that was not renewed for so long may be taken by anybody."""

RUN, UNDO, FINISH, INLINE = "migration", "revert", "complete", "inline"
"""What leases are taken for: the runner, a revert, a removal of rows, re-embedding in a search."""


@contextmanager
def held(database: Database, gallery: str, purpose: str) -> Iterator[Lease]:
    """Hold a gallery's lease for one purpose.

    Raises:
        LockedError: a process that is alive holds it.
    """
    lease = acquire_lease(database, gallery, purpose, seconds=LEASE_SECONDS)
    try:
        yield lease
    finally:
        with suppress(LockedError):  # lost meanwhile: there is nothing to give back
            lease.release()


@contextmanager
def beating(lease: Lease) -> Iterator[None]:
    """Renew a lease in the background, for work whose length nobody knows (a slow embedder).

    A lease that is lost is not fought for: the commit will find out.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(LEASE_SECONDS / 4):
            try:
                lease.renew()
            except LockedError:
                return

    thread = threading.Thread(target=beat, name="segue-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
