"""The study lies beside the package, not in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The short study's folder, trained and measured on part validation."""
    from benchmarks.study.command import main

    out = tmp_path_factory.mktemp("study")
    assert main(["--short", "--out", str(out)]) == 0
    return out


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it that a test may change."""
    import shutil

    return shutil.copytree(trained, tmp_path / "study")
