"""Losses that the field published for compatible training, each by its formula.

q is a v2 vector, o the frozen v1 vector of the same image, s the cosine, y the identity, c(y) v1's
class mean; all vectors have unit length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from segue.errors import UsageError
from segue.harmonic.classes import own_cosines
from segue.harmonic.loss_registry import (
    CROSS,
    OWN,
    check_above,
    check_class_weights,
    check_means,
    check_old,
    check_radii,
    check_weight,
    cosines,
    make_loss,
    register_loss,
)
from segue.harmonic.mining import wide
from segue.harmonic.triplets import TripletLoss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from segue.harmonic.loss_registry import Loss


@register_loss("l2")
@dataclass(frozen=True)
class L2Loss:
    """Regress v2's vectors on v1's: mean ‖q - o‖² (a variant in BCT, CVPR 2020)."""

    needs: ClassVar[frozenset[str]] = CROSS

    def __call__(self, v2: Tensor, labels: Tensor, v1: Tensor | None = None) -> Tensor:
        """Return the loss; arguments and errors as of `HarmonicTripletLoss`."""
        v1 = check_old(self, v2, labels, v1)
        return (wide(v2) - wide(v1)).square().sum(1).mean()


@register_loss("weak_l2")
@dataclass(frozen=True)
class WeakL2Loss:
    """Regress v2's vectors on v1's up to a distance that is near enough: mean [ ‖q - o‖ - t ]₊.

    Attributes:
        threshold: t, as a distance (not squared), above 0 and below 2.
    """

    needs: ClassVar[frozenset[str]] = CROSS

    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 2:
            raise UsageError(f"threshold {self.threshold!r} is not above 0 and below 2")

    def __call__(self, v2: Tensor, labels: Tensor, v1: Tensor | None = None) -> Tensor:
        """Return the loss; arguments and errors as of `HarmonicTripletLoss`."""
        v1 = check_old(self, v2, labels, v1)
        d2 = (wide(v2) - wide(v1)).square().sum(1)
        beyond = d2 > self.threshold**2
        # A root of 0 has no gradient: near rows take the root of something else.
        length = torch.where(beyond, d2, 1.0).sqrt()
        return torch.where(beyond, length - self.threshold, 0.0).mean()


@register_loss("bct")
@dataclass(frozen=True)
class BctLoss:
    """Classify v2's vectors by v1's frozen head, made of its class means (BCT, CVPR 2020).

    Cross-entropy of scale · s(q, c(·)) against y, the mean over images. Published beside v2's own
    loss.

    Attributes:
        scale: of the cosines in the softmax.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels", "old_means"})

    scale: float = 30.0

    def __post_init__(self) -> None:
        check_above("scale", self.scale)

    def __call__(
        self,
        v2: Tensor,
        labels: Tensor,
        v1: Tensor | None = None,  # noqa: ARG002 - one call serves every loss
        *,
        old_means: Tensor | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            v2: unit vectors being learned, float [N, d].
            labels: who each row shows, rows of `old_means`, int64 [N].
            v1: not used.
            old_means: v1's class means, float [classes, d] (`segue.harmonic.class_means`).

        Raises:
            UsageError: there are no class means.
            VectorError: no unit vectors, another dimension, or labels that are no rows of them.
        """
        means = check_means(self, v2, labels, old_means)
        return functional.cross_entropy(self.scale * cosines(v2, means), labels.long())


@register_loss("contra_ract")
@dataclass(frozen=True)
class ContraRactLoss:
    """Contrast each v2 vector with its v1 vector, against v1 and v2 vectors of other people.

    With T the temperature, the mean of -log e^{s(q,o)/T} / (e^{s(q,o)/T} + Σ e^{s(q,o')/T} +
    Σ e^{s(q,q')/T}), both sums over images of other people ("Hot-refresh", ICLR 2022, where T is
    0.01). Without the last sum it is the field's `contra`.

    Attributes:
        temperature: T.
        new_negatives: whether the sum over v2 vectors is there.
    """

    needs: ClassVar[frozenset[str]] = CROSS

    temperature: float = 0.05
    new_negatives: bool = True

    def __post_init__(self) -> None:
        check_above("temperature", self.temperature)

    def __call__(self, v2: Tensor, labels: Tensor, v1: Tensor | None = None) -> Tensor:
        """Return the loss; arguments and errors as of `HarmonicTripletLoss`."""
        v1 = check_old(self, v2, labels, v1)
        same = labels[:, None] == labels
        to_old = cosines(v2, v1) / self.temperature
        own = to_old.diagonal()
        others = [to_old.masked_fill(same, -torch.inf)]
        if self.new_negatives:
            to_new = cosines(v2, v2) / self.temperature
            others.append(to_new.masked_fill(same, -torch.inf))
        everything = torch.logsumexp(torch.cat([own[:, None], *others], dim=1), dim=1)
        return (everything - own).mean()


@register_loss("triplet+contra_ract")
@dataclass(frozen=True)
class TripletContraRactLoss:
    """v2's own triplet loss plus a weighted `contra_ract`.

    Attributes:
        margin: alpha of the triplet loss.
        temperature: T of `contra_ract`.
        self_weight: weight of the triplet loss.
        cross_weight: weight of `contra_ract`.
    """

    needs: ClassVar[frozenset[str]] = CROSS

    margin: float = 0.2
    temperature: float = 0.05
    self_weight: float = 1.0
    cross_weight: float = 0.1

    def __post_init__(self) -> None:
        TripletLoss(self.margin)
        ContraRactLoss(self.temperature)
        check_weight("self_weight", self.self_weight)
        check_weight("cross_weight", self.cross_weight)

    def __call__(self, v2: Tensor, labels: Tensor, v1: Tensor | None = None) -> Tensor:
        """Return the loss; arguments and errors as of `HarmonicTripletLoss`."""
        v1 = check_old(self, v2, labels, v1)
        own = TripletLoss(self.margin)(v2, labels)
        cross = ContraRactLoss(self.temperature)(v2, labels, v1)
        return self.self_weight * own + self.cross_weight * cross


@register_loss("hoc")
@dataclass(frozen=True)
class HocLoss:
    """Find each v2 vector's own v1 vector among those of the batch (InfoNCE).

    The mean of -log e^{scale·s(q,o)} / Σ e^{scale·s(q,o')} over the v1 vectors of all images.
    Published beside v2's own loss with a weight of 0.1.

    Attributes:
        scale: of the cosines.
    """

    needs: ClassVar[frozenset[str]] = CROSS

    scale: float = 10.0

    def __post_init__(self) -> None:
        check_above("scale", self.scale)

    def __call__(self, v2: Tensor, labels: Tensor, v1: Tensor | None = None) -> Tensor:
        """Return the loss; arguments and errors as of `HarmonicTripletLoss`."""
        v1 = check_old(self, v2, labels, v1)
        own = torch.arange(len(v2), device=v2.device)
        return functional.cross_entropy(self.scale * cosines(v2, v1), own)


@register_loss("lce")
@dataclass(frozen=True)
class LceLoss:
    """Align v2's class weights with v1's class means, inside v1's boundaries (LCE, ICCV 2021).

    100 · MSE(w, c) + mean [ r(y) - s(q, c(y)) ]₊, where w are v2's class weights at unit length and
    r(y) is the smallest cosine of y's v1 vectors to c(y). The weights are trained with v2, so a
    cross-entropy of scale · s(q, w) against y stands beside it; without it (`classify` 0) something
    else must train them. Published beside v2's own loss.

    Attributes:
        align: weight of the mean squared error, over classes and dimensions.
        classify: weight of the cross-entropy; 0 leaves it out.
        scale: of the cosines in the softmax.
        radii_quantile: what `class_radii` is to be called with for this loss.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {"labels", "old_means", "old_radii", "class_weights"}
    )
    radii_quantile: ClassVar[float] = 0.0

    align: float = 100.0
    classify: float = 1.0
    scale: float = 30.0

    def __post_init__(self) -> None:
        check_weight("align", self.align)
        check_weight("classify", self.classify)
        check_above("scale", self.scale)

    def __call__(
        self,
        v2: Tensor,
        labels: Tensor,
        v1: Tensor | None = None,  # noqa: ARG002 - one call serves every loss
        *,
        old_means: Tensor | None = None,
        old_radii: Tensor | None = None,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            v2: unit vectors being learned, float [N, d].
            labels: who each row shows, rows of the three others, int64 [N].
            v1: not used.
            old_means: v1's class means, float [classes, d].
            old_radii: smallest cosine of each class's v1 vectors to its mean, float [classes].
            class_weights: v2's own class weights, of any length, with gradient [classes, d].

        Raises:
            UsageError: one of them is missing.
            VectorError: no unit vectors, other shapes, or labels that are no classes.
        """
        means = check_means(self, v2, labels, old_means)
        radii = check_radii(self, means, old_radii)
        weights = check_class_weights(self, means, class_weights)
        labels = labels.long()
        short = torch.relu(radii[labels] - own_cosines(wide(v2), means, labels)).mean()
        loss = self.align * functional.mse_loss(weights, means) + short
        if self.classify:
            scores = self.scale * cosines(v2, weights)
            loss = loss + self.classify * functional.cross_entropy(scores, labels)
        return loss


@register_loss("mixbct")
@dataclass(frozen=True)
class MixBctLoss:
    """v2's own loss on batches in which some rows are v1's vectors (MixBCT).

    A share of each batch's rows q is replaced by o, drawn from the rows whose o is among the
    nearest of its class to c(y): those with s(o, c(y)) at least the class's radius. Where fewer
    rows qualify, all of them are replaced. It takes the place of v2's own loss.

    Attributes:
        share: of a batch's rows to be replaced; published 0.3.
        margin: of the own loss, where it has one.
        own: registered name of v2's own loss.
        own_settings: further settings of it.
        radii_quantile: what `class_radii` is to be called with for this loss: published, the tenth
            of each class that is farthest from its mean is left out.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels", "old_vectors", "old_means", "old_radii"})
    options: ClassVar[frozenset[str]] = frozenset({"generator"})
    radii_quantile: ClassVar[float] = 0.1

    share: float = 0.3
    margin: float = 0.2
    own: str = "triplet"
    own_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UsageError(f"share {self.share!r} is not above 0 and below 1")
        if self._own_loss().needs != OWN:
            raise UsageError(f"own loss {self.own!r} is none of v2 alone; use one such as triplet")

    def __call__(
        self,
        v2: Tensor,
        labels: Tensor,
        v1: Tensor | None = None,
        *,
        old_means: Tensor | None = None,
        old_radii: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the own loss of the mixed batch; arguments and errors as of `mix`."""
        mixed, _ = self.mix(
            v2, labels, v1, old_means=old_means, old_radii=old_radii, generator=generator
        )
        return self._own_loss()(mixed, labels)

    def mix(
        self,
        v2: Tensor,
        labels: Tensor,
        v1: Tensor | None = None,
        *,
        old_means: Tensor | None = None,
        old_radii: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the mixed batch, and which rows are v1's.

        Args:
            v2: unit vectors being learned, float [N, d].
            labels: who each row shows, rows of the class means, int64 [N].
            v1: frozen unit vectors of the same images, float [N, d].
            old_means: v1's class means, float [classes, d].
            old_radii: cosine to the class mean that the nearest 90 % of each class's v1 vectors
                reach, float [classes] (`class_radii` with `radii_quantile`).
            generator: what the rows are drawn from; the global one by default.

        Returns:
            Float [N, d] with a graph to the rows of `v2` that were kept, and bool [N].

        Raises:
            UsageError: an input is missing.
            VectorError: no unit vectors, other shapes, or labels that are no classes.
        """
        old = check_old(self, v2, labels, v1)
        means = check_means(self, v2, labels, old_means)
        radii = check_radii(self, means, old_radii)
        labels = labels.long()
        near = own_cosines(wide(old), means, labels) >= radii[labels] - 1e-6  # of rounding
        device = "cpu" if generator is None else generator.device
        drawn = torch.rand(len(v2), generator=generator, device=device).to(v2.device)
        count = min(round(self.share * len(v2)), int(near.sum()))
        chosen = drawn.masked_fill(~near, 2.0).argsort(stable=True)[:count]
        is_old = torch.zeros_like(near).index_fill_(0, chosen, value=True)
        return torch.where(is_old[:, None], old, v2), is_old

    def _own_loss(self) -> Loss:
        own = make_loss(self.own, **self.own_settings)
        margin = {"margin": self.margin} if hasattr(own, "margin") else {}
        return make_loss(self.own, **{**margin, **self.own_settings})
