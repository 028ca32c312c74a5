"""Identity-balanced batches: P people, K images of each, and some people of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.errors import PeopleError

if TYPE_CHECKING:
    from segue.types import Ints


class PKSampler:
    """Draws batches of at most P·K + S images; a batch is a function of `seed` and step alone.

    In every epoch each person with two images or more appears once, in an order drawn anew; up to K
    of their images are drawn without repetition. People with one image cannot be anchors: S of
    them join each batch as negatives, in an order drawn in the same way.

    Args:
        labels: the person of each image, int64 [N].
        people_per_batch: P; all people where there are fewer.
        images_per_person: K, at least 2.
        singles_per_batch: S.
        seed: of every draw.

    Raises:
        PeopleError: fewer than two people have two images or more.
    """

    def __init__(
        self,
        labels: Ints,
        people_per_batch: int,
        images_per_person: int,
        singles_per_batch: int = 0,
        seed: int = 0,
    ) -> None:
        order = np.argsort(labels, kind="stable")
        starts = np.flatnonzero(np.diff(labels[order], prepend=labels.min(initial=0) - 1))
        groups: list[Ints] = np.split(order, starts[1:]) if len(labels) else []
        self._people = [group for group in groups if len(group) > 1]
        self._singles = np.array([group[0] for group in groups if len(group) == 1], dtype=np.int64)
        if len(self._people) < 2:
            raise PeopleError(
                f"{len(self._people)} of {len(groups)} people have two images or more; "
                "training needs at least two such people: add images"
            )
        self._per_batch = min(people_per_batch, len(self._people))
        self._singles_per_batch = min(singles_per_batch, len(self._singles))
        self._images = images_per_person
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every person with two images or more appears at most once."""
        return len(self._people) // self._per_batch

    def batch(self, step: int) -> Ints:
        """Return the image numbers of one step: int64, people first, then single images."""
        generator = np.random.default_rng([self._seed, 0, step])
        chosen = [
            group
            if len(group := self._people[person]) <= self._images
            else generator.choice(group, self._images, replace=False)
            for person in self._turn(len(self._people), self._per_batch, step, kind=1)
        ]
        singles = self._turn(len(self._singles), self._singles_per_batch, step, kind=2)
        return np.concatenate([*chosen, self._singles[singles]]).astype(np.int64)

    def _turn(self, count: int, size: int, step: int, *, kind: int) -> Ints:
        """Return which `size` of `count` have their turn: slices of one permutation per epoch."""
        if size == 0:
            return np.empty(0, dtype=np.int64)
        epoch, place = divmod(step, count // size)
        order = np.random.default_rng([self._seed, kind, epoch]).permutation(count)
        return order[place * size : (place + 1) * size].astype(np.int64)
