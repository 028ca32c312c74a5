"""When registering or promoting fails, nothing of it is left."""

from __future__ import annotations

import errno

import pytest

from segue.database import Database
from segue.errors import DiskFullError, LockedError, RegistryError
from segue.registry import Registry, registering

NOBODY = "http://user:secret@127.0.0.1:9"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """MLflow asks a server that is not there only once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def snapshot(registry, root):
    client = registry.tracking.connect()
    return (
        [x.version for x in registry.list()],
        [(x.version, x.aliases) for x in registry.list()],
        [x.entry for x in registry.ledger()],
        sorted(path.name for path in (root / "models").iterdir()),
        sorted(x.version for x in client.search_model_versions()),
        [x.aliases for x in client.search_registered_models()],
        sorted(path.parent.name for path in (root / "mlartifacts").rglob("MLmodel")),
    )


def test_an_unreachable_mlflow_is_one_sentence_and_changes_nothing(
    register, registry, database, root
):
    """Registering and promoting need MLflow; without it the workspace stays as it was."""
    register()
    before = snapshot(registry, root)
    away = Registry(database, root, tracking_uri=NOBODY)
    with pytest.raises(RegistryError, match="nobody answers there") as caught:
        away.register_vectors("faces", dimension=3)
    assert "secret" not in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    with pytest.raises(RegistryError, match="nobody answers there"):
        away.promote("faces/1", reason="now")
    assert snapshot(registry, root) == before


def test_what_is_registered_loads_without_mlflow(register, database, root):
    """Reading and loading never ask MLflow."""
    register()
    away = Registry(database, root, tracking_uri=NOBODY)
    assert away.resolve("faces").version == "faces/1"
    assert away.load("faces/1").outputs == {"embedding": 8}


@pytest.mark.parametrize("uri", ["sqlite:///{root}/segue.db/mlflow.db", "gopher://x", "no"])
def test_a_useless_tracking_uri_is_one_sentence(database, root, uri):
    """A store that cannot be opened, or of an unknown kind, is told and nothing is written."""
    with pytest.raises(RegistryError, match=r"MLflow at .* cannot be used"):
        Registry(database, root, tracking_uri=uri.format(root=root)).register_vectors(
            "faces", dimension=3
        )
    assert list((root / "models").iterdir()) == []


def test_a_file_that_is_no_mlflow_store_is_told(root, database):
    """A damaged store is told in one sentence."""
    (root / "bad.db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(RegistryError, match=r"MLflow at .* cannot be used"):
        Registry(database, root, f"sqlite:///{root}/bad.db").register_vectors("x", dimension=2)


def test_a_store_made_by_another_process_meanwhile_is_kept(tmp_path):
    """MLflow's store is made aside and never put over one that is there."""
    import contextlib
    import sqlite3
    from types import SimpleNamespace

    from segue.registry import mlflow_store

    path = tmp_path / "mlflow.db"
    seen = []

    class Client:
        def __init__(self, tracking_uri, registry_uri):
            assert tracking_uri == registry_uri
            self.made = tracking_uri.removeprefix("sqlite:///")

        def search_experiments(self, max_results):
            seen.append((path.exists(), max_results))
            with contextlib.closing(sqlite3.connect(self.made)) as connection:
                connection.execute(f"create table t{len(seen)} (x)")

    def tables():
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return [name for (name,) in connection.execute("select name from sqlite_master")]

    for _ in range(2):
        mlflow_store._create_sqlite(path, SimpleNamespace(MlflowClient=Client))
        assert tables() == ["t1"]
    assert seen == [(False, 1), (True, 1)]
    assert [x.name for x in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_full_disk_leaves_nothing(register, registry, root, monkeypatch):
    """No space while the files are written: no row, no folder, nothing in MLflow."""
    register()
    before = snapshot(registry, root)

    def full(path, _content):
        raise DiskFullError(path)

    monkeypatch.setattr(registering, "write_durably", full)
    with pytest.raises(DiskFullError):
        register()
    assert snapshot(registry, root) == before


def test_an_error_at_the_commit_leaves_nothing(register, registry, root, monkeypatch):
    """When the row cannot be written, the folder and MLflow's copy go again."""
    register()
    before = snapshot(registry, root)

    def fails(*_, **__):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(registering, "record", fails)
    with pytest.raises(OSError, match="input/output"):
        register()
    assert snapshot(registry, root) == before
    monkeypatch.undo()
    assert register().number > 1


def test_a_locked_database_leaves_nothing(register, registry, root, monkeypatch):
    """A writer that holds the database makes registering fail whole."""
    register()
    before = snapshot(registry, root)
    monkeypatch.setattr("segue.database.BUSY_SECONDS", 0.05)
    second = Database(root / "segue.db")
    other = Registry(second, root)
    with registry.database.write(), pytest.raises(LockedError):
        other.register_vectors("faces", dimension=4)
    second.close()
    assert snapshot(registry, root) == before


def test_the_first_failure_of_a_name_leaves_no_name_in_mlflow(registry, root, monkeypatch):
    """A registered model that MLflow got for a failed first version is removed again."""
    monkeypatch.setattr(registering, "_free_number", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        registry.register_vectors("faces", dimension=4)
    assert registry.tracking.connect().search_registered_models() == []
    assert list((root / "models").iterdir()) == []


def test_a_folder_left_by_a_killed_registration_is_replaced(register, registry, root):
    """A folder without a row, from a process killed before its commit, is no obstacle."""
    stale = root / "models" / "faces-1"
    stale.mkdir(parents=True)
    (stale / "weights.safetensors").write_bytes(b"half")
    (stale / "extra").write_bytes(b"x")
    register()
    assert sorted(path.name for path in stale.iterdir()) == [
        "manifest.json",
        "weights.safetensors",
        "witness.safetensors",
    ]
    registry.load("faces/1")
