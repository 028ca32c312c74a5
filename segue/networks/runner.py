"""What a runner is, and embedding decoded images with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from segue.arrays import normalise
from segue.errors import VectorError
from segue.networks.preprocess import prepare
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segue.types import Floats, Images, Preprocessing

BATCH = 128
"""Images that a runner takes at once; larger calls are cut into such batches."""


class Runner(Protocol):
    """A loaded model: prepared batches in, unit vectors out."""

    @property
    def outputs(self) -> Mapping[str, int]:
        """Output name -> dimension."""

    def run(self, batch: Floats) -> dict[str, Floats]:
        """Embed float32 [N, 3, h, w]: per output, unit float32 [N, d]."""


def embed(runner: Runner, images: Images, preprocessing: Preprocessing) -> dict[str, Floats]:
    """Embed RGB images uint8 [N, height, width, 3]: per output, unit float32 [N, d].

    Images are prepared batch by batch, so that memory holds one batch as floats.

    Raises:
        VectorError: images of another size, or a vector with NaN or of length 0.
    """
    parts = [
        runner.run(prepare(images[start : start + BATCH], preprocessing))
        for start in range(0, max(len(images), 1), BATCH)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in runner.outputs}


def embed_flipped(
    runner: Runner,
    images: Images,
    preprocessing: Preprocessing,
    output: str = DEFAULT_OUTPUT,
) -> Floats:
    """Embed each image and its mirror image, and average: unit float32 [N, d].

    The usual small gain of face verification at twice the cost; both sides of a comparison must be
    embedded the same way.

    Raises:
        VectorError: as `embed`.
    """
    straight = embed(runner, images, preprocessing)[output]
    mirrored = embed(runner, np.ascontiguousarray(images[:, :, ::-1]), preprocessing)[output]
    return normalise(straight + mirrored)


def check_batch(batch: Floats) -> None:
    """Check that a batch is float32 [N, 3, h, w].

    Raises:
        VectorError: it is not.
    """
    if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1] != 3:
        raise VectorError(
            f"a batch is {batch.dtype} {batch.shape}; give float32 [N, 3, h, w] from `prepare`"
        )
