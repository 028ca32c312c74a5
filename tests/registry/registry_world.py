"""The small network that the registry's tests register."""

from __future__ import annotations

from segue.types import Preprocessing

SIZE = 32
PREPROCESSING = Preprocessing(SIZE, SIZE)
SETTINGS = {"width": 2, "dimension": 8}
