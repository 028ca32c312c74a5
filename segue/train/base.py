"""Training a network of its own space from random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.harmonic import apply_loss
from segue.networks import build_network
from segue.train.loop import own_torch_state, run_stages
from segue.train.objective import make_settled_loss, offline_mining, own_loss
from segue.train.sampler import PKSampler
from segue.train.task import Stage, Task
from segue.train.trained import Trained
from segue.train.trainee import Trainee
from segue.types import DEFAULT_OUTPUT, Preprocessing, no_progress

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from segue.images import FaceList
    from segue.train.loop import Log
    from segue.train.settings import TrainSettings
    from segue.train.task import Batch
    from segue.types import Ints, Progress


def train_base(
    faces: FaceList,
    settings: TrainSettings,
    *,
    checkpoint: Path | None = None,
    progress: Progress = no_progress,
    log: Log | None = None,
) -> Trained:
    """Train `settings.architecture` on faces with a loss of its own space.

    Args:
        faces: of the people to train on, already chosen.
        settings: every hyper-parameter.
        checkpoint: folder for the training's state; the same call goes on from what it holds.
        progress: told of each step.
        log: called with the step and its figures every `settings.log_every` steps.

    Raises:
        PeopleError: fewer than two people have two images or more.
        ImageError: an image cannot be decoded.
        UnknownNameError: an unknown architecture, setting or loss.
        UsageError: a loss that needs old vectors, or that takes no triplets with `mine_every`.
        TrainingError: the loss diverged, or the checkpoint is of another training.
    """
    labels = faces.labels
    check_people(labels)
    loss = own_loss(make_settled_loss(settings.self_loss, settings, settings.self_loss_settings))
    mining = offline_mining(loss, settings.self_loss, settings, DEFAULT_OUTPUT)

    def objective(outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        vectors = outputs[DEFAULT_OUTPUT]
        return {"self": apply_loss(loss, vectors, batch.labels, triplets=batch.triplets)}

    chosen = settings.architecture_settings or {"width": settings.width}
    size = settings.image_size
    preprocessing = Preprocessing(size, size, flip=settings.average_mirror)
    fingerprint = faces.fingerprint
    with own_torch_state(settings):
        network = build_network(
            settings.architecture, {**chosen, "dimension": settings.dimension}
        ).train()
        images = faces.load((size, size), progress)
        of = {"kind": "base", "data": fingerprint}
        trainee = Trainee(network)
        history, seconds = run_stages(
            trainee,
            Task(images, labels, preprocessing, objective, of, mining),
            settings,
            [Stage("base", settings.steps, settings.learning_rate)],
            checkpoint=checkpoint,
            progress=progress,
            log=log,
        )
    return Trained(
        trainee.finish(),
        network.architecture,
        network.settings,
        preprocessing,
        history,
        fingerprint,
        seconds,
    )


def check_people(labels: Ints) -> None:
    """Check, before images are decoded, that people can be told apart.

    Raises:
        PeopleError: fewer than two people have two images or more.
    """
    PKSampler(labels, 2, 2)
