"""Cut-over and completion: consent, drift, grace, and nothing lost."""

from __future__ import annotations

import pytest
from migration_world import GO, NEW, NO_GO, OLD

from segue.errors import (
    ConsentError,
    DriftError,
    GalleryError,
    ItemsLeftError,
    LockedError,
    MismatchError,
    TransitionError,
    UsageError,
)
from segue.index import acquire_lease


def verified(world, **choices):
    migration = world.start(**choices)
    migration.run(world.new)
    migration.verify(embedder=world.new)
    return migration


def test_the_blue_green_road(world):
    """Backfill, verify, cut over, complete: every item is found at each step, without any edge."""
    world.enroll(6)
    migration = world.start()
    world.check_found()
    migration.run(world.new)
    world.check_found()
    migration.verify(embedder=world.new)
    migration.cutover()
    assert migration.state == "cut_over"
    assert world.gallery.serving == NEW
    assert list(world.gallery.companions) == [OLD]
    world.check_found()
    world.enroll(2)
    world.check_found()
    assert len(world.vectors(OLD)) == 8
    done = migration.complete(yes=True)
    assert (done.state, done.left) == ("completed", 0)
    assert done.removed == 8
    assert world.vectors(OLD) == {}
    assert list(world.gallery.companions) == []
    world.check_vectors(NEW)
    world.check_found()


def test_cut_over_needs_a_verification(world):
    """Neither a running nor a merely caught-up migration is cut over."""
    world.enroll(3)
    migration = world.start()
    with pytest.raises(TransitionError):
        migration.cutover()
    migration.run(world.new)
    with pytest.raises(TransitionError):
        migration.cutover()
    assert world.gallery.serving == OLD


def test_mixed_has_no_cut_over(ready):
    """A mixed migration serves v2 already, which the refusal says."""
    migration = verified(ready)
    with pytest.raises(TransitionError, match="served by faces/2 already"):
        migration.cutover()


def test_drift_before_the_cut_over(world):
    """Items that v1 enrolled after the verification stop the cut-over with exit 4."""
    world.enroll(4)
    migration = verified(world)
    world.enroll(2)
    with pytest.raises(DriftError, match="2 item") as drift:
        migration.cutover()
    assert drift.value.exit_code == 4
    assert migration.state == "running"
    assert world.gallery.serving == OLD
    migration.run(world.new)
    migration.verify(embedder=world.new)
    migration.cutover()
    world.check_found()


def test_another_model_than_was_verified(world):
    """If the target's fingerprint is not the verified one, cut-over is refused."""
    world.enroll(3)
    migration = verified(world)
    with world.database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE versions SET fingerprint = 'other' WHERE version = 'faces/2'"
        )
    with pytest.raises(DriftError, match="not the model that was verified"):
        migration.cutover()


def test_quarantined_items_and_the_cut_over(world):
    """Items that only v1 can serve stop a cut-over without an edge to find them; a GO allows it."""
    world.enroll(4)
    world.enrolled["item-0001"].unlink()
    migration = verified(world)
    with pytest.raises(ItemsLeftError, match="faces/2 -> faces/1"):
        migration.cutover()
    assert world.gallery.serving == OLD
    world.edges()
    for measure in (lambda: None, lambda: world.report(NO_GO)):
        measure()
        with pytest.raises(ItemsLeftError, match="a gate that says GO"):
            migration.cutover()
    world.report(GO)
    migration.cutover()
    assert world.gallery.stats().live == {NEW: 3, OLD: 1}


def test_completion_needs_consent(ready):
    """Without consent nothing is removed; the message says that there is no way back."""
    migration = verified(ready)
    with pytest.raises(ConsentError, match="no way back") as refused:
        migration.complete(yes=False)
    assert refused.value.exit_code == 2
    assert migration.state == "verified"
    assert len(ready.vectors(OLD)) == 10


def test_completion_of_a_mixed_migration(ready):
    """Completing removes the old rows, is told to the ledger, and closes."""
    migration = verified(ready)
    done = migration.complete(yes=True)
    assert (done.state, done.removed, done.left) == ("completed", 10, 0)
    assert ready.vectors(OLD) == {}
    assert ready.ledger("complete")[0].details["removed"] == [OLD]
    assert list(ready.gallery.preference) == [NEW]
    ready.check_vectors(NEW)
    ready.check_found()
    with pytest.raises(TransitionError):
        migration.revert()


def test_old_servers_are_refused_once_completing(ready):
    """After completion nobody can enrol vectors of the version that was removed."""
    verified(ready).complete(yes=True)
    with pytest.raises(GalleryError):
        ready.enroll_by_old_server(1)


def test_too_early_to_complete(ready):
    """Running, caught up or not cut over: completion is refused and names what can be done."""
    migration = ready.start()
    with pytest.raises(TransitionError):
        migration.complete(yes=True)
    migration.run(ready.new)
    with pytest.raises(TransitionError):
        migration.complete(yes=True)


