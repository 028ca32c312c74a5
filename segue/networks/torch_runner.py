"""Running an `EmbeddingNetwork`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from segue.arrays import normalise
from segue.networks.runner import BATCH, check_batch

if TYPE_CHECKING:
    from segue.networks.base import EmbeddingNetwork
    from segue.types import Floats


class TorchRunner:
    """A network in evaluation mode, without gradients: prepared batches in, unit vectors out.

    Its results depend on the machine and number of threads in their last bits only; the network's
    own mode is left as it was.
    """

    def __init__(self, network: EmbeddingNetwork) -> None:
        self.network = network

    @property
    def outputs(self) -> dict[str, int]:
        """Output name -> dimension."""
        return self.network.outputs

    def run(self, batch: Floats) -> dict[str, Floats]:
        """Embed prepared images float32 [N, 3, h, w]: per output, unit float32 [N, d].

        Raises:
            VectorError: another shape, or a vector with NaN or of length 0.
        """
        check_batch(batch)
        found: dict[str, list[Floats]] = {name: [] for name in self.outputs}
        training = self.network.training
        self.network.eval()
        try:
            with torch.inference_mode():
                for start in range(0, len(batch), BATCH):
                    images = torch.from_numpy(np.ascontiguousarray(batch[start : start + BATCH]))
                    vectors = self.network(self._placed(images))
                    for name, parts in found.items():
                        parts.append(vectors[name].cpu().numpy())
        finally:
            self.network.train(training)
        return {
            name: normalise(np.concatenate([np.empty((0, dimension), np.float32), *found[name]]))
            for name, dimension in self.outputs.items()
        }

    def _placed(self, images: torch.Tensor) -> torch.Tensor:
        device = next(self.network.parameters()).device
        return images.to(device, memory_format=torch.channels_last)
