from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from segue import cli
from segue.synthetic import write_faces


@dataclass
class Run:
    """What one command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def segue(capsys):
    """Run one command in this process and return its exit code and output."""

    def run(*arguments: object) -> Run:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Run(int(caught.value.code or 0), captured.out, captured.err)

    return run


def _quiet(*arguments: object) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    assert not caught.value.code, arguments


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """A small drawn data set."""
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, people=40, images=4, size=32, seed=3)
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory, faces) -> Path:
    """A workspace with two versions and a gallery; tests copy it before they change it."""
    workspace = tmp_path_factory.mktemp("made") / "w"
    small = ("--width", 4, "--image-size", 32, "--steps", 4, "--threads", 1)
    _quiet("-w", workspace, "init")
    _quiet("-w", workspace, "train", "base", "faces", "--data", faces, *small, "--old-only")
    _quiet("-w", workspace, "train", "base", "faces", "--data", faces, *small, "--seed", 2)
    _quiet("-w", workspace, "models", "promote", "faces/1", "--reason", "first")
    _quiet("-w", workspace, "gallery", "create", "people", "--version", "faces@serving")
    _quiet("-w", workspace, "gallery", "enroll", "people", faces / "images" / "drawn0001")
    _quiet("-w", workspace, "gallery", "enroll", "people", faces / "images" / "drawn0005")
    return workspace
