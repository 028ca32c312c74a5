"""Planning and starting: one transaction, or nothing."""

from __future__ import annotations

import pytest
from migration_world import GO, NEW, NO_GO, OLD

from segue.errors import (
    GateError,
    LockedError,
    StalePlanError,
    UnknownMigrationError,
    UnknownVersionError,
    UsageError,
)
from segue.migrations import Migration, Plan, open_migration
from segue.migrations import start as starting


def test_a_plan_says_what_would_be_done(ready):
    """A plan counts items, missing images and bytes, reads the gate, and changes nothing."""
    paths = list(ready.enrolled.values())
    paths[0].unlink()
    plan = ready.plan(embedder=ready.new)
    assert (plan.items, plan.to_migrate, plan.missing_sources) == (10, 10, 1)
    assert plan.bytes == 10 * 12 * 4
    assert plan.strategy == "mixed"
    assert plan.go
    assert plan.seconds is not None
    assert plan.serving == OLD
    assert len(plan.edges) == 4
    assert Plan.from_json(plan.to_json()) == plan
    assert open_migration(ready.database, "staff") is None
    assert ready.vectors(NEW) == {}


def test_the_gate_chooses_the_strategy(world):
    """Without a report, with NO-GO or without edges the plan is blue-green; asking overrules it."""
    world.enroll(3)
    assert world.plan().strategy == "blue-green"
    world.edges()
    assert world.plan().strategy == "blue-green"
    world.report(NO_GO)
    assert world.plan().strategy == "blue-green"
    assert world.plan(strategy="mixed").strategy == "mixed"
    world.report(GO)
    assert world.plan().strategy == "mixed"


def test_go_without_edges_is_blue_green(world):
    """A GO whose edges were never calibrated cannot serve mixed, so that it is not planned."""
    world.enroll(3)
    world.report(GO)
    assert world.plan().strategy == "blue-green"


def test_what_cannot_be_planned(ready):
    """A target that serves already or does not exist is refused."""
    with pytest.raises(UsageError, match="served by faces/1 already"):
        Migration.plan(ready.database, ready.root, ready.registry, ready.gallery, OLD)
    with pytest.raises(UnknownVersionError):
        Migration.plan(ready.database, ready.root, ready.registry, ready.gallery, "faces/9")


def test_a_report_of_other_edges_than_are_stored_is_blue_green(ready):
    """A GO whose edge was calibrated again since is none; the plan and the refusal say so."""
    assert ready.plan().go
    ready.edges([(NEW, OLD)])
    plan = ready.plan()
    assert (plan.strategy, plan.go, plan.report) == ("blue-green", False, 1)
    with pytest.raises(GateError, match=r"was saved again since\. Measure again"):
        ready.start(strategy="mixed")
    assert ready.gallery.serving == OLD
    ready.report(GO)
    ready.start()
    assert ready.gallery.serving == NEW


def test_a_report_that_is_gone_is_blue_green(ready):
    """The database's copy of the gate is not enough to serve mixed."""
    (ready.registry.report(OLD, NEW).path / "report.json").unlink()
    assert ready.plan().strategy == "blue-green"
    with pytest.raises(GateError, match="cannot be relied on: no registered file"):
        ready.start(strategy="mixed")


@pytest.mark.parametrize("change", ["edge", "report", "forced"])
def test_what_changes_just_before_the_start_is_seen(ready, monkeypatch, change):
    """Edges and gate are read again in the transaction that starts, also where one is forced."""
    if change == "forced":
        ready.report(NO_GO)
    plan = ready.plan(strategy="mixed")

    def meanwhile(*_):
        if change == "report":
            ready.report(NO_GO)
        else:
            ready.registry.save_edge(probe=NEW, stored=OLD)

    monkeypatch.setattr(starting, "check_gate", meanwhile)
    with pytest.raises(StalePlanError) as refused:
        ready.begin(plan, force="it must" if change == "forced" else None)
    assert refused.value.changed
    assert open_migration(ready.database, "staff") is None
    assert ready.gallery.serving == OLD
    assert ready.ledger("force") == []


