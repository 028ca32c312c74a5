"""What a training gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue.networks import EmbeddingNetwork
    from segue.types import Preprocessing


@dataclass
class Trained:
    """A trained network and what is needed to register it.

    Attributes:
        network: in evaluation mode, on the CPU.
        architecture: its registered name.
        settings: JSON settings; with `architecture`, enough for `build_network`.
        preprocessing: what its images go through.
        history: one entry per logged step: `step` (counted from 1), `loss`, its terms,
            `learning_rate`, and `spread`, the mean squared distance of two vectors of the batch
            (2 where they fill the sphere, near 0 where training collapsed).
        data_fingerprint: of the faces it was trained on.
        seconds: spent in training, over all resumed runs.
    """

    network: EmbeddingNetwork
    architecture: str
    settings: dict[str, Any]
    preprocessing: Preprocessing
    history: list[dict[str, float]]
    data_fingerprint: str
    seconds: float
