import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge

from segue.errors import (
    EvaluationError,
    FormatError,
    InvalidNameError,
    MissingPathError,
    PeopleError,
    UnknownNameError,
    UnsafeModelError,
    UsageError,
    VectorError,
)
from segue.harmonic.bridges import Bridge, fit_bridge, list_bridges, register_bridge
from segue.harmonic.bridges.affine import ridge_path

GOLDEN = Path(__file__).parents[1] / "golden" / "v1" / "bridge.safetensors"


def unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def rotation(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def pair(rng, rows=300, d1=8, d2=6, noise=0.02):
    """Source and target that a partial isometry joins, up to noise."""
    source = unit(rng, rows, d1)
    big = max(d1, d2)
    target = source @ rotation(rng, big)[:d1, :d2] + noise * rng.normal(size=(rows, d2))
    return source, (target / np.linalg.norm(target, axis=1, keepdims=True)).astype(np.float32)


def fit(kind, source, target, **more):
    return fit_bridge(
        kind, source, target, source_version="faces/2", target_version="faces/1", **more
    )


@pytest.mark.parametrize("kind", list_bridges())
@pytest.mark.parametrize(("d1", "d2"), [(8, 8), (8, 5), (5, 8)])
def test_every_kind_maps_unit_vectors_between_dimensions(kind, d1, d2):
    """Each registered kind gives finite unit float32 vectors of the target's dimension, near it."""
    source, target = pair(np.random.default_rng(0), d1=d1, d2=d2)
    labels = np.arange(len(source)) // 5
    bridge = fit(kind, source[:200], target[:200], labels=labels[:200])
    mapped = bridge.apply(source[200:], version="faces/2")
    assert mapped.shape == (100, d2)
    assert mapped.dtype == np.float32
    assert np.allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-6)
    nearest = np.argmin(2 - 2 * mapped @ target[200:].T, axis=1)
    assert (nearest == np.arange(100)).mean() > 0.7
    assert bridge.apply(source[:0], version="faces/2").shape == (0, d2)
    assert (bridge.settings["images"], bridge.settings["people"]) == (200, 40)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_procrustes_recovers_a_rotation(seed, dimension):
    """A target that is the rotated source is reproduced, and distances within it are kept."""
    rng = np.random.default_rng(seed)
    source = unit(rng, 40, dimension)
    turn = rotation(rng, dimension)
    bridge = fit("procrustes", source, (source @ turn).astype(np.float32))
    fresh = unit(rng, 10, dimension)
    mapped = bridge.apply(fresh, version="faces/2")
    assert np.allclose(mapped, fresh @ turn, atol=1e-5)
    assert np.allclose(mapped @ mapped.T, fresh @ fresh.T, atol=1e-5)


def test_procrustes_is_scipys():
    """Between spaces of one dimension the matrix is SciPy's orthogonal Procrustes solution."""
    source, target = pair(np.random.default_rng(12), d1=7, d2=7, noise=0.3)
    reference, _ = orthogonal_procrustes(source.astype(float), target.astype(float))
    assert np.allclose(fit("procrustes", source, target).matrix, reference, atol=1e-6)


@pytest.mark.parametrize(("d1", "d2"), [(5, 8), (8, 5)])
def test_procrustes_of_two_dimensions_is_a_partial_isometry(d1, d2):
    """Between dimensions the smaller side's product with itself is the identity."""
    bridge = fit("procrustes", *pair(np.random.default_rng(1), d1=d1, d2=d2))
    matrix = bridge.matrix.astype(float)
    product = matrix @ matrix.T if d1 < d2 else matrix.T @ matrix
    assert np.allclose(product, np.eye(min(d1, d2)), atol=1e-5)
    assert not bridge.bias.any()


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_ridge_is_scikit_learns(strength):
    """For a strength, matrix and bias are those of scikit-learn's Ridge."""
    rng = np.random.default_rng(2)
    source, target = (x.astype(float) for x in pair(rng, noise=0.3))
    target = target + 0.5  # a bias to find
    matrix, bias = next(ridge_path(source, target, (strength,)))
    centred = source - source.mean(axis=0)
    reference = Ridge(alpha=strength * np.square(centred).sum() / source.shape[1])
    reference.fit(source, target)
    assert np.allclose(matrix.T, reference.coef_, atol=1e-9)
    assert np.allclose(bias, reference.intercept_, atol=1e-9)


