"""Nothing that could run code is loaded, and nothing that was changed."""

from __future__ import annotations

import json
import pickle
import zipfile

import numpy as np
import pytest
import sqlalchemy as sa

from segue.database import versions
from segue.errors import (
    FormatError,
    MissingPathError,
    RegistryError,
    TamperedError,
    UnsafeModelError,
    VectorError,
    WitnessError,
)
from segue.files import sha256_bytes
from segue.registry.manifest import Manifest
from segue.types import Preprocessing


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def traps(folder):
    """Return files that run code when a loader unpickles them."""
    flag = folder / "ran"
    pickled = folder / "model.pkl"
    pickled.write_bytes(pickle.dumps(Trap(flag)))
    zipped = folder / "model.pt2"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Trap(flag)))
    return flag, [pickled, zipped]


def left_behind(registry, root):
    """Return everything that a registration adds."""
    client = registry.tracking.connect()
    return [
        *registry.list(),
        *registry.ledger(),
        *(root / "models").glob("*"),
        *(root / "models").glob(".*"),
        *client.search_model_versions(),
        *client.search_registered_models(),
        *(root / "mlartifacts").rglob("MLmodel"),
    ]


def test_files_that_run_code_are_refused_and_leave_nothing(registry, root, tmp_path):
    """A pickle and a zip, as weights and as ONNX, run nothing and leave no row, folder or copy."""
    flag, files = traps(tmp_path)
    for path in files:
        with pytest.raises(UnsafeModelError):
            registry.register_onnx("faces", path, preprocessing=Preprocessing(32, 32))
        with pytest.raises(UnsafeModelError):
            registry.register_network(
                "faces",
                architecture="small",
                settings={"width": 2, "dimension": 8},
                weights=path.read_bytes(),
                preprocessing=Preprocessing(32, 32),
            )
    assert not flag.exists()
    assert left_behind(registry, root) == []


def test_weights_of_another_network_are_refused(registry, root, weights):
    """Safetensors of other shapes than the settings say are refused before anything is written."""
    with pytest.raises(UnsafeModelError):
        registry.register_network(
            "faces",
            architecture="small",
            settings={"width": 3, "dimension": 8},
            weights=weights[0],
            preprocessing=Preprocessing(32, 32),
        )
    assert left_behind(registry, root) == []


def test_a_network_that_gives_nan_is_refused(registry, root, weights):
    """Weights with NaN give no witness vectors, so that they never become a version."""
    from safetensors.numpy import load, save

    tensors = load(weights[0])
    broken = {name: np.full_like(x, np.nan) if "head" in name else x for name, x in tensors.items()}
    with pytest.raises(VectorError):
        registry.register_network(
            "faces",
            architecture="small",
            settings={"width": 2, "dimension": 8},
            weights=save(broken),
            preprocessing=Preprocessing(32, 32),
        )
    assert left_behind(registry, root) == []


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json", "witness.safetensors"])
def test_a_changed_file_of_a_network_is_refused(register, registry, root, name):
    """One changed byte in any file of a network is found by its hash, before it is parsed."""
    register()
    change(root / "models" / "faces-1" / name)
    with pytest.raises(TamperedError, match=name):
        registry.load("faces/1")
    with pytest.raises(TamperedError, match=name):
        registry.network("faces/1")


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "witness.safetensors"])
def test_a_changed_file_of_an_onnx_model_is_refused(registry, root, onnx_file, name):
    """One changed byte in any file of an ONNX model is found by its hash."""
    registry.register_onnx("arc", onnx_file, preprocessing=Preprocessing(32, 32))
    change(root / "models" / "arc-1" / name)
    with pytest.raises(TamperedError, match=name):
        registry.load("arc/1")


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json", "witness.safetensors"])
def test_a_file_replaced_by_a_pickle_runs_nothing(register, registry, root, tmp_path, name):
    """A registered file that became a pickle is refused by its hash and never unpickled."""
    register()
    flag, files = traps(tmp_path)
    (root / "models" / "faces-1" / name).write_bytes(files[0].read_bytes())
    with pytest.raises(TamperedError):
        registry.load("faces/1")
    assert not flag.exists()


def test_a_missing_file_is_told(register, registry, root):
    """A file that is gone is named."""
    register()
    (root / "models" / "faces-1" / "weights.safetensors").unlink()
    with pytest.raises(MissingPathError, match=r"weights\.safetensors"):
        registry.load("faces/1")


