"""Training a v2 to stay comparable with v1, in FaceNet's two stages; and the twin without v1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from segue.arrays import check_vectors
from segue.errors import TrainingError, VectorError
from segue.files import sha256_bytes
from segue.networks import build_network, save_weights
from segue.train.base import check_people
from segue.train.loop import Stage, Task, own_torch_state, run_stages
from segue.train.objective import make_settled_loss, own_loss, tying_loss
from segue.train.trained import Trained
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT, Preprocessing, no_progress

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from segue.images import FaceList
    from segue.networks import EmbeddingNetwork
    from segue.train.loop import Log, Objective
    from segue.train.settings import HarmonicSettings
    from segue.types import Floats, Ints, Progress


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

    FaceNet, appendix: the embedding layer is drawn anew; stage 1 trains it alone; stage 2 the whole
    network. The loss is `self_weight` times the self loss on the output `embedding`, plus
    `cross_weight` times the tying loss on the output that v1 is compared with: `embedding` where
    the dimensions agree, else a further head `compatible` of v1's dimension.

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
        PeopleError, ImageError, UnknownNameError, TrainingError: as `train_base`.
    """
    old = check_vectors(old_vectors, name="old vectors")
    if len(old) != len(faces):
        raise VectorError(f"{len(old)} old vectors for {len(faces)} faces; give one for each")
    tying = tying_loss(settings.loss, settings, settings.loss_settings)
    own = own_loss(make_settled_loss(settings.self_loss, settings, settings.self_loss_settings))
    network = _begin(start, old.shape[1])
    network.reset_heads(settings.seed)
    compared = COMPATIBLE_OUTPUT if COMPATIBLE_OUTPUT in network.outputs else DEFAULT_OUTPUT
    frozen = torch.from_numpy(old)

    def objective(outputs: dict[str, Tensor], labels: Tensor, rows: Ints) -> dict[str, Tensor]:
        batch = frozen[torch.from_numpy(rows)].to(labels.device)
        return {
            "self": settings.self_weight * own(outputs[DEFAULT_OUTPUT], labels),
            "cross": settings.cross_weight * tying(outputs[compared], labels, batch),
        }

    of = {
        "kind": "harmonic",
        "start": sha256_bytes(save_weights(start)),
        "old_vectors": sha256_bytes(old.tobytes()),
    }
    return _train(
        faces,
        settings,
        network,
        objective,
        of,
        preprocessing=preprocessing,
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
    embedding layer is not drawn anew: that would only weaken the rival.

    Args and errors as of `train_harmonic`.
    """
    own = own_loss(make_settled_loss(settings.self_loss, settings, settings.self_loss_settings))

    def objective(outputs: dict[str, Tensor], labels: Tensor, _rows: Ints) -> dict[str, Tensor]:
        return {"self": settings.self_weight * own(outputs[DEFAULT_OUTPUT], labels)}

    of = {"kind": "twin", "start": sha256_bytes(save_weights(start))}
    network = _begin(start, start.outputs[DEFAULT_OUTPUT])
    return _train(
        faces,
        settings,
        network,
        objective,
        of,
        preprocessing=preprocessing,
        checkpoint=checkpoint,
        progress=progress,
        log=log,
    )


def _begin(start: EmbeddingNetwork, old_dimension: int) -> EmbeddingNetwork:
    """Copy `start` with its own output, and a head of v1's dimension where that is another."""
    if not start.architecture:
        raise TrainingError(
            "the network to start from was not made by `build_network`, so it cannot be built "
            "again; register its architecture and build it by name"
        )
    settings = {name: value for name, value in start.settings.items() if name != "outputs"}
    if start.outputs[DEFAULT_OUTPUT] != old_dimension:
        settings["outputs"] = {COMPATIBLE_OUTPUT: old_dimension}
    with torch.random.fork_rng(devices=[]):
        network = build_network(start.architecture, settings)
    network.trunk.load_state_dict(start.trunk.state_dict())
    network.heads[DEFAULT_OUTPUT].load_state_dict(start.heads[DEFAULT_OUTPUT].state_dict())
    return network


def _train(
    faces: FaceList,
    settings: HarmonicSettings,
    network: EmbeddingNetwork,
    objective: Objective,
    of: dict[str, str],
    *,
    preprocessing: Preprocessing | None,
    checkpoint: Path | None,
    progress: Progress,
    log: Log | None,
) -> Trained:
    labels = faces.labels
    check_people(labels)
    size = settings.image_size
    preprocessing = preprocessing or Preprocessing(size, size)
    fingerprint = faces.fingerprint
    stages = [
        Stage("stage 1", settings.head_steps, settings.head_learning_rate, heads_only=True),
        Stage("stage 2", settings.steps, settings.learning_rate),
    ]
    with own_torch_state(settings):
        images = faces.load((preprocessing.height, preprocessing.width), progress)
        task = Task(
            images,
            labels,
            preprocessing,
            objective,
            {**of, "data": fingerprint, "preprocessing": preprocessing.to_json()},
        )
        history, seconds = run_stages(
            network, task, settings, stages, checkpoint=checkpoint, progress=progress, log=log
        )
    return Trained(
        network,
        network.architecture,
        network.settings,
        preprocessing,
        history,
        fingerprint,
        seconds,
    )
