"""What a runner is, and embedding decoded images with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from segue.arrays import normalise
from segue.errors import VectorError
from segue.networks.preprocess import prepare

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

    Images are prepared batch by batch, so that memory holds one batch as floats. Where the
    preprocessing says `flip`, an image's vector is the normalised mean of its own and its mirror
    image's.

    Raises:
        VectorError: images of another size, or a vector with NaN or of length 0.
    """
    straight = _embed(runner, images, preprocessing)
    if not preprocessing.flip:
        return straight
    mirrored = _embed(runner, np.ascontiguousarray(images[:, :, ::-1]), preprocessing)
    return {name: normalise(straight[name] + mirrored[name]) for name in straight}


def _embed(runner: Runner, images: Images, preprocessing: Preprocessing) -> dict[str, Floats]:
    parts = [
        runner.run(prepare(images[start : start + BATCH], preprocessing))
        for start in range(0, max(len(images), 1), BATCH)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in runner.outputs}


def check_batch(batch: Floats) -> None:
    """Check that a batch is float32 [N, 3, h, w].

    Raises:
        VectorError: it is not.
    """
    if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1] != 3:
        raise VectorError(
            f"a batch is {batch.dtype} {batch.shape}; give float32 [N, 3, h, w] from `prepare`"
        )
