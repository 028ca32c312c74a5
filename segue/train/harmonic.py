"""Training a v2 to stay comparable with v1, in two stages as FaceNet does; and the twin without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from segue.arrays import check_vectors
from segue.errors import TrainingError, VectorError
from segue.files import sha256_bytes
from segue.harmonic import ContraRactLoss, apply_loss
from segue.networks import build_network, save_weights
from segue.networks.preprocess import prepare
from segue.train.base import check_people
from segue.train.loop import own_torch_state, run_stages
from segue.train.objective import (
    make_settled_loss,
    offline_mining,
    old_inputs,
    own_loss,
    tying_loss,
)
from segue.train.task import Kept, Stage, Task
from segue.train.trained import Trained
from segue.train.trainee import COMPATIBLE, HEADS, SeparateHeadTrainee, Trainee
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT, Preprocessing, no_progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from segue.images import FaceList
    from segue.networks import EmbeddingNetwork
    from segue.train.loop import Log
    from segue.train.settings import HarmonicSettings
    from segue.train.task import Batch, Mining, Objective
    from segue.types import Floats, Images, Ints, Progress

_SAMPLE = 512
"""Images whose features a separate head is standardised by."""


def train_harmonic(
    faces: FaceList,
    settings: HarmonicSettings,
    *,
    start: EmbeddingNetwork,
    old_vectors: Floats,
    preprocessing: Preprocessing | None = None,
    checkpoint: Path | None = None,
    progress: Progress = no_progress,
    log: Log | None = None,
) -> Trained:
    """Train an independently trained v2 on, so that its vectors compare with the frozen v1's.

    The whole network is trained, and then, with `head_last`, the separate head alone on what the
    trunk has become; without it, the embedding layers alone come first (FaceNet, appendix). The
    loss is `self_weight` times the self loss on the output `embedding`, plus `cross_weight` times
    the tying loss on the output that v1 is compared with; the separate head alone has the tying
    loss alone. What v1 is compared with is a head `compatible` of its own, drawn anew, where
    `separate_head` is set or the dimensions differ, and `embedding` goes on from where it is; else
    it is `embedding` itself, drawn anew as in the paper.

    Beside a separate head `embedding` has a light tie too, `own_contrast` times `contra_ract`,
    where it has v1's dimension: not to be compared with v1, but because it makes v2 itself better.

    With `mine_every`, the tying loss's triplets are mined offline, from the latest checkpoint; the
    self loss mines in each of the batches that are drawn from them.

    Args:
        faces: of the people to train on.
        settings: every hyper-parameter.
        start: the v2 to begin from, made by `build_network`; it is left as it is.
        old_vectors: v1's unit vectors of the faces, float32 [N, d1], in their order.
        preprocessing: of `start`; by default squares of `settings.image_size` in [-1, 1].
        checkpoint: folder for the training's state; the same call goes on from what it holds.
        progress: told of each step.
        log: called with the step and its figures every `settings.log_every` steps.

    Raises:
        VectorError: not one unit vector for each face.
        UsageError: a loss in the wrong place, or one without triplets with `mine_every`.
        PeopleError, ImageError, UnknownNameError, TrainingError: as `train_base`.
    """
    old = check_vectors(old_vectors, name="old vectors")
    if len(old) != len(faces):
        raise VectorError(f"{len(old)} old vectors for {len(faces)} faces; give one for each")
    tying = tying_loss(settings.loss, settings, settings.loss_settings)
    own = own_loss(make_settled_loss(settings.self_loss, settings, settings.self_loss_settings))
    contrast = ContraRactLoss()
    labels = faces.labels
    frozen = torch.from_numpy(old)
    known = old_inputs(tying, frozen, torch.from_numpy(labels))
    network = _begin(start, old.shape[1], separate=settings.separate_head)
    apart = COMPATIBLE_OUTPUT in network.outputs
    compared = COMPATIBLE_OUTPUT if apart else DEFAULT_OUTPUT
    mining = offline_mining(tying, settings.loss, settings, compared, frozen)

    weights = None
    if "class_weights" in tying.needs:
        weights = torch.nn.Parameter(known["old_means"].clone())

    def objective(outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        labels = batch.labels
        old_batch = frozen[torch.from_numpy(batch.rows)].to(labels.device)
        cross = apply_loss(
            tying,
            outputs[compared],
            labels,
            old_vectors=old_batch,
            class_weights=weights,
            triplets=batch.triplets,
            **{name: value.to(labels.device) for name, value in known.items()},
        )
        if batch.stage.trained == COMPATIBLE:
            return {"cross": cross}
        new = outputs[DEFAULT_OUTPUT]
        terms = {
            "self": settings.self_weight * own(new, labels),
            "cross": settings.cross_weight * cross,
        }
        if settings.own_contrast and new.shape[1] == old_batch.shape[1]:
            terms["contrast"] = settings.own_contrast * contrast(new, labels, old_batch)
        return terms

    def begin(images: Images, preprocessing: Preprocessing) -> Trainee:
        if not apart:
            network.reset_heads(settings.seed)
            return Trainee(network, weights)
        sample = torch.from_numpy(prepare(images[_sample(labels, settings)], preprocessing))
        with torch.no_grad():
            features = network.eval().trunk(sample)
        return SeparateHeadTrainee(network, settings.head_dropout, features, weights)

    of = {
        "kind": "harmonic",
        "start": sha256_bytes(save_weights(start)),
        "old_vectors": sha256_bytes(old.tobytes()),
    }
    return _train(
        faces,
        settings,
        begin,
        objective,
        of,
        mining=mining,
        preprocessing=preprocessing or _squares(settings),
        checkpoint=checkpoint,
        progress=progress,
        log=log,
    )


def train_twin(
    faces: FaceList,
    settings: HarmonicSettings,
    *,
    start: EmbeddingNetwork,
    preprocessing: Preprocessing | None = None,
    checkpoint: Path | None = None,
    progress: Progress = no_progress,
    log: Log | None = None,
) -> Trained:
    """Train `start` on for the same steps with the same self loss, knowing nothing of v1.

    What v2 would be without compatibility, the rival that a harmonic v2 is measured against. Its
    embedding layer is not drawn anew: that would only weaken the rival. The self loss mines in each
    batch, as it does beside a tying loss; `mine_every` is not for the twin.

    Args and errors as of `train_harmonic`.
    """
    own = own_loss(make_settled_loss(settings.self_loss, settings, settings.self_loss_settings))

    def objective(outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"self": settings.self_weight * own(outputs[DEFAULT_OUTPUT], batch.labels)}

    of = {"kind": "twin", "start": sha256_bytes(save_weights(start))}
    network = _begin(start, start.outputs[DEFAULT_OUTPUT], separate=False)
    return _train(
        faces,
        settings,
        lambda _images, _preprocessing: Trainee(network),
        objective,
        of,
        preprocessing=preprocessing or _squares(settings),
        checkpoint=checkpoint,
        progress=progress,
        log=log,
    )


def _stages(settings: HarmonicSettings, trainee: Trainee) -> list[Stage]:
    """Return FaceNet's order, or the separate head last; without one, the whole network alone."""
    rate, kept = settings.head_learning_rate, None
    if settings.head_images:
        kept = Kept(settings.head_images, settings.head_people, settings.head_singles)
    if not settings.head_last:
        heads = Stage("stage 1", settings.head_steps, rate, HEADS, kept)
        return [heads, Stage("stage 2", settings.steps, settings.learning_rate)]
    whole = Stage("stage 1", settings.steps, settings.learning_rate)
    if COMPATIBLE_OUTPUT not in trainee.network.outputs:
        return [whole]
    return [whole, Stage("stage 2", settings.head_steps, rate, COMPATIBLE, kept)]


