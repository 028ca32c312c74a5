"""Pure maths of harmonic embeddings: distances, calibration, bridges, mining, losses.

No files of faces, no training loop. Mining and losses are torch and loaded on first use; the rest
is numpy, so that a search by vectors loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segue.harmonic.bridges import (
    Bridge,
    BridgeChoice,
    choose_bridge,
    fit_bridge,
    list_bridges,
    register_bridge,
)
from segue.harmonic.calibration import (
    Calibration,
    calibrate,
    count_people_pairs,
    impostor_distances,
)
from segue.harmonic.distances import squared_distances

if TYPE_CHECKING:
    from segue.harmonic.losses import (
        BctLoss,
        ContraRactLoss,
        HarmonicContrastLoss,
        HarmonicTripletLoss,
        HocLoss,
        L2Loss,
        LceLoss,
        Loss,
        MixBctLoss,
        TripletContraRactLoss,
        TripletLoss,
        WeakL2Loss,
        apply_loss,
        check_needs,
        class_means,
        class_radii,
        list_losses,
        make_loss,
        register_loss,
        triplet_loss_on,
    )
    from segue.harmonic.mining import (
        STRATEGIES,
        Triplets,
        nearest_semi_hard,
        select_triplets,
        semi_hard_triplets,
    )
    from segue.harmonic.offline import (
        OfflineMiner,
        draw_triplets,
    )
    from segue.harmonic.pools import (
        COMBINATIONS,
        mine_pools,
    )

_TORCH_HOMES = {
    "COMBINATIONS": "segue.harmonic.pools",
    "STRATEGIES": "segue.harmonic.mining",
    "BctLoss": "segue.harmonic.losses",
    "ContraRactLoss": "segue.harmonic.losses",
    "HarmonicContrastLoss": "segue.harmonic.losses",
    "HarmonicTripletLoss": "segue.harmonic.losses",
    "HocLoss": "segue.harmonic.losses",
    "L2Loss": "segue.harmonic.losses",
    "LceLoss": "segue.harmonic.losses",
    "Loss": "segue.harmonic.losses",
    "MixBctLoss": "segue.harmonic.losses",
    "OfflineMiner": "segue.harmonic.offline",
    "TripletContraRactLoss": "segue.harmonic.losses",
    "TripletLoss": "segue.harmonic.losses",
    "Triplets": "segue.harmonic.mining",
    "WeakL2Loss": "segue.harmonic.losses",
    "apply_loss": "segue.harmonic.losses",
    "check_needs": "segue.harmonic.losses",
    "class_means": "segue.harmonic.losses",
    "class_radii": "segue.harmonic.losses",
    "draw_triplets": "segue.harmonic.offline",
    "list_losses": "segue.harmonic.losses",
    "make_loss": "segue.harmonic.losses",
    "mine_pools": "segue.harmonic.pools",
    "nearest_semi_hard": "segue.harmonic.mining",
    "register_loss": "segue.harmonic.losses",
    "select_triplets": "segue.harmonic.mining",
    "semi_hard_triplets": "segue.harmonic.mining",
    "triplet_loss_on": "segue.harmonic.losses",
}

__all__ = [
    "COMBINATIONS",
    "STRATEGIES",
    "BctLoss",
    "Bridge",
    "BridgeChoice",
    "Calibration",
    "ContraRactLoss",
    "HarmonicContrastLoss",
    "HarmonicTripletLoss",
    "HocLoss",
    "L2Loss",
    "LceLoss",
    "Loss",
    "MixBctLoss",
    "OfflineMiner",
    "TripletContraRactLoss",
    "TripletLoss",
    "Triplets",
    "WeakL2Loss",
    "apply_loss",
    "calibrate",
    "check_needs",
    "choose_bridge",
    "class_means",
    "class_radii",
    "count_people_pairs",
    "draw_triplets",
    "fit_bridge",
    "impostor_distances",
    "list_bridges",
    "list_losses",
    "make_loss",
    "mine_pools",
    "nearest_semi_hard",
    "register_bridge",
    "register_loss",
    "select_triplets",
    "semi_hard_triplets",
    "squared_distances",
    "triplet_loss_on",
]


def __getattr__(name: str) -> Any:
    """Import the home of a name that needs torch on first use."""
    if name not in _TORCH_HOMES:
        raise AttributeError(f"module 'segue.harmonic' has no attribute {name!r}")
    return getattr(import_module(_TORCH_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
