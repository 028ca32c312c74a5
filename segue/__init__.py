"""Segue upgrades deployed embedding models without re-indexing.

The public names are loaded on first use, so that `import segue` loads no torch, faiss, mlflow,
duckdb or pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue.harmonic.losses import HarmonicTripletLoss
    from segue.index import Gallery
    from segue.migrations import Migration
    from segue.registry import Registry
    from segue.workspace import Workspace

__version__ = "0.1.0"

_HOMES = {
    "Gallery": "segue.index",
    "HarmonicTripletLoss": "segue.harmonic.losses",
    "Migration": "segue.migrations",
    "Registry": "segue.registry",
    "Workspace": "segue.workspace",
}

__all__ = ["Gallery", "HarmonicTripletLoss", "Migration", "Registry", "Workspace", "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name's home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'segue' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
