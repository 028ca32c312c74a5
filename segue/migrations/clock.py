"""Time as the steps of a migration see it; tests give them another one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Clock:
    """Where time comes from.

    Attributes:
        monotonic: seconds that never go back, for throttles and estimates.
        now: the time of day in UTC, for grace periods.
        sleep: waits for so many seconds.
    """

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = _now
    sleep: Callable[[float], None] = time.sleep


CLOCK = Clock()
"""The machine's own time."""

TICK = 0.2
"""Seconds between two looks at the migration's row while a step waits."""
