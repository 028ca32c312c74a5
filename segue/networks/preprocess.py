"""From decoded images to a network's input, in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.arrays import check_images
from segue.errors import UsageError

if TYPE_CHECKING:
    from segue.types import Floats, Images, Preprocessing

_ORDERS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}


def prepare(images: Images, preprocessing: Preprocessing) -> Floats:
    """Turn RGB images uint8 [N, height, width, 3] into network input float32 [N, 3, height, width].

    Each value is divided by 255, then `(x - mean) / std` per channel, `mean` and `std` being given
    in the order that `preprocessing.colour` names (`RGB` or `BGR`).

    Raises:
        VectorError: other dtype or size than the preprocessing's.
        UsageError: another order of colours, or a `std` that is not positive.

    >>> from segue.types import Preprocessing
    >>> prepare(np.full((1, 2, 2, 3), 255, np.uint8), Preprocessing(2, 2))[0, 0].tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    checked = check_images(images, (preprocessing.height, preprocessing.width))
    if preprocessing.colour not in _ORDERS:
        raise UsageError(f"colour order {preprocessing.colour!r}; use RGB or BGR")
    mean = np.asarray(preprocessing.mean, dtype=np.float32)
    std = np.asarray(preprocessing.std, dtype=np.float32)
    if not (std > 0).all():
        raise UsageError(f"std {preprocessing.std} of the preprocessing; give positive numbers")
    channels = checked[..., list(_ORDERS[preprocessing.colour])].astype(np.float32)
    normalised = (channels / np.float32(255) - mean) / std
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))
