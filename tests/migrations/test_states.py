"""The state machine of migrations, exhaustively."""

from __future__ import annotations

import itertools

import pytest

from segue.errors import TransitionError, UnknownNameError
from segue.migrations.states import (
    CLOSED,
    COMMANDS,
    EVENTS,
    SETTLED,
    STATES,
    TRANSITIONS,
    commands,
    transition,
)

# Written out once more, line by line, as the design draws it.
DRAWN = {
    ("planned", "start"): "running",
    ("planned", "abort"): "aborted",
    ("running", "pause"): "paused",
    ("running", "catch_up"): "caught_up",
    ("running", "fail"): "failed",
    ("running", "revert"): "reverting",
    ("running", "abort"): "aborted",
    ("paused", "resume"): "running",
    ("paused", "revert"): "reverting",
    ("paused", "abort"): "aborted",
    ("failed", "resume"): "running",
    ("failed", "revert"): "reverting",
    ("failed", "abort"): "aborted",
    ("caught_up", "verify"): "verified",
    ("caught_up", "reopen"): "running",
    ("caught_up", "revert"): "reverting",
    ("caught_up", "abort"): "aborted",
    ("verified", "verify"): "verified",
    ("verified", "reopen"): "running",
    ("verified", "cutover"): "cut_over",
    ("verified", "complete"): "completing",
    ("verified", "revert"): "reverting",
    ("verified", "abort"): "aborted",
    ("cut_over", "verify"): "cut_over",
    ("cut_over", "reopen"): "running",
    ("cut_over", "complete"): "completing",
    ("cut_over", "revert"): "reverting",
    ("completing", "finish"): "completed",
    ("reverting", "finish"): "reverted",
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(STATES, EVENTS)))
def test_every_state_and_event(state, event):
    """Each pair either leads where the design draws it or is refused, naming what can be done."""
    if (state, event) in DRAWN:
        assert transition(state, event) == DRAWN[state, event]
        return
    with pytest.raises(TransitionError) as refused:
        transition(state, event)
    assert refused.value.exit_code == 2
    assert refused.value.allowed == commands(state)
    assert all((state, command) in DRAWN for command in refused.value.allowed)


def test_unknown_words_are_named():
    """A state or event that does not exist is a usage error that lists the known ones."""
    with pytest.raises(UnknownNameError, match="running"):
        transition("sleeping", "pause")
    with pytest.raises(UnknownNameError, match="pause"):
        transition("running", "nap")


def test_every_open_state_has_a_way_to_an_end():
    """From each state a closed one can be reached, so that no migration is stuck for ever."""
    reach = set(CLOSED)
    for _ in STATES:
        reach |= {state for state, steps in TRANSITIONS.items() if reach & set(steps.values())}
    assert reach == set(STATES)
    assert {"completed", "reverted", "aborted"} == CLOSED


def test_every_state_is_reached_from_planned():
    """No state is dead: each is reached from `planned` by some events."""
    reach = {"planned"}
    for _ in STATES:
        reach |= {after for state in reach for after in TRANSITIONS[state].values()}
    assert reach == set(STATES)


def test_once_completing_there_is_no_way_back():
    """From `completing` on neither revert nor abort exist."""
    after = {"completing"}
    for _ in STATES:
        after |= {state for before in after for state in TRANSITIONS[before].values()}
    assert after == {"completing", "completed"}


def test_what_is_settled_can_be_reopened():
    """Exactly the states that claim that nothing is left reopen when something is."""
    assert {"caught_up", "verified", "cut_over"} == SETTLED
    assert all(transition(state, "reopen") == "running" for state in SETTLED)


def test_commands_are_operator_events():
    """What an operator is offered never includes the events of the work itself."""
    assert all(set(commands(state)) <= set(COMMANDS) for state in STATES)
    assert commands("completed") == ()
