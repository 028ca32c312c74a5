from __future__ import annotations

import errno
import os

import pytest

from segue.errors import DiskFullError, MissingPathError, ReadOnlyError, TamperedError
from segue.files import read_checked, sha256_bytes, staged, write_durably


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
