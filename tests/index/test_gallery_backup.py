from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from gallery_world import World, ids, new_items, probe, unit

from segue import database as tables
from segue.database import Database
from segue.errors import (
    DataError,
    FormatError,
    LockedError,
    MissingPathError,
    TamperedError,
    UnknownGalleryError,
    UsageError,
    WorkspaceError,
)
from segue.files import sha256_file
from segue.index import Gallery, acquire_lease, catalog
from segue.index import backup as backup_module
from segue.index.backup import backup, restore
from segue.index.segments import unlink_segment


@pytest.fixture
def filled(world):
    gallery = world.create()
    gallery.enroll_vectors(
        new_items(["a", "b", "c"], ["p", "q", "q"]), "faces/1", {"embedding": unit(3)}, fresh=False
    )
    gallery.enroll_vectors(new_items(["d"]), "faces/1", {"embedding": unit(1, seed=9)})
    (world.root / "models/faces-1").mkdir(parents=True)
    (world.root / "models/faces-1/manifest.json").write_text("{}")
    return gallery


def test_a_backup_in_an_empty_place_is_the_same_workspace(world, filled, tmp_path):
    """Catalog, segments, fresh rows and model files are there again, and answer the same."""
    expected = filled.search(probe("faces/1", unit(3)), k=4)
    backup(world.database, world.root, tmp_path / "kept")
    place = tmp_path / "elsewhere"
    place.mkdir()
    database = Database(place / "segue.db")
    restore(tmp_path / "kept", database, place)
    database.check_format()
    again = Gallery(database, place, "door")
    assert again.search(probe("faces/1", unit(3)), k=4) == expected
    assert again.check() == []
    assert (place / "models/faces-1/manifest.json").read_text() == "{}"
    assert not list(place.rglob("*.staged"))
    database.close()


@pytest.mark.parametrize("kept_open", [True, False])
def test_a_restore_takes_the_workspace_back_but_not_the_erased(world, filled, tmp_path, kept_open):
    """What was enrolled since is gone, what was erased since stays erased, in files too."""
    backup(world.database, world.root, tmp_path / "kept")
    filled.erase(["b", "d"])
    filled.enroll_vectors(
        new_items(["late"]), "faces/1", {"embedding": unit(1, seed=3)}, fresh=False
    )
    assert filled.item("late")[0].item.seq == 4
    generation = filled._row().generation
    restore(tmp_path / "kept", world.database, world.root)
    gallery = filled if kept_open else world.open()
    assert sorted(ids(gallery.search(probe("faces/1", unit(3)), k=9)[0][:])) == ["a", "c"]
    assert gallery._row().generation > generation
    assert gallery.stats().pending_erasures == 0
    assert gallery.check() == []
    assert len(world.files() - {f for f in world.files() if f.endswith(".faiss")}) == 2
    gallery.enroll_vectors(new_items(["e"]), "faces/1", {"embedding": unit(1, seed=4)})
    assert gallery.item("e")[0].item.seq == 5


@pytest.mark.usefixtures("filled")
def test_another_gallery_of_the_same_name_takes_no_tombstones(world, tmp_path):
    """Erasures of an unrelated workspace's gallery do not erase what is restored into it."""
    backup(world.database, world.root, tmp_path / "kept")
    root = tmp_path / "other"
    root.mkdir()
    other = World(root)
    gallery = other.create()
    gallery.enroll_vectors(new_items(["x", "y"]), "faces/1", {"embedding": unit(2)}, fresh=False)
    gallery.erase(["x"])
    other.create("third")
    restore(tmp_path / "kept", other.database, root)
    assert gallery.count_items() == 4
    assert gallery.check() == []
    with pytest.raises(UnknownGalleryError):
        other.open("third")
    other.database.close()


