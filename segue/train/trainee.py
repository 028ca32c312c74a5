"""A network as it is trained: with what belongs to the training alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from segue.types import COMPATIBLE_OUTPUT

if TYPE_CHECKING:
    from segue.networks import EmbeddingNetwork

ALL, HEADS, COMPATIBLE = PARTS = ("all", "heads", "compatible")
"""What a stage trains: the whole network; its heads; or the head `compatible` alone."""


class Trainee(nn.Module):
    """A network, and the class weights that some losses train beside it.

    Args:
        network: is trained in place.
        class_weights: float [classes, d], or None; trained in place too.
    """

    def __init__(
        self, network: EmbeddingNetwork, class_weights: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.class_weights = class_weights

    def forward(self, images: Tensor, *, trained: str = ALL, half: bool = False) -> Tensors:
        """Embed a batch for training.

        Args:
            images: float32 [N, 3, h, w].
            trained: one of PARTS; but for ALL the trunk stays as it is, statistics included.
            half: the trunk computes in bfloat16 where that is safe.

        Returns:
            Output name -> unit vectors float32 [N, d].
        """
        self.train()
        return self.embed(self.features(images, frozen=trained != ALL, half=half))

    def features(self, images: Tensor, *, frozen: bool, half: bool) -> Tensor:
        """Return the trunk's features of a batch, float32 [N, features]; see `forward`."""
        self.network.trunk.train(not frozen)
        with (
            torch.set_grad_enabled(not frozen),
            torch.autocast(images.device.type, torch.bfloat16, enabled=half),
        ):
            features: Tensor = self.network.trunk(images)
        return features.float()

    def embed(self, features: Tensor) -> Tensors:
        """Turn features float32 [N, features] into unit vectors per output."""
        return self.network.embed_features(features)

    @torch.no_grad()
    def embed_as_it_is(self, images: Tensor, *, half: bool = False) -> Tensors:
        """Embed images in evaluation mode: nothing is drawn, and no statistics move."""
        self.eval()
        return self.embed(self.features(images, frozen=True, half=half))

    def parameters_of(self, trained: str) -> list[nn.Parameter]:
        """Return what is trained when `trained`, one of PARTS, is."""
        if trained == ALL:
            return list(self.parameters())
        heads = self.network.heads
        chosen = heads[COMPATIBLE_OUTPUT] if trained == COMPATIBLE else heads
        weights = [] if self.class_weights is None else [self.class_weights]
        return [*chosen.parameters(), *weights]

    def finish(self) -> EmbeddingNetwork:
        """Return the network for use, in evaluation mode on the CPU."""
        return self.network.to("cpu").eval()


class SeparateHeadTrainee(Trainee):
    """A network whose head `compatible` is trained on standardised features with dropout.

    The head is one linear map that makes v1's space out of all features; the own output does not
    have to bend to it. Thousands of features and few people overfit soon, hence the dropout. The
    features are shifted and scaled by constants, measured once, so that the head learns at the pace
    of the others; `finish` folds the constants into the head.

    Args:
        network: with a head `compatible`; is trained in place.
        dropout: share of the features that the head does not see.
        sample: features float32 [N, features] of training images, to be standardised by.
        class_weights: as of `Trainee`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        network: EmbeddingNetwork,
        dropout: float,
        sample: Tensor,
        class_weights: nn.Parameter | None = None,
    ) -> None:
        super().__init__(network, class_weights)
        self.dropout = dropout
        self.register_buffer("mean", sample.mean(0))
        self.register_buffer("scale", sample.std().clamp(min=1e-6))

    def embed(self, features: Tensor) -> Tensors:
        """Turn features float32 [N, features] into unit vectors per output."""
        network = self.network
        seen = functional.dropout((features - self.mean) / self.scale, self.dropout, self.training)
        compatible = network.heads[COMPATIBLE_OUTPUT](seen)
        others = {
            name: functional.normalize(head(features), dim=1)
            for name, head in network.heads.items()
            if name != COMPATIBLE_OUTPUT
        }
        return {**others, COMPATIBLE_OUTPUT: functional.normalize(compatible, dim=1)}

    def finish(self) -> EmbeddingNetwork:
        """Return the network for use: its head takes features as they are."""
        network = super().finish()
        head = network.heads[COMPATIBLE_OUTPUT]
        assert isinstance(head, nn.Linear)
        mean, scale = self.mean.to("cpu").double(), self.scale.to("cpu").double()
        with torch.no_grad():
            weight = head.weight.double() / scale
            head.bias.copy_(head.bias.double() - weight @ mean)
            head.weight.copy_(weight)
        return network


Tensors = dict[str, Tensor]
