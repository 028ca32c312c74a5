"""Revert and abort: the ways back, with every item findable."""

from __future__ import annotations

import numpy as np
import pytest
from migration_world import GO, NEW, NO_GO, OLD

from segue.errors import ItemsLeftError, LockedError, NoModelError, TransitionError, UsageError
from segue.migrations import undo


def test_revert_half_way(ready):
    """The old version serves again, the new rows are kept, and all items are found."""
    migration = ready.start()
    ready.new.before = lambda: migration.pause() if len(ready.new.calls) == 3 else None
    ready.time.then = lambda: ready.elsewhere().revert()
    migration.run(ready.new)
    assert migration.state == "reverted"
    assert ready.gallery.serving == OLD
    assert ready.registry.resolve("faces@serving-staff").version == OLD
    assert ready.ledger("serving")[-1].details["to"] == OLD
    assert len(ready.vectors(NEW)) == 8
    ready.check_found()


def test_items_of_the_new_version_stay_findable_by_the_edge(ready):
    """Items enrolled by v2 alone are found after a revert through the edge v1 -> v2."""
    migration = ready.start()
    ready.enroll(3)
    assert len(ready.vectors(OLD)) == 10
    migration.revert()
    ready.check_found(OLD)
    assert len(ready.vectors(OLD)) == 10


def test_items_of_the_new_version_stay_findable_by_both_vectors(world):
    """Without that edge new items have both vectors, so that a revert is only a switch."""
    world.enroll(4)
    world.edges([(NEW, OLD), (NEW, NEW), (OLD, OLD)])
    world.report(GO)
    migration = world.start()
    world.enroll(3)
    world.old.calls.clear()
    migration.revert()
    assert world.old.calls == []
    world.check_found(OLD)


def without_companion(world):
    """A mixed migration without an edge back, and items that a server enrolled by v2 alone."""
    world.enroll(4)
    world.edges([(NEW, OLD), (NEW, NEW), (OLD, OLD)])
    world.report(GO)
    migration = world.start()
    items = world.draw(2)
    for item in items:
        world.enrolled[item.item_id] = type(world.root)(item.source)
    probe = world.probe([item.item_id for item in items], NEW)
    world.gallery.enroll_vectors(items, NEW, probe.vectors)
    return migration


def test_a_revert_fills_in_what_is_lacking(world):
    """Items that only v2 has, without an edge back, are embedded by v1 before it serves."""
    migration = without_companion(world)
    migration.revert(embedder=world.old)
    assert len(world.vectors(OLD)) == 6
    world.check_found(OLD)


def test_a_revert_that_would_lose_items(world):
    """If v1 cannot embed such an item, v2 keeps serving until that is mended; then it goes on."""
    migration = without_companion(world)
    path = world.enrolled["item-0004"]
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(ItemsLeftError, match="revert again"):
        migration.revert(embedder=world.old)
    assert migration.state == "reverting"
    assert world.gallery.serving == NEW
    assert "revert" in migration.status().waiting
    path.write_bytes(content)
    world.check_found()
    migration.revert(embedder=world.old)
    assert migration.state == "reverted"
    world.check_found(OLD)


def test_a_revert_to_a_version_without_a_model(world, monkeypatch):
    """If v1 has no model, the edge or an erasure is asked for, and v2 keeps serving."""
    migration = without_companion(world)

    def load(_):
        raise NoModelError(OLD)

    monkeypatch.setattr(world.registry, "load", load)
    with pytest.raises(ItemsLeftError, match="faces/1 -> faces/2"):
        migration.revert()
    assert world.gallery.serving == NEW
    world.edges()
    with pytest.raises(ItemsLeftError, match="a gate says GO"):
        migration.revert()
    world.report(GO)
    migration.revert()
    world.check_found(OLD)


def test_the_wrong_model_for_a_revert(ready):
    """A revert embeds with the old version only."""
    with pytest.raises(UsageError):
        ready.start().revert(embedder=ready.new)


def test_revert_of_blue_green(world):
    """Before the cut-over a revert only closes; after it the old version serves again."""
    world.enroll(5)
    migration = world.start()
    migration.run(world.new)
    migration.verify(embedder=world.new)
    migration.cutover()
    world.enroll(1)
    migration.revert()
    assert world.gallery.serving == OLD
    world.check_found(OLD)
    again = world.start()
    assert again.status().left == 0
    again.revert()
    assert again.state == "reverted"
    world.check_found(OLD)


def turned(world):
    """Let the two models have nothing in common, as if they had been trained apart."""
    rng = np.random.default_rng(8)
    world.new.projection = rng.normal(size=world.new.projection.shape)


