"""The second upgrade's v2: a model that was not trained here, and a linear head on its vectors."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from segue.arrays import normalise
from segue.errors import MissingPathError, UnsafeModelError
from segue.files import sha256_bytes
from segue.harmonic import apply_loss
from segue.networks import OnnxRunner, embed
from segue.train import PKSampler
from segue.train.objective import old_inputs, tying_loss
from segue.types import COMPATIBLE_OUTPUT, DEFAULT_OUTPUT, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segue.images import FaceList
    from segue.train import HarmonicSettings
    from segue.types import Floats, Ints


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """An ONNX model, its content by sha256, and what its images go through."""

    name: str
    sha256: str
    preprocessing: Preprocessing

    def embed(self, folder: Path, faces: FaceList) -> dict[str, Floats]:
        """Embed faces by the model of that name in `folder`: unit float32 [N, d].

        Raises:
            MissingPathError: it is not there.
            UnsafeModelError: another model is.
        """
        path = folder / self.name
        if not path.is_file():
            raise MissingPathError(path, "model of the second upgrade")
        content = path.read_bytes()
        if sha256_bytes(content) != self.sha256:
            raise UnsafeModelError(path, "it is not the model that the study names")
        images = faces.load((self.preprocessing.height, self.preprocessing.width))
        return embed(OnnxRunner(content, threads=1), images, self.preprocessing)


def train_head(
    features: Floats, labels: Ints, old: Floats, settings: HarmonicSettings
) -> tuple[dict[str, torch.Tensor], float]:
    """Train a linear map from frozen features to v1's space by a tying loss alone.

    Batches, optimiser and learning rates are those of stage 1 of `train_harmonic`, and the features
    are shifted and scaled in the same way; there are no images to augment.

    Args:
        features: of the training images, float32 [N, f].
        labels: who each shows, int64 [N].
        old: v1's unit vectors of the same images, float32 [N, d].
        settings: `head_steps`, `head_learning_rate`, `head_dropout`, the loss and the batches.

    Returns:
        weight float32 [d, f] and bias [d] that take features as they are, and the seconds spent.
    """
    begun = time.monotonic()
    torch.manual_seed(settings.seed)
    loss = tying_loss(settings.loss, settings, settings.loss_settings)
    given, frozen, people = (torch.from_numpy(x) for x in (features, old, labels))
    known = old_inputs(loss, frozen, people)
    mean, scale = given.mean(0), given.std().clamp(min=1e-6)
    scaled = (given - mean) / scale
    sampler = PKSampler(
        labels,
        settings.people_per_batch,
        settings.images_per_person,
        settings.singles_per_batch,
        settings.seed,
    )
    head = nn.Linear(features.shape[1], old.shape[1])
    optimiser = torch.optim.AdamW(
        head.parameters(), settings.head_learning_rate, weight_decay=settings.weight_decay
    )
    for step in range(settings.head_steps):
        rows = torch.from_numpy(sampler.batch(step))
        seen = functional.dropout(scaled[rows], settings.head_dropout)
        vectors = functional.normalize(head(seen), dim=1)
        value = apply_loss(loss, vectors, people[rows], old_vectors=frozen[rows], **known)
        for group in optimiser.param_groups:
            group["lr"] = settings.head_learning_rate * _share(step, settings)
        optimiser.zero_grad()
        torch.autograd.backward(value)
        optimiser.step()
    with torch.no_grad():
        weight = head.weight / scale
        found = {"weight": weight.contiguous(), "bias": (head.bias - weight @ mean).contiguous()}
    return found, time.monotonic() - begun


def apply_head(features: Floats, head: Mapping[str, torch.Tensor]) -> dict[str, Floats]:
    """Return the model's own vectors, and those that are compared with v1's."""
    weight, bias = (head[name].numpy().astype(np.float64) for name in ("weight", "bias"))
    mapped = features.astype(np.float64) @ weight.T + bias
    return {DEFAULT_OUTPUT: features, COMPATIBLE_OUTPUT: normalise(mapped, name="mapped vectors")}


def _share(step: int, settings: HarmonicSettings) -> float:
    """Return a step's share of the highest learning rate: a linear rise, then half a cosine."""
    warmup = min(settings.warmup, settings.head_steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(settings.head_steps - warmup, 1)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
