"""The one place where shape, dtype, unit length and NaN of arrays from outside are checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import UnitLengthError, VectorError

if TYPE_CHECKING:
    from segue.types import Floats, Images, Ints

UNIT_TOLERANCE = 1e-3
"""How far a length may be from 1 before a vector is called not normalised."""


def check_vectors(
    value: Any, *, dimension: int | None = None, unit: bool = True, name: str = "vectors"
) -> Floats:
    """Return `value` as contiguous float32 [N, d].

    With `unit` the rows must have length 1 within 1e-3 and are normalised exactly; a caller who has
    raw network outputs calls `normalise` first.

    Raises:
        VectorError: not two-dimensional, of another dimension, or not finite.
        UnitLengthError: not of unit length.

    >>> check_vectors([[0.6, 0.8]]).dtype
    dtype('float32')
    """
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise VectorError(f"{name} are no array of numbers: {error}") from error
    if array.ndim != 2:
        raise VectorError(f"{name} have shape {array.shape}; give them as [N, d]")
    if dimension is not None and array.shape[1] != dimension:
        raise VectorError(
            f"{name} have dimension {array.shape[1]}, the version has {dimension}; "
            "they come from another model"
        )
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise VectorError(
            f"{name}: {int((~finite).sum())} of {len(array)} rows hold NaN or infinity "
            f"(first: row {int(np.argmin(finite))}); remove or embed them again"
        )
    if unit and len(array):
        lengths = np.linalg.norm(array, axis=1)
        worst = float(np.abs(lengths - 1).max())
        if worst > UNIT_TOLERANCE:
            raise UnitLengthError(name, worst)
        array = array / lengths[:, None]
    return np.ascontiguousarray(array, dtype=np.float32)


def normalise(value: Any, *, dimension: int | None = None, name: str = "vectors") -> Floats:
    """Return the rows of `value` divided by their L2 length, as float32 [N, d].

    Raises:
        VectorError: as `check_vectors`, or a row of length 0.

    >>> normalise([[3.0, 4.0]]).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    array = check_vectors(value, dimension=dimension, unit=False, name=name).astype(np.float64)
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise VectorError(f"{name} hold a vector of length 0, which has no direction")
    return np.ascontiguousarray(array / lengths, dtype=np.float32)


def check_labels(value: Any, count: int, name: str = "labels") -> Ints:
    """Return `value` as int64 [count]; any hashable labels are numbered in order of first use.

    Raises:
        VectorError: not one label for each of `count` rows.

    >>> check_labels(["b", "a", "b"], 3).tolist()
    [0, 1, 0]
    """
    array = np.asarray(value)
    if array.shape != (count,):
        raise VectorError(f"{name} have shape {array.shape}; give one for each of {count} rows")
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(x, len(numbers)) for x in array.tolist()], dtype=np.int64)


def check_images(value: Any, size: tuple[int, int]) -> Images:
    """Return `value` as uint8 [N, height, width, 3].

    Raises:
        VectorError: another dtype or shape.
    """
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (*size, 3):
        raise VectorError(
            f"images are {array.dtype} {array.shape}; give uint8 [N, {size[0]}, {size[1]}, 3]"
        )
    return np.ascontiguousarray(array)
