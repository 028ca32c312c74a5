"""Making cells: train, embed, store; by one process or several on one folder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.study.cells import START, TIED, TWIN, V1
from benchmarks.study.people import CALIBRATION, TRAIN, VALIDATION
from segue.errors import SegueError
from segue.networks import TorchRunner, embed
from segue.train import train_base, train_harmonic, train_twin
from segue.train.settings import HarmonicSettings, TrainSettings
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.study.cells import Cell
    from benchmarks.study.people import People
    from benchmarks.study.store import Store
    from segue.images import FaceList
    from segue.networks import EmbeddingNetwork
    from segue.train import Trained
    from segue.types import Floats, Preprocessing

_WAIT = 5.0  # seconds until a process looks again for something to do


def make_cells(
    cells: Sequence[Cell], store: Store, people: People, say: Callable[[str], None] = print
) -> list[str]:
    """Make every cell that is not stored; return what could not be made.

    Other processes may do the same on the same folder: each takes the first cell that nobody works
    on and whose needs are stored, and waits where there is none.
    """
    failed: dict[str, str] = {}
    while left := [cell for cell in cells if not store.done(cell) and cell.digest not in failed]:
        worked = False
        for cell in left:
            if lost := [need for need in cell.needs if need.digest in failed]:
                failed[cell.digest] = f"{cell.label}: it needs {lost[0].label}"
                worked = True
                break
            if store.done(cell) or not all(store.done(need) for need in cell.needs):
                continue
            with store.claim(cell) as claimed:
                if claimed and not store.done(cell):
                    worked = True
                    try:
                        make_cell(cell, store, people, say)
                    except SegueError as error:
                        failed[cell.digest] = f"{cell.label}: {error}"
                        say(f"failed: {failed[cell.digest]}")
            if worked:
                break
        if not worked:
            time.sleep(_WAIT)
    return list(failed.values())


def make_cell(cell: Cell, store: Store, people: People, say: Callable[[str], None]) -> None:
    """Train a cell, embed the people of validation and calibration, store it."""
    begun = time.monotonic()
    faces = people.old() if cell.kind == V1 else people.train(cell.noise, cell.index)
    trained = _train(cell, store, faces)
    parts = {part: people.measured(part) for part in (VALIDATION, CALIBRATION)}
    if cell.kind == V1:
        parts[TRAIN] = people.train()
    vectors = {
        part: embed_faces(trained.network, trained.preprocessing, chosen)
        for part, chosen in parts.items()
    }
    history = trained.history[-1]
    facts = {
        "seconds": round(trained.seconds, 1),
        "whole_seconds": round(time.monotonic() - begun, 1),
        "steps": int(history["step"]),
        "last": history,
        "people": len(faces.people),
        "images": len(faces),
        "noise": cell.noise,
        "digest": cell.digest,
        "needs": [need.digest for need in cell.needs],
        "training": _plain(cell),
    }
    store.save(cell, trained.network, trained.preprocessing, facts, vectors)
    say(f"{cell.label}: {facts['steps']} steps, {facts['whole_seconds']:.0f} s, {cell.digest}")


def embed_faces(
    network: EmbeddingNetwork, preprocessing: Preprocessing, faces: FaceList
) -> dict[str, Floats]:
    """Embed faces: per output, unit vectors float32 [N, d] in their order."""
    images = faces.load((preprocessing.height, preprocessing.width))
    return embed(TorchRunner(network), images, preprocessing)


def _train(cell: Cell, store: Store, faces: FaceList) -> Trained:
    settings = cell.settings
    if cell.kind in {V1, START}:
        assert isinstance(settings, TrainSettings)
        return train_base(faces, settings)
    assert isinstance(settings, HarmonicSettings)
    start, preprocessing = store.network(cell.need(START))
    if cell.kind == TWIN:
        return train_twin(faces, settings, start=start, preprocessing=preprocessing)
    assert cell.kind == TIED
    # v1's vectors lie in the order of the images, which wrong labels do not change.
    old = store.vectors(cell.need(V1), TRAIN)[DEFAULT_OUTPUT]
    return train_harmonic(
        faces, settings, start=start, old_vectors=old, preprocessing=preprocessing
    )


def _plain(cell: Cell) -> dict[str, object]:
    from benchmarks.study.cells import describe

    return describe(cell.kind, cell.settings)
