"""The training loop, shared by base, harmonic and twin trainings."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from segue.errors import TrainingError, UnsafeModelError
from segue.networks.weights import check_tensors
from segue.train.checkpoint import Checkpoint, load_checkpoint, refusing, save_checkpoint
from segue.train.feed import NETWORK, Feed, mix
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from segue.train.settings import LoopSettings
    from segue.train.task import Stage, Task
    from segue.train.trainee import Trainee
    from segue.types import Progress

    Log = Callable[[int, dict[str, float]], None]
    OptimiserState = dict[int, dict[str, Tensor]]

_FREE_SETTINGS = frozenset({"threads", "device", "checkpoint_every"})


def run_stages(
    trainee: Trainee,
    task: Task,
    settings: LoopSettings,
    stages: Sequence[Stage],
    *,
    checkpoint: Path | None,
    progress: Progress,
    log: Log | None,
) -> tuple[list[dict[str, float]], float]:
    """Train `trainee` in place, from the checkpoint where there is one.

    A run that was killed gives, when it is called again, the weights that it would have given
    uninterrupted: bit for bit with one thread on one machine. Every random number is a function of
    the seed and the step. Where triplets are mined offline, each mining begins with a checkpoint,
    and a run that was killed goes on from there.

    Returns:
        The history, and the seconds spent.

    Raises:
        TrainingError: the loss is no longer finite, or the checkpoint is another training's.
    """
    keeper = _Keeper(checkpoint, _identity(task, settings), log)
    total = sum(stage.steps for stage in stages)
    done, state = keeper.resume(trainee, total)
    trainee.to(settings.device)
    for stage, first, last in _placed(stages):
        if done >= last:
            continue
        trained = trainee.parameters_of(stage.trained)
        optimiser = _make_optimiser(trained, stage, settings)
        if done > first:
            keeper.restore(optimiser, state)
        feed = Feed(trainee, task, settings, stage=stage, first=first)
        for step in range(max(first, done), last):
            if feed.mines_at(step):
                keeper.save(trainee, optimiser, step)
                feed.mine(step)
            torch.manual_seed(mix(settings.seed, step))  # for networks that draw, as by dropout
            batch, outputs = feed.outputs(step)
            terms = task.objective(outputs, batch)
            loss = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss of step {step + 1} is {loss.item()}; lower learning_rate"
                )

            rate = _learning_rate(stage, settings, step - first)
            _descend(loss, optimiser, trained, rate=rate, clip=settings.clip)

            ended = step + 1
            if ended % settings.log_every == 0 or ended == total:
                vectors = outputs[DEFAULT_OUTPUT]
                keeper.note(ended, _measure(loss, terms, rate, vectors, batch.labels))
            regular = task.mining is None and ended % settings.checkpoint_every == 0
            if regular or ended == last:
                keeper.save(trainee, None if ended == last else optimiser, ended)
            progress(ended, total, f"steps, {stage.name}")
    return keeper.history, keeper.seconds


class _Keeper:
    """Saves and resumes the state of one training, and keeps its history and time."""

    def __init__(self, folder: Path | None, of: dict[str, Any], log: Log | None) -> None:
        self._folder, self._of, self._log = folder, of, log
        self._begun, self._before = time.monotonic(), 0.0
        self.history: list[dict[str, float]] = []

    @property
    def seconds(self) -> float:
        """Time spent in this run and those before it."""
        return self._before + time.monotonic() - self._begun

    def resume(self, trainee: Trainee, total: int) -> tuple[int, OptimiserState]:
        """Fill `trainee` from the checkpoint; return the steps done and the optimiser's state.

        Raises:
            UnsafeModelError: it is damaged, or no checkpoint of `total` steps of this network.
        """
        found = load_checkpoint(self._folder, self._of) if self._folder is not None else None
        if found is None:
            return 0, {}
        assert self._folder is not None
        with refusing(self._folder):
            check_tensors(found.weights, trainee.state_dict(), self._folder)
            if found.step > total:
                reason = f"it is of step {found.step}, and the training has {total}"
                raise UnsafeModelError(self._folder, reason)
        trainee.load_state_dict(found.weights)
        self.history, self._before = found.history, found.seconds
        return found.step, found.optimiser

    def restore(self, optimiser: Optimizer, state: OptimiserState) -> None:
        """Give `optimiser` the state of the checkpoint, in the middle of a stage.

        Raises:
            UnsafeModelError: it is no state of this optimiser.
        """
        assert self._folder is not None
        with refusing(self._folder):
            _check_state(optimiser, state, self._folder)
        _restore(optimiser, state)

    def note(self, step: int, entry: dict[str, float]) -> None:
        """Add the figures of a step to the history and tell them."""
        self.history.append({"step": step, **entry})
        if self._log is not None:
            self._log(step, entry)

    def save(self, trainee: Trainee, optimiser: Optimizer | None, step: int) -> None:
        """Write the checkpoint after `step` steps; a stage that ended needs no optimiser."""
        if self._folder is None:
            return
        state: OptimiserState = optimiser.state_dict()["state"] if optimiser is not None else {}
        weights = trainee.state_dict()
        kept = Checkpoint(step, weights, state, self.history, self.seconds)
        save_checkpoint(self._folder, kept, self._of)


@contextmanager
def own_torch_state(settings: LoopSettings) -> Iterator[None]:
    """Seed torch and set its threads for a training; leave both as they were."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(settings.seed, NETWORK))
        if settings.threads:
            torch.set_num_threads(settings.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _identity(task: Task, settings: LoopSettings) -> dict[str, Any]:
    """Return what a checkpoint must agree on; where it is computed is free to change."""
    kept = {name: v for name, v in asdict(settings).items() if name not in _FREE_SETTINGS}
    return {**task.of, "settings": kept}


def _placed(stages: Sequence[Stage]) -> Iterator[tuple[Stage, int, int]]:
    """Yield each stage with the number of its first step and of the step after its last."""
    first = 0
    for stage in stages:
        yield stage, first, first + stage.steps
        first += stage.steps


def _make_optimiser(
    trained: Sequence[Parameter], stage: Stage, settings: LoopSettings
) -> Optimizer:
    decay = settings.weight_decay
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            trained, lr=stage.learning_rate, momentum=0.9, nesterov=True, weight_decay=decay
        )
    return torch.optim.AdamW(trained, lr=stage.learning_rate, weight_decay=decay)


