"""What each step is trained on: the sampler's batches, or those of triplets mined offline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from segue.harmonic import draw_triplets
from segue.networks.preprocess import prepare
from segue.train.augment import augment
from segue.train.sampler import PKSampler
from segue.train.task import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from segue.harmonic import Triplets
    from segue.train.settings import LoopSettings
    from segue.train.task import Stage, Task
    from segue.train.trainee import Trainee
    from segue.types import Ints

AUGMENTATION, NETWORK, TURNS, SUBSET, MINING, DRAWS = range(3, 9)
"""Streams of random numbers beside the sampler's."""

_TOGETHER = 25  # batches whose features are kept at a time
_EMBEDDED = 256  # images embedded at once for mining; bounds the memory, not the result


class Feed:
    """Gives each step of a stage its batch, and what the trainee makes of it.

    With `task.mining`, triplets are mined every `settings.mine_every` steps of the stage, all over
    a subset of the images as the network then embeds them, and batches are drawn from these
    triplets until the next time (FaceNet, section 3.2). Where a subset has no triplets, the
    sampler's batches stand in.
    """

    def __init__(
        self, trainee: Trainee, task: Task, settings: LoopSettings, *, stage: Stage, first: int
    ) -> None:
        self._trainee, self._task, self._settings = trainee, task, settings
        self._stage, self._first = stage, first
        self._sampler = PKSampler(
            task.labels,
            settings.people_per_batch,
            settings.images_per_person,
            settings.singles_per_batch,
            settings.seed,
        )
        self._half = settings.precision == "bfloat16"
        self._round = -1
        self._kept: list[tuple[Batch, Tensor]] = []
        self._turns: Ints = np.empty(0, dtype=np.int64)
        self._mined: tuple[Ints, Triplets] | None = None

    def mines_at(self, step: int) -> bool:
        """Whether triplets are to be mined before this step."""
        if self._task.mining is None:
            return False
        return (step - self._first) % self._settings.mine_every == 0

    def mine(self, step: int) -> None:
        """Mine the triplets that batches are drawn from until the next time."""
        mining, seed = self._task.mining, self._settings.seed
        assert mining is not None
        labels = self._task.labels
        subset = whole_people(labels, self._settings.mine_images, seed, step)
        vectors = torch.cat(
            [
                self._trainee.embed_as_it_is(self._prepared(rows), half=self._half)[mining.output]
                for rows in np.split(subset, range(_EMBEDDED, len(subset), _EMBEDDED))
            ]
        )
        triplets = mining.miner.mine(
            vectors,
            torch.from_numpy(labels[subset]).to(vectors.device),
            None if mining.old is None else mining.old[torch.from_numpy(subset)],
            seed=mix(seed, MINING, step),
        )
        self._mined = (subset, triplets) if len(triplets.anchor) else None

    def outputs(self, step: int) -> tuple[Batch, dict[str, Tensor]]:
        """Return the batch of a step, and the unit vectors of each output."""
        if self._stage.reuse == 1:
            batch, images = self._load(step)
            return batch, self._trainee(images, trained=self._stage.trained, half=self._half)
        together = _TOGETHER * self._stage.reuse
        number, place = divmod(step - self._first, together)
        if number != self._round:
            self._embed(number)
        batch, features = self._kept[self._turns[place]]
        self._trainee.train()
        return batch, self._trainee.embed(features)

    def _embed(self, number: int) -> None:
        """Embed the batches of a round, and shuffle the turns in which they serve."""
        reuse = self._stage.reuse
        begin = self._first + number * _TOGETHER
        left = self._stage.steps - number * _TOGETHER * reuse
        batches = min(_TOGETHER, -(-left // reuse))
        self._kept = []
        for each in range(begin, begin + batches):
            batch, images = self._load(each)
            features = self._trainee.features(images, frozen=True, half=self._half)
            self._kept.append((batch, features))
        turns = np.tile(np.arange(batches), reuse)
        self._turns = np.random.default_rng([self._settings.seed, TURNS, begin]).permutation(turns)
        self._round = number

    def _load(self, number: int) -> tuple[Batch, Tensor]:
        rows, triplets = self._draw(number)
        generator = np.random.default_rng([self._settings.seed, AUGMENTATION, number])
        images = torch.from_numpy(prepare(self._task.images[rows], self._task.preprocessing))
        images = self._placed(augment(images, self._settings, generator))
        labels = torch.from_numpy(self._task.labels[rows]).to(images.device)
        return Batch(rows, labels, self._stage, triplets), images

    def _draw(self, number: int) -> tuple[Ints, Triplets | None]:
        """Return the image numbers of a batch, and the mined triplets that lie in it."""
        if self._mined is None:
            return self._sampler.batch(number), None
        subset, triplets = self._mined
        generator = torch.Generator().manual_seed(mix(self._settings.seed, DRAWS, number))
        count = max(self._settings.images_per_batch // 3, 1)
        rows, local = draw_triplets(triplets, len(subset), count, generator=generator)
        return subset[rows.cpu().numpy()], local

    def _prepared(self, rows: Ints) -> Tensor:
        images = torch.from_numpy(prepare(self._task.images[rows], self._task.preprocessing))
        return self._placed(images)

    def _placed(self, images: Tensor) -> Tensor:
        return images.to(self._settings.device, memory_format=torch.channels_last)


def whole_people(labels: Ints, count: int, seed: int, step: int) -> Ints:
    """Draw people by seed and step until `count` images are there: all of theirs, int64 [S].

    At least two people with two images or more are among them, so that there can be triplets.
    """
    generator = np.random.default_rng([seed, SUBSET, step])
    counts = np.bincount(labels)
    order = generator.permutation(np.flatnonzero(counts))
    reached = np.cumsum(counts[order]) >= count
    several = np.cumsum(counts[order] > 1) >= 2
    enough = int(np.argmax(reached & several)) + 1 if (reached & several).any() else len(order)
    return np.flatnonzero(np.isin(labels, order[:enough])).astype(np.int64)


def mix(*parts: int) -> int:
    """Return one seed for several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
