"""Who may write a gallery's files: many writers at once, or one sweeper alone.

A commit writes its files and publishes them while it holds the folder's lock shared. A sweeper
holds it alone, so that every file which the catalog does not list is the leftover of a
writer that died, and can go. The operating system releases the lock of a process that is killed.
"""

from __future__ import annotations

import errno
import fcntl
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from segue.errors import LockedError
from segue.files import translated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_SECONDS = 10.0
"""How long a writer or sweeper waits for the other kind."""

_POLL_SECONDS = 0.01


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold a gallery's folder as one of several writers.

    Raises:
        LockedError: a sweeper held it for longer than `WAIT_SECONDS`.
        DiskFullError, ReadOnlyError: the folder cannot be written.
    """
    with _held(folder, fcntl.LOCK_SH, WAIT_SECONDS):
        yield


@contextmanager
def sweeping(folder: Path, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold a gallery's folder alone.

    Raises:
        LockedError: somebody wrote for longer than `wait` seconds.
        DiskFullError, ReadOnlyError: the folder cannot be written.
    """
    with _held(folder, fcntl.LOCK_EX, wait):
        yield


@contextmanager
def _held(folder: Path, kind: int, wait: float) -> Iterator[None]:
    path = folder / ".lock"
    with translated(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        deadline = time.monotonic() + wait
        while not _locked(file.fileno(), kind):
            if time.monotonic() >= deadline:
                raise LockedError(f"gallery folder {folder.name}", "a writer or an erasure")
            time.sleep(_POLL_SECONDS)
        yield


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
