"""Architectures by name: every one that is registered is built and run here."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest
import torch

from segue.errors import InvalidNameError, UnknownNameError, UsageError
from segue.networks import (
    EmbeddingNetwork,
    TorchRunner,
    build_network,
    list_architectures,
    load_network,
    register_architecture,
    save_weights,
)
from segue.networks import registry as architectures

SIZES = (32, 47, 64)


@pytest.fixture
def free_registry(monkeypatch):
    """A registry that a test can register in without leaving anything behind."""
    list_architectures()
    monkeypatch.setattr(architectures, "_BUILDERS", dict(architectures._BUILDERS))


def seeded(architecture, settings=None, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_network(architecture, settings)


@pytest.mark.parametrize("architecture", list_architectures())
@pytest.mark.parametrize("size", SIZES)
def test_every_architecture_gives_unit_vectors_at_every_size(architecture, size):
    """A registered architecture embeds images of any size from 32 as unit vectors."""
    network = seeded(architecture)
    batch = np.random.default_rng(size).normal(size=(3, 3, size, size)).astype(np.float32)
    found = TorchRunner(network).run(batch)
    assert {name: v.shape for name, v in found.items()} == {
        name: (3, dimension) for name, dimension in network.outputs.items()
    }
    for vectors in found.values():
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("architecture", list_architectures())
def test_every_architecture_learns_by_gradient_in_all_parameters(architecture):
    """Each parameter of a registered architecture receives a gradient."""
    network = seeded(architecture, {"dimension": 8}).train()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    target = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    (network(images)["embedding"] * target).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("architecture", list_architectures())
def test_every_architecture_survives_its_own_weights_file(architecture):
    """Loaded by its name, settings and bytes, a network gives the same vectors bit for bit."""
    network = seeded(architecture, {"dimension": 6, "outputs": {"embedding": 6, "compatible": 5}})
    batch = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    loaded = load_network(network.architecture, network.settings, save_weights(network))
    assert loaded.outputs == {"embedding": 6, "compatible": 5}
    assert not loaded.training
    expected, found = TorchRunner(network).run(batch), TorchRunner(loaded).run(batch)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert save_weights(loaded) == save_weights(network)


@pytest.mark.parametrize("architecture", list_architectures())
def test_every_architecture_is_drawn_from_the_global_seed(architecture):
    """The same torch seed gives the same weights, another one others."""
    same, again, other = (save_weights(seeded(architecture, seed=s)) for s in (3, 3, 4))
    assert same == again
    assert same != other


def test_an_unknown_architecture_lists_the_known_ones():
    """A typing error in an architecture's name is answered with the names there are."""
    with pytest.raises(UnknownNameError, match=r"unknown architecture 'smal'; known: .*small"):
        build_network("smal")


def test_an_unknown_setting_lists_the_known_ones():
    """A setting that the architecture does not have is refused by name."""
    with pytest.raises(UnknownNameError, match=r"'widht'; known: dimension, outputs, width"):
        build_network("small", {"widht": 8})


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 0},
        {"width": "wide"},
        {"dimension": 0},
        {"dimension": 64, "outputs": {"embedding": 32}},
        {"outputs": {"compatible": -1}},
    ],
)
def test_settings_that_make_no_network_are_a_usage_error(settings):
    """Impossible values end in one sentence, not in a traceback of torch."""
    with pytest.raises(UsageError):
        build_network("small", settings)


@pytest.mark.usefixtures("free_registry")
def test_a_taken_name_raises():
    """Registering a second architecture under a taken name is refused."""
    with pytest.raises(InvalidNameError, match="registered"):

        @register_architecture("small")
        def small(*, dimension=4):
            return EmbeddingNetwork(torch.nn.Flatten(), 12, dimension)


@pytest.mark.usefixtures("free_registry")
def test_a_users_function_registers_and_is_built():
    """A builder function of a user's own is built by its name and carries its settings."""

    @register_architecture("pixels")
    def pixels(*, dimension=4, side=2):
        pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(side), torch.nn.Flatten())
        return EmbeddingNetwork(pooled, 3 * side**2, dimension)

    network = build_network("pixels", {"side": 3})
    assert network.settings == {"dimension": 4, "side": 3}
    assert network.outputs == {"embedding": 4}
    assert "pixels" in list_architectures()


@pytest.mark.usefixtures("free_registry")
@pytest.mark.parametrize(
    ("builder", "lacking"),
    [
        (lambda *, dimension: dimension, "a default for dimension"),
        (lambda *, width=3: width, "a setting 'dimension'"),
    ],
)
def test_a_builder_that_cannot_be_tried_is_refused(builder, lacking):
    """A builder whose settings have no defaults, or no dimension, cannot be registered."""
    with pytest.raises(UsageError, match=f"needs {lacking}"):
        register_architecture("flawed")(builder)


class Entry:
    """What `importlib.metadata` gives for one declared entry point."""

    name, value = "foreign", "foreign.module:Builder"

    def __init__(self, found):
        self.found = found

    def load(self):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.mark.usefixtures("free_registry")
def test_an_entry_point_registers_under_its_name(monkeypatch):
    """An installed package's builder is found by the entry point's name."""

    def foreign(*, dimension=5):
        pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
        return EmbeddingNetwork(pooled, 12, dimension)

    monkeypatch.setattr(metadata, "entry_points", lambda **_: [Entry(foreign)])
    assert build_network("foreign").outputs == {"embedding": 5}
    assert "foreign" in list_architectures()


@pytest.mark.usefixtures("free_registry")
def test_a_broken_entry_point_is_named(monkeypatch):
    """An entry point that cannot be imported is told by name, with its cause."""
    broken = ImportError("no module named foreign")
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [Entry(broken)])
    with pytest.raises(UsageError, match=r"'foreign' \(foreign.module:Builder\)"):
        build_network("foreign")


def test_reset_heads_redraws_the_heads_alone_and_by_seed():
    """Re-initialising changes every head by its seed and leaves the trunk as it was."""
    network = seeded("small", {"width": 2, "dimension": 4, "outputs": {"compatible": 3}})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.reset_heads(7)
    first = {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in first.items():
        assert torch.equal(value, before[name]) is name.startswith("trunk."), name
    network.reset_heads(8)
    assert not torch.equal(
        network.state_dict()["heads.embedding.weight"], first["heads.embedding.weight"]
    )
    network.reset_heads(7)
    for name, value in network.state_dict().items():
        assert torch.equal(value, first[name])


@pytest.mark.parametrize("output", ["embedding", "with.dot", "", "../up"])
def test_a_head_needs_a_free_and_plain_name(output):
    """An output whose name is taken or unusable is refused."""
    network = seeded("small", {"width": 2, "dimension": 4})
    with pytest.raises(InvalidNameError):
        network.add_head(output, 4)


def test_an_added_head_leaves_the_own_output_alone():
    """A further output changes nothing of the vectors that were there."""
    network = seeded("small", {"width": 2, "dimension": 4})
    batch = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    before = TorchRunner(network).run(batch)["embedding"]
    network.add_head("compatible", 7, seed=5)
    after = TorchRunner(network).run(batch)
    np.testing.assert_array_equal(after["embedding"], before)
    assert after["compatible"].shape == (2, 7)
    assert network.settings["outputs"] == {"embedding": 4, "compatible": 7}
