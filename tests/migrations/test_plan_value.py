"""The plan as a value: JSON, reasons, and what makes it stale."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.errors import FormatError, UnknownNameError, UsageError
from segue.migrations.plan import Plan, changes, check_choices, edge_name

GO = {"go": True, "checks": []}
NO_GO = {
    "go": False,
    "checks": [
        {"name": "tax", "passed": False, "sentence": "the tax is 0.05, the budget 0.02"},
        {"name": "cross", "passed": True, "sentence": "cross is above v1"},
    ],
}

PLAN = Plan(
    gallery="staff",
    source="faces/1",
    target="faces/2",
    strategy="mixed",
    strategy_given=False,
    order="oldest",
    batch=64,
    items=1000,
    to_migrate=1000,
    missing_sources=3,
    bridge=None,
    bytes=512_000,
    seconds=12.5,
    gate=GO,
    report=1,
    fingerprints={"faces/1": "a", "faces/2": "b"},
    edges={edge_name("faces/2", "faces/1"): "2026-01-01", edge_name("faces/1", "faces/1"): "2026"},
    serving="faces/1",
    created_at="2026-01-02",
)


def test_a_plan_survives_json():
    """A plan written as JSON and read again is the same value."""
    assert Plan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN


def test_a_plan_equals_itself():
    """Nothing changed means no reasons."""
    assert changes(PLAN, PLAN) == ()


@pytest.mark.parametrize(
    ("difference", "word"),
    [
        ({"fingerprints": {"faces/1": "a", "faces/2": "c"}}, "fingerprint of faces/2"),
        ({"edges": {edge_name("faces/1", "faces/1"): "2026"}}, "faces/2 -> faces/1 is gone"),
        (
            {"edges": {**PLAN.edges, edge_name("faces/2", "faces/1"): "2027"}},
            "faces/2 -> faces/1 was measured again",
        ),
        (
            {"edges": {**PLAN.edges, edge_name("faces/1", "faces/2"): "2026"}},
            "faces/1 -> faces/2 was measured since",
        ),
        ({"gate": NO_GO}, "was GO, now it is NO-GO"),
        ({"gate": None, "report": None}, "was GO, now it is missing"),
        ({"report": 2}, "report 2"),
        ({"strategy": "blue-green"}, "strategy was mixed"),
        ({"serving": "faces/3", "source": "faces/3"}, "faces/1 was serving, now faces/3 is"),
        ({"items": 1051}, "1000 items, now 1051"),
        ({"items": 949}, "1000 items, now 949"),
    ],
)
def test_each_change_is_a_reason(difference, word):
    """Fingerprints, edges, gate, strategy, serving version and items each give one reason."""
    reasons = changes(PLAN, replace(PLAN, **difference))
    assert len(reasons) == 1
    assert word in reasons[0]


@given(then=st.integers(0, 10_000), now=st.integers(0, 10_000))
def test_five_percent_of_the_live_items(then, now):
    """A plan is stale by its items exactly when they moved by more than 5 %."""
    stale = bool(changes(replace(PLAN, items=then), replace(PLAN, items=now)))
    assert stale == (20 * abs(now - then) > then)


def test_what_does_not_matter_is_no_reason():
    """Items already migrated, estimates and the time of planning make no plan stale."""
    later = replace(PLAN, to_migrate=5, missing_sources=0, seconds=None, bytes=1, created_at="2027")
    assert changes(PLAN, later) == ()


def test_reasons_of_the_gate():
    """A NO-GO gives its failed checks' sentences; a missing report says so; GO gives none."""
    assert PLAN.reasons() == ()
    assert replace(PLAN, gate=NO_GO).reasons() == ("the tax is 0.05, the budget 0.02",)
    assert "no compatibility report" in replace(PLAN, gate=None).reasons()[0]


@pytest.mark.parametrize(
    "value", [[], {}, {"gallery": "staff"}, {"format": 1}, {"format": 1, "a": 2}]
)
def test_no_plan_is_refused(value):
    """JSON that is no plan, or a damaged one, is a usage error that says what to do."""
    with pytest.raises(UsageError, match="migrate plan"):
        Plan.from_json(value)


def test_a_newer_plan_is_refused():
    """A plan of a later format is not guessed at."""
    with pytest.raises(FormatError):
        Plan.from_json({**PLAN.to_json(), "format": 2})


def test_choices_are_checked():
    """Unknown strategies and orders are named; a batch holds at least one item."""
    check_choices(None, "oldest", 1)
    with pytest.raises(UnknownNameError, match="blue-green"):
        check_choices("green-blue", "oldest", 1)
    with pytest.raises(UnknownNameError, match="farthest"):
        check_choices("mixed", "newest", 1)
    with pytest.raises(UsageError):
        check_choices("mixed", "oldest", 0)
