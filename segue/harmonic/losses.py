"""Losses by registered name: v2's own, and those that tie v2 to a frozen v1.

Each loss is a small value with its settings, and says in `needs` what it is called with: v2's
vectors and labels always, v1's vectors of the same images as the third argument, the rest as
keywords.

    loss = make_loss("harmonic", margin=0.2)
    loss(vectors, labels, old_vectors)
    make_loss("bct")(vectors, labels, old_means=class_means(all_old_vectors, all_labels))

`apply_loss` passes each loss what it needs of all that there is.
"""

from __future__ import annotations

from segue.harmonic.classes import class_means, class_radii
from segue.harmonic.contrast import HarmonicContrastLoss
from segue.harmonic.loss_registry import (
    CROSS,
    NEEDS,
    OPTIONS,
    OWN,
    Loss,
    apply_loss,
    check_needs,
    make_loss,
    register_loss,
    registered_losses,
)
from segue.harmonic.published import (
    BctLoss,
    ContraRactLoss,
    HocLoss,
    L2Loss,
    LceLoss,
    MixBctLoss,
    TripletContraRactLoss,
    WeakL2Loss,
)
from segue.harmonic.triplets import HarmonicTripletLoss, TripletLoss, triplet_loss_on

__all__ = [
    "CROSS",
    "NEEDS",
    "OPTIONS",
    "OWN",
    "BctLoss",
    "ContraRactLoss",
    "HarmonicContrastLoss",
    "HarmonicTripletLoss",
    "HocLoss",
    "L2Loss",
    "LceLoss",
    "Loss",
    "MixBctLoss",
    "TripletContraRactLoss",
    "TripletLoss",
    "WeakL2Loss",
    "apply_loss",
    "check_needs",
    "class_means",
    "class_radii",
    "list_losses",
    "make_loss",
    "register_loss",
    "triplet_loss_on",
]


def list_losses() -> tuple[str, ...]:
    """Return the registered names, sorted.

    >>> list_losses()
    ('bct', 'contra_ract', 'harmonic', 'harmonic_contrast', 'hoc', 'l2', 'lce', 'mixbct',
    'triplet', 'triplet+contra_ract', 'weak_l2')
    """
    return tuple(sorted(registered_losses()))
