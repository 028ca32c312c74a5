"""Re-embedding the hits of a search within the query."""

from __future__ import annotations

from migration_world import NEW, FakeTime

from segue.index import acquire_lease
from segue.migrations import reembed_hits


def hits_of(world, count=6):
    (hits,) = world.gallery.search(world.probe(["item-0000"]), k=count, touch=False)
    return hits


def test_hits_get_their_new_vector(ready):
    """Within a generous time all old hits are re-embedded, and the run need not do them again."""
    migration = ready.start()
    hits = hits_of(ready)
    assert reembed_hits(ready.gallery, hits, ready.new, 10_000) == 6
    assert {hit.version for hit in hits_of(ready)} == {NEW}
    assert migration.run(ready.new).migrated == 4
    assert reembed_hits(ready.gallery, hits_of(ready), ready.new, 10_000) == 0
    ready.check_vectors(NEW)
    ready.check_found()


def test_the_time_is_kept(ready):
    """No further group is begun once it would overrun the time; no time does nothing."""
    ready.start()
    time = FakeTime()

    def slow():
        time.seconds += 0.05

    ready.new.before = slow
    hits = hits_of(ready, 10)
    assert reembed_hits(ready.gallery, hits, ready.new, 0, clock=time.clock) == 0
    assert reembed_hits(ready.gallery, hits, ready.new, 60, clock=time.clock) == 4
    assert ready.new.calls[-1] == 4


def test_pause_holds_here_too(ready):
    """Nothing is re-embedded while the migration is paused, also if the pause comes in between."""
    migration = ready.start()
    hits = hits_of(ready)
    ready.new.before = lambda: migration.pause() if migration.state == "running" else None
    assert reembed_hits(ready.gallery, hits, ready.new, 10_000) == 0
    ready.new.before = lambda: None
    ready.new.calls.clear()
    assert reembed_hits(ready.gallery, hits, ready.new, 10_000) == 0
    assert ready.new.calls == []
    assert ready.vectors(NEW) == {}


def test_others_go_first(ready):
    """If another process re-embeds inline at this moment, the search does not wait for it."""
    ready.start()
    hits = hits_of(ready)
    with acquire_lease(ready.database, "staff", "inline"):
        assert reembed_hits(ready.gallery, hits, ready.new, 10_000) == 0


def test_beside_a_runner(ready):
    """Hits re-embedded while the runner has the same items in its batch end up there once."""
    migration = ready.start()
    hits = hits_of(ready)
    inline = type(ready.new)(NEW)

    def search():
        if len(ready.new.calls) == 1:
            reembed_hits(ready.gallery, hits, inline, 10_000)

    ready.new.before = search
    result = migration.run(ready.new)
    assert result.left == 0
    assert ready.gallery.check() == []
    ready.check_vectors(NEW)


def test_without_a_migration(ready):
    """A gallery without an open migration, or to another version, is left alone."""
    ready.gallery.search(ready.probe(["item-0000"]), k=1)
    hits = hits_of(ready)
    assert reembed_hits(ready.gallery, hits, ready.new, 10_000) == 0
    ready.start()
    assert reembed_hits(ready.gallery, hits_of(ready), ready.old, 10_000) == 0


def test_failing_and_vanished_hits(ready):
    """Hits whose image is missing or that were erased since are passed over."""
    ready.start()
    hits = hits_of(ready)
    ready.enrolled[hits[1].item_id].unlink()
    ready.gallery.erase([hits[2].item_id])
    assert reembed_hits(ready.gallery, hits, ready.new, 10_000) == 4


def test_a_quarantined_item_that_works_again(ready):
    """An item re-embedded inline leaves the quarantine."""
    path = ready.enrolled["item-0000"]
    content = path.read_bytes()
    path.unlink()
    migration = ready.start()
    migration.run(ready.new)
    path.write_bytes(content)
    ready.enroll_by_old_server(1)
    migration.pause() if migration.state == "running" else None
    other = next(hit for hit in hits_of(ready, 11) if hit.item_id == "item-0000")
    if migration.state == "paused":
        migration.resume()
    assert other.version != NEW
    assert migration.state in {"running", "caught_up"}
