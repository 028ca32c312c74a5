from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from segue.errors import (
    DiskFullError,
    LockedError,
    MissingPathError,
    ReadOnlyError,
    TamperedError,
)
from segue.files import held, read_checked, sha256_bytes, staged, write_durably


def test_a_written_file_holds_its_content_and_nothing_is_left_beside_it(tmp_path):
    """A durable write leaves exactly the file."""
    write_durably(tmp_path / "a" / "x.bin", b"content")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.bin"]
    assert (tmp_path / "a" / "x.bin").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EROFS, ReadOnlyError),
        (errno.EACCES, ReadOnlyError),
    ],
)
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, code, error):
    """A disk that fills, or is read-only, leaves the old content and no temporary file."""
    path = tmp_path / "x.bin"
    write_durably(path, b"old")

    def fail(_descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    """An error inside the block removes the staged file."""

    def interrupted():
        with staged(tmp_path / "x") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_read_only_if_its_hash_is_right(tmp_path):
    """A changed byte is refused before anybody parses the file."""
    path = tmp_path / "m"
    path.write_bytes(b"model")
    assert read_checked(path, sha256_bytes(b"model")) == b"model"
    path.write_bytes(b"Model")
    with pytest.raises(TamperedError, match="not the file that was registered"):
        read_checked(path, sha256_bytes(b"model"))
    with pytest.raises(MissingPathError):
        read_checked(tmp_path / "gone", "")


def _held_elsewhere(lock):
    """Start another process that holds `lock`, and return it once it does."""
    program = (
        "import sys; from pathlib import Path; from segue.files import held\n"
        "with held(Path(sys.argv[1]), 'x'): print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"\n"
    return process


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_a_lock_is_held_by_one_process_until_it_ends(tmp_path, how):
    """The second is told so at once; when the first is done or killed, the lock is free."""
    lock = tmp_path / "new" / "x.lock"
    with _held_elsewhere(lock) as process:
        for _ in range(2):
            with pytest.raises(LockedError, match="the cake is held by"), held(lock, "the cake"):
                pass
        if how == "killed":
            process.send_signal(signal.SIGKILL)
        process.communicate()
    with held(lock, "the cake"):
        assert lock.is_file()
    assert list(lock.parent.iterdir()) == []


def test_a_lock_whose_file_was_removed_before_it_was_taken_is_made_anew(tmp_path, monkeypatch):
    """Never do two hold one lock, where the first removes its file as the second opens it."""
    lock, opened = tmp_path / "x.lock", os.open

    def removed_meanwhile(path, *arguments):
        descriptor = opened(path, *arguments)
        monkeypatch.setattr(os, "open", opened)
        lock.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", removed_meanwhile)
    with held(lock, "x"), pytest.raises(LockedError), held(lock, "x"):
        pass


def test_a_lock_in_a_place_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    """The operating system's refusal is told as ours."""

    def refuse(*_arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ReadOnlyError), held(tmp_path / "x.lock", "x"):
        pass
