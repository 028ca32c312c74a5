"""Pure maths of harmonic embeddings: distances, calibration, bridges, mining, losses.

No files of faces, no training loop. Mining and losses are torch and loaded on first use; the rest
is numpy, so that a search by vectors loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segue.harmonic.bridges import Bridge, fit_bridge, list_bridges, register_bridge
from segue.harmonic.calibration import (
    Calibration,
    calibrate,
    count_people_pairs,
    impostor_distances,
)
from segue.harmonic.distances import squared_distances

if TYPE_CHECKING:
    from segue.harmonic.losses import (
        ContraRactLoss,
        HarmonicTripletLoss,
        Loss,
        TripletContraRactLoss,
        TripletLoss,
        list_losses,
        make_loss,
        register_loss,
    )
    from segue.harmonic.mining import Triplets, nearest_semi_hard, semi_hard_triplets

_TORCH_HOMES = {
    "ContraRactLoss": "segue.harmonic.losses",
    "HarmonicTripletLoss": "segue.harmonic.losses",
    "Loss": "segue.harmonic.losses",
    "TripletContraRactLoss": "segue.harmonic.losses",
    "TripletLoss": "segue.harmonic.losses",
    "Triplets": "segue.harmonic.mining",
    "list_losses": "segue.harmonic.losses",
    "make_loss": "segue.harmonic.losses",
    "nearest_semi_hard": "segue.harmonic.mining",
    "register_loss": "segue.harmonic.losses",
    "semi_hard_triplets": "segue.harmonic.mining",
}

__all__ = [
    "Bridge",
    "Calibration",
    "ContraRactLoss",
    "HarmonicTripletLoss",
    "Loss",
    "TripletContraRactLoss",
    "TripletLoss",
    "Triplets",
    "calibrate",
    "count_people_pairs",
    "fit_bridge",
    "impostor_distances",
    "list_bridges",
    "list_losses",
    "make_loss",
    "nearest_semi_hard",
    "register_bridge",
    "register_loss",
    "semi_hard_triplets",
    "squared_distances",
]


def __getattr__(name: str) -> Any:
    """Import the home of a name that needs torch on first use."""
    if name not in _TORCH_HOMES:
        raise AttributeError(f"module 'segue.harmonic' has no attribute {name!r}")
    return getattr(import_module(_TORCH_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
