"""Offline mining (FaceNet, section 3.2): triplets of a whole subset, from the latest checkpoint.

Every some steps a subset of the images is embedded and mined; until the next time, batches are
drawn from those triplets:

    mined = OfflineMiner().mine(vectors, labels, old_vectors, seed=step)
    rows, triplets = draw_triplets(mined, len(labels), 64)
    loss(network(images[rows]), labels[rows], old_vectors[rows], triplets=triplets)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from segue.errors import UsageError, VectorError
from segue.harmonic.mining import (
    Triplets,
    check_margin,
    check_strategy,
    check_tensor_labels,
    check_unit,
)
from segue.harmonic.pools import COMBINATIONS, check_combinations, mine_pools, with_an_old_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class OfflineMiner:
    """Mines triplets over all vectors of a subset at once.

    Attributes:
        margin: alpha of the triplet loss, in squared distance.
        strategy: how negatives are chosen (`segue.harmonic.select_triplets`).
        combinations: versions of anchor, positive and negative, as of `HarmonicTripletLoss`.
        all_new: whether triplets of new vectors alone are kept. They take part in the choice of
            negatives either way, as they do online where they weigh nothing.
        limit: at most so many triplets, each as likely to be kept; by default all.
        rows_at_once: anchors to be mined at a time; by default what suits the machine's cache.
            The memory beside the triplets is this times the subset.
    """

    margin: float = 0.2
    strategy: str = "semi-hard"
    combinations: Sequence[str] = COMBINATIONS
    all_new: bool = True
    limit: int | None = None
    rows_at_once: int | None = None

    def __post_init__(self) -> None:
        check_margin(self.margin)
        check_strategy(self.strategy)
        object.__setattr__(self, "combinations", check_combinations(self.combinations))
        for name in ("limit", "rows_at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} {value!r}; give a whole number of at least 1, or none")

    def mine(
        self, vectors: Tensor, labels: Tensor, old: Tensor | None = None, *, seed: int = 0
    ) -> Triplets:
        """Return the triplets of a subset of images.

        Args:
            vectors: unit vectors of the latest checkpoint, float [N, d].
            labels: who each shows, int64 [N].
            old: v1's unit vectors of the same images, float [N, d]; without them the combinations
                do not matter.
            seed: of everything that is drawn; one seed gives one result.

        Returns:
            Rows of `vectors`, or of `torch.cat([vectors, old])`, on the vectors' device.

        Raises:
            VectorError: no unit vectors, another dimension or number of rows, or not one label per
                row.
        """
        check_unit(vectors, "vectors")
        check_tensor_labels(labels, vectors)
        if old is not None:
            check_unit(old, "old vectors")
            if old.shape != vectors.shape:
                raise VectorError(
                    f"vectors are {tuple(vectors.shape)}, old vectors {tuple(old.shape)}; give "
                    "both for every image, and v2 a head of v1's dimension where that differs"
                )
            old = old.to(vectors)
        generator = torch.Generator().manual_seed(seed)
        mined = mine_pools(
            vectors,
            labels,
            old,
            combinations=self.combinations,
            margin=self.margin,
            strategy=self.strategy,
            generator=generator,
            rows_at_once=self.rows_at_once,
        )
        if not self.all_new:
            mined = with_an_old_one(mined, len(vectors))
        if self.limit is None or len(mined.anchor) <= self.limit:
            return mined
        drawn = torch.randperm(len(mined.anchor), generator=generator)[: self.limit]
        kept = drawn.sort().values.to(labels.device)
        return Triplets(*(indices[kept] for indices in mined))


def draw_triplets(
    triplets: Triplets, images: int, count: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Triplets]:
    """Return a batch of images for some of the triplets, and all triplets among these images.

    Args:
        triplets: as an `OfflineMiner` returns them for the subset.
        images: how many images the subset has, N.
        count: triplets to draw, each as likely; a batch has three images for each at most.
        generator: what they are drawn from; the global one by default.

    Returns:
        Rows of the subset, int64 [R], ascending, and the triplets as rows of that batch: of its new
        vectors, and then its old ones, as `triplets=` of a loss takes them.

    Raises:
        UsageError: there are no triplets to draw from, or `count` is below 1.

    >>> mined = Triplets(*torch.tensor([[2, 0], [5, 2], [3, 3]]))
    >>> rows, local = draw_triplets(mined, images=6, count=2)
    >>> rows.tolist(), [indices.tolist() for indices in local]
    ([0, 2, 3, 5], [[1, 0], [3, 1], [2, 2]])
    """
    total = len(triplets.anchor)
    if total == 0 or count < 1:
        raise UsageError(
            f"cannot draw {count} of {total} triplets; a subset without triplets has nobody to "
            "tell apart inside the margin: take more people or a larger margin"
        )
    device = "cpu" if generator is None else generator.device
    drawn = torch.randperm(total, generator=generator, device=device)[:count]
    stacked = torch.stack(triplets)
    shown = stacked % images
    rows: Tensor = torch.unique(shown[:, drawn.to(stacked.device)])
    place = stacked.new_full((images,), -1)
    place[rows] = torch.arange(len(rows), device=stacked.device)
    local = place[shown]
    inside = (local >= 0).all(0)
    return rows, Triplets(*(local + (stacked >= images) * len(rows))[:, inside].unbind())
