"""Fixtures of the migration tests; what they hold is in `migration_world.py`."""

from __future__ import annotations

import pytest
from migration_world import GO, World


@pytest.fixture
def world(tmp_path):
    """A workspace with an empty gallery, no edges and no report."""
    return World(tmp_path)


@pytest.fixture
def ready(tmp_path):
    """A gallery of ten items whose upgrade has all edges and a gate that says GO."""
    made = World(tmp_path)
    made.enroll(10)
    made.edges()
    made.report(GO)
    return made
