"""MLflow's copy of a version: a pyfunc model of data files, registered as a model version."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.errors import RegistryError
from segue.registry.manifest import PEOPLE
from segue.registry.mlflow_store import is_database, load, quiet, translated
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segue.registry.manifest import Manifest
    from segue.registry.tracking import Tracking

MODELS = "segue-models"
"""The MLflow experiment that copies of models are kept in."""

_LOADER = "segue.registry.pyfunc"
_REQUIREMENTS = {"network": ("segue", "torch"), "onnx": ("segue", "onnxruntime")}


@dataclass(frozen=True)
class Copy:
    """A version of a registered model in MLflow."""

    name: str
    number: int

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.number}"


@contextmanager
def registered_copy(
    tracking: Tracking, manifest: Manifest, folder: Path, run_id: str | None = None
) -> Iterator[Copy]:
    """Register `folder` as the next MLflow version of its name; an error in the block undoes it.

    Args:
        tracking: the store.
        manifest: the folder's manifest.
        folder: a model folder; all of it but the marks of people is copied.
        run_id: the training run that the model came from.

    Raises:
        RegistryError: MLflow cannot be reached; nothing of the copy is left.
    """
    client = tracking.connect()
    undo: list[tuple[Any, tuple[str, ...]]] = []
    try:
        with translated(tracking.uri):
            model = client.create_logged_model(
                tracking.experiment(MODELS),
                name=manifest.name,
                source_run_id=run_id,
                tags=_tags(manifest),
                model_type="face embedding",
            )
            undo.append((client.delete_logged_model, (model.model_id,)))
            undo.append((_delete_artifacts, (model.artifact_location,)))
            _log_files(client, model.model_id, manifest, folder)
            if not client.search_registered_models(f"name = '{manifest.name}'", max_results=1):
                client.create_registered_model(manifest.name)
                undo.append((client.delete_registered_model, (manifest.name,)))
            version = client.create_model_version(
                manifest.name,
                # MLflow resolves models:/m-… and model ids against its global URI when it writes a
                # database itself; only a server can be told by id.
                source=model.artifact_location,
                run_id=run_id,
                model_id=None if is_database(tracking.uri) else model.model_id,
                tags=_tags(manifest),
                description=describe(manifest),
            )
            undo.append((client.delete_model_version, (manifest.name, str(version.version))))
        yield Copy(manifest.name, int(version.version))
    except BaseException:
        for action, arguments in reversed(undo):
            with suppress(RegistryError), translated(tracking.uri):
                action(*arguments)
        raise


def describe(manifest: Manifest) -> str:
    """Say in a line what a version is."""
    outputs = ", ".join(f"{name} {dimension}-d" for name, dimension in manifest.outputs.items())
    what = {
        "network": f"network {manifest.architecture}",
        "onnx": "ONNX model",
        "vectors": "vectors without a model: it cannot embed",
    }[manifest.kind]
    return f"{what}; outputs: {outputs}"


def _log_files(client: Any, model_id: str, manifest: Manifest, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="segue-") as temporary:
        pyfunc = Path(temporary) / "pyfunc"
        _save_pyfunc(pyfunc, manifest, folder)
        client.log_model_artifacts(model_id, str(pyfunc))
    client.finalize_logged_model(model_id, "READY")


def _save_pyfunc(target: Path, manifest: Manifest, folder: Path) -> None:
    pyfunc = load("mlflow.pyfunc")
    with quiet(), tempfile.TemporaryDirectory(prefix="segue-") as temporary:
        data = Path(temporary) / "model"  # the name that the folder has in the copy
        shutil.copytree(folder, data, ignore=shutil.ignore_patterns(PEOPLE))
        pyfunc.save_model(
            str(target),
            loader_module=_LOADER,
            data_path=str(data),
            signature=_signature(manifest),
            pip_requirements=_requirements(manifest.kind),
            metadata=_tags(manifest),
        )


def _signature(manifest: Manifest) -> Any:
    """Images uint8 [N, h, w, 3] in, one output's float32 [N, d] out; `output` picks which."""
    if manifest.preprocessing is None:
        return None
    import numpy as np

    models, types, schema = load("mlflow.models"), load("mlflow.types"), load("mlflow.types.schema")
    size = (-1, manifest.preprocessing.height, manifest.preprocessing.width, 3)
    dimensions = set(manifest.outputs.values())
    dimension = manifest.outputs[DEFAULT_OUTPUT] if len(dimensions) == 1 else -1
    return models.ModelSignature(
        inputs=schema.Schema([schema.TensorSpec(np.dtype(np.uint8), size)]),
        outputs=schema.Schema([schema.TensorSpec(np.dtype(np.float32), (-1, dimension))]),
        params=schema.ParamSchema(
            [schema.ParamSpec("output", types.DataType.string, DEFAULT_OUTPUT)]
        ),
    )


def _requirements(kind: str) -> list[str]:
    """Pin what the loader needs to what is installed here; MLflow then infers nothing."""
    return [
        f"{name}=={importlib.metadata.version(name).split('+')[0]}"
        for name in _REQUIREMENTS.get(kind, ("segue",))
    ]


def _tags(manifest: Manifest) -> Mapping[str, str]:
    return {"segue.kind": manifest.kind, "segue.fingerprint": manifest.fingerprint}


def _delete_artifacts(location: str) -> None:
    repository = load("mlflow.store.artifact.artifact_repository_registry")
    repository.get_artifact_repository(location).delete_artifacts()
