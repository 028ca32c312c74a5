"""Random changes of prepared images, a function of the generator that is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from segue.train.settings import LoopSettings


def augment(batch: Tensor, settings: LoopSettings, generator: np.random.Generator) -> Tensor:
    """Mirror, move, zoom, turn, brighten and stretch images: float32 [N, 3, h, w], same shape.

    Each image gets its own changes, drawn evenly between the limits that `settings` name; colour is
    changed around the image's mean. Pixels from outside repeat the border.
    """
    count = len(batch)

    def draw(limit: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return generator.uniform(-limit, limit, count)

    mirror = np.where(generator.random(count) < 0.5, -1.0, 1.0) if settings.flip else 1.0
    angle, size = np.deg2rad(draw(settings.rotation)), 1 + draw(settings.zoom)
    across, down = draw(2 * settings.shift), draw(2 * settings.shift)
    cosine, sine = np.cos(angle) / size, np.sin(angle) / size
    # Where each output pixel is read from, in coordinates from -1 to 1.
    rows = [[mirror * cosine, -mirror * sine, across], [sine, cosine, down]]
    maps = np.stack([np.stack(np.broadcast_arrays(*row), axis=-1) for row in rows], axis=1)
    grid = functional.affine_grid(
        torch.from_numpy(maps.astype(np.float32)), list(batch.shape), align_corners=False
    )
    moved = functional.grid_sample(batch, grid, padding_mode="border", align_corners=False)
    stretch, lift = 1 + draw(settings.contrast), draw(2 * settings.brightness)
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    return (moved - mean) * _column(stretch) + mean + _column(lift)


def _column(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None, None]
