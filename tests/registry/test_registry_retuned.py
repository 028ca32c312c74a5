"""A retuned version: registered with its map and edges, loaded as the base and the map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from registry_world import SIZE

from segue.errors import NoModelError, RegistryError, TamperedError, UsageError, VectorError
from segue.harmonic import fit_bridge
from segue.harmonic.bridges import fit_retuning
from segue.types import VectorMapper


def unit(count, dimension, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def retuning(version, seed=0, **fields):
    labels = np.arange(40) // 2
    fitted = fit_retuning(
        unit(40, version.dimension, 3),
        labels,
        version=version.version,
        fingerprint=version.fingerprint,
        seed=seed,
        steps=3,
    )
    return replace(fitted, **fields)


def test_it_is_a_version_of_its_own(register, registry):
    """Named by its base and the bridge, with a fingerprint and edges of its own."""
    base = register()
    made = registry.register_retuned(retuning(base), details={"people": 20})
    assert (made.version, made.kind, made.retuned_from) == ("faces/1~b1", "mapped", "faces/1")
    assert made.outputs == {"embedding": 8, "base": 8}
    assert made.details["people"] == 20
    assert made.fingerprint != base.fingerprint
    assert base.retuned_from is None
    assert registry.register_retuned(retuning(base)) == made
    other = registry.register_retuned(retuning(base, seed=1))
    assert other.version == "faces/1~b2"
    assert other.fingerprint != made.fingerprint
    assert registry.resolve("faces") == base
    assert [v.version for v in registry.list()] == ["faces/1", "faces/1~b1", "faces/1~b2"]
    through = registry.edge("faces/1", "faces/1~b1")
    assert through.bridge.target_version == "faces/1~b1"
    before = registry.edge("faces/1~b1", "faces/1")
    assert (before.probe_output, before.stored_output, before.bridge) == ("base", "embedding", None)
    assert registry.bridge(1).to_bytes() == through.bridge.to_bytes()
    assert registry.register_mapped("faces/1", 1) == made


def test_a_map_that_an_older_segue_registered_is_known_again(register, registry):
    """Its file lacks a checksum of its description; the same map makes no second version."""
    base = register()
    made = registry.register_retuned(replace(retuning(base), sealed=False))
    assert not registry.bridge(1).sealed
    assert registry.register_retuned(retuning(base)) == made
    assert registry.register_retuned(retuning(base, seed=1)).version == "faces/1~b2"


def test_it_embeds_as_its_base_followed_by_the_map(register, registry):
    """Images and the base's vectors give the same; the vector before the map stands beside it."""
    base = register()
    made = registry.register_retuned(retuning(base))
    embedder = registry.load(made.version)
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    own = registry.load("faces/1").embed(images)["embedding"]
    found = embedder.embed(images)
    assert np.array_equal(found["base"], own)
    bridge = registry.bridge(1)
    assert np.array_equal(found["embedding"], bridge.apply(own, version="faces/1"))
    assert isinstance(embedder, VectorMapper)
    assert np.array_equal(embedder.embed_vectors(own)["embedding"], found["embedding"])
    assert (embedder.version, embedder.base) == ("faces/1~b1", "faces/1")
    assert (embedder.input_size, embedder.outputs) == ((SIZE, SIZE), made.outputs)
    assert embedder.fingerprint == made.fingerprint
    assert not isinstance(registry.load("faces/1"), VectorMapper)
    with pytest.raises(VectorError):
        embedder.embed_vectors(own * 2)
    with pytest.raises(RegistryError, match="start from faces/1"):
        registry.network(made.version)


def test_without_a_model_it_maps_vectors_only(registry):
    """The vectors of a vendor's service are mapped; images are refused."""
    base = registry.register_vectors("vendor", dimension=5)
    made = registry.register_retuned(retuning(base))
    embedder = registry.load(made.version)
    assert embedder.preprocessing is None
    assert embedder.embed_vectors(unit(4, 5, 1))["embedding"].shape == (4, 5)
    with pytest.raises(NoModelError, match="vendor/1~b1 has no model"):
        embedder.embed(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(NoModelError):
        _ = embedder.input_size


def test_a_changed_map_is_refused(register, registry, root):
    """The file's hash is checked before it is read."""
    made = registry.register_retuned(retuning(register()))
    (file,) = (root / "bridges").iterdir()
    assert file.name.startswith("faces-1-b1-")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(TamperedError):
        registry.load(made.version)


def test_what_cannot_retune_is_refused(register, registry):
    """Another kind of map, model or dimension, and mapped vectors; nothing is left."""
    base = register()
    made = registry.register_retuned(retuning(base))
    with pytest.raises(UsageError, match="retune faces/1 anew"):
        registry.register_retuned(retuning(made))
    foreign = fit_bridge(
        "procrustes", unit(9, 8, 1), unit(9, 8, 2), source_version="faces/1", target_version="x/1"
    )
    with pytest.raises(UsageError, match="kind procrustes"):
        registry.register_retuned(foreign)
    with pytest.raises(UsageError, match="fitted on another faces/1"):
        registry.register_retuned(retuning(base, source_fingerprint="other"))
    narrow = retuning(registry.register_vectors("vendor", dimension=5))
    with pytest.raises(UsageError, match="dimension 5, faces/1 has 8"):
        registry.register_retuned(
            replace(narrow, source_version="faces/1", source_fingerprint=base.fingerprint)
        )
    with pytest.raises(UsageError, match="plain JSON"):
        registry.register_retuned(retuning(base, seed=5), details={"x": object()})
    assert [v.version for v in registry.list("faces")] == ["faces/1", "faces/1~b1"]
