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
        history: one entry per logged step: `step` (counted from 1), `loss` and its terms,
            `learning_rate`, and of that batch `same_distance` and `different_distance`, the mean
            squared distances of two images of one person and of different people. The loss is over
            mined triplets and stays near the margin; the two distances tell whether people part
            (both near 0: training collapsed).
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
