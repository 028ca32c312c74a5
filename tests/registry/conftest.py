"""A workspace's registry, with one MLflow store made per session and copied for each test."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
from registry_world import PREPROCESSING, SETTINGS, SIZE

from segue.database import Database
from segue.registry import Registry, Tracking


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A SQLite store of MLflow's for all tests, and a copy of it while it was empty.

    MLflow takes seconds to make one and a good part of a second to open one.
    """
    folder = tmp_path_factory.mktemp("mlflow")
    path, empty = folder / "mlflow.db", folder / "empty.db"
    Tracking(f"sqlite:///{path}", folder / "artifacts").connect()
    copy_database(path, empty)
    return path, empty


@pytest.fixture
def reset_store(store):
    """Empty MLflow's store, which is open all the time."""
    return lambda: copy_database(store[1], store[0])


def copy_database(source, target):
    with sqlite3.connect(source) as one, sqlite3.connect(target) as other:
        one.backup(other)
    one.close()
    other.close()


@pytest.fixture(scope="session")
def empty_catalog(tmp_path_factory):
    """A workspace's database with its tables, and nothing in them."""
    path = tmp_path_factory.mktemp("catalog") / "segue.db"
    database = Database(path)
    database.create()
    database.close()
    return path


@pytest.fixture
def root(tmp_path, empty_catalog, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "workspace"
    folder.mkdir()
    shutil.copy(empty_catalog, folder / "segue.db")
    return folder


@pytest.fixture
def database(root):
    opened = Database(root / "segue.db")
    yield opened
    opened.close()


@pytest.fixture
def registry(database, root, store, reset_store):
    reset_store()
    return Registry(database, root, tracking_uri=f"sqlite:///{store[0]}")


@pytest.fixture(scope="session")
def weights():
    """Weights of two small networks with random weights, as safetensors."""
    import torch

    from segue.networks import build_network, save_weights

    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(save_weights(build_network("small", SETTINGS)))
    return found


@pytest.fixture
def register(registry, weights):
    """Register a small network: `register("faces", which=0)`."""

    def register_small(name="faces", which=0, **options):
        return registry.register_network(
            name,
            architecture="small",
            settings=SETTINGS,
            weights=weights[which],
            preprocessing=PREPROCESSING,
            **options,
        )

    return register_small


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory):
    """A tiny ONNX model, one random filter per number: float32 [N, 3, 32, 32] -> [N, 6]."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.random.default_rng(3).normal(size=(6, 3, SIZE, SIZE)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "kernel"], ["maps"]),
            helper.make_node("Flatten", ["maps"], ["vectors"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    onnx.save(model, path)
    return path
