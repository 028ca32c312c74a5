"""The embedding network: a trunk, and one linear head for each named output."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segue.errors import InvalidNameError, UsageError
from segue.types import DEFAULT_OUTPUT, check_name

if TYPE_CHECKING:
    from collections.abc import Mapping


class EmbeddingNetwork(nn.Module):
    """Images to unit vectors: `trunk` makes features, each head of `heads` one named output.

    The heads are FaceNet's *embedding layers*: linear maps from the features, followed by the L2
    normalisation. Every network has the output `embedding`; further ones, such as the head that a
    v1 of another dimension is compared through, are added by `add_head`.

    Attributes:
        trunk: takes float32 [N, 3, h, w] and gives features float32 [N, features].
        heads: output name -> `nn.Linear(features, dimension)`.
        architecture: the registered name it was built by; empty for one built by hand.
        settings: JSON settings; with `architecture`, enough for `build_network`.
    """

    def __init__(self, trunk: nn.Module, features: int, dimension: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.features = features
        self.heads = nn.ModuleDict()
        self.architecture = ""
        self._settings: dict[str, Any] = {}
        self.add_head(DEFAULT_OUTPUT, dimension)

    @property
    def outputs(self) -> dict[str, int]:
        """Output name -> dimension, `embedding` first."""
        return {name: _linear(head).out_features for name, head in self.heads.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings it was built with, and its outputs as they are now."""
        outputs = self.outputs
        further = {} if list(outputs) == [DEFAULT_OUTPUT] else {"outputs": outputs}
        return {**self._settings, **further}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Embed float32 [N, 3, h, w]: per output, unit vectors float32 [N, d]."""
        return self.embed_features(self.trunk(images))

    def embed_features(self, features: Tensor) -> dict[str, Tensor]:
        """Turn the trunk's features float32 [N, features] into unit vectors per output."""
        return {
            name: functional.normalize(head(features), dim=1) for name, head in self.heads.items()
        }

    def add_head(self, output: str, dimension: int, seed: int = 0) -> None:
        """Add an output of `dimension`, its weights drawn with `seed`.

        Raises:
            InvalidNameError: the output's name is unusable or taken.
            UsageError: the dimension is not positive.
        """
        check_name(output, "output")
        if "." in output or output in self.heads:
            raise InvalidNameError(
                "new output", output, "use letters, digits, '_' and '-', and a name not yet taken"
            )
        if dimension < 1:
            raise UsageError(f"output {output!r} of dimension {dimension}; give 1 or more")
        head = nn.Linear(self.features, dimension)
        _draw_linear(head, torch.Generator().manual_seed(seed))
        self.heads[output] = head

    def reset_heads(self, seed: int) -> None:
        """Draw the weights of every head anew: FaceNet's re-initialised embedding layer."""
        generator = torch.Generator().manual_seed(seed)
        for head in self.heads.values():
            _draw_linear(_linear(head), generator)

    def describe_as(self, architecture: str, settings: Mapping[str, Any]) -> None:
        """Remember by which registered name and settings `build_network` made this network."""
        self.architecture, self._settings = architecture, dict(settings)


def _linear(head: nn.Module) -> nn.Linear:
    assert isinstance(head, nn.Linear)
    return head


def _draw_linear(head: nn.Linear, generator: torch.Generator) -> None:
    """Draw as `nn.Linear` does by default, but from `generator`."""
    bound = 1 / math.sqrt(head.in_features)
    with torch.no_grad():
        head.weight.copy_(
            torch.empty(head.weight.shape).uniform_(-bound, bound, generator=generator)
        )
        head.bias.copy_(torch.empty(head.bias.shape).uniform_(-bound, bound, generator=generator))
