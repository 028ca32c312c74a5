"""Training: samplers, the loop, v1-like base training, the two harmonic stages, and the twin.

The names below are imported on first use, so that settings can be read and shown without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.train.base import train_base
    from segue.train.harmonic import train_harmonic, train_twin
    from segue.train.objective import check_losses
    from segue.train.old_vectors import old_vectors_from_file
    from segue.train.sampler import PKSampler
    from segue.train.settings import (
        FACENET_STAGES,
        HarmonicSettings,
        LoopSettings,
        TrainSettings,
        paper_settings,
        twin_settings,
    )
    from segue.train.trained import Trained

__all__ = [
    "FACENET_STAGES",
    "HarmonicSettings",
    "LoopSettings",
    "PKSampler",
    "TrainSettings",
    "Trained",
    "check_losses",
    "old_vectors_from_file",
    "paper_settings",
    "train_base",
    "train_harmonic",
    "train_twin",
    "twin_settings",
]

_HOME = {
    "FACENET_STAGES": "settings",
    "HarmonicSettings": "settings",
    "LoopSettings": "settings",
    "PKSampler": "sampler",
    "TrainSettings": "settings",
    "Trained": "trained",
    "check_losses": "objective",
    "old_vectors_from_file": "old_vectors",
    "paper_settings": "settings",
    "train_base": "base",
    "train_harmonic": "harmonic",
    "train_twin": "harmonic",
    "twin_settings": "settings",
}


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
