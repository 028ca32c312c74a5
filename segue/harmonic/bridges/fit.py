"""Kinds of bridges by name, and fitting one of them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from segue.arrays import check_labels, check_vectors
from segue.errors import (
    EvaluationError,
    InvalidNameError,
    PeopleError,
    UnknownNameError,
    UsageError,
    VectorError,
)
from segue.harmonic.bridges.bridge import Bridge, Correction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike

    from segue.types import Doubles, Ints

FOLDS = 5
"""Folds of people in every cross-validation that chooses something."""


class Fitted(NamedTuple):
    """What a fitter returns: `source @ matrix + bias`, and the correction, is near `target`.

    Shapes: matrix float64 [d1, d2], bias float64 [d2]; `settings` says what was chosen, as JSON
    values.
    """

    matrix: Doubles
    bias: Doubles
    settings: dict[str, Any]
    correction: Correction | None = None


class Fitter(Protocol):
    """A kind of bridge: fits on unit vectors [N, d1] and [N, d2] of the same images."""

    def __call__(self, source: Doubles, target: Doubles, groups: Ints, seed: int) -> Fitted:
        """Fit; `groups` int64 [N] says which rows show one person (each its own if unknown)."""


FITTERS: dict[str, Fitter] = {}
"""The registered kinds, in the order of registration: of ours, the simplest first."""

_F = TypeVar("_F", bound=Fitter)


def register_bridge(kind: str) -> Callable[[_F], _F]:
    """Register a fitter under a name that `fit_bridge` then knows.

    Raises:
        InvalidNameError: the name is taken.
    """
    if kind in FITTERS:
        raise InvalidNameError("new kind of bridge", kind, "the name is taken; choose another")

    def register(fitter: _F) -> _F:
        FITTERS[kind] = fitter
        return fitter

    return register


def list_bridges() -> tuple[str, ...]:
    """Return the registered kinds, sorted.

    >>> list_bridges()
    ('low_rank', 'mlp', 'procrustes', 'ridge')
    """
    return tuple(sorted(FITTERS))


def fit_bridge(
    kind: str,
    source: ArrayLike,
    target: ArrayLike,
    *,
    source_version: str,
    target_version: str,
    source_fingerprint: str = "",
    target_fingerprint: str = "",
    seed: int = 0,
    labels: ArrayLike | None = None,
) -> Bridge:
    """Fit a map from `source` to `target`, which embed the same images in the same order.

    Args:
        kind: a registered kind, see `list_bridges`.
        source: unit vectors of the source version, float [N, d1].
        target: unit vectors of the target version, float [N, d2].
        source_version: the version of `source`, such as `faces/2`.
        target_version: the version of `target`, such as `faces/1`.
        source_fingerprint: fingerprint of the source version.
        target_fingerprint: fingerprint of the target version.
        seed: of the folds and of the network's weights, where a kind has them.
        labels: who each row shows, [N]; folds are then over people, as they should be.

    Raises:
        UnknownNameError: no such kind.
        UsageError: source and target are one version.
        VectorError: no unit vectors, or not one target per source.
        EvaluationError: fewer than two rows.
        PeopleError: `labels` name fewer than two people and the kind needs folds.
    """
    if kind not in FITTERS:
        raise UnknownNameError("kind of bridge", kind, FITTERS)
    if source_version == target_version:
        raise UsageError(f"a bridge joins two versions; both are {source_version}")
    left, right = check_pairs(source, target)
    groups = np.arange(len(left)) if labels is None else check_labels(labels, len(left))
    fitted = FITTERS[kind](left, right, groups, seed)
    people = {} if labels is None else {"people": len(np.unique(groups))}
    return Bridge(
        kind=kind,
        source_version=source_version,
        target_version=target_version,
        source_fingerprint=source_fingerprint,
        target_fingerprint=target_fingerprint,
        matrix=fitted.matrix.astype(np.float32),
        bias=fitted.bias.astype(np.float32),
        settings={**fitted.settings, "images": len(left), **people},
        correction=fitted.correction,
    )


def check_pairs(source: ArrayLike, target: ArrayLike) -> tuple[Doubles, Doubles]:
    """Return unit vectors float64 [N, d1] and [N, d2] of the same N >= 2 images.

    Raises:
        VectorError: no unit vectors, or not one target per source.
        EvaluationError: fewer than two rows.
    """
    left = check_vectors(source, name="source vectors").astype(np.float64)
    right = check_vectors(target, name="target vectors").astype(np.float64)
    if len(left) != len(right):
        raise VectorError(
            f"{len(left)} source vectors and {len(right)} target vectors; "
            "give one of each for every image, in the same order"
        )
    if len(left) < 2:
        raise EvaluationError("a bridge needs vectors of at least two images under both versions")
    return left, right


def people_folds(groups: Ints, seed: int, folds: int = FOLDS) -> Ints:
    """Return each row's fold, int64 [N]: whole groups, shuffled by `seed`, dealt in turn.

    Raises:
        PeopleError: all rows are of one group.
    """
    _, members = np.unique(groups, return_inverse=True)
    count = int(members.max()) + 1
    if count < 2:
        raise PeopleError("choosing a bridge's settings needs images of at least two people")
    order = np.random.default_rng(seed).permutation(count)
    fold_of_group = np.empty(count, dtype=np.int64)
    fold_of_group[order] = np.arange(count) % min(folds, count)
    return np.asarray(fold_of_group[members])


def mapped_distances(mapped: Doubles, target: Doubles) -> Doubles:
    """Return the squared distance of each normalised row to its unit target: float64 [N]."""
    lengths = np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)
    return np.asarray(np.square(mapped / lengths - target).sum(axis=1))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: sums are then always of one order, and the bytes the same."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
