"""A residual network as a bridge: ridge regression, and what a small network adds to it.

The network has one hidden layer and starts by adding nothing. It is trained in float32 with Adam to
bring the normalised sum near the target, while the ridge map stays as it is. Width, weight decay
and the number of steps are chosen together by cross-validation over people; no steps at all is
among the choices, so that where a network does not pay the bridge is the ridge map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from segue.harmonic.bridges.affine import fit_ridge, ridge_path
from segue.harmonic.bridges.bridge import Correction
from segue.harmonic.bridges.fit import Fitted, one_thread, people_folds, register_bridge

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from segue.types import Bools, Doubles, Floats, Ints

    _Rows: TypeAlias = slice | torch.Tensor

WIDTHS = (32, 128)
"""Hidden units tried."""

DECAYS = (10.0, 30.0)
"""Weight decays tried: the share of a weight that a step takes away is rate times decay."""

STEPS, LOOK_EVERY, PATIENCE = 100, 10, 3
"""Most steps, how often the held-out people are looked at, and looks without a gain that end it."""

RATE = 3e-3
"""Adam's step size."""

BATCH = 2048
"""Rows of a step; fewer images take part in every step."""


class _Task(NamedTuple):
    """Several trainings on the same images: training c sees row i with weight `weights[c, i]`.

    Shapes: source float32 [N, d1] scaled to unit variance, base [F, N, d2] the output of F ridge
    maps, target [N, d2], weights [C, N], decays [C]; training c starts from map c modulo F.
    """

    source: torch.Tensor
    base: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor
    decays: torch.Tensor


class _Layers(NamedTuple):
    """C networks side by side: inner [C, d1, h], inner_bias [C, 1, h], outer [C, h, d2]."""

    inner: torch.Tensor
    inner_bias: torch.Tensor
    outer: torch.Tensor

    def __call__(self, source: torch.Tensor) -> torch.Tensor:
        """Map [N, d1] or [C, N, d1] to [C, N, d2]."""
        return (source @ self.inner + self.inner_bias).relu() @ self.outer


@register_bridge("mlp")
def fit_mlp(source: Doubles, target: Doubles, groups: Ints, seed: int) -> Fitted:
    """Fit ridge regression, then a network of one hidden layer on what it leaves."""
    ridge = fit_ridge(source, target, groups, seed)
    with one_thread():
        width, decay, steps, error = _choose(
            source, target, people_folds(groups, seed), ridge.settings["strength"], seed
        )
        correction = None
        if steps:
            base = source @ ridge.matrix + ridge.bias
            task = _task(source, base[None], target, np.ones((1, len(base))), np.array([decay]))
            layers = list(_train(task, width, steps, seed))[-1]
            correction = _correction(layers, source.shape[1])
    chosen = {
        "strength": ridge.settings["strength"],
        "width": width if steps else 0,
        "decay": decay if steps else 0.0,
        "steps": steps,
        "held_out_distance": error,
    }
    return Fitted(ridge.matrix, ridge.bias, chosen, correction)


def _choose(
    source: Doubles, target: Doubles, folds: Ints, strength: float, seed: int
) -> tuple[int, float, int, float]:
    """Return width, decay, steps and their mean held-out squared distance.

    All folds and decays of one width are trained at once, as networks side by side.
    """
    names = np.unique(folds)
    held = folds == names[:, None]
    base = np.empty((len(names), *target.shape), dtype=np.float32)
    for place, rows in enumerate(held):
        matrix, bias = next(ridge_path(source[~rows], target[~rows], (strength,)))
        base[place] = source @ matrix + bias
    weights = np.tile(~held, (len(DECAYS), 1))
    task = _task(source, base, target, weights, np.repeat(DECAYS, len(names)))
    best = (WIDTHS[0], DECAYS[0], 0, np.inf)
    for width in WIDTHS:
        lowest = np.full(len(DECAYS), np.inf)
        since = np.zeros(len(DECAYS))
        for looks, layers in enumerate(_train(task, width, STEPS, seed)):
            errors = _held_out(task, layers).reshape(len(DECAYS), -1).sum(axis=1) / len(source)
            place = int(np.argmin(errors))
            if errors[place] < best[3]:
                best = (width, DECAYS[place], looks * LOOK_EVERY, float(errors[place]))
            since = np.where(errors < lowest, 0, since + 1)
            lowest = np.minimum(errors, lowest)
            if (since >= PATIENCE).all():
                break
    return best


def _task(
    source: Doubles,
    base: Doubles | Floats,
    target: Doubles,
    weights: Doubles | Bools,
    decays: Doubles,
) -> _Task:
    import torch

    scaled = source * np.sqrt(source.shape[1])
    arrays = (scaled, base, target, weights, decays)
    return _Task(*(torch.from_numpy(array.astype(np.float32)) for array in arrays))


def _train(task: _Task, width: int, steps: int, seed: int) -> Iterator[_Layers]:
    """Train and yield the layers before the first step and after every `LOOK_EVERY` steps."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    count, images = task.weights.shape
    inputs, outputs = task.source.shape[1], task.target.shape[1]
    # Every network starts the same, so that what differs is what is compared.
    inner = torch.randn(inputs, width, generator=draw) * (2 / inputs) ** 0.5
    layers = _Layers(
        inner.repeat(count, 1, 1).requires_grad_(),
        torch.zeros(count, 1, width, requires_grad=True),
        torch.zeros(count, width, outputs, requires_grad=True),
    )
    optimiser = torch.optim.Adam(layers, lr=RATE)
    shrink = (1 - RATE * task.decays)[:, None, None]
    yield layers
    for step in range(1, steps + 1):
        rows: _Rows = slice(None)
        if images > BATCH:
            rows = torch.randperm(images, generator=draw)[:BATCH]
        loss = _loss(task, layers, rows).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            layers.inner.mul_(shrink)
            layers.outer.mul_(shrink)
        optimiser.step()
        if step % LOOK_EVERY == 0:
            yield layers


def _distances(task: _Task, layers: _Layers, rows: _Rows) -> torch.Tensor:
    """Return the squared distance of each normalised output to its target: [C, N]."""
    import torch

    base = task.base[:, rows]
    mapped = base.repeat(len(task.decays) // len(base), 1, 1) + layers(task.source[rows])
    unit = torch.nn.functional.normalize(mapped, dim=2)
    return (unit - task.target[rows]).square().sum(dim=2)


def _loss(task: _Task, layers: _Layers, rows: _Rows) -> torch.Tensor:
    """Return the mean squared distance of each training: [C]."""
    weights = task.weights[:, rows]
    total = (_distances(task, layers, rows) * weights).sum(dim=1)
    return total / weights.sum(dim=1).clamp_min(1)


def _held_out(task: _Task, layers: _Layers) -> Doubles:
    """Return the sum of squared distances of the rows that each training did not see: [C]."""
    import torch

    total = np.zeros(len(task.decays))
    with torch.no_grad():
        for start in range(0, len(task.source), BATCH):
            rows = slice(start, start + BATCH)
            distances = _distances(task, layers, rows).double() * (1 - task.weights[:, rows])
            total += distances.sum(dim=1).numpy()
    return total


def _correction(layers: _Layers, inputs: int) -> Correction:
    """Return the first network, its input's scale folded into its weights."""
    scale = np.float32(np.sqrt(inputs))
    inner, bias, outer = (layer[0].detach().numpy() for layer in layers)
    return Correction(inner * scale, bias[0].copy(), outer.copy())
