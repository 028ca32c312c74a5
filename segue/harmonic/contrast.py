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
        scores = cosines(v2, v1)
        more = cosines(v2, v2).masked_fill(same, -torch.inf) if self.new_negatives else None
        return pooled_contrast(
            scores,
            same,
            ~same,
            temperature=self.temperature,
            balance=self.balance,
            shared=self.shared,
            more=more,
        )


def pooled_contrast(
    scores: Tensor,
    positive: Tensor,
    impostor: Tensor,
    *,
    temperature: float,
    balance: float,
    shared: bool,
    more: Tensor | None = None,
) -> Tensor:
    """Return the loss of `HarmonicContrastLoss` for given cosines and given pairs.

    Args:
        scores: cosines, float [N, M].
        positive: which are pairs of one person that are to be near, bool [N, M].
        impostor: which are pairs of two people, bool [N, M].
        temperature: T.
        balance: a pair weighs 1 / (pairs of its row)^balance.
        shared: one denominator for the batch; else one for each row.
        more: cosines that stand in the denominator too, float [N, K]; -inf where one does not.

    Returns:
        0, with a graph to `scores`, where there is no positive or no impostor.
    """
    if not bool(positive.any()) or not bool(impostor.any()):
        return scores.sum() * 0
    scores = scores / temperature
    others = [scores.masked_fill(~impostor, -torch.inf)]
    if more is not None:
        others.append(more / temperature)
    impostors = torch.logsumexp(torch.cat(others, dim=1), dim=1)
    if shared:
        impostors = torch.logsumexp(impostors, dim=0) - math.log(len(scores))
        impostors = impostors.expand(len(scores))
    losses = functional.softplus(impostors[:, None] - scores, threshold=_LINEAR_FROM)
    pairs = positive.sum(1, keepdim=True).to(losses).clamp_min(1)
    weights = positive / pairs**balance
    return (weights * losses).sum() / weights.sum()
