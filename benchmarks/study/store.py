"""Where cells lie: weights, JSON and vectors in a folder each, written whole or not at all."""

from __future__ import annotations

import fcntl
import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.files import write_durably

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from benchmarks.study.cells import Cell
    from segue.types import Floats

_WEIGHTS, _FACTS = "weights.safetensors", "cell.json"


class Store:
    """The folder of a study; several processes may work on it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("cells", "locks", "staging", "measured", "test"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def folder(self, cell: Cell) -> Path:
        """Return where a cell lies once it is done."""
        return self.root / "cells" / cell.digest

    def done(self, cell: Cell) -> bool:
        """Say whether a cell is stored."""
        return self.folder(cell).is_dir()

    def facts(self, cell: Cell) -> dict[str, Any]:
        """Return the JSON of a stored cell."""
        found: dict[str, Any] = json.loads((self.folder(cell) / _FACTS).read_text())
        return found

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Give the sole right to make a cell, or False where another process has it.

        The system takes the lock from a process that dies, so no lock is ever stale.
        """
        with (self.root / "locks" / cell.digest).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True

    def save(
        self,
        cell: Cell,
        weights: bytes,
        facts: Mapping[str, Any],
        vectors: Mapping[str, Mapping[str, Floats]],
    ) -> None:
        """Store a cell that was claimed: it appears with all its files, or not at all.

        Args:
            cell: what was trained.
            weights: safetensors; empty where nothing was trained.
            facts: seconds, steps and the like, as JSON values.
            vectors: part -> output -> unit vectors [N, d].
        """
        staging = self.root / "staging" / cell.digest
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        staging.mkdir()
        (staging / _WEIGHTS).write_bytes(weights)
        for part, outputs in vectors.items():
            np.savez(staging / f"vectors-{part}.npz", **outputs)
        told = {"label": cell.label, "digest": cell.digest, **facts}
        write_durably(staging / _FACTS, json.dumps(told, indent=1).encode())
        staging.replace(self.folder(cell))

    def weights(self, cell: Cell) -> bytes:
        """Return a stored cell's weights."""
        return (self.folder(cell) / _WEIGHTS).read_bytes()

    def vectors(self, cell: Cell, part: str) -> dict[str, Floats]:
        """Return a stored cell's vectors of a part's people by output, unit float32 [N, d]."""
        with np.load(self.folder(cell) / f"vectors-{part}.npz", allow_pickle=False) as content:
            return {name: content[name] for name in content.files}

    def has_vectors(self, cell: Cell, part: str) -> bool:
        """Say whether the vectors of a part's people are stored."""
        return (self.folder(cell) / f"vectors-{part}.npz").is_file()

    def add_vectors(self, cell: Cell, part: str, vectors: Mapping[str, Floats]) -> None:
        """Add the vectors of a part's people to a stored cell."""
        final = self.folder(cell) / f"vectors-{part}.npz"
        staged = self.root / "staging" / f"{cell.digest}-{part}.npz"
        np.savez(staged, **vectors)
        staged.replace(final)
