"""Settings of a few steps on generated faces, and a kill in the middle of a training."""

from __future__ import annotations

import dataclasses

from segue.harmonic.losses import registered_losses
from segue.networks import TorchRunner, embed, save_weights
from segue.train import HarmonicSettings, TrainSettings, paper_settings

COMMON = {
    "image_size": 32,
    "people_per_batch": 4,
    "images_per_person": 3,
    "singles_per_batch": 2,
    "warmup": 2,
    "threads": 1,
    "log_every": 3,
    "checkpoint_every": 4,
}
BASE = TrainSettings(**COMMON, width=2, dimension=6, steps=10)
HARMONIC = HarmonicSettings(**COMMON, head_steps=5, steps=6, head_people=6)
HEADS_FIRST = dataclasses.replace(HARMONIC, head_last=False, head_images=0)
PAPER = paper_settings(**COMMON, head_steps=5, steps=6)
ENOUGH = {
    "head_steps": 60,
    "steps": 60,
    "head_learning_rate": 2e-2,
    "learning_rate": 5e-3,
    "margin": 0.5,
}
"""Steps enough to learn something."""

TYING = sorted(
    name for name, loss in registered_losses().items() if loss.needs & {"old_vectors", "old_means"}
)
"""The losses that tie v2 to v1."""


class Killed(Exception):  # noqa: N818  # it stands for a kill, not for an error
    """Ends a training from within its callback."""


def kill_at(step):
    """Return a progress callback that ends a training after so many steps."""

    def progress(done, _total, what):
        if what.startswith("steps") and done == step:
            raise Killed

    return progress


def without_time(trained):
    """Return what two equal trainings have in common: history and weights, bit for bit."""
    return trained.history, save_weights(trained.network)


def unread(faces, folder):
    """Return the same list of faces, none of which can be read."""
    gone = (
        dataclasses.replace(face, path=folder / "gone" / face.path.name) for face in faces.faces
    )
    return dataclasses.replace(faces, faces=tuple(gone), root=folder)


def distances_to_old(trained, output, faces, old_vectors):
    """Return squared distances new -> old: of the same person, of different people."""
    new = embed(TorchRunner(trained.network), faces.load((32, 32)), trained.preprocessing)[output]
    found = 2 - 2 * new @ old_vectors.T
    same = faces.labels[:, None] == faces.labels
    return found[same].mean(), found[~same].mean()
