"""Registering, resolving, listing, loading."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.errors import (
    InvalidNameError,
    MissingPathError,
    NoModelError,
    RegistryError,
    UnknownNameError,
    UnknownVersionError,
    UsageError,
    VectorError,
)
from segue.registry.manifest import Manifest, canonical_json
from segue.types import Preprocessing, VersionId


def faces_to_embed(count=3, size=32):
    return np.random.default_rng(5).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_a_network_is_registered_with_everything_that_it_is(register, registry, root):
    """A version carries outputs, dimension, preprocessing, fingerprint, files and its details."""
    version = register(details={"note": "first", "people": 12})
    assert version.version == "faces/1"
    assert version.kind == "network"
    assert version.outputs == {"embedding": 8}
    assert version.dimension == 8
    assert version.preprocessing == Preprocessing(32, 32)
    assert version.details == {
        "architecture": "small",
        "settings": {"width": 2, "dimension": 8},
        "note": "first",
        "people": 12,
    }
    folder = root / "models" / "faces-1"
    assert sorted(version.files) == sorted(path.name for path in folder.iterdir())
    assert registry.resolve("faces/1") == registry.get("faces/1") == version
    assert [path.name for path in (root / "models").iterdir()] == ["faces-1"]


def test_the_ledger_knows_who_registered_a_version(register, registry):
    """Registering appends who and what; the actor is the login name unless another is given."""
    register()
    register(actor="ada")
    assert [(x.action, x.subject, x.actor) for x in registry.ledger()] == [
        ("register", "faces/1", getpass.getuser()),
        ("register", "faces/2", "ada"),
    ]
    assert [x.subject for x in registry.ledger("faces/2")] == ["faces/2"]


def test_a_loaded_network_embeds_as_the_network_does(register, registry, weights):
    """`load` gives the vectors of the registered weights, unit length, in batches of any size."""
    from segue.networks import TorchRunner, load_network, prepare

    register(which=1)
    embedder = registry.load("faces/1")
    images = faces_to_embed(70)
    found = embedder.embed(images)["embedding"]
    network = load_network("small", {"width": 2, "dimension": 8}, weights[1])
    expected = TorchRunner(network).run(prepare(images, Preprocessing(32, 32)))["embedding"]
    assert embedder.version == "faces/1"
    assert embedder.input_size == (32, 32)
    assert embedder.outputs == {"embedding": 8}
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6
    assert embedder.embed(images[:0])["embedding"].shape == (0, 8)


def test_an_embedder_refuses_images_of_another_size(register, registry):
    """Images that do not have the version's input size are refused, not resized in silence."""
    register()
    with pytest.raises(VectorError, match="32, 32"):
        registry.load("faces/1").embed(faces_to_embed(size=48))


def test_a_network_comes_back_to_be_trained_further(register, registry, weights):
    """`network` returns the registered weights, ready for gradients."""
    from segue.networks import save_weights

    register()
    network = registry.network("faces")
    assert save_weights(network) == weights[0]
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("size", [(0, 32), (32, 1_000_000)])
def test_images_of_a_size_that_no_model_takes_are_refused(registry, onnx_file, size):
    """Before witnesses of that size are drawn; nothing is registered."""
    with pytest.raises(UsageError, match=r"preprocessing's (height 0|width 1000000); .* to 1024"):
        registry.register_onnx("arc", onnx_file, preprocessing=Preprocessing(*size))
    assert registry.list() == []


def test_an_onnx_file_is_a_version_like_any_other(registry, onnx_file, root):
    """A foreign model registers, loads and embeds; only training from it is refused."""
    version = registry.register_onnx("arc", onnx_file, preprocessing=Preprocessing(32, 32))
    assert (version.version, version.kind, version.outputs) == ("arc/1", "onnx", {"embedding": 6})
    assert (root / "models" / "arc-1" / "model.onnx").read_bytes() == onnx_file.read_bytes()
    assert registry.load("arc").embed(faces_to_embed())["embedding"].shape == (3, 6)
    with pytest.raises(RegistryError, match="cannot be trained further"):
        registry.network("arc")


def test_a_version_may_have_vectors_only(registry):
    """A vendor's vectors have a version, which says that nothing can be embedded with it."""
    version = registry.register_vectors("vendor", dimension=5, details={"note": "their service"})
    assert (version.kind, version.dimension, version.preprocessing) == ("vectors", 5, None)
    with pytest.raises(NoModelError, match="only vectors"):
        registry.load("vendor/1")
    with pytest.raises(NoModelError, match="only vectors"):
        registry.network("vendor/1")
    again = registry.register_vectors("vendor", dimension=5, details={"note": "their service"})
    assert again.fingerprint != version.fingerprint


def test_the_fingerprint_is_of_what_makes_the_vectors(register, registry, weights):
    """Same weights, settings and preprocessing: one fingerprint; any other of them: another."""
    first, same, other = register(), register("twin"), register(which=1)
    assert first.fingerprint == same.fingerprint != other.fingerprint
    brighter = registry.register_network(
        "faces",
        architecture="small",
        settings={"width": 2, "dimension": 8},
        weights=weights[0],
        preprocessing=Preprocessing(32, 32, mean=(0.4, 0.5, 0.5)),
    )
    assert brighter.fingerprint != first.fingerprint