def test_mixed_goes_live_at_once(ready):
    """A mixed start switches serving, alias, ledger and events in one step; all stay findable."""
    migration = ready.start()
    assert migration.state == "running"
    assert ready.gallery.serving == NEW
    assert list(ready.gallery.preference) == [NEW, OLD]
    assert list(ready.gallery.companions) == []
    assert ready.registry.resolve("faces@serving-staff").version == NEW
    (entry,) = ready.ledger("serving")
    assert entry.details["from"] == OLD
    assert [event.name for event in migration.history()] == ["plan", "start"]
    ready.check_found()


def test_new_items_have_both_vectors_without_an_edge_back(world):
    """Where v1 probes were never measured against v2 vectors, new items are embedded by both."""
    world.enroll(4)
    world.edges([(NEW, OLD), (NEW, NEW), (OLD, OLD)])
    world.report(GO)
    world.start()
    assert list(world.gallery.companions) == [OLD]
    world.enroll(2)
    assert len(world.vectors(OLD)) == 6
    assert len(world.vectors(NEW)) == 2
    world.check_found()


def test_blue_green_leaves_serving_alone(world):
    """A blue-green start needs neither edge nor report and changes nothing that serves."""
    world.enroll(4)
    migration = world.start()
    assert migration.state == "running"
    assert world.gallery.serving == OLD
    assert world.ledger("serving") == []
    world.check_found()


def test_no_go_is_refused_with_the_other_road(world):
    """NO-GO names its failed checks and the blue-green road, exits 5, and changes nothing."""
    world.enroll(4)
    world.edges()
    world.report(NO_GO)
    with pytest.raises(GateError, match=r"above its budget.*blue-green") as refused:
        world.start(strategy="mixed")
    assert refused.value.exit_code == 5
    assert world.gallery.serving == OLD
    assert open_migration(world.database, "staff") is None


def test_a_missing_report_is_no_go(world):
    """A mixed plan without any report is refused too."""
    world.enroll(4)
    world.edges()
    with pytest.raises(GateError, match="no compatibility report"):
        world.start(strategy="mixed")


def test_force_is_kept(world):
    """An override starts mixed, and its reason is in the ledger and in the migration."""
    world.enroll(4)
    world.edges()
    world.report(NO_GO)
    migration = world.start(strategy="mixed", force="the vendor ends v1 on Friday")
    assert world.gallery.serving == NEW
    (entry,) = world.ledger("force")
    assert entry.reason == "the vendor ends v1 on Friday"
    assert "budget" in entry.details["overridden"][0]
    assert migration.status().forced == "the vendor ends v1 on Friday"


def test_a_forced_start_gives_new_items_both_vectors(world):
    """Edges that are calibrated and not GO find nobody for sure after a revert."""
    world.enroll(4)
    world.edges()
    world.report(NO_GO)
    world.start(strategy="mixed", force="the vendor ends v1 on Friday")
    assert list(world.gallery.companions) == [OLD]
    world.enroll(2)
    assert len(world.vectors(OLD)) == 6


def test_force_without_a_reason(ready):
    """A blank reason is no reason."""
    with pytest.raises(UsageError, match="why"):
        ready.start(force="  ")


def test_force_that_was_not_needed_is_not_recorded(ready):
    """With a GO nothing is overridden, so that the ledger says nothing of it."""
    migration = ready.start(force="just in case")
    assert ready.ledger("force") == []
    assert migration.status().forced is None


@pytest.mark.parametrize("missing", [(NEW, OLD), (NEW, NEW)])
def test_an_unmeasured_edge_cannot_be_forced(world, missing):
    """Without the calibrated edges that a mixed search needs no reason starts it mixed."""
    world.enroll(4)
    world.edges([pair for pair in [(NEW, OLD), (NEW, NEW), (OLD, OLD)] if pair != missing])
    world.report(GO)
    with pytest.raises(GateError, match="not calibrated"):
        world.start(strategy="mixed", force="please")
    assert world.gallery.serving == OLD