def test_blue_green_is_cut_over_first(world):
    """A verified blue-green migration is not completed while the old version serves."""
    world.enroll(3)
    migration = verified(world)
    with pytest.raises(TransitionError, match="not cut over"):
        migration.complete(yes=True)


def test_items_left_stop_completion(ready):
    """While any item has only an old vector completion is refused, unless told to leave them."""
    ready.enrolled["item-0007"].unlink()
    migration = verified(ready)
    with pytest.raises(ItemsLeftError, match="--leave-old"):
        migration.complete(yes=True)
    assert migration.state == "verified"
    done = migration.complete(yes=True, leave_old=True)
    assert (done.removed, done.left) == (9, 1)
    assert ready.gallery.stats().live == {NEW: 9, OLD: 1}
    assert ready.gallery.check() == []
    assert set(ready.vectors(OLD)) == {"item-0007"}


def test_drift_before_completion(ready):
    """Items of an old server that came in after the verification are not lost by completing."""
    migration = verified(ready)
    ready.enroll_by_old_server(1)
    with pytest.raises(DriftError):
        migration.complete(yes=True)
    assert migration.state == "running"
    migration.run(ready.new)
    migration.verify(embedder=ready.new)
    migration.complete(yes=True)
    ready.check_found()


def test_the_grace_period_is_waited_out(ready):
    """Completion waits out its grace period and then removes; meanwhile the status says so."""
    migration = verified(ready)
    waiting = []
    ready.time.then = lambda: waiting.append(ready.elsewhere().status().waiting)
    done = migration.complete(yes=True, grace=1.0)
    assert done.state == "completed"
    assert ready.time.seconds == pytest.approx(1.0)
    assert all("grace period until 2030-01-01" in text for text in waiting)


def test_revert_within_the_grace_period(ready):
    """Until the grace period ends a revert works, and the waiting completion removes nothing."""
    migration = verified(ready)
    ready.time.then = lambda: ready.elsewhere().revert()
    with pytest.raises(TransitionError, match="reverted"):
        migration.complete(yes=True, grace=60.0)
    assert ready.gallery.serving == OLD
    assert len(ready.vectors(OLD)) == 10
    ready.check_found()


def test_grace_without_waiting(ready):
    """Asked not to wait, completion returns; the same call after the end removes, not before."""
    migration = verified(ready)
    first = migration.complete(yes=True, grace=100.0, wait=False)
    assert (first.state, first.removed) == ("verified", 0)
    ready.time.seconds = 60.0
    again = migration.complete(yes=True, grace=100.0, wait=False)
    assert again.after == first.after
    ready.time.seconds = 100.0
    assert migration.complete(yes=True, grace=100.0, wait=False).state == "completed"


def test_items_that_come_in_during_the_grace_period(ready):
    """An item of an old server in the grace period stops the completion and reopens."""
    migration = verified(ready)
    ready.time.then = lambda: ready.enroll_by_old_server(1)
    with pytest.raises(DriftError):
        migration.complete(yes=True, grace=0.1)
    assert migration.state == "running"
    assert migration.status().complete_after is None
    ready.check_found()


def test_no_grace(ready):
    """A negative or undefined grace period is refused."""
    migration = verified(ready)
    for grace in (-1.0, float("nan")):
        with pytest.raises(UsageError):
            migration.complete(yes=True, grace=grace)


def test_a_killed_completion_goes_on(ready, monkeypatch):
    """Interrupted between the commits, the same command finishes the removal."""
    migration = verified(ready)

    class KilledError(Exception):
        pass

    def killed(*_args, **_more):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(ready.gallery, "remove_version", killed)
        with pytest.raises(KilledError):
            migration.complete(yes=True)
    assert migration.state == "completing"
    assert "complete" in migration.status().waiting
    ready.check_found()
    with pytest.raises(TransitionError):
        migration.revert()
    with pytest.raises(TransitionError):
        migration.run(ready.new)
    assert ready.elsewhere().complete(yes=True).removed == 10
    ready.check_found()


def test_a_damaged_file_keeps_the_old_rows(ready):
    """Completion checks every segment first: with a damaged one the old vectors are kept."""
    migration = verified(ready)
    path = next(path for path in ready.gallery.files() if "faces-2" in path.name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(bytes(content))
    with pytest.raises(MismatchError, match="kept"):
        ready.elsewhere().complete(yes=True)
    assert migration.state == "verified"


def test_one_completion_at_a_time(ready):
    """Two processes do not complete the same migration at once."""
    migration = verified(ready)
    with (
        acquire_lease(ready.database, "staff", "complete"),
        pytest.raises(LockedError),
    ):
        migration.complete(yes=True)


def test_cut_over_can_be_verified_again(world):
    """After the cut-over a verification looks end to end with the version that now serves."""
    world.enroll(4)
    migration = verified(world)
    migration.cutover()
    assert migration.verify(embedder=world.new).probe_version == NEW
    assert migration.state == "cut_over"
