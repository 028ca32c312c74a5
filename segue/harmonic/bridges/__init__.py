"""Maps between the spaces of two models that were not trained together.

A bridge is fitted on vectors of the same images under both versions and has a direction: it takes
vectors of its source version and no others. It is an affine map, to which one kind adds the output
of a small network. Its file is safetensors with its description as JSON in the header; nothing in
it can run code. Kinds are registered by name: `procrustes`, `ridge`, `low_rank`, `mlp`. A retuning
is fitted on one version's vectors and labels, and leads to a space of its own.

Fitting `mlp` or a retuning loads torch, on first use; everything else, applying it too, is numpy.
"""

from __future__ import annotations

from segue.harmonic.bridges.affine import fit_low_rank, fit_procrustes, fit_ridge
from segue.harmonic.bridges.bridge import Bridge, Correction
from segue.harmonic.bridges.choose import BridgeChoice, KindScore, check_choosable, choose_bridge
from segue.harmonic.bridges.fit import Fitted, Fitter, fit_bridge, list_bridges, register_bridge
from segue.harmonic.bridges.mlp import fit_mlp
from segue.harmonic.bridges.retuning import RETUNING, check_retunable, fit_retuning

__all__ = [
    "RETUNING",
    "Bridge",
    "BridgeChoice",
    "Correction",
    "Fitted",
    "Fitter",
    "KindScore",
    "check_choosable",
    "check_retunable",
    "choose_bridge",
    "fit_bridge",
    "fit_low_rank",
    "fit_mlp",
    "fit_procrustes",
    "fit_retuning",
    "fit_ridge",
    "list_bridges",
    "register_bridge",
]