def test_mixed_from_a_version_without_a_model(world):
    """If v1 is vectors only and no edge leads back, a revert would lose new items: refused."""
    world.add_version("bought/1", kind="vectors")
    gallery = type(world.gallery).create(world.database, world.root, "two", serving="bought/1")
    for probe, stored in [(NEW, "bought/1"), (NEW, NEW), ("bought/1", "bought/1")]:
        world.edges([(probe, stored)])
    world.gallery = gallery
    plan = world.plan(strategy="mixed")
    with pytest.raises(GateError, match="bought/1 -> faces/2"):
        world.begin(plan, force="please")
    world.edges([("bought/1", NEW)])  # calibrated is not found
    with pytest.raises(GateError, match="no gate says GO with the edge bought/1 -> faces/2"):
        world.begin(world.plan(strategy="mixed"), force="please")


def test_a_second_start_is_refused(ready):
    """A gallery has one open migration; a second start changes nothing and exits 75."""
    plan = ready.plan()
    ready.begin(plan)
    with pytest.raises(LockedError, match="migration 1") as refused:
        ready.begin(plan)
    assert refused.value.exit_code == 75
    with pytest.raises((LockedError, UsageError)):
        ready.start()


@pytest.mark.parametrize("change", ["edge", "report", "items"])
def test_a_stale_plan_is_refused(ready, change):
    """A plan whose edges, gate or items changed is refused with exit 3, and nothing is started."""
    plan = Plan.from_json(ready.plan().to_json())
    if change == "edge":
        ready.edges([(NEW, OLD)])
    elif change == "report":
        ready.report(NO_GO)
    else:
        ready.enroll(1)
    with pytest.raises(StalePlanError) as refused:
        ready.begin(plan)
    assert refused.value.exit_code == 3
    assert len(refused.value.changed) >= 1
    assert open_migration(ready.database, "staff") is None
    assert ready.gallery.serving == OLD


def test_a_plan_of_another_serving_version_is_stale(ready):
    """A plan made before the gallery's version changed is stale."""
    plan = ready.plan()
    ready.begin(plan)
    with ready.database.write() as connection:
        connection.exec_driver_sql("UPDATE migrations SET state = 'completed'")
    with pytest.raises(StalePlanError, match="faces/1 was serving, now faces/2 is"):
        ready.begin(plan)


def test_a_plan_for_another_gallery(ready):
    """A plan is for the gallery it names."""
    plan = ready.plan()
    other = type(ready.gallery).create(ready.database, ready.root, "other", serving=OLD)
    with pytest.raises(UsageError, match="staff"):
        Migration.start(plan, ready.database, ready.root, ready.registry, other)


def test_a_start_that_fails_leaves_nothing(ready, monkeypatch):
    """If anything in the transaction fails, there is no migration and the old version serves."""

    def broken(*_args, **_more):
        raise RuntimeError("no alias today")

    monkeypatch.setattr(ready.registry, "set_alias", broken)
    with pytest.raises(RuntimeError):
        ready.start()
    assert open_migration(ready.database, "staff") is None
    assert ready.gallery.serving == OLD
    assert ready.ledger("serving") == []


def test_a_gallery_without_a_migration(ready):
    """Opening a migration that never was says how to start one; another gallery's is not opened."""
    with pytest.raises(UnknownMigrationError, match="migrate start"):
        Migration(ready.database, ready.root, ready.registry, ready.gallery)
    ready.start()
    other = type(ready.gallery).create(ready.database, ready.root, "other", serving=OLD)
    with pytest.raises(UnknownMigrationError):
        Migration(ready.database, ready.root, ready.registry, other, 1)


def test_two_galleries_migrate_independently(ready):
    """Each gallery of a workspace has its own migration and serving version."""
    first = ready.start()
    other = type(ready.gallery).create(ready.database, ready.root, "other", serving=OLD)
    plan = Migration.plan(ready.database, ready.root, ready.registry, other, NEW, strategy="mixed")
    second = Migration.start(plan, ready.database, ready.root, ready.registry, other)
    assert second.run(ready.new).state == "caught_up"
    assert first.state == "running"
    second.revert()
    assert other.serving == OLD
    assert ready.gallery.serving == NEW
