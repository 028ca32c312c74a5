from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cli_world import state

GOLDEN = Path(__file__).parents[1] / "golden" / "v1" / "workspace"


def _mount(*arguments: object) -> bool:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A disk of three megabytes of its own, with a small workspace on it."""
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None or not _mount("-t", "tmpfs", "-o", "size=3m", "tmpfs", place):
        pytest.skip("needs the right to mount a small disk")
    shutil.copytree(GOLDEN, place / "w")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def vectors(tmp_path):
    """Vectors and ids to import."""
    drawn = np.random.default_rng(1).normal(size=(2000, 8))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    np.save(tmp_path / "v.npy", drawn.astype(np.float32))
    (tmp_path / "ids.txt").write_text("\n".join(f"new-{i}" for i in range(2000)))
    return ("--ids", tmp_path / "ids.txt", tmp_path / "v.npy")


def _commands(vectors):
    return (
        ("gallery", "import", "plain", *vectors),
        ("gallery", "create", "more", "--version", "faces/1"),
        ("migrate", "start", "plain", "--to", "faces/2"),
        ("gallery", "erase", "plain", "item-1", "--yes"),
    )


@pytest.mark.parametrize("left", [0, 24 * 1024])
def test_a_full_disk_is_told_and_nothing_is_lost(segue, disk, vectors, left):
    """Whatever writes fails with one sentence; with room again, all is there and it works."""
    workspace = disk / "w"
    before = state(workspace)
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, filler.stat().st_size - left))
    for command in _commands(vectors):
        run = segue("-w", workspace, *command)
        assert run.code == 1, (command, run)
        assert "no space left" in run.err, (command, run)
        assert run.err.count("\n") == 1
    filler.unlink()
    assert state(workspace) == before
    assert segue("-w", workspace, "doctor").code == 0
    assert segue("-w", workspace, *_commands(vectors)[0]).code == 0


def test_a_read_only_workspace_is_told_and_nothing_changes(segue, disk, vectors):
    """Whatever writes says that the workspace is read-only."""
    workspace = disk / "w"
    before = state(workspace)
    assert _mount("-o", "remount,ro", disk)
    for command in _commands(vectors):
        run = segue("-w", workspace, *command)
        assert run.code == 1, (command, run)
        assert "read-only" in run.err, (command, run)
        assert run.err.count("\n") == 1
    assert _mount("-o", "remount,rw", disk)
    assert state(workspace) == before