def _check_state(
    optimiser: Optimizer, state: Mapping[int, Mapping[str, Tensor]], source: Path
) -> None:
    """Check that each state is one of a parameter of the optimiser: its names and shapes."""
    names = (
        {"momentum_buffer"}
        if isinstance(optimiser, torch.optim.SGD)
        else {"step", "exp_avg", "exp_avg_sq"}
    )
    trained = optimiser.param_groups[0]["params"]
    if not state:
        raise UnsafeModelError(source, "it lacks the optimiser's state")
    for number, values in state.items():
        if number >= len(trained) or values.keys() != names:
            raise UnsafeModelError(source, "it has the state of another optimiser")
        for name, value in values.items():
            expected = () if name == "step" else trained[number].shape
            if value.shape != expected or not value.is_floating_point():
                raise UnsafeModelError(source, f"the optimiser's {name} {number} does not fit")


def _restore(optimiser: Optimizer, state: Mapping[int, Mapping[str, Tensor]]) -> None:
    fresh = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": fresh["param_groups"]})


def _descend(
    loss: Tensor, optimiser: Optimizer, trained: Sequence[Parameter], *, rate: float, clip: float
) -> None:
    """Make one step down the loss, its gradient no longer than `clip`."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    if clip:
        torch.nn.utils.clip_grad_norm_(trained, clip)
    optimiser.step()


def _learning_rate(stage: Stage, settings: LoopSettings, step: int) -> float:
    """Return the rate of a stage's step: a linear rise, then half a cosine down to 1 %."""
    warmup = min(settings.warmup, stage.steps // 2)
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(stage.steps - warmup, 1)
    return stage.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


def _measure(
    loss: Tensor, terms: Mapping[str, Tensor], rate: float, vectors: Tensor, labels: Tensor
) -> dict[str, float]:
    with torch.no_grad():
        distances = 2 - 2 * vectors @ vectors.T
        same = labels[:, None] == labels
        other = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        same_distance, different_distance = distances[same & other].mean(), distances[~same].mean()
    return {
        "loss": loss.item(),
        **{f"loss_{name}": term.item() for name, term in terms.items() if len(terms) > 1},
        "learning_rate": rate,
        "same_distance": same_distance.item(),
        "different_distance": different_distance.item(),
    }
