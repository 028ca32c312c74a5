"""The runner: batches, control from elsewhere, failures, leases."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from migration_world import CALIBRATION, GO, NEW, OLD, WIDTH, FakeEmbedder, World

from segue import database as tables
from segue.errors import (
    ItemsLeftError,
    LockedError,
    MigrationError,
    TransitionError,
    UsageError,
)
from segue.index import Reembedded, acquire_lease


def test_a_run_migrates_everything(ready):
    """Afterwards every item has the vector of v2 that its image gives, and none is left."""
    migration = ready.start()
    told = []
    result = migration.run(ready.new, progress=lambda *x: told.append(x))
    assert (result.migrated, result.failed, result.left) == (10, 0, 0)
    assert result.state == "caught_up"
    assert result.exit_code == 0
    result.check()
    assert told[-1] == (10, 10, "items")
    assert max(ready.new.calls) <= 4
    ready.check_vectors(NEW)
    ready.check_vectors(OLD)
    ready.check_found()


def test_every_mixing_ratio_finds_everything(ready):
    """After each batch of a mixed migration every item is still live once and found first."""
    migration = ready.start()
    migration.run(ready.new, progress=lambda *_: ready.check_found())
    assert ready.gallery.stats().rho[NEW] == 1.0


def test_a_run_with_a_limit(ready):
    """A limit stops after so many items; a limit that is all there was catches up."""
    migration = ready.start()
    first = migration.run(ready.new, limit=6)
    assert (first.migrated, first.left, first.state) == (6, 4, "running")
    assert ready.new.calls == [4, 2]
    assert migration.run(ready.new, limit=4).state == "caught_up"
    with pytest.raises(UsageError):
        migration.run(ready.new, limit=0)


def test_the_registry_gives_the_model(ready):
    """Without an embedder the run loads the target from the registry."""
    assert ready.start().run().migrated == 10


def test_the_wrong_model_is_refused(ready):
    """Vectors of any other version than the target are not accepted."""
    with pytest.raises(UsageError, match="faces/2"):
        ready.start().run(ready.old)


def test_touched_items_come_first(ready):
    """Items that a search returned with an old vector are re-embedded before the others."""
    migration = ready.start(batch=2)
    wanted = ["item-0008", "item-0009"]
    for item_id in wanted:
        ready.gallery.search(ready.probe([item_id]), k=1)
    ready.gallery.flush_touched()
    seen = []
    migration.run(ready.new, progress=lambda *_: seen.append(sorted(ready.vectors(NEW))))
    assert seen[0] == wanted


def test_random_order_is_seeded_by_the_migration(ready):
    """The random order differs from the order of enrolment and still reaches every item."""
    migration = ready.start(order="random", batch=1)
    seen = []
    migration.run(ready.new, progress=lambda *_: seen.append(len(ready.vectors(NEW))))
    assert seen == list(range(1, 11))
    ready.check_vectors(NEW)


def test_failing_items_are_quarantined(ready):
    """Missing, damaged and changed images, each with a reason without path or id; all findable."""
    paths = sorted(ready.enrolled.values())
    paths[1].unlink()
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    paths[3].write_bytes(paths[4].read_bytes())
    migration = ready.start()
    kept = dict(ready.enrolled)
    result = migration.run(ready.new)
    assert (result.migrated, result.failed, result.left) == (7, 3, 3)
    assert result.state == "caught_up"
    assert result.exit_code == 1
    with pytest.raises(ItemsLeftError, match="--retry") as left:
        result.check()
    assert left.value.exit_code == 1
    reasons = migration.status().quarantined
    assert sum(reasons.values()) == 3
    assert all("item-" not in reason and str(ready.folder) not in reason for reason in reasons)
    assert all(".png" not in reason for reason in reasons)
    stored = ready.vectors(OLD)
    assert kept.keys() == stored.keys()
    assert ready.gallery.stats().live == {NEW: 7, OLD: 3}


def test_a_vector_that_is_no_number_is_quarantined(ready):
    """An item for which the model gives NaN stays on its old version."""

    class Broken(FakeEmbedder):
        def embed(self, images):
            vectors = super().embed(images)["embedding"]
            vectors[images[:, 0, 0, 0] == self.marked] = np.nan
            return {"embedding": vectors}

    broken = Broken(NEW)
    marked = next(iter(ready.enrolled.values()))
    broken.marked = ready.pictures[marked][0, 0, 0]
    result = ready.start().run(broken)
    assert result.failed >= 1
    assert result.left == result.failed
    ready.check_found()


def test_retry_after_mending(ready):
    """Once the image is back, `retry` reopens the migration and a run finishes it."""
    path = sorted(ready.enrolled.values())[5]
    content = path.read_bytes()
    path.unlink()
    migration = ready.start()
    assert migration.run(ready.new).left == 1
    assert migration.run(ready.new).left == 1  # quarantined items are not tried again by themselves
    path.write_bytes(content)
    assert migration.retry() == 1
    assert migration.state == "running"
    result = migration.run(ready.new)
    assert (result.migrated, result.left, result.state) == (1, 0, "caught_up")
    ready.check_vectors(NEW)


def test_pause_and_resume_from_another_process(ready):
    """A pause while a batch is embedded stops before its commit; the waiting runner says why."""
    migration = ready.start()
    elsewhere = ready.elsewhere()
    ready.new.before = lambda: elsewhere.pause() if len(ready.new.calls) == 2 else None
    seen = []

    def then():
        seen.append((elsewhere.status(), len(ready.vectors(NEW))))
        if len(seen) == 3:
            elsewhere.resume()

    ready.time.then = then
    result = migration.run(ready.new)
    assert result.state == "caught_up"
    assert [count for _, count in seen] == [4, 4, 4]
    assert all(status.state == "paused" for status, _ in seen)
    assert all("resume" in status.waiting for status, _ in seen)
    assert all(status.eta_seconds is None for status, _ in seen)
    ready.check_vectors(NEW)
    names = [event.name for event in migration.history()]
    assert names == ["plan", "start", "run", "pause", "resume", "catch_up"]


def test_a_throttle_is_kept(ready):
    """At two items a second ten items take at least four seconds, in batches of two."""
    migration = ready.start()
    migration.throttle(2.0)
    waiting = []
    ready.time.then = lambda: waiting.append(ready.elsewhere().status().waiting)
    assert migration.run(ready.new).migrated == 10
    assert ready.new.calls == [2] * 5
    assert ready.time.seconds == pytest.approx(4.0)
    assert set(waiting) == {"throttled to 2 items per second"}


def test_a_throttle_lifted_while_waiting(ready):
    """A runner that waits for its throttle looks again soon and goes on once it is lifted."""
    migration = ready.start()
    migration.throttle(0.01)
    ready.time.then = lambda: ready.elsewhere().throttle(None)
    assert migration.run(ready.new).migrated == 10
    assert ready.time.seconds < 1


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf")])
def test_no_throttle(ready, rate):
    """A rate that is no positive number is refused."""
    migration = ready.start()
    with pytest.raises(UsageError, match="pause"):
        migration.throttle(rate)


def test_revert_while_a_batch_is_embedded(ready):
    """A runner whose migration was reverted commits nothing more and ends."""
    migration = ready.start()
    elsewhere = ready.elsewhere()
    ready.new.before = lambda: elsewhere.revert() if len(ready.new.calls) == 2 else None
    result = migration.run(ready.new)
    assert result.state == "reverted"
    assert result.exit_code == 1
    assert len(ready.vectors(NEW)) == 4
    assert ready.gallery.serving == OLD
    ready.check_found()


def test_abort_while_a_batch_is_embedded(world):
    """A runner whose migration was aborted writes nothing after the rows were removed."""
    world.enroll(8)
    migration = world.start()
    elsewhere = world.elsewhere()
    world.new.before = lambda: elsewhere.abort() if len(world.new.calls) == 2 else None
    assert migration.run(world.new).state == "aborted"
    assert world.vectors(NEW) == {}
    world.check_found()


def test_erased_while_a_batch_is_embedded(ready):
    """Erasure wins: an item erased while its batch is embedded is never written again."""
    migration = ready.start()
    gone = "item-0001"
    ready.new.before = lambda: ready.gallery.erase([gone]) if len(ready.new.calls) == 1 else None
    result = migration.run(ready.new)
    del ready.enrolled[gone]
    assert (result.migrated, result.left, result.state) == (9, 0, "caught_up")
    ready.check_vectors(NEW)
    ready.check_found()


def test_an_erased_item_leaves_the_quarantine(ready):
    """What is erased is no longer counted as quarantined, and nothing is left."""
    path = ready.enrolled["item-0003"]
    path.unlink()
    migration = ready.start()
    assert migration.run(ready.new).left == 1
    ready.gallery.erase(["item-0003"])
    assert migration.status().quarantined == {}
    assert migration.run(ready.new).exit_code == 0


def test_a_failing_model_fails_the_migration(ready):
    """An error of the model is told without details that may name an item, and is resumable."""
    migration = ready.start()

    def explode():
        if len(ready.new.calls) == 2:
            raise MemoryError("while reading /secret/item-0004.png")

    ready.new.before = explode
    with pytest.raises(MemoryError):
        migration.run(ready.new)
    assert migration.state == "failed"
    last = migration.history()[-1]
    assert (last.name, last.details) == ("fail", {"reason": "MemoryError"})
    assert "migrate run" in migration.status().waiting
    assert migration.run(ready.new).migrated == 6
    ready.check_vectors(NEW)


def test_enrolment_by_the_old_version_reopens(ready):
    """After catching up, items of an old server are seen by the status, taken by the next run."""
    migration = ready.start()
    migration.run(ready.new)
    ready.enroll_by_old_server(2)
    assert migration.status().state == "running"
    assert "came in" in migration.status().waiting
    ready.check_found()
    assert migration.run(ready.new).migrated == 2
    assert [e.name for e in migration.history()][-3:] == ["reopen", "run", "catch_up"]
    ready.check_vectors(NEW)


def test_items_that_come_in_before_catching_up(ready):
    """Items enrolled during the last batch are migrated by the same run."""
    migration = ready.start()
    ready.new.before = lambda: ready.enroll_by_old_server(1) if len(ready.new.calls) == 3 else None
    result = migration.run(ready.new)
    assert (result.migrated, result.left, result.state) == (11, 0, "caught_up")


def test_new_items_of_the_new_version_are_not_left(ready):
    """What v2 enrols has its vector already."""
    migration = ready.start()
    ready.enroll(3)
    assert migration.status().left == 10
    assert migration.run(ready.new).migrated == 10


@pytest.mark.parametrize("fresh_below", [0, 1000])
def test_an_output_that_becomes_necessary_half_way(world, monkeypatch, fresh_below):
    """An edge measured during a migration that names another output makes the run add it."""

    class TwoHeads(FakeEmbedder):
        def embed(self, images):
            vectors = super().embed(images)["embedding"]
            return {"embedding": vectors, "compatible": vectors[:, ::-1]}

    monkeypatch.setattr("segue.index.gallery.FRESH_BELOW", fresh_below)
    new = TwoHeads(NEW)
    new.outputs = {"embedding": WIDTH, "compatible": WIDTH}
    with world.database.write() as connection:
        connection.execute(tables.versions.update().values(outputs=dict(new.outputs)))
    world.enroll_by_old_server(6)
    migration = world.start()
    assert migration.run(new, limit=4).migrated == 4
    world.registry.save_edge(
        probe=OLD, stored=NEW, stored_output="compatible", calibration=CALIBRATION
    )
    result = migration.run(new)
    assert (result.migrated, result.left, result.state) == (6, 0, "caught_up")
    rows = world.gallery.stats().rows
    assert (rows[NEW, "embedding"], rows[NEW, "compatible"]) == (6, 6)
    assert world.gallery.check() == []


def test_a_run_in_circles_ends(ready, monkeypatch):
    """If twice in a row nothing of a batch is stored, the run fails and does not go on for ever."""
    migration = ready.start()
    commit = ready.gallery.commit_reembedded

    def lose(batch, **more):
        return commit(Reembedded(batch.version, (), {}, ()), **more)

    monkeypatch.setattr(ready.gallery, "commit_reembedded", lose)
    with pytest.raises(MigrationError, match="nothing of them was stored"):
        migration.run(ready.new)
    assert len(ready.new.calls) == 2
    assert migration.state == "failed"
    monkeypatch.undo()
    assert migration.run(ready.new).migrated == 10


def test_watching_goes_on(ready):
    """`until_caught_up=False` waits for items of old servers until the migration ends."""
    migration = ready.start()
    counts = []

    def then():
        counts.append(len(ready.vectors(NEW)))
        if len(counts) == 1:
            ready.enroll_by_old_server(1)
        elif len(counts) == 2:
            ready.elsewhere().revert()

    ready.time.then = then
    result = migration.run(ready.new, until_caught_up=False)
    assert counts == [10, 11]
    assert (result.migrated, result.state) == (11, "reverted")


def test_one_runner_at_a_time(ready):
    """While a runner is alive a second one is refused with exit 75, and the first goes on."""
    migration = ready.start()
    refused = []

    def second():
        with pytest.raises(LockedError) as error:
            ready.elsewhere().run(FakeEmbedder(NEW))
        refused.append(error.value.exit_code)
        assert ready.elsewhere().status().runner is not None

    ready.new.before = second
    assert migration.run(ready.new).state == "caught_up"
    assert set(refused) == {75}
    assert migration.status().runner is None


def test_the_lease_of_a_dead_process_is_taken_over(ready):
    """A runner that was killed does not keep the next one waiting for its lease to expire."""
    migration = ready.start()
    script = (
        "import os, sys; from segue.database import Database; from segue.index import *;"
        "acquire_lease(Database(sys.argv[1]), 'staff', 'migration', seconds=3600); os._exit(9)"
    )
    path = str(ready.root / "segue.db")
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == 9
    assert migration.status().runner is None
    assert migration.run(ready.new).state == "caught_up"


def test_an_expired_lease_is_taken_over(ready):
    """A lease that ran out elsewhere can be taken; its old holder cannot commit any more."""
    migration = ready.start()
    stale = acquire_lease(ready.database, "staff", "migration", seconds=3600)
    with ready.database.write() as connection:
        connection.execute(
            tables.leases.update().values(holder="elsewhere:1", expires_at="2020-01-01")
        )
    items = ready.gallery.pending(NEW, order="oldest", limit=2)
    batch = ready.gallery.reembed(items, ready.new)
    assert migration.run(ready.new).state == "caught_up"
    with pytest.raises(LockedError):
        ready.gallery.commit_reembedded(batch, lease=stale)
    ready.check_vectors(NEW)


def test_a_closed_migration_does_not_run(ready):
    """Run, pause, resume and throttle of a closed migration are refused."""
    migration = ready.start()
    migration.revert()
    for act in (lambda: migration.run(ready.new), migration.pause, migration.resume):
        with pytest.raises(TransitionError):
            act()
    with pytest.raises(Exception, match="no open migration"):
        migration.throttle(1.0)
    with pytest.raises(Exception, match="no open migration"):
        migration.retry()


def test_an_empty_gallery(world):
    """A gallery without items is caught up at once."""
    migration = world.start()
    result = migration.run(world.new)
    assert (result.migrated, result.left, result.state) == (0, 0, "caught_up")
    assert migration.status().share == 1.0


def test_int8_galleries_migrate_too(tmp_path):
    """A gallery of int8 codes migrates and stays findable."""
    small = World(tmp_path, codec="int8")
    small.enroll(6)
    small.edges()
    small.report(GO)
    migration = small.start()
    assert migration.run(small.new).migrated == 6
    assert migration.verify(embedder=small.new).compared == 6
    small.check_found()