def test_a_reference_names_a_version_by_number_alias_or_name(register, registry):
    """`faces/1`, `faces@serving` and `faces` find a version; `faces` is never a guess."""
    register()
    assert registry.resolve("faces").version == "faces/1"
    register(which=1)
    with pytest.raises(UnknownVersionError):
        registry.resolve("faces")
    registry.promote("faces/2", reason="better")
    assert registry.resolve("faces").version == "faces/2"
    assert registry.resolve("faces@serving").version == "faces/2"
    assert registry.resolve("faces/2").aliases == ("serving",)


@pytest.mark.parametrize(
    "reference", ["faces/2", "faces@best", "face", "", "faces/", "@serving", "faces/1/2", "a b"]
)
def test_an_unknown_reference_lists_what_is_registered(register, registry, reference):
    """Whatever is not registered raises, and the message names what is."""
    register()
    registry.promote("faces/1", reason="first")
    with pytest.raises(UnknownVersionError) as caught:
        registry.resolve(reference)
    assert caught.value.known == ("faces/1", "faces@serving")
    assert "faces@serving" in str(caught.value)


def test_versions_are_listed_by_name_and_number(register, registry):
    """The list is in order, of all names or of one."""
    for name in ("b", "a", "b"):
        register(name)
    registry.promote("b/2", reason="newer")
    assert [x.version for x in registry.list()] == ["a/1", "b/1", "b/2"]
    assert [(x.version, x.aliases) for x in registry.list("b")] == [
        ("b/1", ()),
        ("b/2", ("serving",)),
    ]
    assert registry.list("c") == []


def test_a_number_taken_here_is_never_given_again(register, registry, reset_store):
    """When MLflow's store was lost, numbering goes on here, and the copy is still found."""
    register()
    register()
    reset_store()
    version = register()
    assert version.version == "faces/3"
    assert version.mlflow_uri == "models:/faces/1"
    registry.promote("faces/3", reason="it works")
    aliases = registry.tracking.connect().get_registered_model("faces").aliases
    assert {alias: int(number) for alias, number in aliases.items()} == {"serving": 1}


def test_wrong_arguments_are_refused_in_one_sentence(registry, weights, tmp_path):
    """Unknown architectures and settings, names, paths and values that are no JSON are refused."""
    preprocessing = Preprocessing(32, 32)

    def network(name="faces", architecture="small", settings=None, details=None):
        registry.register_network(
            name,
            architecture=architecture,
            settings=settings or {"width": 2, "dimension": 8},
            weights=weights[0],
            preprocessing=preprocessing,
            details=details,
        )

    with pytest.raises(InvalidNameError):
        network(name="a/b")
    with pytest.raises(UnknownNameError, match="small"):
        network(architecture="smal")
    with pytest.raises(UnknownNameError):
        network(settings={"with": 2})
    with pytest.raises(UsageError, match="JSON"):
        network(details={"loss": float("nan")})
    with pytest.raises(UsageError, match="JSON"):
        network(details={"path": tmp_path})
    with pytest.raises(UsageError, match="dimension"):
        registry.register_vectors("faces", dimension=0)
    with pytest.raises(MissingPathError):
        registry.register_onnx("arc", tmp_path / "no.onnx", preprocessing=preprocessing)
    with pytest.raises(MissingPathError):
        registry.register_onnx("arc", tmp_path, preprocessing=preprocessing)
    assert registry.list() == []
    assert registry.ledger() == []


def test_an_onnx_model_of_another_input_size_is_refused(registry, onnx_file):
    """A preprocessing that the model cannot take is found at registration."""
    with pytest.raises(VectorError, match="32 x 32"):
        registry.register_onnx("arc", onnx_file, preprocessing=Preprocessing(48, 48))
    assert registry.list() == []


def test_a_version_is_told_as_json(register):
    """`to_json` is plain JSON and holds the id, the dimension and the aliases."""
    value = register().to_json()
    canonical_json(value)
    assert (value["version"], value["dimension"], value["aliases"]) == ("faces/1", 8, [])


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _json), st.integers(1, 999))
def test_a_manifest_reads_back_as_it_was_written(settings, number):
    """Any JSON settings survive the manifest, and its bytes do not depend on their order."""
    manifest = Manifest(
        "network",
        VersionId("faces", number).name,
        {"embedding": number},
        Preprocessing(32, 48, colour="BGR"),
        "small",
        settings,
        "f" * 64,
        {"weights.safetensors": "0" * 64},
    )
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    turned = dict(reversed(settings.items()))
    assert canonical_json(turned) == canonical_json(settings)


@pytest.mark.lfw
def test_a_public_face_model_registers_and_loads(registry):
    """The MobileFaceNet in ONNX is registered, loaded and reproduces its witnesses."""
    data = Path(os.environ.get("SEGUE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = data.parent / "models" / "mobilefacenet_ms1m_112.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name} in models/ beside SEGUE_DATA")
    version = registry.register_onnx("arc", path, preprocessing=Preprocessing(112, 112))
    images = faces_to_embed(2, 112)
    assert registry.load("arc").embed(images)["embedding"].shape == (2, version.dimension)
