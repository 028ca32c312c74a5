"""Every test has its own stores: nothing of the caller's environment, nothing of another test's."""

from __future__ import annotations

import os

import pytest

collect_ignore_glob = ["conftest.py", "*/conftest.py"]  # they hold no doctests, and share a name

OURS = ("MLFLOW_TRACKING_URI", "SEGUE_DATABASE_URL", "SEGUE_WORKSPACE")

for name in OURS:
    os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def own_environment():
    """Forget stores that a test named: MLflow's `set_tracking_uri` writes the environment."""
    yield
    for name in OURS:
        os.environ.pop(name, None)
