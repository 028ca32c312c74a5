from __future__ import annotations

import json

import pytest
from gallery_world import World, ids, new_items, probe, unit

from segue.database import Database
from segue.errors import (
    DataError,
    FormatError,
    MissingPathError,
    TamperedError,
    UnknownGalleryError,
    UsageError,
)
from segue.index import Gallery
from segue.index.backup import backup, restore


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


def test_a_replaced_image_does_not_come_back_beside_itself(world, filled, tmp_path):
    """An item replaced since the backup is gone after a restore: its old image was taken back."""
    backup(world.database, world.root, tmp_path / "kept")
    filled.enroll_vectors(new_items(["a"]), "faces/1", {"embedding": unit(1, seed=3)}, replace=True)
    restore(tmp_path / "kept", world.database, world.root)
    assert sorted(ids(filled.search(probe("faces/1", unit(1)), k=9)[0])) == ["b", "c", "d"]


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
