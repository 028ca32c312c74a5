"""Generated faces: each person is a fixed smooth pattern, each image a noisy copy of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segue.images import Face, FaceList

COUNTS = (4, 4, 3, 3, 2, 2, 1, 1, 1)
"""Images of each generated person: six can be anchors, three are negatives only."""


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """Nine people of one to four images each, 32 x 32 pixels, on disk."""
    root = tmp_path_factory.mktemp("faces")
    generator = np.random.default_rng(5)
    found = []
    for person, count in enumerate(COUNTS):
        pattern = np.kron(generator.uniform(40, 215, (4, 4, 3)), np.ones((8, 8, 1)))
        for number in range(count):
            noisy = pattern + generator.normal(scale=12, size=pattern.shape)
            path = root / f"p{person}" / f"p{person}_{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
            found.append(Face(f"p{person}", path, "train"))
    return FaceList(tuple(found), root)
