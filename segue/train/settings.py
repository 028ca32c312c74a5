"""Every hyper-parameter of a training, each on one line with its unit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from segue.errors import UnknownNameError, UsageError
from segue.types import check_seed, check_side

FACENET_STAGES: dict[str, Any] = {
    "separate_head": False,
    "head_last": False,
    "head_steps": 150,
    "head_learning_rate": 2e-3,
    "head_images": 0,
    "own_contrast": 0.0,
}
"""Settings of one output, drawn anew and trained alone before the whole network."""

_OF_THE_TIE = (
    *("loss", "loss_settings", "cross_weight", "own_contrast"),
    *("separate_head", "head_dropout", "mine_every", "mine_images"),
)
_OF_THE_HEADS = (
    *("head_last", "head_steps", "head_learning_rate"),
    *("head_images", "head_people", "head_singles"),
)

PRECISIONS = ("float32", "bfloat16")
"""What the trunk may compute in while it is trained; weights, heads and losses are float32."""

OPTIMISERS = ("adam", "sgd")
"""Adam with decoupled weight decay (AdamW); SGD with Nesterov momentum 0.9."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What every training has: batches, augmentation, optimiser, machine.

    Raises:
        UsageError: a value out of range; the message names it.
    """

    image_size: int = 64  # pixels a side of the network's square input
    steps: int = 1000  # optimiser steps of the whole network
    people_per_batch: int = 64  # P, people with two images or more
    images_per_person: int = 4  # K, images of each; a person with fewer gives all of theirs
    singles_per_batch: int = 16  # images of one-image people, as negatives only
    mine_every: int = 0  # steps between two offline minings of triplets; 0 mines in each batch
    mine_images: int = 2000  # images that are mined offline together, all of some people
    self_loss: str = "triplet"  # registered loss of the network's own space
    self_loss_settings: dict[str, Any] = field(default_factory=dict)  # its settings by name
    margin: float = 0.2  # α of FaceNet's triplet loss, squared distance; of each loss that has one
    optimiser: str = "adam"  # one of OPTIMISERS
    learning_rate: float = 1.5e-3  # at its highest; follows a half cosine down to 1 % of it
    warmup: int = 50  # steps of linear rise to the learning rate
    weight_decay: float = 1e-4  # share of each weight taken away per step and learning rate
    clip: float = 5.0  # largest L2 length of the whole gradient; 0 leaves it as it is
    flip: bool = True  # mirror half of the images
    shift: float = 0.06  # largest move of an image, as a share of its side
    zoom: float = 0.08  # largest change of size, as a share
    rotation: float = 8.0  # largest turn, degrees
    brightness: float = 0.15  # largest change of brightness, as a share of the whole range
    contrast: float = 0.25  # largest change of contrast, as a share
    seed: int = 0  # of weights, batches and augmentation
    threads: int = 0  # of torch; 0 leaves it as it is, 1 makes runs repeat bit for bit
    precision: str = "float32"  # of the trunk in training; bfloat16 is up to twice as fast
    device: str = "cpu"  # where torch computes, such as cuda
    log_every: int = 20  # steps between two entries of the history
    checkpoint_every: int = 200  # steps between two checkpoints; a killed run loses at most these

    def __post_init__(self) -> None:
        at_least = {
            "steps": 1,
            "people_per_batch": 2,
            "images_per_person": 2,
            "singles_per_batch": 0,
            "mine_every": 0,
            "mine_images": 4,
            "warmup": 0,
            "threads": 0,
            "log_every": 1,
            "checkpoint_every": 1,
        }
        for name, least in at_least.items():
            check_whole(name, getattr(self, name), least)
        check_side("image_size", self.image_size, 8)
        check_seed(self.seed)
        for name in ("learning_rate", "margin"):
            check_number(name, getattr(self, name), above=True)
        for name in ("weight_decay", "clip", "shift", "zoom", "rotation", "brightness", "contrast"):
            check_number(name, getattr(self, name))
        if self.zoom >= 1 or self.contrast >= 1:
            raise UsageError(
                f"zoom {self.zoom!r}, contrast {self.contrast!r}; give shares from 0 to below 1"
            )
        if self.optimiser not in OPTIMISERS:
            raise UnknownNameError("optimiser", self.optimiser, OPTIMISERS)
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)

    @property
    def images_per_batch(self) -> int:
        """Images of a batch, where there are people enough."""
        return self.people_per_batch * self.images_per_person + self.singles_per_batch


@dataclass(frozen=True, kw_only=True)
class TrainSettings(LoopSettings):
    """Settings of `train_base`; the defaults suit some thousand faces and two cores."""

    architecture: str = "small"  # registered name
    width: int = 16  # channels of its first stage; more is slower and better
    dimension: int = 64  # of the output `embedding`
    architecture_settings: dict[str, Any] = field(default_factory=dict)  # in place of width
    average_mirror: bool = True  # embed each image and its mirror image later on, at twice the cost


@dataclass(frozen=True, kw_only=True)
class HarmonicSettings(LoopSettings):
    """Settings of `train_harmonic` and its twin: a stage for the whole network, one for the heads.

    `steps` and `learning_rate` are those of the whole network. The defaults are the recipe that
    does best in the study so far (docs/results.md); `paper_settings` are FaceNet's.

    Published losses have weights of their own: `bct` and `lce` stand beside v2's own loss with a
    `cross_weight` of 1, `hoc` with 0.1. `mixbct` takes the place of v2's own loss: `self_weight` 0
    on the one output, `separate_head` False.
    """

    steps: int = 600  # optimiser steps of the whole network
    learning_rate: float = 1e-3  # of them, at its highest
    head_last: bool = True  # the separate head is trained last, alone; else all heads come first
    head_steps: int = 300  # optimiser steps of the heads' stage
    head_learning_rate: float = 2e-3  # of them, at its highest
    head_images: int = 20_000  # images embedded once for that stage; 0 embeds each batch anew
    head_people: int = 256  # P of that stage's batches, where images are embedded once
    head_singles: int = 256  # images of one-image people in them
    loss: str = "harmonic_contrast"  # registered loss that ties v2 to v1
    loss_settings: dict[str, Any] = field(default_factory=dict)  # its settings by name
    self_weight: float = 1.0  # of the self loss on the own output
    cross_weight: float = 0.1  # of the tying loss, while the whole network is trained
    separate_head: bool = True  # v1 is compared with through a head of its own, `compatible`
    head_dropout: float = 0.5  # share of the features that a separate head does not see
    own_contrast: float = 0.1  # of `contra_ract` on the own output, where that has v1's dimension

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("head_steps", self.head_steps, 0)
        check_number("head_learning_rate", self.head_learning_rate, above=True)
        for name, least in {"head_images": 0, "head_people": 2, "head_singles": 0}.items():
            check_whole(name, getattr(self, name), least)
        if self.mine_every and self.head_images:
            raise UsageError(
                "mine_every has new triplets to embed all the time; set head_images to 0 with it"
            )
        if self.head_last and not self.separate_head:
            raise UsageError("head_last trains the separate head; set separate_head too")
        if self.own_contrast and not self.separate_head:
            raise UsageError("own_contrast stands beside a separate head; set separate_head, or 0")
        for name in ("self_weight", "cross_weight", "head_dropout", "own_contrast"):
            check_number(name, getattr(self, name))
        if self.head_dropout >= 1:
            raise UsageError(f"head_dropout {self.head_dropout!r}; give a share from 0 to below 1")


def paper_settings(**given: Any) -> HarmonicSettings:
    """Return FaceNet's recipe: the harmonic triplet loss on the one output, drawn anew, first.

    Args:
        given: settings that differ.
    """
    paper = {**FACENET_STAGES, "loss": "harmonic", "cross_weight": 1.0}
    return HarmonicSettings(**{**paper, **given})


def twin_settings(settings: HarmonicSettings) -> dict[str, Any]:
    """Return by name what a twin uses of the settings: nothing that is of v1 or of its head.

    >>> twin_settings(HarmonicSettings())["self_weight"]
    1.0
    >>> sorted({"loss", "own_contrast", "mine_every"} & twin_settings(HarmonicSettings()).keys())
    []
    """
    unused = {*_OF_THE_TIE, *(() if not settings.head_last else _OF_THE_HEADS)}
    return {name: value for name, value in asdict(settings).items() if name not in unused}


def check_whole(name: str, value: int, least: int) -> None:
    """Check that a setting is a whole number of at least `least`.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(value, int) or value < least:
        raise UsageError(f"{name} {value!r}; give a whole number of at least {least}")


def check_number(name: str, value: float, *, above: bool = False) -> None:
    """Check that a setting is finite and at least 0, or `above` 0.

    Raises:
        UsageError: it is not.
    """
    right = isinstance(value, int | float) and (value > 0 if above else value >= 0) and value < 1e9
    if not right:
        raise UsageError(f"{name} {value!r}; give a number {'above' if above else 'of at least'} 0")
