"""What is trained, each once: cells, named by a hash of everything that they depend on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from benchmarks.study.foreign import ForeignModel
from segue.files import sha256_bytes
from segue.train.settings import HarmonicSettings, LoopSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from benchmarks.study.recipes import Recipe, Study
    from segue.harmonic import Loss

V1, START, TWIN, TIED = "v1", "start", "twin", "tied"
"""Kinds of cells: v1, the independent v2 to start from, its twin, and a v2 tied to v1."""

FOREIGN, HEAD = "foreign", "head"
"""A model that was not trained here, in place of start and twin; and a head on its vectors."""

RETUNED = "retuned"
"""v1's vectors, mapped: no cell, as the map is fitted in a second."""

CODE = {V1: 1, START: 1, TWIN: 1, TIED: 1, FOREIGN: 1, HEAD: 1, RETUNED: 2}
"""Raised by hand where a change of Segue's code changes what a training gives."""

LATER: dict[str, Any] = {
    "head_last": False,
    "head_images": 0,
    "head_people": 256,
    "head_singles": 256,
    "own_contrast": 0.0,
    "mine_every": 0,
    "mine_images": 2000,
}
"""Settings that Segue has got since cells were stored, with the value that means "as before"."""

_ANYWHERE = ("device", "log_every", "checkpoint_every")
_HEAD = (
    *("loss", "loss_settings", "head_steps", "head_learning_rate", "head_dropout", "seed"),
    *("weight_decay", "warmup", "people_per_batch", "images_per_person", "singles_per_batch"),
)
_TIE = (
    *("loss", "loss_settings", "cross_weight", "separate_head", "head_dropout"),
    "own_contrast",
)


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        kind: one of the kinds above.
        label: for people; no part of the name.
        settings: of the training, with its seed; or the foreign model.
        index: which of the study's seeds it is of.
        noise: share of the training images with another person's label.
        data: fingerprint of the faces of all parts but test.
        needs: kind -> the cells whose results it takes.
        retuned: v1's vectors are retuned before it is trained against them.
    """

    kind: str
    label: str
    settings: LoopSettings | ForeignModel
    index: int
    noise: float
    data: str
    needs: tuple[Cell, ...] = ()
    retuned: bool = False

    @cached_property
    def digest(self) -> str:
        """Names the cell: 16 hexadecimal digits."""
        told = {
            "kind": self.kind,
            "code": CODE[self.kind],
            "settings": describe(self.kind, self.settings),
            "data": self.data,
            "noise": [self.noise, self.index] if self.noise else None,
            "needs": [need.digest for need in self.needs],
        }
        if self.retuned:
            told["retuned"] = CODE[RETUNED]
        return digest_of(told)

    def need(self, kind: str) -> Cell:
        """Return the cell of that kind that it takes the result of."""
        return next(need for need in self.needs if need.kind == kind)


@dataclass(frozen=True)
class Models:
    """The cells of one recipe and seed; `new` is None where the twin stands for v2."""

    old: Cell
    start: Cell
    twin: Cell
    new: Cell | None

    def __iter__(self) -> Iterator[Cell]:
        """Yield each cell once, those that others need first."""
        found = (self.old, self.start, self.twin, self.new)
        yield from {cell.digest: cell for cell in found if cell is not None}.values()


def describe(kind: str, settings: LoopSettings | ForeignModel) -> dict[str, Any]:
    """Return a training's settings as plain JSON values, those of its losses spelled out.

    What does not matter to the result is left out: where it is computed, and a twin's tie.
    """
    from segue.train.objective import make_settled_loss, tying_loss

    if isinstance(settings, ForeignModel):
        return {"sha256": settings.sha256, "preprocessing": settings.preprocessing.to_json()}
    own = make_settled_loss(settings.self_loss, settings, settings.self_loss_settings)
    told = {**asdict(settings), "self_loss_settings": _fields(own)}
    for name in _ANYWHERE:
        told.pop(name)
    if kind in {TIED, HEAD}:
        assert isinstance(settings, HarmonicSettings)
        tie = tying_loss(settings.loss, settings, settings.loss_settings)
        told["loss_settings"] = _fields(tie)
        if not settings.separate_head:
            told.pop("head_dropout")
    elif isinstance(settings, HarmonicSettings):
        for name in _TIE:
            told.pop(name)
    if kind == HEAD:
        told = {name: told[name] for name in _HEAD}
    kept = {name: value for name, value in told.items() if name not in LATER}
    later = {name: told[name] for name in LATER.keys() & told.keys() if told[name] != LATER[name]}
    return {**kept, **later}


def _fields(loss: Loss) -> dict[str, Any]:
    assert is_dataclass(loss)
    assert not isinstance(loss, type)
    return asdict(loss)


def constants(module: ModuleType) -> dict[str, Any]:
    """Return the numbers that a module of Segue works by, those of its names in capitals."""
    return {
        name: value
        for name, value in sorted(vars(module).items())
        if name.isupper() and isinstance(value, int | float | str | tuple)
    }


def digest_of(value: Any) -> str:
    """Return 16 hexadecimal digits that name plain JSON values."""
    return sha256_bytes(json.dumps(value, sort_keys=True).encode())[:16]


def models_of(study: Study, recipe: Recipe, index: int, data: str) -> Models:
    """Return the cells of a recipe and one of the study's seeds.

    v1, the start and the further training have seeds of their own. v1 is deployed already: label
    noise is in everything that v2 is trained on, its start and its twin too, never in v1.
    """
    share = recipe.noise
    noisy = f", {share:.0%} noise" if share else ""

    def cell(kind: str, label: str, settings: LoopSettings, needs: tuple[Cell, ...]) -> Cell:
        settled = replace(settings, seed=3 * index + {V1: 1, START: 2}.get(kind, 3))
        wrong = 0.0 if kind == V1 else share
        return Cell(kind, f"{label}, seed {index}", settled, index, wrong, data, needs)

    old = cell(V1, "v1", study.old, ())
    if isinstance(study.start, ForeignModel):
        foreign = Cell(FOREIGN, study.start.name, study.start, 0, 0.0, data)
        head = recipe.settings
        new = None if head is None else cell(HEAD, recipe.name, head, (old, foreign))
        return Models(old, foreign, foreign, new)
    start = cell(START, f"start{noisy}", study.start, ())
    twin = cell(TWIN, f"twin{noisy}", twin_settings(study, recipe), (start,))
    tied = recipe.settings
    new = None if tied is None else cell(TIED, recipe.name, tied, (old, start))
    if new is not None:
        new = replace(new, retuned=recipe.retuned)
    return Models(old, start, twin, new)


def twin_settings(study: Study, recipe: Recipe) -> HarmonicSettings:
    """Return how a recipe's twin is trained: with its self loss, for as many steps.

    It takes as many steps of the whole network, and for its embedding layer alone at least as many
    batches as the recipe embeds for heads.
    """
    given, usual = recipe.settings, study.further
    if given is None:
        return usual
    kept = {
        name: getattr(given, name)
        for name in ("self_loss", "self_loss_settings", "margin", "learning_rate", "steps")
    }
    for_heads = batches(given) - given.steps
    return replace(usual, **kept, head_steps=for_heads and max(for_heads, usual.head_steps))


def batches(settings: HarmonicSettings) -> int:
    """Return how many batches' images a further training embeds: its cost, but for little."""
    if settings.head_steps and settings.head_images:
        return settings.steps - -settings.head_images // settings.images_per_batch
    return settings.steps + settings.head_steps


def all_cells(
    study: Study, recipes: Sequence[Recipe], seeds: Sequence[int], data: str
) -> list[Cell]:
    """Return every cell once, the most important first: group by group, seed by seed."""
    groups = list(dict.fromkeys(recipe.group for recipe in recipes))
    found: dict[str, Cell] = {}
    for group in groups:
        for index in sorted(seeds):
            for recipe in recipes:
                if recipe.group == group and index < recipe.seeds:
                    for cell in models_of(study, recipe, index, data):
                        found.setdefault(cell.digest, cell)
    return list(found.values())
