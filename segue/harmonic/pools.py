"""Mining over the vectors of two versions together (FaceNet, appendix on harmonic embeddings)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from segue.errors import UsageError
from segue.harmonic.mining import (
    Triplets,
    join_triplets,
    pairwise_squared_distances,
    row_blocks,
    select_triplets,
    wide,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

COMBINATIONS = ("nnn", "nno", "non", "noo", "onn", "ono", "oon", "ooo")
"""From which version, new or old, anchor, positive and negative come."""


def check_combinations(combinations: Sequence[str] | str) -> tuple[str, ...]:
    """Return the combinations in the order of COMBINATIONS.

    Args:
        combinations: of COMBINATIONS, or one string of them with commas.

    Raises:
        UsageError: an unknown or repeated one, or none that has a new vector to train.
    """
    if isinstance(combinations, str):
        combinations = [each.strip() for each in combinations.split(",")]
    chosen = tuple(each for each in COMBINATIONS if each in combinations)
    if len(chosen) != len(combinations):
        raise UsageError(
            f"combinations {list(combinations)}: choose from {', '.join(COMBINATIONS)}, "
            "the versions (n new, o old) of anchor, positive and negative"
        )
    if not any("n" in each for each in chosen):
        raise UsageError("triplets of old vectors only train nothing; let some be new")
    return chosen


def mine_pools(
    new: Tensor,
    labels: Tensor,
    old: Tensor | None,
    *,
    combinations: Sequence[str] = COMBINATIONS,
    margin: float = 0.2,
    strategy: str = "semi-hard",
    generator: torch.Generator | None = None,
    rows_at_once: int | None = None,
) -> Triplets:
    """Return triplets that mix the new and the old vectors of the same images.

    Every pair of vectors of one person is an anchor and a positive, the new and the old vector of
    one image too, a vector with itself never. Its negative is chosen (`select_triplets`) from all
    the versions together that the combinations allow for the versions of the pair: with "nno" and
    "nnn" a pair of new vectors takes the nearest of both, with "nno" alone the nearest old one.
    "ooo" only takes part in that choice: triplets of old vectors only have no gradient and are
    left out.

    Args:
        new: float [N, d].
        labels: who each image shows, int64 [N].
        old: float [N, d]; None mines the new vectors alone, whatever the combinations.
        combinations: as `check_combinations` returns them.
        margin: alpha of the triplet loss, in squared distance.
        strategy: one of STRATEGIES.
        generator: what `random` draws from; the global one if None.
        rows_at_once: anchors to be mined at a time; by default what suits the machine's cache.

    Returns:
        Rows of `torch.cat([new, old])`.
    """
    count = len(new)
    both, people = wide(new.detach()), labels
    pools = {"n": slice(0, count)}
    if old is None:
        combinations = ("nnn",)
    else:
        both, people = torch.cat([both, wide(old.detach())]), labels.repeat(2)
        pools["o"] = slice(count, 2 * count)
    found = []
    for version, positives, negatives in _pool_groups(combinations):
        for start, stop in row_blocks(
            pools[version].start, pools[version].stop, both, rows_at_once
        ):
            distances = pairwise_squared_distances(both[start:stop], both)
            positive = people[start:stop, None] == people
            negative = ~positive
            positive.diagonal(start).fill_(False)
            for other, rows in pools.items():
                if other not in positives:
                    positive[:, rows] = False
                if other not in negatives:
                    negative[:, rows] = False
            mined = select_triplets(
                distances, positive, negative, margin, strategy=strategy, generator=generator
            )
            found.append(mined._replace(anchor=mined.anchor + start))
    return with_a_new_one(join_triplets(found), count)


def with_a_new_one(triplets: Triplets, new: int) -> Triplets:
    """Leave out the triplets of old vectors only: rows from `new` on."""
    anchor, positive, negative = triplets
    kept = ((anchor < new) | (positive < new) | (negative < new)).nonzero().squeeze(1)
    return Triplets(anchor[kept], positive[kept], negative[kept])


def with_an_old_one(triplets: Triplets, new: int) -> Triplets:
    """Leave out the triplets of new vectors only: rows below `new`."""
    anchor, positive, negative = triplets
    kept = ((anchor >= new) | (positive >= new) | (negative >= new)).nonzero().squeeze(1)
    return Triplets(anchor[kept], positive[kept], negative[kept])


def _pool_groups(combinations: Sequence[str]) -> list[tuple[str, set[str], set[str]]]:
    """Return anchor version, positive versions and negative versions that can be mined together."""
    groups: dict[tuple[str, str], set[str]] = {}
    for version, positive in ("nn", "no", "on", "oo"):
        negatives = "".join(n for n in "no" if version + positive + n in combinations)
        if negatives and (version + positive + negatives) != "ooo":
            groups.setdefault((version, negatives), set()).add(positive)
    return [(version, chosen, set(negatives)) for (version, negatives), chosen in groups.items()]
