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

AUGMENTATION, NETWORK, SUBSET, MINING, DRAWS = 3, 4, 6, 7, 8
"""Streams of random numbers beside the sampler's."""

_EMBEDDED = 256  # images embedded at once; bounds the memory, not the result


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
        self._half = settings.precision == "bfloat16"
        self._features: Tensor | None = None
        labels, people, singles = (
            task.labels,
            settings.people_per_batch,
            settings.singles_per_batch,
        )
        if stage.kept is not None:
            self._rows = whole_people(labels, stage.kept.images, settings.seed, first)
            labels, people, singles = labels[self._rows], stage.kept.people, stage.kept.singles
        self._sampler = PKSampler(
            labels, people, settings.images_per_person, singles, settings.seed
        )
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
                for rows in _split(subset)
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
        if self._stage.kept is None:
            batch, images = self._load(step)
            return batch, self._trainee(images, trained=self._stage.trained, half=self._half)
        if self._features is None:
            self._features = torch.cat(
                [
                    self._trainee.features(self._prepared(rows), frozen=True, half=self._half)
                    for rows in _split(self._rows)
                ]
            )
        drawn = self._sampler.batch(step)
        rows = self._rows[drawn]
        labels = torch.from_numpy(self._task.labels[rows]).to(self._features.device)
        self._trainee.train()
        outputs = self._trainee.embed(self._features[torch.from_numpy(drawn)])
        return Batch(rows, labels, self._stage), outputs

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


def _split(rows: Ints) -> list[Ints]:
    """Part image numbers into those that are embedded at once."""
    return np.split(rows, range(_EMBEDDED, len(rows), _EMBEDDED))


def mix(*parts: int) -> int:
    """Return one seed for several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
