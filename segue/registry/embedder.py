"""Load a registered model: hashes first, then fingerprint, then parsing, then witnesses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.arrays import check_images
from segue.errors import NoModelError, RegistryError, TamperedError
from segue.files import read_checked
from segue.registry.manifest import MANIFEST, MODEL_FILES, WITNESS, Manifest, fingerprint
from segue.registry.witness import check_witness
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segue.networks import EmbeddingNetwork, Runner
    from segue.types import Floats, Images, Preprocessing


class RegistryEmbedder:
    """One loaded embedding version (`segue.types.Embedder`): images in, unit vectors out.

    Attributes:
        version: the version's id.
        preprocessing: how images become the network's input.
        fingerprint: of weights, architecture, settings and preprocessing.
    """

    def __init__(
        self, version: str, runner: Runner, preprocessing: Preprocessing, fingerprint: str
    ) -> None:
        self.version = version
        self.preprocessing = preprocessing
        self.fingerprint = fingerprint
        self._runner = runner
        self._outputs = dict(runner.outputs)
        if DEFAULT_OUTPUT not in self._outputs:
            raise RegistryError(
                f"{version} has no output {DEFAULT_OUTPUT!r} (it has "
                f"{', '.join(sorted(self._outputs)) or 'none'}); name the model's own output so"
            )

    @property
    def outputs(self) -> Mapping[str, int]:
        """Output name -> dimension; `embedding` is always there."""
        return dict(self._outputs)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that `embed` wants its images in."""
        return self.preprocessing.height, self.preprocessing.width

    def embed(self, images: Images) -> dict[str, Floats]:
        """Embed RGB images uint8 [N, height, width, 3]: per output, unit float32 [N, d].

        Raises:
            VectorError: images of another size or dtype, or a vector that is NaN or of length 0.
        """
        from segue.networks import embed

        return embed(self._runner, check_images(images, self.input_size), self.preprocessing)


def make_runner(
    kind: str, content: bytes, architecture: str, settings: Mapping[str, Any], source: Path | str
) -> Runner:
    """Parse a model of either kind into what runs it; torch is loaded for a network only.

    `source` is named in errors.

    Raises:
        UnsafeModelError: the content is no safetensors or ONNX of a known form.
        UnknownNameError: the architecture is not registered.
    """
    if kind == "onnx":
        from segue.networks import OnnxRunner

        return OnnxRunner(content, graph_output=settings.get("graph_output"), source=source)
    from segue.networks import TorchRunner, load_network

    return TorchRunner(load_network(architecture, settings, content, source=source))


def read_model(
    folder: Path, version: str, files: Mapping[str, str] | None = None
) -> tuple[Manifest, bytes, bytes]:
    """Read a model folder and check it: (manifest, model, witnesses), nothing parsed but JSON.

    Args:
        folder: with `manifest.json` and what it lists.
        version: the id to say in errors.
        files: file name -> sha256 as registered; without them (MLflow's copy) the manifest's own.

    Raises:
        NoModelError: the version has only vectors.
        TamperedError: a file, or what the manifest says of it, is not what was registered.
        MissingPathError: a file is gone.
    """
    path = folder / MANIFEST
    content = read_checked(path, files[MANIFEST]) if files is not None else path.read_bytes()
    manifest = Manifest.from_bytes(content, str(path))
    if manifest.kind not in MODEL_FILES or manifest.preprocessing is None:
        raise NoModelError(version)
    expected = files if files is not None else manifest.files
    name = MODEL_FILES[manifest.kind]
    model = read_checked(folder / name, expected[name])
    witness = read_checked(folder / WITNESS, expected[WITNESS])
    found = fingerprint(model, manifest.architecture, manifest.settings, manifest.preprocessing)
    if found != manifest.fingerprint:
        raise TamperedError(path, manifest.fingerprint, found)
    return manifest, model, witness


def open_model(
    folder: Path, version: str, files: Mapping[str, str] | None = None
) -> RegistryEmbedder:
    """Load the model of a folder and let it reproduce its witnesses.

    Raises:
        NoModelError, TamperedError, MissingPathError: as `read_model`.
        UnsafeModelError: it is no model of a known format.
        WitnessError: it gives other vectors than when it was registered.
    """
    manifest, model, witness = read_model(folder, version, files)
    source = folder / MODEL_FILES[manifest.kind]
    runner = make_runner(manifest.kind, model, manifest.architecture, manifest.settings, source)
    return _witnessed(version, runner, manifest, witness)


def open_network(folder: Path, version: str, files: Mapping[str, str]) -> EmbeddingNetwork:
    """Load a network to go on training with, after the checks of `open_model`.

    Raises:
        RegistryError: the version is an ONNX file; otherwise as `open_model`.
    """
    manifest, model, witness = read_model(folder, version, files)
    if manifest.kind != "network":
        raise RegistryError(
            f"{version} is an ONNX file, which cannot be trained further; "
            "start from a network of Segue (`segue train base`)"
        )
    from segue.networks import TorchRunner, load_network

    source = folder / MODEL_FILES[manifest.kind]
    network = load_network(manifest.architecture, manifest.settings, model, source=source)
    _witnessed(version, TorchRunner(network), manifest, witness)
    return network


def _witnessed(
    version: str, runner: Runner, manifest: Manifest, witness: bytes
) -> RegistryEmbedder:
    assert manifest.preprocessing is not None  # read_model refused it
    embedder = RegistryEmbedder(version, runner, manifest.preprocessing, manifest.fingerprint)
    check_witness(embedder, witness)
    return embedder
