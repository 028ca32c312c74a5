"""The training loop, shared by base, harmonic and twin trainings."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from segue.errors import TrainingError
from segue.networks.preprocess import prepare
from segue.networks.weights import check_tensors
from segue.train.augment import augment
from segue.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from segue.train.sampler import PKSampler
from segue.train.trainee import ALL
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from segue.train.settings import LoopSettings
    from segue.train.trainee import Trainee
    from segue.types import Images, Ints, Preprocessing, Progress

    Log = Callable[[int, dict[str, float]], None]
    OptimiserState = dict[int, dict[str, Tensor]]
    Objective = Callable[[dict[str, Tensor], Tensor, Ints, "Stage"], dict[str, Tensor]]

_FREE_SETTINGS = frozenset({"threads", "device", "checkpoint_every"})
_AUGMENTATION, _NETWORK, _TURNS = 3, 4, 5  # streams of random numbers beside the sampler's
_TOGETHER = 25  # batches whose features are kept at a time


@dataclass(frozen=True)
class Stage:
    """A run of steps with one optimiser.

    Attributes:
        name: for people.
        steps: how many.
        learning_rate: at its highest.
        trained: one of PARTS; but for "all" the trunk stays as it is, statistics included.
        reuse: steps for which the features of one batch serve. More than 1 needs a trunk that stays
            as it is; the batches of some steps are then embedded together and used in turn.
    """

    name: str
    steps: int
    learning_rate: float
    trained: str = ALL
    reuse: int = 1


@dataclass(frozen=True)
class Task:
    """What is trained on.

    Attributes:
        images: uint8 [N, h, w, 3].
        labels: the person of each, int64 [N].
        preprocessing: what images go through.
        objective: from the outputs of a batch, its labels, its image numbers and the stage to the
            weighted terms of the loss, by name.
        of: JSON values that tell this training from others: kind, data, starting weights.
    """

    images: Images
    labels: Ints
    preprocessing: Preprocessing
    objective: Objective
    of: Mapping[str, Any]


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
    the seed and the step.

    Returns:
        The history, and the seconds spent.

    Raises:
        TrainingError: the loss is no longer finite, or the checkpoint is another training's.
    """
    keeper = _Keeper(checkpoint, _identity(task, settings), log)
    done, state = keeper.resume(trainee)
    trainee.to(settings.device)
    total = sum(stage.steps for stage in stages)
    for stage, first, last in _placed(stages):
        if done >= last:
            continue
        trained = trainee.parameters_of(stage.trained)
        optimiser = _make_optimiser(trained, stage, settings)
        if done > first:
            _restore(optimiser, state)
        feed = _Feed(trainee, task, settings, stage=stage, first=first)
        for step in range(max(first, done), last):
            torch.manual_seed(_mix(settings.seed, step))  # for networks that draw, as by dropout
            rows, outputs = feed.outputs(step)
            labels = torch.from_numpy(task.labels[rows]).to(settings.device)
            terms = task.objective(outputs, labels, rows, stage)
            loss = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss of step {step + 1} is {loss.item()}; lower learning_rate"
                )

            rate = _learning_rate(stage, settings, step - first)
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            if settings.clip:
                torch.nn.utils.clip_grad_norm_(trained, settings.clip)
            optimiser.step()

            ended = step + 1
            if ended % settings.log_every == 0 or ended == total:
                keeper.note(ended, _measure(loss, terms, rate, outputs[DEFAULT_OUTPUT], labels))
            if ended % settings.checkpoint_every == 0 or ended == last:
                keeper.save(trainee, None if ended == last else optimiser, ended)
            progress(ended, total, f"steps, {stage.name}")
    return keeper.history, keeper.seconds


class _Feed:
    """Gives each step of a stage its rows and what the trainee makes of them."""

    def __init__(
        self,
        trainee: Trainee,
        task: Task,
        settings: LoopSettings,
        *,
        stage: Stage,
        first: int,
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
        self._kept: list[tuple[Ints, Tensor]] = []
        self._turns: Ints = np.empty(0, dtype=np.int64)

    def outputs(self, step: int) -> tuple[Ints, dict[str, Tensor]]:
        """Return the image numbers of a step, and the unit vectors of each output."""
        if self._stage.reuse == 1:
            rows, images = self._load(step)
            return rows, self._trainee(images, trained=self._stage.trained, half=self._half)
        together = _TOGETHER * self._stage.reuse
        number, place = divmod(step - self._first, together)
        if number != self._round:
            self._embed(number)
        rows, features = self._kept[self._turns[place]]
        self._trainee.train()
        return rows, self._trainee.embed(features)

    def _embed(self, number: int) -> None:
        """Embed the batches of a round, and shuffle the turns in which they serve."""
        reuse = self._stage.reuse
        begin = self._first + number * _TOGETHER
        left = self._stage.steps - number * _TOGETHER * reuse
        batches = min(_TOGETHER, -(-left // reuse))
        self._kept = []
        for batch in range(begin, begin + batches):
            rows, images = self._load(batch)
            self._kept.append((rows, self._trainee.features(images, frozen=True, half=self._half)))
        turns = np.tile(np.arange(batches), reuse)
        self._turns = np.random.default_rng([self._settings.seed, _TURNS, begin]).permutation(turns)
        self._round = number

    def _load(self, number: int) -> tuple[Ints, Tensor]:
        rows = self._sampler.batch(number)
        return rows, _load_batch(self._task, self._settings, rows, number)


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

    def resume(self, trainee: Trainee) -> tuple[int, OptimiserState]:
        """Fill `trainee` from the checkpoint; return the steps done and the optimiser's state."""
        found = load_checkpoint(self._folder, self._of) if self._folder is not None else None
        if found is None:
            return 0, {}
        check_tensors(found.weights, trainee.state_dict(), f"the checkpoint in {self._folder}")
        trainee.load_state_dict(found.weights)
        self.history, self._before = found.history, found.seconds
        return found.step, found.optimiser

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
        torch.manual_seed(_mix(settings.seed, _NETWORK))
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


def _load_batch(task: Task, settings: LoopSettings, rows: Ints, step: int) -> Tensor:
    generator = np.random.default_rng([settings.seed, _AUGMENTATION, step])
    batch = torch.from_numpy(prepare(task.images[rows], task.preprocessing))
    batch = augment(batch, settings, generator)
    return batch.to(settings.device, memory_format=torch.channels_last)


def _make_optimiser(
    trained: Sequence[Parameter], stage: Stage, settings: LoopSettings
) -> Optimizer:
    decay = settings.weight_decay
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            trained, lr=stage.learning_rate, momentum=0.9, nesterov=True, weight_decay=decay
        )
    return torch.optim.AdamW(trained, lr=stage.learning_rate, weight_decay=decay)


def _restore(optimiser: Optimizer, state: Mapping[int, Mapping[str, Tensor]]) -> None:
    fresh = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": fresh["param_groups"]})


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


def _mix(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
