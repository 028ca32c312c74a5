"""Train on a list of people, log to MLflow, register what came out."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from segue.errors import InvalidNameError
from segue.files import held, sha256_bytes
from segue.images import FaceList, read_faces
from segue.types import DEFAULT_OUTPUT, check_name
from segue.workspace.people import trained_on
from segue.workspace.retuning import old_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from segue.registry import Version
    from segue.train import HarmonicSettings, Trained, TrainSettings
    from segue.types import Floats, Progress
    from segue.workspace.core import Workspace

    Log = Callable[[int, dict[str, float]], None]
    Work = Callable[[Path, Log], Trained]

CHECKPOINTS = "checkpoints"
"""The workspace's folder of the checkpoints of trainings that are not registered yet."""


@dataclass(frozen=True)
class _Asked:
    """What one training is asked for; equal ones go on from one checkpoint.

    Attributes:
        name: of the model that it makes.
        kind: `base`, `harmonic` or `twin`.
        settings: as JSON values.
        faces: of the people to train on.
        lineage: the versions that it comes from, by what they are to it.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    faces: FaceList
    lineage: dict[str, str]

    @property
    def folder(self) -> str:
        """The name of its checkpoint's folder."""
        asked = [self.kind, self.settings, self.lineage, self.faces.fingerprint]
        mark = sha256_bytes(json.dumps(asked, sort_keys=True).encode())
        return f"{self.name}-{mark[:16]}"


def train_base(
    workspace: Workspace,
    name: str,
    data: Path,
    settings: TrainSettings,
    *,
    old_only: bool,
    progress: Progress,
) -> Version:
    """Train a network of its own space and register it as the next version of `name`.

    Raises:
        InvalidNameError: no model can have that name; nothing was read or written.
        LockedError: another process is at the same training.
    """
    from segue import train

    check_name(name, "model name")
    train.check_losses(settings)
    faces = read_faces(data).part("train", old_only=old_only)

    def work(checkpoint: Path, log: Log) -> Trained:
        return train.train_base(faces, settings, checkpoint=checkpoint, progress=progress, log=log)

    asked = _Asked(name, "base", asdict(settings), faces, {})
    with _own_checkpoint(workspace, asked) as checkpoint:
        return _train_and_register(workspace, asked, checkpoint, work)


def train_harmonic(
    workspace: Workspace,
    data: Path,
    settings: HarmonicSettings,
    *,
    old: str,
    start: str,
    old_vectors: Path | None,
    twin: bool,
    progress: Progress,
) -> tuple[Version, Version | None]:
    """Train `start` on against the frozen vectors of `old`; then its twin, without them.

    Where a call before this one was killed in its twin, only the twin is trained.

    Raises:
        InvalidNameError: the twin cannot be named; nothing was read or written.
        LockedError: another process is at the same training.
    """
    from segue import train

    train.check_losses(settings)
    registry = workspace.registry
    old_version, start_version = registry.resolve(old), registry.resolve(start)
    if twin:
        _check_twin_name(start_version.name)
    preprocessing = start_version.preprocessing
    if preprocessing is not None:  # the input's size is the start's, whatever is set
        settings = replace(settings, image_size=preprocessing.height)
    if start_version.dimension != old_version.dimension:  # then v1 needs a head of its own
        settings = replace(settings, separate_head=True)
    faces = read_faces(data).part("train")
    network = registry.network(start_version.version)
    embed = partial(old_outputs, workspace, old_version, faces, old_vectors, progress)
    given = None if old_vectors is None else embed()  # a file is held to the faces in any case

    def harmonic(vectors: Floats, checkpoint: Path, log: Log) -> Trained:
        return train.train_harmonic(
            faces,
            settings,
            start=network,
            old_vectors=vectors,
            preprocessing=preprocessing,
            checkpoint=checkpoint,
            progress=progress,
            log=log,
        )

    def independent(checkpoint: Path, log: Log) -> Trained:
        return train.train_twin(
            faces,
            settings,
            start=network,
            preprocessing=preprocessing,
            checkpoint=checkpoint,
            progress=progress,
            log=log,
        )

    lineage = {"old": old_version.version, "start": start_version.version}
    asked = _Asked(start_version.name, "harmonic", asdict(settings), faces, lineage)
    made = _without_twin(workspace, asked) if twin else None
    if made is None:
        with _own_checkpoint(workspace, asked) as checkpoint:
            work = partial(harmonic, (given or embed())[DEFAULT_OUTPUT])
            made = _train_and_register(workspace, asked, checkpoint, work)
    if not twin:
        return made, None
    asked = _Asked(
        _twin_name(made.name),
        "twin",
        train.twin_settings(settings),
        faces,
        {"twin_of": made.version, "start": start_version.version},
    )
    with _own_checkpoint(workspace, asked) as checkpoint:
        return made, _train_and_register(workspace, asked, checkpoint, independent)


def _twin_name(name: str) -> str:
    return f"{name}-twin"


def _check_twin_name(name: str) -> None:
    try:
        check_name(_twin_name(name), "model name")
    except InvalidNameError as error:
        raise InvalidNameError(
            "model name",
            error.name,
            "a twin has its start's name and '-twin', 64 characters at most; start from a version "
            "of a shorter name, or train without the twin (--no-twin)",
        ) from error


def _without_twin(workspace: Workspace, asked: _Asked) -> Version | None:
    """Return the version that the same call made before it was killed in its twin, if any."""
    versions = workspace.registry.list()
    have = {version.details.get("twin_of") for version in versions}
    wanted = {
        "kind": asked.kind,
        **asked.lineage,
        "training": asked.settings,
        "data": asked.faces.fingerprint,
    }
    for version in versions:
        same = all(version.details.get(key) == value for key, value in wanted.items())
        if version.name == asked.name and same and version.version not in have:
            return version
    return None


@contextmanager
def _own_checkpoint(workspace: Workspace, asked: _Asked) -> Iterator[Path]:
    """Give a training's checkpoint folder to this process alone, which may remove it.

    Raises:
        LockedError: another process is at the same training.
    """
    folder = workspace.root / CHECKPOINTS / asked.folder
    with held(folder.with_name(f"{folder.name}.lock"), f"the training in {folder}"):
        yield folder


def _train_and_register(
    workspace: Workspace, asked: _Asked, checkpoint: Path, work: Work
) -> Version:
    faces, settings, lineage = asked.faces, asked.settings, asked.lineage
    with workspace.registry.tracking.training_run(
        f"{asked.name} {asked.kind}", {**settings, **lineage}, faces.fingerprint
    ) as run:
        trained = work(checkpoint, run.log)
    from segue.networks import save_weights

    version = workspace.registry.register_network(
        asked.name,
        architecture=trained.architecture,
        settings=trained.settings,
        weights=save_weights(trained.network),
        preprocessing=trained.preprocessing,
        details={
            "kind": asked.kind,
            **lineage,
            "run_id": run.run_id,
            "training": settings,
            "data": faces.fingerprint,
            "people": len(faces.people),
            "images": len(faces),
            "seconds": round(trained.seconds, 1),
        },
        people=trained_on(workspace, faces, "train"),
    )
    shutil.rmtree(checkpoint, ignore_errors=True)
    return version
