"""What a loss can know of v1's classes: their mean vectors, and how wide they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from segue.errors import UsageError, VectorError
from segue.harmonic.loss_registry import check_class_numbers
from segue.harmonic.mining import check_tensor_labels, check_unit

if TYPE_CHECKING:
    from segue.types import Floats, Ints

    Vectors: TypeAlias = Tensor | Floats
    Labels: TypeAlias = Tensor | Ints


def class_means(vectors: Vectors, labels: Labels, classes: int | None = None) -> Tensor:
    """Return the mean vector of each class, normalised to unit length.

    Args:
        vectors: unit vectors, float [N, d], torch or numpy.
        labels: the class of each, int64 [N], from 0.
        classes: how many there are; by default one more than the largest label.

    Returns:
        float [classes, d], as the vectors.

    Raises:
        VectorError: no unit vectors, labels that are not numbers of classes, or a class without a
            direction: no vectors, or vectors that cancel out.

    >>> class_means(torch.eye(3), torch.tensor([0, 1, 1]))[1]
    tensor([0.0000, 0.7071, 0.7071])
    """
    vectors, labels = _checked(vectors, labels)
    if classes is None:
        classes = int(labels.max()) + 1 if len(labels) else 0
    check_class_numbers(labels, classes)
    sums = vectors.new_zeros(classes, vectors.shape[1]).index_add_(0, labels, vectors)
    lengths = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    flat = (lengths.squeeze(1) < 1e-6).nonzero()
    if len(flat):
        raise VectorError(
            f"class {int(flat[0])} has no mean direction: it has no vectors, or they cancel out; "
            "number the classes without gaps"
        )
    means: Tensor = sums / lengths
    return means


def class_radii(
    vectors: Vectors, labels: Labels, means: Tensor | None = None, *, quantile: float = 0.0
) -> Tensor:
    """Return for each class the cosine to its mean that all but its farthest vectors reach.

    Of n vectors the ⌊quantile · n⌋ farthest from the mean are left out: with 0 the radius is the
    smallest cosine (as `lce` needs it), with 0.1 that of the nearest 90 % (`mixbct`).

    Args:
        vectors: unit vectors, float [N, d], torch or numpy.
        labels: the class of each, int64 [N], from 0.
        means: the classes' means, float [classes, d]; by default `class_means` of the vectors.
        quantile: the share of each class to leave out, at least 0 and below 1.

    Returns:
        float [classes], within [-1, 1] but for rounding.

    Raises:
        UsageError: the quantile is out of range.
        VectorError: as `class_means`, or a class without vectors.
    """
    if not 0 <= quantile < 1:
        raise UsageError(f"quantile {quantile!r} is not at least 0 and below 1")
    vectors, labels = _checked(vectors, labels)
    means = class_means(vectors, labels) if means is None else means.detach().to(vectors)
    check_class_numbers(labels, len(means))
    counts = torch.bincount(labels, minlength=len(means))
    if bool((counts == 0).any()):
        raise VectorError(f"class {int(counts.argmin())} has no vectors, and so no radius")
    to_mean = own_cosines(vectors, means, labels)
    by_cosine = torch.argsort(to_mean)
    order = by_cosine[torch.argsort(labels[by_cosine], stable=True)]
    left_out = (counts * quantile + 1e-9).long()  # 0.29 · 100 is a little less than 29
    return to_mean[order[counts.cumsum(0) - counts + left_out]]


def own_cosines(vectors: Tensor, means: Tensor, labels: Tensor) -> Tensor:
    """Return the cosine of each vector to the mean of its own class, float [N]."""
    return (vectors * means[labels]).sum(1)


def _checked(vectors: Vectors, labels: Labels) -> tuple[Tensor, Tensor]:
    rows = vectors.detach() if isinstance(vectors, Tensor) else torch.from_numpy(np.array(vectors))
    people = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    check_unit(rows, "vectors")
    people = people.to(rows.device)
    check_tensor_labels(people, rows)
    return rows, people