def test_ridge_chooses_more_strength_when_people_repeat():
    """With noise per person, folds over people see overfitting that folds over rows do not."""
    rng = np.random.default_rng(3)
    people, each, d = 30, 10, 24
    centres, other = unit(rng, people, d), unit(rng, people, d)
    labels = np.repeat(np.arange(people), each)
    source = centres[labels] + 0.05 * rng.normal(size=(people * each, d))
    target = other[labels] + 0.05 * rng.normal(size=(people * each, d))
    source, target = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (source, target))
    by_people = fit("ridge", source, target, labels=labels).settings
    by_rows = fit("ridge", source, target).settings
    assert by_people["strength"] > by_rows["strength"]
    assert by_people["held_out_distance"] > by_rows["held_out_distance"]


def test_fitting_is_reproducible():
    """The same vectors, labels and seed give the same bytes."""
    source, target = pair(np.random.default_rng(4))
    labels = np.arange(len(source)) // 3
    for kind in list_bridges():
        first, second = (fit(kind, source, target, labels=labels, seed=7) for _ in range(2))
        assert first.to_bytes() == second.to_bytes()


@pytest.mark.parametrize("kind", list_bridges())
def test_the_wrong_direction_is_refused(kind):
    """Vectors of the target or of a third version are refused although their shape fits."""
    source, target = pair(np.random.default_rng(5), rows=60, d1=6, d2=6)
    bridge = fit(kind, source, target)
    with pytest.raises(VectorError, match="wrong direction"):
        bridge.apply(target, version="faces/1")
    with pytest.raises(VectorError, match="faces/3"):
        bridge.apply(target, version="faces/3")
    with pytest.raises(VectorError, match="dimension"):
        bridge.apply(source[:, :5], version="faces/2")


def test_bad_input_is_refused():
    """Each unusable input has its own error."""
    source, target = pair(np.random.default_rng(6))
    with pytest.raises(UnknownNameError, match="low_rank, mlp, procrustes, ridge"):
        fit("rigde", source, target)
    with pytest.raises(VectorError, match="one of each"):
        fit("ridge", source, target[:-1])
    with pytest.raises(VectorError, match="NaN"):
        fit("ridge", np.where(np.arange(8) == 0, np.nan, source), target)
    with pytest.raises(EvaluationError, match="two images"):
        fit("ridge", source[:1], target[:1])
    with pytest.raises(PeopleError, match="two people"):
        fit("ridge", source, target, labels=np.zeros(len(source), dtype=int))
    with pytest.raises(UsageError, match="two versions"):
        fit_bridge("ridge", source, target, source_version="v", target_version="v")
    with pytest.raises(InvalidNameError, match="taken"):
        register_bridge("ridge")


# --- files ------------------------------------------------------------------------------------


@pytest.fixture
def bridge():
    source, target = pair(np.random.default_rng(7))
    return fit("ridge", source, target, source_fingerprint="aa", target_fingerprint="bb")


def test_a_saved_bridge_maps_the_same(bridge, tmp_path):
    """Everything survives the file, and the file's bytes too."""
    path = tmp_path / "bridges" / "1.safetensors"
    bridge.save(path)
    back = Bridge.load(path)
    probe = unit(np.random.default_rng(8), 5, 8)
    assert np.array_equal(
        back.apply(probe, version="faces/2"), bridge.apply(probe, version="faces/2")
    )
    assert (back.source_fingerprint, back.target_fingerprint) == ("aa", "bb")
    assert (back.kind, back.source_version, back.target_version) == ("ridge", "faces/2", "faces/1")
    assert dict(back.settings) == dict(bridge.settings)
    assert back.to_bytes() == path.read_bytes()


def test_an_affine_bridge_is_written_as_ever():
    """A frozen file of the first format is written again byte for byte, so that it stays 1."""
    frozen = GOLDEN.read_bytes()
    assert Bridge.from_bytes(frozen).to_bytes() == frozen
    assert json.loads(header(frozen)["__metadata__"]["segue_bridge"])["format"] == 1


def header(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])


def test_a_missing_file_is_told(tmp_path):
    """Loading what is not there says so."""
    with pytest.raises(MissingPathError, match="bridge file"):
        Bridge.load(tmp_path / "none")


class Bomb:
    def __reduce__(self):
        raise AssertionError("was unpickled")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00.",
        pickle.dumps(np.ones(3)),
        b"PK\x03\x04" + bytes(100),
        (10).to_bytes(8, "little") + b"not json!!",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        save({"matrix": np.eye(2, dtype=np.float32)}),
    ],
    ids=["empty", "short", "pickle", "array", "zip", "no-json", "list", "null", "undescribed"],
)
def test_a_file_that_is_no_bridge_is_refused(content, tmp_path):
    """Pickles, archives and other files are refused unread, as unsafe."""
    path = tmp_path / "bridge"
    path.write_bytes(content)
    with pytest.raises(UnsafeModelError):
        Bridge.load(path)


