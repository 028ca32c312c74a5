"""Witnesses: fixed drawn inputs and the vectors that a version gave for them when registered.

A model whose weights, preprocessing, code or runtime changed gives other vectors for the same
inputs. Its stored vectors and its new ones would then be of two spaces under one name; the witness
check refuses such a model when it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.errors import UnsafeModelError, WitnessError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segue.registry.embedder import RegistryEmbedder
    from segue.types import Floats, Images

WITNESSES = 8
"""How many images a witness set has."""

TOLERANCE = 1e-5
"""Largest squared distance between a witness's vector then and now."""

_SEED = 20150312
_WAVES = 4


def draw_witnesses(height: int, width: int, count: int = WITNESSES) -> Images:
    """Draw the inputs: smooth coloured waves with grain, uint8 [count, height, width, 3].

    They show nobody. They are stored with the version, so that a later numpy that draws others does
    no harm.

    >>> draw_witnesses(8, 6).shape
    (8, 8, 6, 3)
    """
    random = np.random.default_rng(_SEED)
    y = np.linspace(0.0, 1.0, height)[None, :, None, None]
    x = np.linspace(0.0, 1.0, width)[None, None, :, None]
    images = np.zeros((count, height, width, 3))
    for _ in range(_WAVES):
        fy, fx, phase = (random.uniform(-6.0, 6.0, (count, 1, 1, 3)) for _ in range(3))
        images += random.uniform(0.2, 1.0, (count, 1, 1, 3)) * np.cos(fy * y + fx * x + phase)
    images = 128.0 + 50.0 * images + random.normal(0.0, 12.0, images.shape)
    return np.clip(images, 0, 255).astype(np.uint8)


def make_witness(embedder: RegistryEmbedder) -> bytes:
    """Embed the drawn inputs and return inputs and vectors as one safetensors file.

    Raises:
        VectorError: the model gives NaN or a vector of length 0 for one of them.
    """
    from safetensors.numpy import save

    images = draw_witnesses(*embedder.input_size)
    vectors = embedder.embed(images)
    tensors = {"images": images, **{f"vectors.{name}": v for name, v in vectors.items()}}
    content: bytes = save(tensors)
    return content


def check_witness(embedder: RegistryEmbedder, content: bytes) -> float:
    """Embed the stored inputs again and return the worst squared distance to the stored vectors.

    Raises:
        WitnessError: it is above `TOLERANCE`, or an output is missing.
        UnsafeModelError: `content` is no witness file.
    """
    images, stored = _read(content)
    vectors = embedder.embed(images)
    worst = 0.0
    for name, then in stored.items():
        now = vectors.get(name)
        if now is None or now.shape != then.shape:
            raise WitnessError(embedder.version, 4.0, TOLERANCE)
        difference = now.astype(np.float64) - then.astype(np.float64)
        worst = max(worst, float((difference**2).sum(axis=1).max()))
    if not worst <= TOLERANCE:
        raise WitnessError(embedder.version, worst, TOLERANCE)
    return worst


def _read(content: bytes) -> tuple[Images, Mapping[str, Floats]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise UnsafeModelError("witness.safetensors", f"no safetensors file ({error})") from error
    vectors = {
        key.removeprefix("vectors."): value
        for key, value in tensors.items()
        if key.startswith("vectors.")
    }
    if "images" not in tensors or not vectors:
        raise UnsafeModelError("witness.safetensors", "it holds no witnesses")
    return tensors["images"], vectors
