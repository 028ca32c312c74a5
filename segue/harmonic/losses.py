"""Losses by registered name: v2's own, and those that tie v2 to a frozen v1.

Each loss is a small value with its settings. It is called with v2's vectors and the labels, and,
where `old_vectors` is among its `needs`, with the frozen v1 vectors of the same images:

    loss = make_loss("harmonic", margin=0.2)
    loss(vectors, labels, old_vectors)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import torch

from segue.errors import InvalidNameError, UnknownNameError, UsageError, VectorError
from segue.harmonic.mining import (
    Triplets,
    check_margin,
    check_tensor_labels,
    check_unit,
    nearest_semi_hard,
    pairwise_squared_distances,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

OWN = frozenset({"labels"})
"""What a loss of v2 alone needs."""

CROSS = frozenset({"labels", "old_vectors"})
"""What a loss that ties v2 to v1 needs."""


class Loss(Protocol):
    """A loss: `needs` says which of labels and old vectors it is called with."""

    needs: ClassVar[frozenset[str]]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss as a scalar with a graph to v2's vectors."""


_LOSSES: dict[str, type[Loss]] = {}
_L = TypeVar("_L", bound=type[Loss])


def register_loss(name: str) -> Callable[[_L], _L]:
    """Register a class of losses under a name that `make_loss` then knows.

    Raises:
        InvalidNameError: the name is taken.
    """
    if name in _LOSSES:
        raise InvalidNameError("new loss", name, "the name is taken; choose another")

    def register(loss: _L) -> _L:
        _LOSSES[name] = loss
        return loss

    return register


def list_losses() -> tuple[str, ...]:
    """Return the registered names, sorted.

    >>> list_losses()
    ('contra_ract', 'harmonic', 'triplet', 'triplet+contra_ract')
    """
    return tuple(sorted(_LOSSES))


def make_loss(name: str, **settings: Any) -> Loss:
    """Return the loss of that name with these settings.

    Raises:
        UnknownNameError: no such loss.
        UsageError: a setting that the loss does not have, or a value out of range.
    """
    if name not in _LOSSES:
        raise UnknownNameError("loss", name, _LOSSES)
    try:
        return _LOSSES[name](**settings)
    except TypeError as error:
        raise UsageError(f"loss {name!r} does not take these settings: {error}") from error


