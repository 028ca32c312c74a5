"""Making cells: train, embed, store; by one process or several on one folder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from safetensors.torch import save as save_tensors

from benchmarks.study.cells import FOREIGN, HEAD, START, TWIN, V1, describe
from benchmarks.study.foreign import ForeignModel, apply_head, train_head
from benchmarks.study.people import CALIBRATION, TRAIN, VALIDATION
from segue.errors import SegueError
from segue.harmonic.bridges import fit_retuning
from segue.networks import TorchRunner, embed, load_network, save_weights
from segue.networks.weights import read_tensors
from segue.train import HarmonicSettings, TrainSettings, train_base, train_harmonic, train_twin
from segue.types import DEFAULT_OUTPUT, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.study.cells import Cell
    from benchmarks.study.people import People
    from benchmarks.study.store import Store
    from segue.harmonic import Bridge
    from segue.images import FaceList
    from segue.networks import EmbeddingNetwork
    from segue.train import Trained
    from segue.types import Floats, Ints

OLD_VERSION = "study/1"
"""v1, to the maps of its vectors."""

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
    weights, facts = _train(cell, store, faces)
    # What others are trained on is embedded in the order of the images, right labels or wrong.
    needed = (TRAIN,) if cell.kind in {V1, FOREIGN} else ()
    embedder = _Embedder(cell, store, people, weights, facts)
    vectors = {part: embedder.embed(part) for part in (VALIDATION, CALIBRATION, *needed)}
    told = {
        **facts,
        "whole_seconds": round(time.monotonic() - begun, 1),
        "people": len(faces.people),
        "images": len(faces),
        "noise": cell.noise,
        "needs": [need.digest for need in cell.needs],
        "training": describe(cell.kind, cell.settings),
    }
    store.save(cell, weights, told, vectors)
    say(f"{cell.label}: {told['steps']} steps, {told['whole_seconds']:.0f} s, {cell.digest}")


def embed_later(cell: Cell, store: Store, people: People, part: str) -> None:
    """Embed a part's people by a stored cell, and add the vectors to it."""
    for need in cell.needs:
        if cell.kind == HEAD and need.kind == FOREIGN and not store.has_vectors(need, part):
            embed_later(need, store, people, part)
    embedder = _Embedder(cell, store, people, store.weights(cell), store.facts(cell))
    store.add_vectors(cell, part, embedder.embed(part))


class _Embedder:
    """Embeds people by a cell's weights and facts, which need not be stored yet."""

    def __init__(
        self, cell: Cell, store: Store, people: People, weights: bytes, facts: Mapping[str, Any]
    ) -> None:
        self._cell, self._store, self._people = cell, store, people
        self._weights, self._facts = weights, facts

    def embed(self, part: str) -> dict[str, Floats]:
        """Embed a part's people; of part train all images, else at most ten of a person."""
        cell, settings = self._cell, self._cell.settings
        if cell.kind == HEAD:
            features = self._store.vectors(cell.need(FOREIGN), part)[DEFAULT_OUTPUT]
            return apply_head(features, read_tensors(self._weights, cell.label))
        faces = self._people.train() if part == TRAIN else self._people.measured(part)
        if isinstance(settings, ForeignModel):
            return settings.embed(self._people.models, faces)
        network, preprocessing = _network(cell, self._weights, self._facts)
        images = faces.load((preprocessing.height, preprocessing.width))
        return embed(TorchRunner(network), images, preprocessing)


def _train(cell: Cell, store: Store, faces: FaceList) -> tuple[bytes, dict[str, Any]]:
    """Return a cell's weights and what is to be told of its training."""
    settings = cell.settings
    if isinstance(settings, ForeignModel):
        return b"", {"seconds": 0.0, "steps": 0}
    if cell.kind in {V1, START}:
        assert isinstance(settings, TrainSettings)
        return _kept(train_base(faces, settings))
    assert isinstance(settings, HarmonicSettings)
    if cell.kind == HEAD:
        features, old = (
            store.vectors(cell.need(kind), TRAIN)[DEFAULT_OUTPUT] for kind in (FOREIGN, V1)
        )
        head, seconds = train_head(features, faces.labels, old, settings)
        return save_tensors(head), {"seconds": round(seconds, 1), "steps": settings.head_steps}
    begun = cell.need(START)
    start, preprocessing = _network(begun, store.weights(begun), store.facts(begun))
    if cell.kind == TWIN:
        return _kept(train_twin(faces, settings, start=start, preprocessing=preprocessing))
    old = store.vectors(cell.need(V1), TRAIN)[DEFAULT_OUTPUT]
    if cell.retuned:
        old = retuning(old, faces.labels).apply(old, version=OLD_VERSION)
    return _kept(
        train_harmonic(faces, settings, start=start, old_vectors=old, preprocessing=preprocessing)
    )


def retuning(vectors: Floats, labels: Ints) -> Bridge:
    """Return the map that retunes v1's vectors of part train, as labelled for v2."""
    return fit_retuning(vectors, labels, version=OLD_VERSION)


def _kept(trained: Trained) -> tuple[bytes, dict[str, Any]]:
    last = trained.history[-1]
    return save_weights(trained.network), {
        "seconds": round(trained.seconds, 1),
        "steps": int(last["step"]),
        "last": last,
        "architecture": trained.architecture,
        "network": trained.settings,
        "preprocessing": trained.preprocessing.to_json(),
    }


def _network(
    cell: Cell, weights: bytes, facts: Mapping[str, Any]
) -> tuple[EmbeddingNetwork, Preprocessing]:
    network = load_network(facts["architecture"], facts["network"], weights, source=cell.label)
    return network, Preprocessing.from_json(facts["preprocessing"])
