import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from segue.errors import UnsafeModelError
from segue.harmonic.bridges import Bridge, Correction, fit_bridge, fit_mlp, fit_ridge, mlp

FROZEN = Path(__file__).parents[1] / "golden" / "bridge-format-2.safetensors"


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def bent(seed, rows=300, d1=8, d2=6):
    """A target that no affine map makes of the source."""
    rng = np.random.default_rng(seed)
    source = unit(rng.normal(size=(rows, d1)))
    matrix = rng.normal(size=(d1, d2))
    return source, unit(source @ matrix + 3 * np.abs(source @ rng.normal(size=(d1, d2))))


def fit(source, target, **more):
    return fit_bridge(
        "mlp", source, target, source_version="faces/2", target_version="faces/1", **more
    )


def made(seed, d1=5, d2=4, width=3):
    rng = np.random.default_rng(seed)
    sizes = ((d1, d2), (d2,), (d1, width), (width,), (width, d2))
    matrix, bias, *network = (rng.normal(size=size).astype(np.float32) for size in sizes)
    names = ("mlp", "faces/2", "faces/1", "aa", "bb")
    return Bridge(*names, matrix, bias, {"width": width}, Correction(*network))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 6), st.integers(1, 9))
def test_applying_is_what_torch_computes(seed, d1, d2, width):
    """Applied in numpy, the bridge gives what the same layers give in torch, at unit length."""
    bridge = made(seed, d1, d2, width)
    vectors = unit(np.random.default_rng(seed).normal(size=(7, d1)))
    inner, outer = torch.nn.Linear(d1, width), torch.nn.Linear(width, d2, bias=False)
    base = torch.nn.Linear(d1, d2)
    with torch.no_grad():
        inner.weight.copy_(torch.from_numpy(bridge.correction.inner.T.copy()))
        inner.bias.copy_(torch.from_numpy(bridge.correction.inner_bias))
        outer.weight.copy_(torch.from_numpy(bridge.correction.outer.T.copy()))
        base.weight.copy_(torch.from_numpy(bridge.matrix.T.copy()))
        base.bias.copy_(torch.from_numpy(bridge.bias))
        given_ = torch.from_numpy(vectors)
        expected = torch.nn.functional.normalize(base(given_) + outer(inner(given_).relu()))
    found = bridge.apply(vectors, version="faces/2")
    assert found.dtype == np.float32
    assert np.abs(found - expected.numpy()).max() < 1e-4
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("d1", "d2"), [(8, 6), (6, 8)])
def test_what_bends_is_mapped_better_than_by_ridge(d1, d2):
    """Held-out people are nearer to their targets than ridge alone brings them."""
    source, target = bent(1, rows=500, d1=d1, d2=d2)
    labels = np.arange(500) // 5
    bridge = fit(source[:400], target[:400], labels=labels[:400])
    assert bridge.settings["steps"] > 0
    ridge = fit_bridge(
        "ridge",
        source[:400],
        target[:400],
        source_version="faces/2",
        target_version="faces/1",
        labels=labels[:400],
    )
    near = [
        np.square(b.apply(source[400:], version="faces/2") - target[400:]).sum(axis=1).mean()
        for b in (bridge, ridge)
    ]
    assert near[0] < 0.8 * near[1]
    assert bridge.settings["held_out_distance"] < ridge.settings["held_out_distance"]


def test_where_a_network_does_not_pay_the_bridge_is_the_ridge_map():
    """A target that is pure noise gets no network: no steps are the best that was tried."""
    rng = np.random.default_rng(2)
    source, target = (unit(rng.normal(size=(60, 6))).astype(float) for _ in range(2))
    groups = np.arange(60) // 3
    fitted, ridge = (kind(source, target, groups, 0) for kind in (fit_mlp, fit_ridge))
    assert fitted.correction is None
    assert (fitted.settings["steps"], fitted.settings["width"]) == (0, 0)
    assert np.array_equal(fitted.matrix, ridge.matrix)
    assert fitted.settings["held_out_distance"] == pytest.approx(
        ridge.settings["held_out_distance"], rel=1e-5
    )


