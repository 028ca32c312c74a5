"""What a training is given: stages, what is trained on, and what each step is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.train.trainee import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from segue.harmonic import OfflineMiner, Triplets
    from segue.types import Images, Ints, Preprocessing

    Objective = Callable[[dict[str, Tensor], "Batch"], dict[str, Tensor]]


@dataclass(frozen=True)
class Kept:
    """Features made once for a whole stage, of images as they are: the trunk must stay as it is.

    They cost no more than one pass over the images, and batches may be as large as is wanted.

    Attributes:
        images: how many at the most: all of some people, drawn by the seed. Their features stay in
            memory.
        people: people with two images or more in a batch.
        singles: images of one-image people in a batch.
    """

    images: int
    people: int
    singles: int


@dataclass(frozen=True)
class Stage:
    """A run of steps with one optimiser.

    Attributes:
        name: for people.
        steps: how many.
        learning_rate: at its highest.
        trained: one of PARTS; but for "all" the trunk stays as it is, statistics included.
        kept: features that all batches are drawn from; None embeds each batch anew.
    """

    name: str
    steps: int
    learning_rate: float
    trained: str = ALL
    kept: Kept | None = None


@dataclass(frozen=True)
class Batch:
    """What a step's loss is told beside the vectors.

    Attributes:
        rows: image numbers, int64 [N].
        labels: the person of each, int64 [N], where the vectors are.
        stage: the stage of the step.
        triplets: those mined offline that lie in this batch, as rows of it; None where the loss is
            to mine by itself.
    """

    rows: Ints
    labels: Tensor
    stage: Stage
    triplets: Triplets | None = None


@dataclass(frozen=True)
class Mining:
    """How triplets are mined offline.

    Attributes:
        miner: with the loss's margin and strategy.
        output: the output whose vectors are mined.
        old: v1's vectors of all images, float32 [N, d], to be mined with them; None without v1.
    """

    miner: OfflineMiner
    output: str
    old: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """What is trained on.

    Attributes:
        images: uint8 [N, h, w, 3].
        labels: the person of each, int64 [N].
        preprocessing: what images go through.
        objective: from the outputs of a batch and the batch to the weighted terms of the loss, by
            name.
        of: JSON values that tell this training from others: kind, data, starting weights.
        mining: None where the losses mine in each batch.
    """

    images: Images
    labels: Ints
    preprocessing: Preprocessing
    objective: Objective
    of: Mapping[str, Any]
    mining: Mining | None = None
