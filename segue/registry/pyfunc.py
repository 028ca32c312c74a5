"""What MLflow's `loader_module` names: `mlflow.pyfunc.load_model("models:/faces/1")` comes here.

The model is data files alone (JSON, safetensors, ONNX); nothing in it is unpickled or imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.errors import UnknownNameError
from segue.registry.embedder import open_model
from segue.registry.manifest import MANIFEST, Manifest
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segue.registry.embedder import RegistryEmbedder
    from segue.types import Floats, Images


class PyfuncModel:
    """One embedding version as MLflow calls it."""

    def __init__(self, embedder: RegistryEmbedder) -> None:
        self.embedder = embedder

    def predict(self, images: Images, params: Mapping[str, Any] | None = None) -> Floats:
        """Embed RGB images uint8 [N, h, w, 3]: unit float32 [N, d].

        Args:
            images: of the version's input size.
            params: `{"output": name}` picks another output than `embedding`.

        Raises:
            UnknownNameError: the version has no such output.
            VectorError: the images have another size or dtype.
        """
        output = str((params or {}).get("output", DEFAULT_OUTPUT))
        if output not in self.embedder.outputs:
            raise UnknownNameError("output", output, self.embedder.outputs)
        return self.embedder.embed(images)[output]


def _load_pyfunc(path: str) -> PyfuncModel:
    """Load MLflow's copy of a model folder, its hashes, fingerprint and witnesses checked."""
    folder = Path(path)
    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
    label = f"{manifest.name} ({manifest.fingerprint[:12]})"
    return PyfuncModel(open_model(folder, label))
