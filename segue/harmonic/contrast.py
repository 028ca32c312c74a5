"""A contrastive loss between versions that knows one threshold for all pairs, as a gallery does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional

from segue.errors import UsageError
from segue.harmonic.loss_registry import CROSS, check_above, check_old, cosines, register_loss

if TYPE_CHECKING:
    from torch import Tensor

_LINEAR_FROM = 40.0
"""Where log(1 + e^x) is x in float64 too."""


@register_loss("harmonic_contrast")
@dataclass(frozen=True)
class HarmonicContrastLoss:
    """Hold every pair of a new and an old vector of one person against the whole batch's impostors.

    With s the cosine, q_i a v2 vector, o_j a v1 vector and T the temperature, the weighted mean
    over all pairs (i, j) of one person, the two vectors of one image among them, of

        -log( e^{s(q_i,o_j)/T} / (e^{s(q_i,o_j)/T} + D) ),
        D = 1/N · Σ_i Σ_{k: y_k ≠ y_i} e^{s(q_i,o_k)/T}.

    D is one number for the batch. The supervised contrastive loss (Khosla et al., 2020) has one for
    each row i instead (`shared` False) and so lets every probe have a scale of its own; a gallery
    is asked with one threshold, and FAR counts the impostors of all probes together.

    Attributes:
        temperature: T. The lower, the more the nearest impostors of all count.
        balance: a pair weighs 1 / (pairs of its row)^balance: 0 lets each pair, 1 each image, have
            the same say.
        shared: one D for the batch; else one for each row.
        new_negatives: v2 vectors of other people stand in D too.
    """

    needs: ClassVar[frozenset[str]] = CROSS

    temperature: float = 0.07
    balance: float = 0.5
    shared: bool = True
    new_negatives: bool = False

    def __post_init__(self) -> None:
        check_above("temperature", self.temperature)
        if not 0 <= self.balance <= 1:
            raise UsageError(f"balance {self.balance!r} is not within 0 and 1")

    def __call__(self, v2: Tensor, labels: Tensor, v1: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            v2: unit vectors being learned, float [N, d].
            labels: who each row shows, int64 [N].
            v1: frozen unit vectors of the same images, float [N, d]; no gradient reaches them.

        Returns:
            0, with a graph to `v2`, where all show one person.

        Raises:
            UsageError: there are no old vectors.
            VectorError: no unit vectors, another dimension or number of rows, or not one label per
                row.
        """
        v1 = check_old(self, v2, labels, v1)
        same = labels[:, None] == labels
        scores = cosines(v2, v1) / self.temperature
        if bool(same.all()):  # nobody to be told apart from
            return scores.sum() * 0
        others = [scores.masked_fill(same, -torch.inf)]
        if self.new_negatives:
            others.append((cosines(v2, v2) / self.temperature).masked_fill(same, -torch.inf))
        impostors = torch.logsumexp(torch.cat(others, dim=1), dim=1)
        if self.shared:
            impostors = torch.logsumexp(impostors, dim=0) - math.log(len(v2))
            impostors = impostors.expand(len(v2))
        losses = functional.softplus(impostors[:, None] - scores, threshold=_LINEAR_FROM)
        pairs = same.sum(1, keepdim=True).to(losses)
        weights = same / pairs**self.balance
        return (weights * losses).sum() / weights.sum()
