"""How a vector is stored: float32, or one signed byte per dimension.

int8 is symmetric (FaceNet 5.4: 128 floats in 128 bytes): codes are `round(127 · v / max|v|)`.
The scale of a vector is not stored: vectors have unit length, so decoding divides the codes by
their own length, which gives it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from segue.errors import UnknownNameError

if TYPE_CHECKING:
    from segue.types import Floats, Images

CODECS = ("float32", "int8")
"""The codecs that a gallery can be created with."""

_LARGEST = 127  # of a symmetric signed byte


def check_codec(codec: str) -> str:
    """Return `codec` if it is one.

    Raises:
        UnknownNameError: it is none.
    """
    if codec not in CODECS:
        raise UnknownNameError("codec", codec, CODECS)
    return codec


def encode(vectors: Floats, codec: str) -> Images:
    """Encode unit float32 [N, d] as bytes: uint8 [N, 4 d] (little-endian floats) or [N, d].

    >>> encode(np.eye(2, dtype=np.float32), "int8").tolist()
    [[127, 0], [0, 127]]
    """
    if check_codec(codec) == "float32":
        raw = np.ascontiguousarray(vectors, dtype="<f4")
        return raw.view(np.uint8).reshape(len(raw), 4 * raw.shape[1])
    largest = np.abs(vectors).max(axis=1, keepdims=True) if len(vectors) else np.ones((0, 1))
    codes = np.rint(vectors / np.maximum(largest, np.finfo(np.float32).tiny) * _LARGEST)
    return np.ascontiguousarray(codes.astype(np.int8)).view(np.uint8)


def decode_vectors(codes: Images, codec: str) -> Floats:
    """Decode what `encode` made: unit float32 [N, d].

    >>> decode_vectors(encode(np.eye(2, dtype=np.float32), "int8"), "int8").tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    codes = np.ascontiguousarray(codes)
    if check_codec(codec) == "float32":
        return cast("Floats", codes.view("<f4").astype(np.float32))
    values = codes.view(np.int8).astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return cast("Floats", (values / np.maximum(lengths, 1.0)).astype(np.float32))


def stored_vectors(vectors: Floats, codec: str) -> Floats:
    """Return the vectors as they read back after a round trip through `codec`."""
    return decode_vectors(encode(vectors, codec), codec)
