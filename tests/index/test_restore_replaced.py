from __future__ import annotations

import numpy as np
from gallery_world import ids, new_items, probe, unit

from segue.index.backup import backup, restore


def _replace(gallery, name, seed):
    gallery.enroll_vectors(
        new_items([name], ["p"]), "faces/1", {"embedding": unit(1, seed=seed)}, replace=True
    )


def test_a_restore_brings_replaced_items_back_as_the_backup_knew_them(world, tmp_path):
    """Every item that was only replaced since is there again, with its old vector."""
    gallery = world.create()
    names = ["a", "b", "c"]
    gallery.enroll_vectors(new_items(names), "faces/1", {"embedding": unit(3)}, fresh=False)
    backup(world.database, world.root, tmp_path / "kept")
    for name in names:
        _replace(gallery, name, seed=50)
    gallery.compact()
    restore(tmp_path / "kept", world.database, world.root)
    hits = gallery.search(probe("faces/1", unit(3)), k=1)
    assert ids([found[0] for found in hits]) == names
    assert max(found[0].distance for found in hits) < 1e-6
    assert gallery.check() == []


def test_what_was_replaced_and_then_erased_never_comes_back(world, tmp_path):
    """Erasing an item condemns every image that it had before, however often it was replaced."""
    gallery = world.create()
    gallery.enroll_vectors(new_items(["a", "b"]), "faces/1", {"embedding": unit(2)}, fresh=False)
    backup(world.database, world.root, tmp_path / "kept")
    for seed in (51, 52):
        _replace(gallery, "a", seed)
    gallery.compact()
    gallery.erase(["a"])
    for _ in range(2):
        restore(tmp_path / "kept", world.database, world.root)
        found = gallery.search(probe("faces/1", unit(2)), k=9)
        assert np.unique(ids(found[0])).tolist() == ["b"]
        assert gallery.stats().pending_erasures == 0
        assert gallery.check() == []
