"""The status: counted anew, always with the reason why nothing moves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from migration_world import NEW, OLD

from segue.migrations.rows import Event
from segue.migrations.status import measured_rate

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def event(name, seconds_ago, left=None):
    at = (NOW - timedelta(seconds=seconds_ago)).isoformat()
    return Event(1, at, "me", name, "running", {} if left is None else {"left": left})


def test_a_status_before_any_run(ready):
    """A started migration without a runner says so and what starts one."""
    status = ready.start().status()
    assert (status.state, status.items, status.migrated, status.left) == ("running", 10, 0, 10)
    assert status.runner is None
    assert "no runner is at work" in status.waiting
    assert "segue migrate run" in status.waiting
    assert status.eta_seconds is None
    assert status.serving == NEW
    json.dumps(status.to_json())


def test_a_status_is_counted(ready):
    """While a runner works the status sees each commit, names the runner, and waits for nothing."""
    migration = ready.start()
    seen = []
    migration.run(ready.new, progress=lambda *_: seen.append(ready.elsewhere().status()))
    assert [status.migrated for status in seen] == [4, 8, 10]
    assert all(status.runner is not None for status in seen)
    assert all(status.waiting is None for status in seen)
    assert [round(status.share, 1) for status in seen] == [0.4, 0.8, 1.0]


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        (["run"], "segue migrate verify"),
        (["run", "verify"], "segue migrate complete"),
        (["pause"], "segue migrate resume"),
    ],
)
def test_each_state_says_what_goes_on(ready, steps, wanted):
    """A migration that stands still names the command that moves it."""
    migration = ready.start()
    for step in steps:
        if step == "run":
            migration.run(ready.new)
        elif step == "verify":
            migration.verify(embedder=ready.new)
        else:
            migration.pause()
    assert wanted in migration.status().waiting


def test_quarantine_is_mentioned(ready):
    """A caught-up migration with quarantined items says how to retry them."""
    ready.enrolled["item-0002"].unlink()
    migration = ready.start()
    migration.run(ready.new)
    assert "1 item(s) quarantined" in migration.status().waiting
    assert "--retry" in migration.status().waiting


def test_a_closed_migration_waits_for_nothing(ready):
    """A closed migration can still be asked, has no commands, and waits for nothing."""
    migration = ready.start()
    migration.revert()
    status = ready.elsewhere().status()
    assert (status.state, status.waiting, status.commands) == ("reverted", None, ())
    assert status.serving == OLD


def test_no_estimate_before_one_percent():
    """No rate is told before 1 % of the items is done, whatever the clock says."""
    events = (event("start", 100), event("run", 50, left=1000))
    assert measured_rate(events, 991, 1000, NOW) is None
    assert measured_rate(events, 990, 1000, NOW) == pytest.approx(0.2)
    assert measured_rate((event("run", 50, left=10),), 10, 10, NOW) is None


def test_the_rate_is_of_the_current_run():
    """A resume or a new throttle starts the measurement anew."""
    events = (event("run", 500, left=1000), event("pause", 400), event("resume", 10, left=900))
    assert measured_rate(events, 800, 1000, NOW) == pytest.approx(10.0)
    assert measured_rate((*events, event("throttle", 5, left=850)), 800, 1000, NOW) == 10.0
    assert measured_rate((), 800, 1000, NOW) is None


def test_asking_changes_nothing(ready):
    """A status writes neither events nor the row, even where items came in."""
    migration = ready.start()
    migration.run(ready.new)
    ready.enroll_by_old_server(1)
    before = migration.history()
    assert migration.status().state == "running"
    assert migration.state == "caught_up"
    assert migration.history() == before


def test_history_of_all_migrations(ready):
    """The history of a gallery holds the events of closed migrations too, in order."""
    ready.start().revert()
    second = ready.start(strategy="mixed")
    assert {event.migration for event in second.history()} == {2}
    assert [event.migration for event in second.history(all_migrations=True)] == sorted(
        event.migration for event in second.history(all_migrations=True)
    )
    assert {event.migration for event in second.history(all_migrations=True)} == {1, 2}
