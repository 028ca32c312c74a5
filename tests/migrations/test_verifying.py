"""Verification looks at content: vectors, files, rows, and known items found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from migration_world import NEW, OLD, FakeEmbedder, World

from segue.errors import ItemsLeftError, MismatchError, TransitionError, UsageError
from segue.index.codec import stored_vectors
from segue.migrations.verify import TOLERANCE, draw, tolerances


def caught_up(world, **choices):
    migration = world.start(**choices)
    migration.run(world.new)
    return migration


def test_a_verification(ready):
    """A caught-up migration is verified: all sampled vectors compare, all known items are found."""
    migration = caught_up(ready)
    seen = migration.verify(6, embedder=ready.new)
    assert (seen.items, seen.left, seen.sample, seen.compared) == (10, 0, 6, 6)
    assert seen.worst <= TOLERANCE
    assert (seen.searched, seen.probe_version) == (6, NEW)
    assert migration.state == "verified"
    migration.verify(embedder=ready.new)
    assert migration.state == "verified"


def test_blue_green_searches_with_what_serves(world):
    """Before a cut-over known items are looked for with the old version, which serves."""
    world.enroll(5)
    seen = caught_up(world).verify(embedder=world.new)
    assert (seen.compared, seen.searched, seen.probe_version) == (5, 5, OLD)


def test_too_early(ready):
    """A migration that is not caught up is not verified."""
    migration = ready.start()
    with pytest.raises(TransitionError):
        migration.verify(embedder=ready.new)
    migration.run(ready.new)
    with pytest.raises(UsageError):
        migration.verify(0)


def test_items_that_came_in(ready):
    """Items of the old version that came in since are reported, and the migration runs again."""
    migration = caught_up(ready)
    ready.enroll_by_old_server(2)
    with pytest.raises(ItemsLeftError, match=r"2 item.*migrate run"):
        migration.verify(embedder=ready.new)
    assert migration.state == "running"


def test_items_that_come_in_while_it_is_verified(ready):
    """Items of the old version enrolled during the verification keep it from being verified."""
    migration = caught_up(ready)
    ready.new.before = lambda: ready.enroll_by_old_server(1)
    with pytest.raises(ItemsLeftError, match="while it was verified"):
        migration.verify(embedder=ready.new)
    assert migration.state == "running"


def test_a_model_that_changed(ready):
    """Vectors that the target does not give any more are a mismatch, exit 6, and not verified."""
    migration = caught_up(ready)
    other = FakeEmbedder(NEW)
    other.projection = other.projection + 0.05 * np.random.default_rng(0).normal(
        size=other.projection.shape
    )
    with pytest.raises(MismatchError, match="10 of 10") as found:
        migration.verify(embedder=other)
    assert found.value.exit_code == 6
    assert "item-" not in str(found.value)
    assert migration.state == "caught_up"


def test_a_damaged_segment(ready):
    """A segment whose bytes changed on the disk is found, and named."""
    migration = caught_up(ready)
    path = ready.gallery.files()[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(bytes(content))
    with pytest.raises(MismatchError, match="problem"):
        ready.elsewhere().verify(embedder=ready.new)
    assert migration.state == "caught_up"


def test_images_that_are_gone(ready):
    """Sampled items without their image are counted as skipped; if all are, nothing is verified."""
    migration = caught_up(ready)
    paths = sorted(ready.enrolled.values())
    paths[0].unlink()
    seen = migration.verify(embedder=ready.new)
    assert (seen.compared, sum(seen.skipped.values())) == (9, 1)
    for path in paths[1:]:
        path.unlink()
    with pytest.raises(MismatchError, match="nothing is verified"):
        migration.verify(embedder=ready.new)


def test_the_sample_is_seeded(ready):
    """The same seed draws the same items, another seed others, and each item once."""
    caught_up(ready)

    def ids(seed):
        return [rows[0].item.item_id for rows in draw(ready.gallery, NEW, 5, seed)]

    assert ids(1) == ids(1)
    assert len(set(ids(1))) == 5
    assert {tuple(sorted(ids(seed))) for seed in range(6)} != {tuple(sorted(ids(0)))}


def test_quarantined_items_do_not_hinder(ready):
    """A migration with quarantined items is verified, and says how many are left."""
    ready.enrolled["item-0004"].unlink()
    migration = caught_up(ready)
    seen = migration.verify(embedder=ready.new)
    assert (seen.left, seen.compared) == (1, 9)


def test_an_empty_gallery_is_verified(world):
    """There is nothing to compare in an empty gallery."""
    assert caught_up(world).verify(embedder=world.new).sample == 0


def test_int8_is_held_to_its_own_bound(tmp_path):
    """Vectors of an int8 gallery differ by what the codec takes, and no more is allowed."""
    small = World(tmp_path, codec="int8")
    small.enroll(6)
    migration = caught_up(small)
    seen = migration.verify(embedder=small.new)
    assert TOLERANCE < seen.worst < 1e-3
    other = FakeEmbedder(NEW)
    other.projection = other.projection + 0.1 * FakeEmbedder(OLD).projection
    with pytest.raises(MismatchError):
        migration.verify(embedder=other)


@given(seed=st.integers(0, 10_000), width=st.integers(2, 300))
def test_the_int8_bound_holds(seed, width):
    """No unit vector moves further through the int8 codec than the stated bound."""
    vectors = np.random.default_rng(seed).normal(size=(5, width)) ** 3
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    moved = ((stored_vectors(vectors, "int8").astype(np.float64) - vectors) ** 2).sum(axis=1)
    assert (moved <= tolerances(vectors, "int8")).all()