@pytest.mark.parametrize("measured", ["never", "calibrated", "NO-GO"])
def test_revert_of_models_that_nothing_joins(world, measured):
    """Whoever is enrolled after the cut-over is found, also where their noise was calibrated."""
    turned(world)
    world.enroll(5)
    if measured != "never":
        world.edges()
    if measured == "NO-GO":
        world.report(NO_GO)
    migration = world.start()
    migration.run(world.new)
    migration.verify(embedder=world.new)
    migration.cutover()
    assert list(world.gallery.companions) == [OLD]
    assert list(world.gallery.preference) == [NEW]
    world.enroll(6)
    migration.revert()
    assert list(world.gallery.preference) == [OLD]
    assert len(world.vectors(OLD)) == 11
    world.check_found(OLD)


def test_an_edge_that_was_calibrated_again_finds_nobody_for_sure(ready):
    """What v2 alone enrolled while the gate was GO is embedded by v1 once it is not any more."""
    turned(ready)
    migration = ready.start()
    assert list(ready.gallery.companions) == []
    ready.enroll(3)
    ready.edges([(OLD, NEW)])
    migration.revert()
    assert len(ready.vectors(OLD)) == 13
    ready.check_found(OLD)


def test_an_edge_that_changes_while_a_revert_ends(ready, monkeypatch):
    """The old version serves only what it finds in the transaction that lets it serve."""
    migration = ready.start()
    ready.enroll(3)
    held = undo._restore

    def calibrated_meanwhile(*args, **more):
        monkeypatch.setattr(undo, "_restore", held)
        ready.edges([(OLD, NEW)])
        return held(*args, **more)

    monkeypatch.setattr(undo, "_restore", calibrated_meanwhile)
    migration.revert()
    assert len(ready.vectors(OLD)) == 13
    ready.check_found(OLD)


def test_a_new_migration_after_a_revert_goes_on(ready):
    """Rows kept by a revert are not embedded again by the next migration."""
    migration = ready.start()
    migration.run(ready.new)
    migration.revert()
    ready.new.calls.clear()
    second = ready.start()
    assert second.run(ready.new).state == "caught_up"
    assert ready.new.calls == []
    second.verify(embedder=ready.new)
    second.complete(yes=True)
    ready.check_found()


def test_abort_throws_the_new_rows_away(world):
    """While v1 serves an abort removes the rows of v2; nothing else changes."""
    world.enroll(6)
    migration = world.start()
    migration.run(world.new)
    assert migration.abort() == 6
    assert migration.state == "aborted"
    assert world.vectors(NEW) == {}
    world.check_vectors(OLD)
    world.check_found()
    with pytest.raises(TransitionError):
        migration.abort()


def test_no_abort_while_the_new_version_serves(ready):
    """A mixed migration, and one that was cut over, are reverted, not aborted."""
    migration = ready.start()
    with pytest.raises(TransitionError, match="revert"):
        migration.abort()
    assert len(ready.vectors(OLD)) == 10
    assert ready.gallery.serving == NEW


def test_abort_keeps_what_only_the_new_version_has(ready):
    """Items that an earlier mixed migration enrolled by v2 alone survive a later abort."""
    first = ready.start()
    ready.enroll(2)
    first.revert()
    second = ready.start(strategy="blue-green")
    second.run(ready.new)
    second.abort()
    assert set(ready.vectors(NEW)) == {"item-0010", "item-0011"}
    ready.check_found(OLD)


@pytest.mark.parametrize("state", ["running", "paused"])
def test_an_abort_that_finds_the_gallery_locked(world, monkeypatch, state):
    """If the rows cannot be removed now, the migration stays as it was and can be aborted later."""
    world.enroll(6)
    migration = world.start()
    migration.run(world.new, limit=4)
    if state == "paused":
        migration.pause()

    def locked(*_, **__):
        assert migration.state == "paused"  # no runner commits meanwhile
        raise LockedError("gallery folder staff")

    with monkeypatch.context() as patched:
        patched.setattr(world.gallery, "remove_version", locked)
        with pytest.raises(LockedError):
            migration.abort()
    assert migration.state == state
    assert len(world.vectors(NEW)) == 4
    assert migration.abort() == 4
    assert migration.state == "aborted"


def test_an_abort_that_is_resumed_meanwhile(world, monkeypatch):
    """If somebody resumes while rows are being removed, nothing is removed."""
    world.enroll(4)
    migration = world.start()
    migration.run(world.new)
    world.enroll(1)
    migration.run(world.new)
    world.enroll(1)
    with pytest.raises(Exception, match="came in"):
        migration.verify(embedder=world.new)
    remove = world.gallery.remove_version

    def slow(*args, **more):
        world.elsewhere().resume()
        return remove(*args, **more)

    monkeypatch.setattr(world.gallery, "remove_version", slow)
    with pytest.raises(LockedError, match="resumed"):
        migration.abort()
    assert migration.state == "running"
    assert len(world.vectors(NEW)) == 5
