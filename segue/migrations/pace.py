"""How fast a runner may go: batches and pauses for a given number of items per second."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segue.errors import UsageError

BURST_SECONDS = 1.0
"""A throttled runner commits about once in this time, so that it stays smooth and answers soon."""


@dataclass
class Pace:
    """Counts what the last batch has used up of the allowed rate.

    Times are seconds of one monotonic clock; the rate may change between any two calls.
    """

    started: float = 0.0
    spent: int = 0

    def limit(self, rate: float | None, batch: int) -> int:
        """Return how many items the next batch may hold, at least 1.

        >>> Pace().limit(4.0, 64), Pace().limit(None, 64), Pace().limit(0.1, 64)
        (4, 64, 1)
        """
        return batch if rate is None else max(1, min(batch, math.floor(rate * BURST_SECONDS)))

    def begin(self, now: float, items: int) -> None:
        """Note that a batch of `items` starts at `now`."""
        self.started, self.spent = now, items

    def delay(self, now: float, rate: float | None) -> float:
        """Return how many seconds the next batch must still wait.

        >>> pace = Pace()
        >>> pace.begin(100.0, 10)
        >>> pace.delay(101.0, 5.0), pace.delay(101.0, None), pace.delay(103.0, 5.0)
        (1.0, 0.0, 0.0)
        """
        return 0.0 if rate is None else max(0.0, self.started + self.spent / rate - now)


def check_rate(rate: float | None) -> float | None:
    """Return a throttle in items per second, None for unlimited.

    Raises:
        UsageError: not a positive finite number; to stop a migration there is `pause`.
    """
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise UsageError(
            f"a throttle of {rate} items per second makes no sense; give a positive number, "
            "or stop the runner with `segue migrate pause`"
        )
    return rate