def test_a_changed_number_is_refused(bridge):
    """Flipping any one bit of the numbers is noticed."""
    content = bytearray(bridge.to_bytes())
    for place in (len(content) - 1, len(content) - 30, len(content) - 8 * 6 * 4):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(UnsafeModelError):
            Bridge.from_bytes(bytes(changed))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 255))
def test_any_changed_byte_is_an_error_of_ours_or_harmless(place, flip):
    """Whatever byte changes, loading raises our errors or gives a bridge with the same numbers."""
    source, target = pair(np.random.default_rng(9), rows=20, d1=3, d2=2)
    bridge = fit("procrustes", source, target)
    content = bytearray(bridge.to_bytes())
    content[place % len(content)] ^= flip
    try:
        back = Bridge.from_bytes(bytes(content))
    except (UnsafeModelError, FormatError):
        return
    assert np.array_equal(back.matrix, bridge.matrix)
    assert back.source_version == bridge.source_version
    assert (back.target_version, back.settings) == (bridge.target_version, bridge.settings)


@pytest.mark.parametrize(
    "name",
    ["kind", "source_version", "target_version", "source_fingerprint", "target_fingerprint"],
)
def test_a_changed_description_is_refused(name):
    """What the bridge is of is covered by a checksum as its numbers are."""
    with pytest.raises(UnsafeModelError, match="its description is not the one"):
        Bridge.from_bytes(described({name: "other"}))
    with pytest.raises(UnsafeModelError, match="its description is not the one"):
        Bridge.from_bytes(described({"settings": {"rows": 7}}))
    assert Bridge.from_bytes(described({name: "other"}, sealed=False))


@pytest.mark.parametrize("sealed", [True, False])
def test_a_file_is_written_as_it_was_read(sealed):
    """An older file, without the checksum of its description, stays what it is."""
    content = described({}, sealed=sealed)
    bridge = Bridge.from_bytes(content)
    assert bridge.sealed is sealed
    assert (b"description_sha256" in content) is sealed
    assert bridge.to_bytes() == content


def test_the_frozen_file_of_the_first_format_is_written_as_it_was_read():
    """Its hash, by which a registry knows it, stays what it was."""
    assert Bridge.load(GOLDEN).to_bytes() == GOLDEN.read_bytes()


def described(changes, tensors=None, *, sealed=True):
    """A bridge's file with a changed description."""
    source, target = pair(np.random.default_rng(10))
    content = replace(fit("procrustes", source, target), sealed=sealed).to_bytes()
    description = json.loads(header(content)["__metadata__"]["segue_bridge"])
    found = fit("procrustes", source, target)
    tensors = tensors or {"matrix": found.matrix, "bias": found.bias}
    text = json.dumps({**description, **changes}, sort_keys=True)
    return save(tensors, metadata={"segue_bridge": text})


def test_another_format_is_told():
    """A file of a newer Segue asks for an upgrade."""
    with pytest.raises(FormatError, match="upgrade"):
        Bridge.from_bytes(described({"format": 3}))


@pytest.mark.parametrize("changes", [{"kind": 3}, {"settings": 3}, {"sha256": "0"}, {"format": 2}])
def test_a_damaged_description_is_refused(changes):
    """Values of the wrong kind in the description are refused."""
    with pytest.raises(UnsafeModelError):
        Bridge.from_bytes(described(changes))


@pytest.mark.parametrize(
    "tensors",
    [
        {"matrix": np.eye(2, dtype=np.float64), "bias": np.zeros(2, np.float32)},
        {"matrix": np.eye(2, dtype=np.float32), "bias": np.zeros(3, np.float32)},
        {"matrix": np.full((2, 2), np.nan, np.float32), "bias": np.zeros(2, np.float32)},
        {"matrix": np.ones(2, dtype=np.float32), "bias": np.zeros(2, np.float32)},
        {"matrix": np.eye(2, dtype=np.float32)},
    ],
)
def test_unfit_tensors_are_refused(tensors):
    """Tensors of another type or shape, with NaN, or missing are refused."""
    with pytest.raises(UnsafeModelError):
        Bridge.from_bytes(described({}, tensors))