def test_a_damaged_or_half_backup_changes_nothing(world, filled, tmp_path):
    """A missing, changed or foreign file of a backup is told before anything is touched."""
    kept = tmp_path / "kept"
    backup(world.database, world.root, kept)
    before = filled.search(probe("faces/1", unit(3)), k=4)
    manifest = (kept / "backup.json").read_text()
    segment = next(kept.rglob("*.parquet"))
    content = segment.read_bytes()

    segment.write_bytes(content[:-1] + b"x")
    with pytest.raises(TamperedError):
        restore(kept, world.database, world.root)
    segment.unlink()
    with pytest.raises(MissingPathError):
        restore(kept, world.database, world.root)
    segment.write_bytes(content)
    for changed, error in (
        ("no json", DataError),
        (json.dumps({**json.loads(manifest), "format": 9}), FormatError),
        (json.dumps({**json.loads(manifest), "files": {"../x": ""}}), DataError),
    ):
        (kept / "backup.json").write_text(changed)
        with pytest.raises(error):
            restore(kept, world.database, world.root)
    (kept / "backup.json").unlink()
    with pytest.raises(MissingPathError):
        restore(kept, world.database, world.root)
    assert filled.search(probe("faces/1", unit(3)), k=4) == before
    assert filled.check() == []


def test_a_backup_goes_into_a_new_folder_outside(world, filled, tmp_path):
    """A folder with something in it, or within the workspace, is refused."""
    assert filled.count_items() == 4
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("x")
    for target in (tmp_path / "full", tmp_path / "full/x", world.root / "backup"):
        with pytest.raises(UsageError):
            backup(world.database, world.root, target)
    assert not (world.root / "backup").exists()


@pytest.fixture
def elsewhere(world, monkeypatch):
    """The gallery as another process has it, which soon gives up waiting for a lock."""
    monkeypatch.setattr(tables, "BUSY_SECONDS", 0.05)
    database = Database(world.root / "segue.db")
    yield Gallery(database, world.root, "door")
    database.close()


def tree(root):
    """Every file below `root` and its content, but for locks and what SQLite keeps beside."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock" and not path.name.endswith(("-wal", "-shm"))
    }


def rows(database):
    """Every row of a workspace's database."""
    with database.read() as connection:
        return {
            table.name: connection.execute(table.select()).all()
            for table in tables.metadata.sorted_tables
        }


def add_note(world, text):
    """Write a file that a restore replaces, and a database as MLflow's is."""
    (world.root / "reports").mkdir(exist_ok=True)
    (world.root / "reports/note.txt").write_text(text)
    with closing(sqlite3.connect(world.root / "mlflow.db")) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS note (text)")
        connection.execute("INSERT INTO note VALUES (?)", (text,))


def test_what_commits_before_the_catalog_is_replaced_is_known_to_it(
    world, filled, elsewhere, tmp_path, monkeypatch
):
    """An item erased while files were copied stays erased; a `seq` given then is never reused."""
    backup(world.database, world.root, tmp_path / "kept")
    asked = backup_module.left_to_copy

    def meanwhile(*arguments):
        elsewhere.erase(["b", "d"], wait=0)
        elsewhere.enroll_vectors(new_items(["late"]), "faces/1", {"embedding": unit(1, seed=3)})
        return asked(*arguments)

    monkeypatch.setattr(backup_module, "left_to_copy", meanwhile)
    restore(tmp_path / "kept", world.database, world.root)
    assert sorted(ids(filled.search(probe("faces/1", unit(3)), k=9)[0])) == ["a", "c"]
    assert filled.stats().pending_erasures == 0
    filled.enroll_vectors(new_items(["e"]), "faces/1", {"embedding": unit(1, seed=4)})
    assert filled.item("e")[0].item.seq == 5
    assert filled.check() == []


@pytest.mark.parametrize("step", ["replace_rows", "put_in_place"])
def test_nobody_commits_while_the_catalog_is_replaced(
    world, filled, elsewhere, tmp_path, monkeypatch, step
):
    """From reading the tombstones to the commit the catalog is locked: nothing can be lost."""
    backup(world.database, world.root, tmp_path / "kept")
    done = getattr(backup_module, step)

    def locked(*arguments):
        with pytest.raises(LockedError):
            elsewhere.erase(["b"], wait=0)
        done(*arguments)
        with pytest.raises(LockedError):
            elsewhere.enroll_vectors(new_items(["e"]), "faces/1", {"embedding": unit(1)})

    monkeypatch.setattr(backup_module, step, locked)
    restore(tmp_path / "kept", world.database, world.root)
    assert elsewhere.erase(["b"]).swept
    assert sorted(ids(filled.search(probe("faces/1", unit(3)), k=9)[0])) == ["a", "c", "d"]