def _squares(settings: HarmonicSettings) -> Preprocessing:
    return Preprocessing(settings.image_size, settings.image_size)


def _sample(labels: Ints, settings: HarmonicSettings) -> Ints:
    """Return some images that stand for all, drawn by the seed: int64 [S]."""
    drawn = np.random.default_rng(settings.seed).permutation(len(labels))[:_SAMPLE]
    return np.sort(drawn).astype(np.int64)


def _begin(start: EmbeddingNetwork, old_dimension: int, *, separate: bool) -> EmbeddingNetwork:
    """Copy `start` with its own output, and a head of v1's dimension if asked for or needed."""
    if not start.architecture:
        raise TrainingError(
            "the network to start from was not made by `build_network`, so it cannot be built "
            "again; register its architecture and build it by name"
        )
    settings = {name: value for name, value in start.settings.items() if name != "outputs"}
    if separate or start.outputs[DEFAULT_OUTPUT] != old_dimension:
        settings["outputs"] = {COMPATIBLE_OUTPUT: old_dimension}
    with torch.random.fork_rng(devices=[]):
        network = build_network(start.architecture, settings)
    network.trunk.load_state_dict(start.trunk.state_dict())
    network.heads[DEFAULT_OUTPUT].load_state_dict(start.heads[DEFAULT_OUTPUT].state_dict())
    return network


def _train(
    faces: FaceList,
    settings: HarmonicSettings,
    begin: Callable[[Images, Preprocessing], Trainee],
    objective: Objective,
    of: dict[str, str],
    *,
    mining: Mining | None = None,
    preprocessing: Preprocessing,
    checkpoint: Path | None,
    progress: Progress,
    log: Log | None,
) -> Trained:
    labels = faces.labels
    check_people(labels)
    fingerprint = faces.fingerprint
    with own_torch_state(settings):
        images = faces.load((preprocessing.height, preprocessing.width), progress)
        trainee = begin(images, preprocessing)
        task = Task(
            images,
            labels,
            preprocessing,
            objective,
            {**of, "data": fingerprint, "preprocessing": preprocessing.to_json()},
            mining,
        )
        history, seconds = run_stages(
            trainee,
            task,
            settings,
            _stages(settings, trainee),
            checkpoint=checkpoint,
            progress=progress,
            log=log,
        )
    network = trainee.finish()
    return Trained(
        network,
        network.architecture,
        network.settings,
        preprocessing,
        history,
        fingerprint,
        seconds,
    )
