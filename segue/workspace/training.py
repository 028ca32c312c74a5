"""Train on a list of people, log to MLflow, register what came out."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from segue.files import sha256_bytes
from segue.images import FaceList, read_faces
from segue.types import DEFAULT_OUTPUT
from segue.workspace.people import trained_on
from segue.workspace.retuning import old_outputs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segue.registry import Version
    from segue.train import HarmonicSettings, Trained, TrainSettings
    from segue.types import Progress
    from segue.workspace.core import Workspace

    Log = Callable[[int, dict[str, float]], None]


def train_base(
    workspace: Workspace,
    name: str,
    data: Path,
    settings: TrainSettings,
    *,
    old_only: bool,
    progress: Progress,
) -> Version:
    """Train a network of its own space and register it as the next version of `name`."""
    from segue import train

    train.check_losses(settings)
    faces = read_faces(data).part("train", old_only=old_only)

    def work(checkpoint: Path, log: Log) -> Trained:
        return train.train_base(faces, settings, checkpoint=checkpoint, progress=progress, log=log)

    return _train_and_register(
        workspace, name, work, kind="base", settings=asdict(settings), faces=faces, lineage={}
    )


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
    """Train `start` on against the frozen vectors of `old`; then its twin, without them."""
    from segue import train

    train.check_losses(settings)
    registry = workspace.registry
    old_version, start_version = registry.resolve(old), registry.resolve(start)
    if start_version.preprocessing is not None:  # the input's size is the start's, whatever is set
        settings = replace(settings, image_size=start_version.preprocessing.height)
    if start_version.dimension != old_version.dimension:  # then v1 needs a head of its own
        settings = replace(settings, separate_head=True)
    faces = read_faces(data).part("train")
    network = registry.network(start_version.version)
    vectors = old_outputs(workspace, old_version, faces, old_vectors, progress)[DEFAULT_OUTPUT]

    def harmonic(checkpoint: Path, log: Log) -> Trained:
        return train.train_harmonic(
            faces,
            settings,
            start=network,
            old_vectors=vectors,
            preprocessing=start_version.preprocessing,
            checkpoint=checkpoint,
            progress=progress,
            log=log,
        )

    def independent(checkpoint: Path, log: Log) -> Trained:
        return train.train_twin(
            faces,
            settings,
            start=network,
            preprocessing=start_version.preprocessing,
            checkpoint=checkpoint,
            progress=progress,
            log=log,
        )

    lineage = {"old": old_version.version, "start": start_version.version}
    made = None
    if twin:
        made = _without_twin(workspace, start_version.name, lineage, asdict(settings), faces)
    if made is None:
        made = _train_and_register(
            workspace,
            start_version.name,
            harmonic,
            kind="harmonic",
            settings=asdict(settings),
            faces=faces,
            lineage=lineage,
        )
    if not twin:
        return made, None
    lineage = {"twin_of": made.version, "start": start_version.version}
    return made, _train_and_register(
        workspace,
        f"{made.name}-twin",
        independent,
        kind="twin",
        settings=train.twin_settings(settings),
        faces=faces,
        lineage=lineage,
    )


def _without_twin(
    workspace: Workspace,
    name: str,
    lineage: dict[str, str],
    settings: dict[str, Any],
    faces: FaceList,
) -> Version | None:
    """Return the version that the same call made before it was killed in its twin, if any."""
    versions = workspace.registry.list()
    have = {version.details.get("twin_of") for version in versions}
    wanted = {"kind": "harmonic", **lineage, "training": settings, "data": faces.fingerprint}
    for version in versions:
        same = all(version.details.get(key) == value for key, value in wanted.items())
        if version.name == name and same and version.version not in have:
            return version
    return None


def _train_and_register(
    workspace: Workspace,
    name: str,
    work: Callable[[Path, Log], Trained],
    *,
    kind: str,
    settings: dict[str, Any],
    faces: FaceList,
    lineage: dict[str, str],
) -> Version:
    fingerprint = faces.fingerprint
    asked = json.dumps([kind, settings, lineage, fingerprint], sort_keys=True)
    checkpoint = workspace.root / "checkpoints" / f"{name}-{sha256_bytes(asked.encode())[:16]}"
    with workspace.registry.tracking.training_run(
        f"{name} {kind}", {**settings, **lineage}, fingerprint
    ) as run:
        trained = work(checkpoint, run.log)
    from segue.networks import save_weights

    version = workspace.registry.register_network(
        name,
        architecture=trained.architecture,
        settings=trained.settings,
        weights=save_weights(trained.network),
        preprocessing=trained.preprocessing,
        details={
            "kind": kind,
            **lineage,
            "run_id": run.run_id,
            "training": settings,
            "data": fingerprint,
            "people": len(faces.people),
            "images": len(faces),
            "seconds": round(trained.seconds, 1),
        },
        people=trained_on(workspace, faces, "train"),
    )
    shutil.rmtree(checkpoint, ignore_errors=True)
    return version
