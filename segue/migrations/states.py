"""The states of a migration, as data: which event leads from which state to which.

```
planned → running ⇄ paused → caught_up → verified → (cut_over) → completing → completed
```

Until `completing` a migration may also go `reverting → reverted` or `aborted`; a `failed` one is
resumed; and an item that only the old version has reopens whatever was caught up. Which version
serves is no state: `abort`, `cutover` and `complete` look at the gallery for that.

Nothing here knows a database or a disk.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from segue.errors import TransitionError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMANDS = ("start", "pause", "resume", "verify", "cutover", "complete", "revert", "abort")
"""Events that an operator asks for."""

HAPPENINGS = ("catch_up", "reopen", "fail", "finish")
"""Events that come from the work itself: nothing left, something left again, an error, done."""

EVENTS = COMMANDS + HAPPENINGS

_UNDO = {"revert": "reverting", "abort": "aborted"}

TRANSITIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "planned": {"start": "running", "abort": "aborted"},
        "running": {"pause": "paused", "catch_up": "caught_up", "fail": "failed", **_UNDO},
        "paused": {"resume": "running", **_UNDO},
        "failed": {"resume": "running", **_UNDO},
        "caught_up": {"verify": "verified", "reopen": "running", **_UNDO},
        "verified": {
            "verify": "verified",
            "reopen": "running",
            "cutover": "cut_over",
            "complete": "completing",
            **_UNDO,
        },
        # The new version serves: the way back is `revert`, never `abort`.
        "cut_over": {
            "verify": "cut_over",
            "reopen": "running",
            "complete": "completing",
            "revert": "reverting",
        },
        "completing": {"finish": "completed"},
        "reverting": {"finish": "reverted"},
        "completed": {},
        "reverted": {},
        "aborted": {},
    }
)
"""State -> event -> next state; what is not listed does not exist."""

STATES = tuple(TRANSITIONS)

CLOSED = frozenset(state for state, steps in TRANSITIONS.items() if not steps)
"""States that nothing leads out of; a gallery has at most one migration that is not closed."""

SETTLED = frozenset(state for state, steps in TRANSITIONS.items() if "reopen" in steps)
"""States that say "nothing is left", and are reopened when something is."""


def transition(state: str, event: str) -> str:
    """Return the state that `event` leads to from `state`.

    Raises:
        UnknownNameError: no such state or event.
        TransitionError: the state has no such step; its message names the commands that it has.

    >>> transition("running", "pause")
    'paused'
    """
    if state not in TRANSITIONS:
        raise UnknownNameError("migration state", state, STATES)
    if event not in EVENTS:
        raise UnknownNameError("migration event", event, EVENTS)
    if event not in TRANSITIONS[state]:
        raise TransitionError(event, state, commands(state))
    return TRANSITIONS[state][event]


def commands(state: str, *, served: bool | None = None) -> tuple[str, ...]:
    """Return what an operator can ask of a migration in `state`, in the order of `COMMANDS`.

    `served` tells whether the new version serves the gallery: then there is nothing to cut over or
    abort, and before that nothing to complete. None leaves that open.

    >>> commands("paused")
    ('resume', 'revert', 'abort')
    >>> commands("verified", served=False)
    ('verify', 'cutover', 'revert', 'abort')
    """
    barred: tuple[str, ...] = ()
    if served is not None:
        barred = ("cutover", "abort") if served else ("complete",)
    return tuple(event for event in COMMANDS if event in TRANSITIONS[state] and event not in barred)
