"""Networks that nobody trained, as registered versions."""

from __future__ import annotations

from segue import Workspace
from segue.networks import EmbeddingNetwork, save_weights
from segue.types import Preprocessing


def register_all(workspace: Workspace, *networks: EmbeddingNetwork) -> None:
    """Register networks for images of 32 x 32 as the next versions of `faces`."""
    for network in networks:
        workspace.registry.register_network(
            "faces",
            architecture=network.architecture,
            settings=network.settings,
            weights=save_weights(network),
            preprocessing=Preprocessing(32, 32),
        )
