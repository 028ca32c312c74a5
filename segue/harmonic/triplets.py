"""Triplet losses: FaceNet's own, and the harmonic one that mixes two versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from segue.errors import UsageError, VectorError
from segue.harmonic.loss_registry import (
    CROSS,
    OPTIONS,
    OWN,
    check_new,
    check_old,
    check_weight,
    register_loss,
)
from segue.harmonic.mining import Triplets, check_margin, check_strategy, check_tensor, wide
from segue.harmonic.pools import COMBINATIONS, check_combinations, mine_pools, with_a_new_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@register_loss("triplet")
@dataclass(frozen=True)
class TripletLoss:
    """FaceNet's triplet loss with online mining, the mean over the mined triplets.

    mean [ d(a, p) - d(a, n) + margin ]₊ over all anchor-positive pairs that have a negative of the
    strategy's choice.

    Attributes:
        margin: alpha, in squared distance.
        strategy: how negatives are chosen: `semi-hard`, `hardest` or `random`
            (`segue.harmonic.select_triplets`).
    """

    needs: ClassVar[frozenset[str]] = OWN
    options: ClassVar[frozenset[str]] = frozenset(OPTIONS)

    margin: float = 0.2
    strategy: str = "semi-hard"

    def __post_init__(self) -> None:
        check_margin(self.margin)
        check_strategy(self.strategy)

    def __call__(
        self,
        vectors: Tensor,
        labels: Tensor,
        *,
        weights: Tensor | None = None,
        triplets: Triplets | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss; 0, with a graph, where there is no triplet.

        Args:
            vectors: unit vectors, float [N, d].
            labels: who each row shows, int64 [N].
            weights: how far each row is relied on, float [N], at least 0. A triplet weighs the
                product of its three rows, and the loss is the weighted mean.
            triplets: rows of `vectors`, used in place of mined ones (`OfflineMiner`).
            generator: what `random` draws from; the global one by default.

        Raises:
            VectorError: no unit vectors, or not one label or weight per row.
        """
        check_new(vectors, labels)
        given = triplets is not None
        if triplets is None:
            triplets = mine_pools(
                vectors,
                labels,
                None,
                margin=self.margin,
                strategy=self.strategy,
                generator=generator,
            )
        each = None if weights is None else _products(triplets, _reliabilities(weights, vectors))
        return _mean_hinge(vectors, triplets, self.margin, each, mined=not given)