@pytest.mark.parametrize("held", ["catalog", "mlflow", "lease"])
def test_a_workspace_in_use_is_left_as_it_is(world, filled, elsewhere, tmp_path, held):
    """A writer, MLflow or a migration's runner at work: `LockedError`, and nothing was changed."""
    add_note(world, "old")
    backup(world.database, world.root, tmp_path / "kept")
    add_note(world, "new")
    filled.erase(["b"])
    before, stored = tree(world.root), rows(world.database)
    name = "mlflow.db" if held == "mlflow" else "segue.db"
    with closing(sqlite3.connect(world.root / name, isolation_level=None)) as writer:
        if held == "lease":
            lease = acquire_lease(world.database, "door", "migration")
            before, stored = tree(world.root), rows(world.database)
        else:
            writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(LockedError):
            restore(tmp_path / "kept", elsewhere._shelf.database, world.root)
    assert rows(world.database) == stored
    assert tree(world.root) == before
    if held == "lease":
        lease.release()
    restore(tmp_path / "kept", world.database, world.root)
    assert (world.root / "reports/note.txt").read_text() == "old"


def test_a_database_in_use_by_nobody_is_replaced_where_it_is(world, filled, tmp_path):
    """Whoever has MLflow's database open reads what was restored."""
    add_note(world, "old")
    backup(world.database, world.root, tmp_path / "kept")
    assert filled.count_items() == 4
    add_note(world, "new")
    with closing(sqlite3.connect(world.root / "mlflow.db")) as connection:
        assert len(connection.execute("SELECT * FROM note").fetchall()) == 2
        restore(tmp_path / "kept", world.database, world.root)
        assert connection.execute("SELECT * FROM note").fetchall() == [("old",)]


def test_a_restored_ledger_is_append_only(world, filled, tmp_path):
    """The triggers that guard the ledger are there again."""
    backup(world.database, world.root, tmp_path / "kept")
    restore(tmp_path / "kept", world.database, world.root)
    assert filled.count_items() == 4
    with closing(sqlite3.connect(world.root / "segue.db")) as connection:
        connection.execute(
            "INSERT INTO ledger (at, actor, action, subject, details) VALUES ('', '', '', '', '{}')"
        )
        for change in ("DELETE FROM ledger", "UPDATE ledger SET actor = 'x'"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(change)


def craft(kept, statement, *values):
    """Change a backup's catalog, and its manifest so that the change is not seen."""
    with closing(sqlite3.connect(kept / "segue.db")) as connection, connection:
        connection.execute(statement, values)
    manifest = json.loads((kept / "backup.json").read_text())
    manifest["files"]["segue.db"] = sha256_file(kept / "segue.db")
    (kept / "backup.json").write_text(json.dumps(manifest))


_BRIDGE = (
    "INSERT INTO bridges (kind, source, target, path, sha256, created_at) "
    "VALUES ('ridge', 'faces/1', 'faces/2', ?, '', '')"
)
_GALLERY = (
    "INSERT INTO galleries SELECT ?, serving, preference, companions, codec, 0, 0, 0, '' "
    "FROM galleries"
)
_REPORT = (
    "INSERT INTO reports (old, new, path, sha256, gate, created_at) "
    "VALUES ('faces/1', 'faces/2', ?, '', '{}', '')"
)


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("UPDATE segments SET path = ?", "/elsewhere/precious.txt"),
        ("UPDATE segments SET path = ?", "galleries/door/segments/../../../precious.txt"),
        ("UPDATE segments SET path = ?", "galleries/other/segments/x.parquet"),
        ("UPDATE segments SET path = ?", "models/faces-1/manifest.json"),
        ("UPDATE segments SET key_path = ?", "../precious.keys"),
        ("UPDATE segments SET output = ?", "../../precious"),
        ("UPDATE fresh_rows SET version = ?", "../faces/1"),
        ("UPDATE versions SET files = ? WHERE version = 'faces/3'", '{"../../precious": "0"}'),
        ("UPDATE versions SET version = ? WHERE version = 'faces/3'", "../../faces/3"),
        (_BRIDGE, "/elsewhere/precious"),
        (_REPORT, "reports/../../precious"),
        (_GALLERY, "../../precious"),
        ("UPDATE galleries SET serving = ?", "faces/9"),
        ("UPDATE versions SET files = ?", "[1"),
        ("UPDATE workspace SET value = ?", "9"),
        ("DROP TABLE touched", None),
        ("CREATE TABLE x (y)", None),
    ],
)
def test_a_crafted_catalog_is_refused(world, filled, tmp_path, statement, value):
    """A catalog that names files outside the workspace, or none, is refused untouched."""
    kept = tmp_path / "kept"
    backup(world.database, world.root, kept)
    filled.erase(["b"])
    before, stored = tree(world.root), rows(world.database)
    craft(kept, statement, *([] if value is None else [value]))
    if statement.startswith("CREATE"):  # what a newer Segue may add without a new format
        restore(kept, world.database, world.root)
        return
    with pytest.raises(WorkspaceError):
        restore(kept, world.database, world.root)
    assert tree(world.root) == before
    assert rows(world.database) == stored
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "workspace"}