@register_loss("triplet")
@dataclass(frozen=True)
class TripletLoss:
    """FaceNet's triplet loss with online semi-hard mining, the mean over the mined triplets.

    mean [ d(a, p) - d(a, n) + margin ]₊ over all anchor-positive pairs that have a semi-hard
    negative, with the nearest one.

    Attributes:
        margin: alpha, in squared distance.
    """

    needs: ClassVar[frozenset[str]] = OWN

    margin: float = 0.2

    def __post_init__(self) -> None:
        check_margin(self.margin)

    def __call__(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Return the loss; 0, with a graph, where no triplet is semi-hard.

        Args:
            vectors: unit vectors, float [N, d].
            labels: who each row shows, int64 [N].

        Raises:
            VectorError: no unit vectors, or not one label per row.
        """
        check_unit(vectors, "vectors")
        check_tensor_labels(labels, vectors)
        distances = pairwise_squared_distances(vectors, vectors)
        same = labels[:, None] == labels
        triplets = nearest_semi_hard(distances, same & ~_diagonal(same), ~same, self.margin)
        return _weighted_mean(distances, triplets, self.margin, None)


@register_loss("harmonic")
@dataclass(frozen=True)
class HarmonicTripletLoss:
    """FaceNet's harmonic triplet loss: triplets that mix new (v2) and frozen old (v1) vectors.

    Anchor, positive and negative each come from the pools that are switched on. All anchor-positive
    pairs of one person are mined, except a vector with itself; the two vectors of one image, new
    and old, are a pair. The nearest semi-hard negative is chosen from the negatives' pools
    together. Triplets of old vectors only have no gradient and are left out.

    Attributes:
        margin: alpha, in squared distance.
        anchors: pools of the anchors, of "new" and "old".
        positives: pools of the positives.
        negatives: pools of the negatives.
        self_weight: weight of a triplet of new vectors only; one that mixes versions has 1. The
            loss is the weighted mean over triplets.

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

    margin: float = 0.2
    anchors: Sequence[str] = ("new", "old")
    positives: Sequence[str] = ("new", "old")
    negatives: Sequence[str] = ("new", "old")
    self_weight: float = 1.0

    def __post_init__(self) -> None:
        check_margin(self.margin)
        for name in ("anchors", "positives", "negatives"):
            object.__setattr__(self, name, _pools(name, getattr(self, name)))
        if "new" not in {*self.anchors, *self.positives, *self.negatives}:
            raise UsageError("triplets of old vectors only train nothing; let some be new")
        if self.self_weight < 0:
            raise UsageError(f"self_weight {self.self_weight!r} is below 0")

    def __call__(self, v2: Tensor, labels: Tensor, v1: Tensor) -> Tensor:
        """Return the loss; 0, with a graph to `v2`, where no triplet is semi-hard.

        Args:
            v2: unit vectors being learned, float [N, d].
            labels: who each row shows, int64 [N].
            v1: frozen unit vectors of the same images, float [N, d]; no gradient reaches them.

        Raises:
            VectorError: no unit vectors, another dimension or number of rows, or not one label
                per row.
        """
        v1 = _frozen(v2, labels, v1)
        both = torch.cat([v2, v1])
        is_new = torch.arange(len(both), device=v2.device) < len(v2)
        people = labels.repeat(2)
        distances = pairwise_squared_distances(both, both)
        same = people[:, None] == people
        positive = same & ~_diagonal(same)
        positive &= self._in(self.anchors, is_new)[:, None] & self._in(self.positives, is_new)
        negative = ~same & self._in(self.negatives, is_new)
        triplets = _with_a_new_one(
            nearest_semi_hard(distances, positive, negative, self.margin), is_new
        )
        weights = None
        if self.self_weight != 1:
            all_new = is_new[triplets.anchor] & is_new[triplets.positive]
            all_new &= is_new[triplets.negative]
            weights = distances.new_ones(len(all_new)).masked_fill(all_new, self.self_weight)
        return _weighted_mean(distances, triplets, self.margin, weights)

    @staticmethod
    def _in(pools: Sequence[str], is_new: Tensor) -> Tensor:
        """Return which rows belong to the pools."""
        if len(pools) == 2:
            return torch.ones_like(is_new)
        return is_new if pools[0] == "new" else ~is_new


@register_loss("contra_ract")
@dataclass(frozen=True)
class ContraRactLoss:
    """Contrast each v2 vector with its v1 vector, against v1 and v2 vectors of other people.

    With s the cosine, q a v2 vector, o the v1 vector of the same image, T the temperature, the mean
    of -log e^{s(q,o)/T} / (e^{s(q,o)/T} + Σ e^{s(q,o')/T} + Σ e^{s(q,q')/T}), both sums over images
    of other people ("Hot-refresh", ICLR 2022, where T is 0.01).

    Attributes:
        temperature: T.
    """

    needs: ClassVar[frozenset[str]] = CROSS

    temperature: float = 0.05

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"temperature {self.temperature!r} is not above 0")

    def __call__(self, v2: Tensor, labels: Tensor, v1: Tensor) -> Tensor:
        """Return the loss; arguments and errors as of `HarmonicTripletLoss`."""
        v1 = _frozen(v2, labels, v1)
        with torch.autocast(v2.device.type, enabled=False):
            wide = v2.float() if v2.dtype in (torch.float16, torch.bfloat16) else v2
            to_old = wide @ v1.to(wide).T / self.temperature
            to_new = wide @ wide.T / self.temperature
        same = labels[:, None] == labels
        to_old = to_old.masked_fill(same & ~_diagonal(same), -torch.inf)
        to_new = to_new.masked_fill(same, -torch.inf)
        everything = torch.logsumexp(torch.cat([to_old, to_new], dim=1), dim=1)
        return (everything - to_old.diagonal()).mean()


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
        if min(self.self_weight, self.cross_weight) < 0:
            raise UsageError("the weights of a loss are 0 or more")

    def __call__(self, v2: Tensor, labels: Tensor, v1: Tensor) -> Tensor:
        """Return the loss; arguments and errors as of `HarmonicTripletLoss`."""
        own = TripletLoss(self.margin)(v2, labels)
        cross = ContraRactLoss(self.temperature)(v2, labels, v1)
        return self.self_weight * own + self.cross_weight * cross


def _pools(name: str, pools: Sequence[str]) -> tuple[str, ...]:
    chosen = (pools,) if isinstance(pools, str) else tuple(pools)
    if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= {"new", "old"}:
        raise UsageError(f"{name} {chosen!r}: choose 'new', 'old' or both")
    return chosen


def _frozen(v2: Tensor, labels: Tensor, v1: Tensor) -> Tensor:
    """Check the three arguments; return `v1` without gradient, in the dtype and place of `v2`."""
    check_unit(v2, "new vectors")
    check_unit(v1, "old vectors")
    check_tensor_labels(labels, v2)
    if v1.shape[0] != v2.shape[0]:
        raise VectorError(
            f"{len(v2)} new and {len(v1)} old vectors; give both for every image, in one order"
        )
    if v1.shape[1] != v2.shape[1]:
        raise VectorError(
            f"new vectors have dimension {v2.shape[1]}, old ones {v1.shape[1]}; "
            "give v2 a head of v1's dimension and pass its output here"
        )
    return v1.detach().to(v2)


def _diagonal(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=torch.bool, device=like.device)


def _with_a_new_one(triplets: Triplets, is_new: Tensor) -> Triplets:
    kept = is_new[triplets.anchor] | is_new[triplets.positive] | is_new[triplets.negative]
    return Triplets(*(indices[kept] for indices in triplets))


def _weighted_mean(
    distances: Tensor, triplets: Triplets, margin: float, weights: Tensor | None
) -> Tensor:
    """Return the (weighted) mean of the triplets' hinges; 0, with a graph, if there are none."""
    anchor, positive, negative = triplets
    hinges = torch.relu(distances[anchor, positive] - distances[anchor, negative] + margin)
    total = hinges.sum() if weights is None else (weights * hinges).sum()
    count = len(anchor) if weights is None else float(weights.sum())
    return total / count if count > 0 else total
