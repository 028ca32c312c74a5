"""The study's faces: parts, the ten images of each person that are measured, and wrong labels."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from segue.images import FaceList, read_faces

if TYPE_CHECKING:
    from pathlib import Path

TRAIN, VALIDATION, CALIBRATION, TEST = "train", "validation", "calibration", "test"

IMAGES_PER_PERSON = 10
"""Of a person who is measured."""

NOISE_SEED = 9


class People:
    """The faces below a folder, by part; and the folder of foreign models."""

    def __init__(self, folder: Path, models: Path) -> None:
        self._folder, self.models = folder, models

    @cached_property
    def _faces(self) -> FaceList:
        return read_faces(self._folder)

    @cached_property
    def fingerprint(self) -> str:
        """Names the faces of all parts but test, whose images this does not read."""
        return self._faces.part(TRAIN, VALIDATION, CALIBRATION).fingerprint

    @cached_property
    def test_fingerprint(self) -> str:
        """Names the faces of part test; for whoever opens it."""
        return self._faces.part(TEST).fingerprint

    def old(self) -> FaceList:
        """Return the faces that v1 is trained on."""
        return self._faces.part(TRAIN, old_only=True)

    def train(self, noise: float = 0.0, index: int = 0) -> FaceList:
        """Return the faces that v2 is trained on, a share of them with wrong labels."""
        return mislabelled(self._faces.part(TRAIN), noise, index)

    def measured(self, part: str) -> FaceList:
        """Return a part's faces, at most ten of a person."""
        return self._faces.part(part).at_most(IMAGES_PER_PERSON, 0)


def mislabelled(faces: FaceList, share: float, index: int) -> FaceList:
    """Give a share of the images the label of a random other person, in place.

    People are drawn with equal chances, images without replacement; `index` seeds both.
    """
    if not share:
        return faces
    random = np.random.default_rng([NOISE_SEED, index])
    people = np.array(faces.people)
    changed = list(faces.faces)
    for row in random.permutation(len(faces))[: round(share * len(faces))]:
        others = people[people != changed[row].person]
        changed[row] = replace(changed[row], person=str(random.choice(others)))
    return FaceList(tuple(changed), faces.root)
