"""Durable files: written under a temporary name, fsynced, renamed, the directory fsynced.

Every file that a commit speaks of is written by `write_durably`. Running out of space or writing to
a read-only place is told as `DiskFullError` and `ReadOnlyError`, and leaves nothing behind.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from segue.errors import (
    DiskFullError,
    LockedError,
    MissingPathError,
    ReadOnlyError,
    TamperedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the operating system's errors about `path`'s disk into ours.

    Raises:
        DiskFullError: no space or quota left.
        ReadOnlyError: the file system or folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFullError(path) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ReadOnlyError(path) from error
        raise


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on leaving, make it durable under `path`.

    For writers that want a path of their own (Parquet, Faiss). When the block raises, the temporary
    file is removed and `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.staged")
    with translated(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            fsync_file(temporary)
            temporary.replace(path)
            fsync_directory(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_durably(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a crash leaves the old file or the new one, whole."""
    with staged(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def held(lock: Path, what: str) -> Iterator[None]:
    """Hold the file `lock` against other processes and threads; a kill gives it back.

    It is made, with its folder, and removed at the end.

    Raises:
        LockedError: somebody else holds it; `what` names what it stands for.
        DiskFullError, ReadOnlyError: it cannot be made.
    """
    with translated(lock):
        descriptor = _take(lock, what)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()  # while it is held: whoever comes next makes another file
        os.close(descriptor)


def _take(lock: Path, what: str) -> int:
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, descriptor):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise LockedError(what) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it after we had opened it


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether `path` is the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def fsync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Force a directory's names to the disk, so that a rename survives a crash."""
    fsync_file(path)


def sha256_bytes(content: bytes) -> str:
    """Return the sha256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checked(path: Path, sha256: str) -> bytes:
    """Read a file and refuse it unless its hash is `sha256`: hashes are checked before parsing.

    Raises:
        MissingPathError: it is not there.
        TamperedError: its content is not what was registered.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingPathError(path, "registered file") from error
    found = sha256_bytes(content)
    if found != sha256:
        raise TamperedError(path, sha256, found)
    return content
