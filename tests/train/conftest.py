"""Generated faces: each person is a fixed smooth pattern, each image a noisy copy of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from train_world import BASE

from segue.arrays import normalise
from segue.images import Face, FaceList
from segue.train import train_base

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


@pytest.fixture(scope="session")
def v1(faces):
    """A short base training, the old version of these tests."""
    return train_base(faces, BASE)


@pytest.fixture(scope="session")
def v2(faces):
    """A short base training with another seed, to start from."""
    return train_base(faces, dataclasses.replace(BASE, seed=7))


@pytest.fixture(scope="session")
def old_vectors(faces):
    """Vectors of a good old version: a direction for each person, with noise for each image."""
    generator = np.random.default_rng(11)
    people = generator.normal(size=(len(faces.people), 6))
    return normalise(people[faces.labels] + generator.normal(scale=0.2, size=(len(faces), 6)))
