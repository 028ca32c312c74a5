"""Fixtures of the gallery tests; what they hold is in `gallery_world.py`."""

from __future__ import annotations

import pytest
from gallery_world import World


@pytest.fixture
def world(tmp_path):
    root = tmp_path / "workspace"
    root.mkdir()
    made = World(root)
    yield made
    made.database.close()