def test_folders_that_were_swapped_are_refused(register, registry, root):
    """A model under the name of another is found: its files are not those of the row."""
    register()
    register(which=1)
    models = root / "models"
    (models / "faces-1").rename(models / "x")
    (models / "faces-2").rename(models / "faces-1")
    with pytest.raises(TamperedError):
        registry.load("faces/1")


def forge(root, database, change_manifest):
    """Change the manifest of faces/1 and its hash in the database, as an intruder could."""
    path = root / "models" / "faces-1" / "manifest.json"
    value = json.loads(path.read_bytes())
    change_manifest(value)
    content = json.dumps(value).encode()
    path.write_bytes(content)
    with database.write() as connection:
        files = connection.scalar(sa.select(versions.c.files))
        files["manifest.json"] = sha256_bytes(content)
        connection.execute(versions.update().values(files=files))


def test_a_preprocessing_that_changed_is_refused(register, registry, root, database):
    """Even with a matching file hash, the fingerprint finds changed preprocessing."""
    register()
    forge(root, database, lambda value: value["preprocessing"].update(mean=[0.1, 0.1, 0.1]))
    with pytest.raises(TamperedError, match="manifest"):
        registry.load("faces/1")


def test_a_manifest_of_a_newer_segue_is_refused(register, registry, root, database):
    """A manifest of an unknown format says so."""
    register()
    forge(root, database, lambda value: value.update(format=2))
    with pytest.raises(FormatError, match="format 2"):
        registry.load("faces/1")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 1}', b"\x80\x04", b"null"])
def test_what_is_no_manifest_is_refused(content):
    """Anything else than a manifest raises a sentence, not a traceback of the parser."""
    with pytest.raises(RegistryError, match="no manifest"):
        Manifest.from_bytes(content)


def test_a_model_that_gives_other_vectors_is_refused(register, registry, root):
    """Witnesses catch what no hash can: the code or runtime below the weights changed."""
    from segue.registry import witness

    register()
    embedder = registry.load("faces/1")
    content = (root / "models" / "faces-1" / "witness.safetensors").read_bytes()
    assert witness.check_witness(embedder, content) <= witness.TOLERANCE
    register("other", which=1)
    with pytest.raises(WitnessError, match="other/1 does not reproduce") as caught:
        witness.check_witness(registry.load("other/1"), content)
    assert caught.value.worst > witness.TOLERANCE


@pytest.mark.parametrize(("step", "refused"), [(1e-3, False), (1e-2, True)])
def test_the_tolerance_is_a_squared_distance_of_1e_5(register, registry, root, step, refused):
    """Vectors may move by the rounding of another machine, not by more."""
    from safetensors.numpy import load, save

    from segue.registry import witness

    register()
    tensors = load((root / "models" / "faces-1" / "witness.safetensors").read_bytes())
    vectors = tensors["vectors.embedding"].astype(np.float64)
    aside = np.roll(vectors, 1, axis=1)
    aside -= (aside * vectors).sum(axis=1, keepdims=True) * vectors
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    moved = np.cos(step) * vectors + np.sin(step) * aside
    content = save({**tensors, "vectors.embedding": moved.astype(np.float32)})
    embedder = registry.load("faces/1")
    if refused:
        with pytest.raises(WitnessError):
            witness.check_witness(embedder, content)
    else:
        assert witness.check_witness(embedder, content) == pytest.approx(step**2, rel=0.01)


def test_witnesses_are_drawn_the_same_each_time_and_differ_from_each_other():
    """The witness set is fixed, of the input's size, and no two of its images look alike."""
    from segue.registry.witness import WITNESSES, draw_witnesses

    images = draw_witnesses(40, 32)
    assert images.shape == (WITNESSES, 40, 32, 3)
    assert images.dtype == np.uint8
    assert (images == draw_witnesses(40, 32)).all()
    flat = images.reshape(WITNESSES, -1).astype(float)
    apart = np.abs(flat[:, None] - flat[None]).mean(axis=2)
    assert apart[~np.eye(WITNESSES, dtype=bool)].min() > 10


def test_a_bad_witness_file_is_refused(register, registry):
    """Witness content that is no safetensors, or holds no witnesses, is refused."""
    from safetensors.numpy import save

    from segue.registry.witness import check_witness

    register()
    embedder = registry.load("faces/1")
    for content in (b"", b"\x80\x04.", save({"images": np.zeros((1, 32, 32, 3), np.uint8)})):
        with pytest.raises(UnsafeModelError):
            check_witness(embedder, content)


def change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
