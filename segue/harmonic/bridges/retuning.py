"""Retuning: an affine map of a deployed version's vectors, learned from them and labels alone.

It moves stored vectors into a space of their own in which people are told apart better: a deployed
version often knew fewer people than its successor is trained on, and what it learned to look at is
not what tells the others apart. No image and no second model take part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from segue.arrays import check_labels, check_vectors
from segue.errors import PeopleError
from segue.harmonic.bridges.bridge import Bridge
from segue.harmonic.bridges.fit import one_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import ArrayLike

    from segue.types import Bools, Floats, Ints

RETUNING = "retuning"
"""The kind of a bridge from a version to its own retuned vectors."""

STEPS, RATE, DECAY = 500, 3e-3, 1e-2
"""Steps of AdamW, its peak step size (a cosine to 0), and its weight decay."""

TEMPERATURE, BALANCE = 0.07, 0.5
"""Of the contrastive loss; see `HarmonicContrastLoss`."""

PEOPLE, IMAGES, SINGLES = 256, 4, 256
"""Of a batch: people with two images or more, most images of each, and people with one image."""

LEAST_PEOPLE = 10
"""People with two images or more; a map of fewer is a map of these few."""


class _Rows(NamedTuple):
    """Rows of each person with several images, and those of all people with one."""

    several: Sequence[Ints]
    single: Ints


def fit_retuning(
    vectors: ArrayLike,
    labels: ArrayLike,
    *,
    version: str,
    fingerprint: str = "",
    seed: int = 0,
    steps: int = STEPS,
) -> Bridge:
    """Fit an affine map that starts at the identity and tells the given people apart.

    Each step lowers `harmonic_contrast`'s formula among the normalised mapped vectors themselves:
    an image is held against the other images of its person, one sum over all impostors of the batch
    being the denominator. Same input and seed, same bytes.

    Args:
        vectors: unit vectors of the version, float [N, d].
        labels: who each row shows, [N].
        version: the version of the vectors, such as `faces/1`.
        fingerprint: of that version.
        seed: of the batches.
        steps: batches.

    Returns:
        A bridge of kind `retuning`. Its `target_version` is empty: the mapped version is named by
        the bridge's number, which `Registry.register_retuned` gives.

    Raises:
        VectorError: no unit vectors, or not one label per row.
        PeopleError: fewer than ten people with two images or more.
    """
    source = check_vectors(vectors, name="vectors to retune")
    people = check_labels(labels, len(source))
    check_retunable(people, version=version)
    rows = _rows(people)
    with one_thread():
        matrix, bias = _fit(source, people, rows, steps, seed)
    return Bridge(
        kind=RETUNING,
        source_version=version,
        target_version="",
        source_fingerprint=fingerprint,
        target_fingerprint="",
        matrix=matrix,
        bias=bias,
        settings={
            "steps": steps,
            "seed": seed,
            "temperature": TEMPERATURE,
            "balance": BALANCE,
            "images": len(source),
            "people": len(rows.several) + len(rows.single),
        },
    )


def check_retunable(labels: ArrayLike, *, version: str) -> None:
    """Refuse to retune a version on too few people, before anything is embedded for it.

    Args:
        labels: who each row shows, [N].
        version: the version that is to be retuned.

    Raises:
        PeopleError: fewer than ten people with two images or more.
    """
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    several = int((counts > 1).sum())
    if several < LEAST_PEOPLE:
        raise PeopleError(
            f"{several} people have two images or more; retuning {version} needs "
            f"{LEAST_PEOPLE} of them: give more people"
        )


def _rows(people: Ints) -> _Rows:
    _, members, counts = np.unique(people, return_inverse=True, return_counts=True)
    order = np.argsort(members, kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    single = [group for group in groups if len(group) == 1]
    return _Rows(
        [group for group in groups if len(group) > 1],
        np.concatenate([*single, np.empty(0, dtype=np.int64)]).astype(np.int64),
    )


def _draw(rows: _Rows, draw: np.random.Generator) -> Ints:
    """Return the rows of one batch: int64 [n], each once."""
    chosen = draw.permutation(len(rows.several))[:PEOPLE]
    parts = [draw.permutation(rows.several[person])[:IMAGES] for person in chosen.tolist()]
    return np.concatenate([*parts, draw.permutation(rows.single)[:SINGLES]])


def _fit(source: Floats, people: Ints, rows: _Rows, steps: int, seed: int) -> tuple[Floats, Floats]:
    """Return matrix float32 [d, d] and bias float32 [d]."""
    import torch
    from torch.nn import functional

    inputs = torch.from_numpy(source.astype(np.float32))
    draw = np.random.default_rng(seed)
    matrix = torch.eye(source.shape[1]).requires_grad_()
    bias = torch.zeros(source.shape[1]).requires_grad_()
    optimiser = torch.optim.AdamW([matrix, bias], lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for _ in range(steps):
        taken = _draw(rows, draw)
        mapped = functional.normalize(inputs[torch.from_numpy(taken)] @ matrix + bias)
        loss = self_contrast(mapped, people[taken])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return matrix.detach().numpy().copy(), bias.detach().numpy().copy()


def self_contrast(mapped: torch.Tensor, people: Ints) -> torch.Tensor:
    """Return the contrastive loss of unit vectors [N, d] among themselves.

    Positives are the other images of a person; an image is not compared with itself.
    """
    import torch

    from segue.harmonic.contrast import pooled_contrast

    same: Bools = people[:, None] == people
    positive = same & ~np.eye(len(people), dtype=np.bool_)
    return pooled_contrast(
        mapped @ mapped.T,
        torch.from_numpy(positive),
        torch.from_numpy(~same),
        temperature=TEMPERATURE,
        balance=BALANCE,
        shared=True,
    )