@register_loss("harmonic")
@dataclass(frozen=True)
class HarmonicTripletLoss:
    """FaceNet's harmonic triplet loss: triplets that mix new (v2) and frozen old (v1) vectors.

    All anchor-positive pairs of one person are mined, except a vector with itself; the two vectors
    of one image, new and old, are a pair. Each of the eight combinations of versions can be
    switched off, and the negative of a pair is chosen from the versions that its combinations allow
    together (`segue.harmonic.mine_pools`). Triplets of old vectors only have no gradient: "ooo"
    lets old negatives compete for a pair of old vectors, which then gives no triplet where one of
    them is chosen.

    Attributes:
        margin: alpha, in squared distance.
        anchors: pools of the anchors, of "new" and "old": only combinations with such an anchor.
        positives: pools of the positives.
        negatives: pools of the negatives.
        self_weight: weight of a triplet of new vectors only; one that mixes versions has 1. The
            loss is the weighted mean over triplets.
        combinations: versions of anchor, positive and negative: of "nnn", "nno", "non", "noo",
            "onn", "ono", "oon" and "ooo".
        strategy: how negatives are chosen: `semi-hard`, `hardest` or `random`
            (`segue.harmonic.select_triplets`).

    >>> network, v1_network = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)
    >>> images, labels = torch.randn(12, 8), torch.arange(12) // 3
    >>> optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    >>> loss = HarmonicTripletLoss()
    >>> with torch.no_grad():
    ...     v1 = torch.nn.functional.normalize(v1_network(images))
    >>> for _ in range(3):
    ...     v2 = torch.nn.functional.normalize(network(images))
    ...     optimiser.zero_grad()
    ...     loss(v2, labels, v1).backward()
    ...     optimiser.step()
    """

    needs: ClassVar[frozenset[str]] = CROSS
    options: ClassVar[frozenset[str]] = frozenset(OPTIONS)

    margin: float = 0.2
    anchors: Sequence[str] = ("new", "old")
    positives: Sequence[str] = ("new", "old")
    negatives: Sequence[str] = ("new", "old")
    self_weight: float = 1.0
    combinations: Sequence[str] = COMBINATIONS
    strategy: str = "semi-hard"

    def __post_init__(self) -> None:
        check_margin(self.margin)
        check_strategy(self.strategy)
        check_weight("self_weight", self.self_weight)
        for name in ("anchors", "positives", "negatives"):
            object.__setattr__(self, name, _pools(name, getattr(self, name)))
        object.__setattr__(self, "combinations", check_combinations(self.combinations))
        check_combinations(self.mined)

    @property
    def mined(self) -> tuple[str, ...]:
        """The combinations whose versions are in the three pools."""
        pools = (self.anchors, self.positives, self.negatives)
        letters = [{name[0] for name in pool} for pool in pools]
        return tuple(
            each
            for each in self.combinations
            if all(version in pool for version, pool in zip(each, letters, strict=True))
        )

    def __call__(
        self,
        v2: Tensor,
        labels: Tensor,
        v1: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        triplets: Triplets | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss; 0, with a graph to `v2`, where there is no triplet.

        Args:
            v2: unit vectors being learned, float [N, d].
            labels: who each row shows, int64 [N].
            v1: frozen unit vectors of the same images, float [N, d]; no gradient reaches them.
            weights: how far each old vector is relied on, float [N], at least 0. A triplet weighs
                the product over its old vectors, and the loss is the weighted mean.
            triplets: rows of v2 and then v1 in one, `torch.cat([v2, v1])`, used in place of mined
                ones (`OfflineMiner`).
            generator: what `random` draws from; the global one by default.

        Raises:
            UsageError: there are no old vectors.
            VectorError: no unit vectors, another dimension or number of rows, or not one label or
                weight per row.
        """
        v1 = check_old(self, v2, labels, v1)
        given = triplets is not None
        if triplets is None:
            triplets = mine_pools(
                v2,
                labels,
                v1,
                combinations=self.mined,
                margin=self.margin,
                strategy=self.strategy,
                generator=generator,
            )
        else:
            triplets = with_a_new_one(triplets, len(v2))
        each = self._weights(triplets, v2, weights)
        both = torch.cat([wide(v2), wide(v1)])
        return _mean_hinge(both, triplets, self.margin, each, mined=not given)

    def _weights(self, triplets: Triplets, v2: Tensor, weights: Tensor | None) -> Tensor | None:
        """Return the weight of each triplet, or None where all have the same."""
        each = None
        if weights is not None:
            rows = _reliabilities(weights, v2)
            each = _products(triplets, torch.cat([torch.ones_like(rows), rows]))
        if self.self_weight != 1:
            all_new = torch.stack(triplets).amax(0) < len(v2)
            each = wide(v2).new_ones(len(all_new)) if each is None else each
            each = torch.where(all_new, self.self_weight * each, each)
        return each


def triplet_loss_on(
    vectors: Tensor, triplets: Triplets, margin: float = 0.2, weights: Tensor | None = None
) -> Tensor:
    """Return the triplet loss on given triplets, the (weighted) mean of their hinges.

    mean [ ‖a - p‖² - ‖a - n‖² + margin ]₊, over triplets without a loss too.

    Args:
        vectors: unit vectors with gradient, float [R, d].
        triplets: rows of `vectors`.
        margin: alpha, in squared distance.
        weights: of each triplet, float [T], at least 0.

    Returns:
        A scalar; 0, with a graph, where there is no triplet.

    >>> vectors = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1]])
    >>> one = Triplets(*torch.tensor([[0], [1], [2]]))
    >>> triplet_loss_on(vectors, one, margin=2.0)
    tensor(0.4000)
    """
    check_margin(margin)
    return _mean_hinge(vectors, triplets, margin, weights, mined=False)


def _mean_hinge(
    vectors: Tensor, triplets: Triplets, margin: float, weights: Tensor | None, *, mined: bool
) -> Tensor:
    """Return the weighted mean of the triplets' hinges; `mined` ones are all inside the margin.

    Inside the margin the loss is linear in the distances. Its coefficients, gathered in one matrix
    C, give it as Σ C·d(i, j) with d = ‖i‖² + ‖j‖² - 2 i·j: two products of matrices forwards and
    backwards, however many triplets there are.
    """
    anchor, positive, negative = triplets
    with torch.autocast(vectors.device.type, enabled=False):
        vectors = wide(vectors)
        if weights is None:
            shares = vectors.new_full(anchor.shape, 1 / max(len(anchor), 1))
        else:
            weights = weights.to(vectors)
            shares = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
        if not mined:
            near = (vectors[anchor] - vectors[positive]).square().sum(1)
            far = (vectors[anchor] - vectors[negative]).square().sum(1)
            return (shares * torch.relu(near - far + margin)).sum()
        rows = len(vectors)
        flat = vectors.new_zeros(rows * rows)
        flat.index_add_(0, anchor * rows + positive, shares)
        flat.index_add_(0, anchor * rows + negative, shares, alpha=-1)
        matrix = flat.view(rows, rows)
        lengths = vectors.square().sum(1) @ (matrix.sum(0) + matrix.sum(1))
        products = (vectors * (matrix @ vectors)).sum()
        return lengths - 2 * products + margin * shares.sum()


def _products(triplets: Triplets, rows: Tensor) -> Tensor:
    return rows[triplets.anchor] * rows[triplets.positive] * rows[triplets.negative]


def _reliabilities(weights: Tensor, vectors: Tensor) -> Tensor:
    check_tensor(weights, "weights", "float [N]")
    right = weights.shape == vectors.shape[:1]
    if not right or not bool((weights >= 0).all() & weights.isfinite().all()):
        raise VectorError(
            f"weights of shape {tuple(weights.shape)} for {len(vectors)} rows; give one finite "
            "number of at least 0 for each"
        )
    return weights.detach().to(wide(vectors))


def _pools(name: str, pools: Sequence[str]) -> tuple[str, ...]:
    chosen = (pools,) if isinstance(pools, str) else tuple(pools)
    if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= {"new", "old"}:
        raise UsageError(f"{name} {chosen!r}: choose 'new', 'old' or both")
    return chosen
