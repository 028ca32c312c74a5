"""Squared L2 distances between unit vectors: 0 for the same direction, 4 for the opposite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.arrays import check_vectors

if TYPE_CHECKING:
    from segue.types import Floats


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Return the squared L2 distance of every row of `a` to every row of `b`.

    For unit vectors ‖a - b‖² = 2 - 2 a·b (FaceNet, section 3). Computed in float32, so distances
    below about 1e-6 are rounding.

    Args:
        a: unit vectors, float [N, d].
        b: unit vectors, float [M, d].

    Returns:
        float32 [N, M], within [0, 4].

    Raises:
        VectorError: not unit vectors, not finite, or of two dimensions.

    >>> squared_distances([[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]).tolist()
    [[0.0, 2.0, 4.0]]
    """
    left = check_vectors(a)
    right = check_vectors(b, dimension=left.shape[1])
    distances: Floats = left @ right.T
    distances *= -2
    distances += 2
    return np.clip(distances, 0, 4, out=distances)
