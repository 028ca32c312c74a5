"""Every test has its own stores: nothing of the caller's environment, nothing of another test's."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The same examples every time in CI, so that a change is judged by itself; new ones elsewhere.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

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