@pytest.mark.parametrize(
    "name", ["segue.db-wal", "galleries/door/x", ".hidden", "mlflow.db-journal", "./segue.db2"]
)
def test_a_file_that_no_backup_has_is_refused(world, filled, tmp_path, name):
    """A manifest cannot smuggle a journal, a lock or a foreign file into the workspace."""
    kept = tmp_path / "kept"
    backup(world.database, world.root, kept)
    assert filled.count_items() == 4
    (kept / name).parent.mkdir(parents=True, exist_ok=True)
    (kept / name).write_text("x")
    manifest = json.loads((kept / "backup.json").read_text())
    manifest["files"][name] = sha256_file(kept / name)
    (kept / "backup.json").write_text(json.dumps(manifest))
    before = tree(world.root)
    with pytest.raises(DataError):
        restore(kept, world.database, world.root)
    assert tree(world.root) == before


def test_a_live_segment_of_the_same_name_is_not_overwritten(world, filled, tmp_path):
    """Another content under the name of a live segment is refused; a damaged one is mended."""
    kept = tmp_path / "kept"
    backup(world.database, world.root, kept)
    live = next((world.root / "galleries/door/segments").glob("*.parquet"))
    content = live.read_bytes()
    live.write_bytes(content[:-1])
    restore(kept, world.database, world.root)
    assert live.read_bytes() == content
    path = live.relative_to(world.root).as_posix()
    manifest = json.loads((kept / "backup.json").read_text())
    (kept / path).write_bytes(b"another")
    manifest["files"][path] = sha256_file(kept / path)
    (kept / "backup.json").write_text(json.dumps(manifest))
    with pytest.raises(WorkspaceError):
        restore(kept, world.database, world.root)
    assert live.read_bytes() == content
    assert filled.check() == []


def test_a_listed_path_outside_is_neither_read_nor_removed(world, filled, tmp_path):
    """A catalog changed by hand makes no command touch a file outside the gallery's folder."""
    precious = tmp_path / "precious.txt"
    precious.write_text("x")
    with world.database.read() as connection:
        (segment,) = catalog.read_segments(connection, "door")
    for path in (str(precious), "../precious.txt", "galleries/../../precious.txt", ""):
        with pytest.raises(WorkspaceError):
            unlink_segment(world.root, replace(segment, key_path=path))
    with world.database.write() as connection:
        connection.execute(tables.segments.update().values(path="../precious.txt"))
    for action in (filled.compact, filled.check, lambda: filled.erase(["a"]), filled.files):
        with pytest.raises(WorkspaceError):
            action()
    assert precious.read_text() == "x"