def test_networks_trained_side_by_side_are_those_trained_alone():
    """A fold's network is the one that a plain torch loop trains on that fold's rows alone."""
    source, target = (x.astype(float) for x in bent(3, rows=40))
    base = 0.1 * source @ np.ones((8, 6))
    weights = np.vstack([np.arange(40) >= 10, np.arange(40) < 30])
    task = mlp._task(source, base[None], target, weights, np.array([1.0, 20.0]))
    together = list(mlp._train(task, 5, 20, seed=4))[-1]
    for place, (rows, decay) in enumerate(zip(weights, (1.0, 20.0), strict=True)):
        start = torch.randn(8, 5, generator=torch.Generator().manual_seed(4)) * (2 / 8) ** 0.5
        inner = start.clone().requires_grad_()
        bias, outer = torch.zeros(5, requires_grad=True), torch.zeros(5, 6, requires_grad=True)
        optimiser = torch.optim.AdamW(
            [
                {"params": [inner, outer], "weight_decay": decay},
                {"params": [bias], "weight_decay": 0},
            ],
            lr=mlp.RATE,
        )
        x, b, t = (
            torch.from_numpy(a[rows].astype(np.float32)) for a in (source * 8**0.5, base, target)
        )
        for _ in range(20):
            mapped = b + (x @ inner + bias).relu() @ outer
            loss = (torch.nn.functional.normalize(mapped) - t).square().sum(dim=1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for alone, found in zip((inner, bias[None], outer), together, strict=True):
            assert (alone - found[place]).abs().max() < 1e-4


def test_rows_are_drawn_where_there_are_many(monkeypatch):
    """With more images than a step takes, steps draw some, by the seed; the fit still gains."""
    monkeypatch.setattr(mlp, "BATCH", 64)
    source, target = bent(5, rows=200)
    first, second, other = (fit(source, target, seed=seed) for seed in (0, 0, 1))
    assert first.settings["steps"] > 0
    assert first.to_bytes() == second.to_bytes()
    assert first.to_bytes() != other.to_bytes()


def test_fitting_leaves_torch_as_it_was():
    """Neither torch's random numbers nor its number of threads are changed by a fit."""
    source, target = bent(6, rows=60)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    before = torch.get_num_threads()
    fit(source, target)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == before


# --- files ------------------------------------------------------------------------------------


def test_a_network_survives_its_file(tmp_path):
    """Layers, settings and bytes come back; the file has the second format."""
    bridge = made(7)
    bridge.save(tmp_path / "b")
    back = Bridge.load(tmp_path / "b")
    vectors = unit(np.random.default_rng(8).normal(size=(5, 5)))
    assert np.array_equal(
        back.apply(vectors, version="faces/2"), bridge.apply(vectors, version="faces/2")
    )
    assert back.to_bytes() == (tmp_path / "b").read_bytes()
    assert described(bridge.to_bytes())["format"] == 2


def test_a_frozen_file_with_a_network_maps_as_it_did():
    """A file of the second format is read, maps as it did, and is written byte for byte again."""
    bridge = Bridge.load(FROZEN)
    vectors = unit(np.random.default_rng(8).normal(size=(5, 5)))
    expected = made(7).apply(vectors, version="faces/2")
    assert np.abs(bridge.apply(vectors, version="faces/2") - expected).max() < 1e-6
    assert bridge.to_bytes() == FROZEN.read_bytes()


def described(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["segue_bridge"])


def test_a_bridge_with_its_network_left_out_is_refused():
    """Neither format is read as the other: a network is never silently dropped."""
    bridge = made(9)
    description = described(bridge.to_bytes())
    affine = {"matrix": bridge.matrix, "bias": bridge.bias}
    for tensors, found in (
        (affine, 2),
        ({**affine, **bridge.correction._asdict()}, 1),
        ({**affine, "inner": bridge.correction.inner}, 2),
    ):
        text = json.dumps({**description, "format": found})
        with pytest.raises(UnsafeModelError, match="other tensors"):
            Bridge.from_bytes(save(tensors, metadata={"segue_bridge": text}))


@pytest.mark.parametrize(
    "changes",
    [
        {"inner": np.ones((4, 3), np.float32)},
        {"inner_bias": np.ones((3, 1), np.float32)},
        {"inner_bias": np.ones(2, np.float32)},
        {"outer": np.ones((3, 5), np.float32)},
        {"outer": np.full((3, 4), np.inf, np.float32)},
        {"outer": np.ones((3, 4), np.float32)},
    ],
)
def test_layers_that_do_not_fit_are_refused(changes):
    """Layers of other shapes, with infinity, or changed, are refused."""
    bridge = made(10)
    tensors = {"matrix": bridge.matrix, "bias": bridge.bias, **bridge.correction._asdict()}
    text = json.dumps(described(bridge.to_bytes()))
    with pytest.raises(UnsafeModelError):
        Bridge.from_bytes(save({**tensors, **changes}, metadata={"segue_bridge": text}))
