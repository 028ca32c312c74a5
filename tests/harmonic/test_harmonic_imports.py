import subprocess
import sys

import numpy as np
import pytest

import segue.harmonic
from segue.errors import VectorError
from segue.harmonic.distances import squared_distances


def test_numpy_parts_load_no_torch():
    """Distances, calibration and bridges import and work without torch or scipy."""
    code = (
        "import sys, numpy as np, segue.harmonic\n"
        "import segue.harmonic.calibration, segue.harmonic.bridges, segue.harmonic.distances\n"
        "eye = np.eye(20, dtype='f4')\n"
        "c = segue.harmonic.calibrate(eye, range(20), eye, range(20), same_images=True)\n"
        "b = segue.harmonic.fit_bridge('ridge', eye, eye, source_version='a', target_version='b')\n"
        "segue.harmonic.Bridge.from_bytes(b.to_bytes()).apply(eye, version='a')\n"
        "print(*{'torch', 'scipy', 'mlflow', 'faiss'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "", "")


def test_every_public_name_is_there():
    """`__all__` is what can be imported; anything else raises AttributeError."""
    for name in segue.harmonic.__all__:
        assert getattr(segue.harmonic, name) is not None
    assert set(dir(segue.harmonic)) == set(segue.harmonic.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = segue.harmonic.nothing


def test_squared_distances_are_those_of_the_differences():
    """The matrix product gives the same squared L2 distances as subtracting, within [0, 4]."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 16)), rng.normal(size=(20, 16))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    found = squared_distances(a, b)
    assert np.abs(found - np.square(a[:, None] - b).sum(axis=2)).max() < 1e-6
    own = squared_distances(a, np.concatenate([a, -a]))
    assert own.min() >= 0
    assert own.max() <= 4
    assert own.dtype == np.float32
    assert squared_distances(a[:0], b).shape == (0, 20)


def test_vectors_of_two_models_are_not_compared():
    """Dimensions that differ and vectors that are not of unit length are refused."""
    with pytest.raises(VectorError, match="dimension"):
        squared_distances(np.eye(2), np.eye(3))
    with pytest.raises(VectorError, match="unit length"):
        squared_distances(np.eye(2), 2 * np.eye(2))
