"""A workspace with its own MLflow store, in another place than where it was made."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from segue.database import Database
from segue.errors import LockedError, RegistryError
from segue.index.backup import backup, restore
from segue.registry import Registry
from segue.registry.moved_store import relocate_store
from segue.types import Preprocessing

IMAGES = np.random.default_rng(9).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def add_version(registry, weights, which):
    with registry.tracking.training_run("faces base", {}, "d") as run:
        run.log(1, {"loss": 0.5})
    return registry.register_network(
        "faces",
        architecture="small",
        settings={"width": 2, "dimension": 8},
        weights=weights[which],
        preprocessing=Preprocessing(32, 32),
        details={"run_id": run.run_id},
    )


@pytest.fixture
def filled(database, root, store, weights):
    """A workspace whose own store holds a run and `faces/1`."""
    shutil.copy(store[1], root / "mlflow.db")
    registry = Registry(database, root)
    add_version(registry, weights, 0)
    return registry


@pytest.fixture
def pyfunc():
    """`mlflow.pyfunc.load_model` as a user calls it, on a given store."""
    import mlflow
    import mlflow.pyfunc

    before = mlflow.get_tracking_uri()

    def load(uri, store):
        mlflow.set_tracking_uri(store)
        return mlflow.pyfunc.load_model(uri)

    yield load
    mlflow.set_tracking_uri(before)


@pytest.mark.parametrize("way", ["copied", "restored"])
def test_a_workspace_elsewhere_has_its_own_mlflow(filled, weights, tmp_path, pyfunc, way):
    """A copy writes nothing into the original, and its models load when the original is gone."""
    expected = filled.load("faces/1").embed(IMAGES)["embedding"]
    place = tmp_path / "an other place"
    if way == "copied":
        shutil.copytree(filled.root, place)
        database = Database(place / "segue.db")
    else:
        backup(filled.database, filled.root, tmp_path / "kept")
        place.mkdir()
        database = Database(place / "segue.db")
        restore(tmp_path / "kept", database, place)
    before = tree(filled.root)
    registry = Registry(database, place)
    client = registry.tracking.connect()
    add_version(registry, weights, 1)
    assert tree(filled.root) == before
    assert len(list((place / "mlartifacts").rglob("MLmodel"))) == 2
    filled.root.rename(tmp_path / "away")
    assert str(tmp_path / "workspace/") not in "".join(
        found.info.artifact_uri
        for experiment in client.search_experiments()
        for found in client.search_runs([experiment.experiment_id])
    )
    found = pyfunc("models:/faces/1", registry.tracking.uri).predict(IMAGES)
    assert np.abs(found - expected).max() < 1e-6
    pyfunc("models:/faces/2", registry.tracking.uri)
    assert not filled.root.exists()
    database.close()


def addresses(store):
    with closing(sqlite3.connect(store)) as connection:
        return [row[0] for row in connection.execute("SELECT artifact_location FROM experiments")]


def make_store(path, *rows):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE experiments (name, artifact_location)")
        connection.executemany("INSERT INTO experiments VALUES (?, ?)", rows)


def test_only_what_lay_in_the_workspace_moves(tmp_path):
    """Addresses elsewhere stay, also those that only begin alike; once moved, nothing changes."""
    root, store = tmp_path / "here", tmp_path / "mlflow.db"
    make_store(
        store,
        ("segue-models", "file:///a/ws/mlartifacts"),
        ("mine", "file:///a/ws/mlartifacts/7"),
        ("alike", "file:///a/ws/mlartifacts2"),
        ("segue-bucket", "s3://bucket/mlartifacts"),
        ("none", None),
    )
    here = (root.resolve() / "mlartifacts").as_uri()
    assert relocate_store(store, root)
    assert addresses(store) == [
        here,
        f"{here}/7",
        "file:///a/ws/mlartifacts2",
        "s3://bucket/mlartifacts",
        None,
    ]
    assert not relocate_store(store, root)
    assert not relocate_store(tmp_path / "missing.db", root)
    assert not (tmp_path / "missing.db").exists()


def test_a_store_that_cannot_be_adapted_is_told(tmp_path, monkeypatch):
    """A store in use is locked, a damaged one is refused; neither is changed."""
    store = tmp_path / "mlflow.db"
    make_store(store, ("segue-models", "file:///a/ws/mlartifacts"))
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **rest: connect(path, timeout=0, **rest))
    with closing(sqlite3.connect(store, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(LockedError):
            relocate_store(store, tmp_path)
    assert addresses(store) == ["file:///a/ws/mlartifacts"]
    store.write_bytes(b"no database, though it is long enough to be looked at" * 9)
    with pytest.raises(RegistryError):
        relocate_store(store, tmp_path)


def test_a_store_that_is_not_the_workspaces_own_is_left_alone(database, root, tmp_path, store):
    """A store shared by several workspaces keeps the addresses that it has."""
    shared = tmp_path / "shared.db"
    shutil.copy(store[1], shared)
    with closing(sqlite3.connect(shared)) as connection, connection:
        connection.execute(
            "INSERT INTO experiments (name, artifact_location, lifecycle_stage, workspace) "
            "VALUES ('segue-models', 'file:///a/ws/mlartifacts', 'active', 'default')"
        )
    Registry(database, root, f"sqlite:///{shared}").tracking.connect()
    assert "file:///a/ws/mlartifacts" in addresses(shared)
