"""The runner: takes what is left, batch by batch, and re-embeds it in this process.

Nothing about its progress is stored. Each round reads the migration's row, so that `pause`,
`throttle`, `revert` and `abort` of another process act within one batch; and each commit checks, in
its own transaction, that the migration is still `running` and that the lease is still held.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from segue.errors import (
    ItemsLeftError,
    LockedError,
    MigrationError,
    RegistryError,
    SegueError,
    TransitionError,
    UsageError,
    WorkspaceError,
)
from segue.migrations.clock import TICK
from segue.migrations.heartbeat import LEASE_SECONDS, RUN, beating, held
from segue.migrations.left import Left, commit_counted, count_left
from segue.migrations.pace import Pace
from segue.migrations.rows import (
    Row,
    add_event,
    add_quarantine,
    advance,
    read_quarantine,
    read_row,
    update,
)
from segue.migrations.stall import Stall
from segue.migrations.states import SETTLED, commands
from segue.types import no_progress

if TYPE_CHECKING:
    import sqlalchemy as sa

    from segue.index import Lease, Reembedded
    from segue.migrations.handle import Handle
    from segue.types import Embedder, Progress

RUNNABLE = frozenset({"running", "paused", "failed"}) | SETTLED


@dataclass(frozen=True)
class RunResult:
    """What one run did.

    Attributes:
        migrated: items that got their vector of the target in this run.
        failed: items that this run put into quarantine.
        left: live items that still have no vector of the target.
        state: the migration's state when the run ended.
    """

    migrated: int
    failed: int
    left: int
    state: str

    @property
    def exit_code(self) -> int:
        """0 when nothing is left, else 1."""
        return 1 if self.left else 0

    def check(self) -> None:
        """Refuse a result that left items behind.

        Raises:
            ItemsLeftError: with what to do about them.
        """
        if not self.left:
            return
        if self.state in SETTLED:
            advice = (
                "they stay findable by the old version; see the reasons with `segue migrate "
                "status`, mend them, and try again with `segue migrate run --retry`"
            )
        else:
            advice = f"the migration is {self.state}; see `segue migrate status`"
        raise ItemsLeftError(self.left, advice)


class _NotRunningError(SegueError):
    """The migration left `running` while a batch was embedded: the batch is not committed."""


@dataclass
class Runner:
    """One run of one migration: made, used for one `run`, thrown away."""

    handle: Handle
    embedder: Embedder | None
    progress: Progress = no_progress
    until_caught_up: bool = True
    limit: int | None = None
    pace: Pace = field(default_factory=Pace)
    migrated: int = 0
    failed: int = 0
    total: int = 0
    stall: Stall = field(default_factory=Stall)

    def run(self) -> RunResult:
        """Work until nothing is left to try, or the migration is stopped; see `Migration.run`."""
        row = self.handle.row()
        if row.state not in RUNNABLE:
            raise TransitionError("run", row.state, commands(row.state))
        if self.embedder is not None and self.embedder.version != row.target:
            raise UsageError(
                f"this migration needs vectors of {row.target}, not of {self.embedder.version}"
            )
        with held(self.handle.database, self.handle.gallery.name, RUN) as lease:
            try:
                self._begin()
                self._work(lease)
            except (LockedError, TransitionError):
                raise  # another process has the lease or the database, or ended it: nothing failed
            except Exception as error:
                self._fail(error)
                raise
        after = count_left(self.handle)
        return RunResult(self.migrated, self.failed, after.left, self.handle.row().state)

    @property
    def _done(self) -> int:
        return self.migrated + self.failed

    def _begin(self) -> None:
        """Note that a runner is at work, and resume what had failed."""
        before = count_left(self.handle)
        self.total = before.left - len(before.quarantine)
        with self.handle.database.write() as connection:
            row = read_row(connection, self.handle.number, lock=True)
            state = row.state
            if state not in RUNNABLE:
                raise TransitionError("run", state, commands(state))
            if state == "failed":
                state = advance(connection, row.number, "resume")
            elif state in SETTLED and before.to_do:
                state = advance(connection, row.number, "reopen", complete_after=None)
            add_event(connection, row.number, "run", state, {"left": before.left})

    def _work(self, lease: Lease) -> None:
        renewed = time.monotonic()
        while self.limit is None or self._done < self.limit:
            if time.monotonic() - renewed > LEASE_SECONDS / 6:
                lease.renew()
                renewed = time.monotonic()
            row = self.handle.row()
            if row.state == "running":
                self._step(row, lease)
            elif row.state == "paused":
                self._wait(row, TICK, "paused; go on with `segue migrate resume`")
            elif row.state in SETTLED and not self.until_caught_up:
                self._watch(row)
            else:
                return
        commit_counted(self.handle, self._catch_up)  # the limit may be all there was

    def _step(self, row: Row, lease: Lease) -> None:
        """Do one batch, or wait for a part of what the throttle demands."""
        delay = self.pace.delay(self.handle.clock.monotonic(), row.throttle)
        if delay > 0 and (self._done < self.total or count_left(self.handle).to_do):
            self._wait(row, min(delay, TICK), f"throttled to {row.throttle:g} items per second")
            return
        with self.handle.database.read() as connection:
            aside = read_quarantine(connection, row)
        items = self.handle.gallery.pending(
            row.target,
            order=row.order,
            limit=self._batch(row),
            skip=set(aside),
            seed=row.number,
        )
        if not items:
            commit_counted(self.handle, self._catch_up)
            return
        self.pace.begin(self.handle.clock.monotonic(), len(items))
        with beating(lease):
            batch = self.handle.gallery.reembed(items, self._embedder(row))
        with suppress(_NotRunningError):
            self._commit(batch, lease)
        self.progress(self._done, self.total, "items")

    def _batch(self, row: Row) -> int:
        """Return how many items the next batch may have."""
        allowed = self.pace.limit(row.throttle, row.batch)
        if self.limit is None:
            return allowed
        return min(allowed, self.limit - self._done)

    def _commit(self, batch: Reembedded, lease: Lease) -> None:
        """Commit a batch's vectors and its quarantine together."""
        also = partial(self._note, batch)
        written = 0
        if batch.items:
            written = self.handle.gallery.commit_reembedded(batch, lease=lease, also=also)
        else:
            with self.handle.database.write() as connection:
                lease.check(connection)
                also(connection)
        self.migrated += written
        self.failed += len(batch.failed)
        self.stall.note(batch.items, written + len(batch.failed))

    def _note(self, batch: Reembedded, connection: sa.Connection) -> None:
        row = read_row(connection, self.handle.number, lock=True)
        if row.state != "running":
            raise _NotRunningError(f"migration {row.number} is {row.state}")
        add_quarantine(connection, row.number, batch.failed)
        if row.waiting is not None:
            update(connection, row.number, waiting=None)

    def _catch_up(self, connection: sa.Connection, left: Left) -> None:
        """Call the migration caught up, in a transaction in which nothing is left to try."""
        row = read_row(connection, self.handle.number, lock=True)
        if row.state == "running" and not left.to_do:
            details = {"left": left.left, "quarantined": len(left.quarantine)}
            advance(connection, row.number, "catch_up", details=details, waiting=None)

    def _watch(self, row: Row) -> None:
        """Reopen a settled migration when items came in, else wait for some."""
        if count_left(self.handle).to_do:
            with self.handle.database.write() as connection:
                state = read_row(connection, row.number, lock=True).state
                if state in SETTLED:
                    advance(connection, row.number, "reopen", complete_after=None)
            return
        self._wait(row, TICK, "nothing is left; watching for items enrolled by the old version")

    def _wait(self, row: Row, seconds: float, reason: str) -> None:
        """Sleep, with the reason in the migration's row for whoever asks."""
        if row.waiting != reason:
            with self.handle.database.write() as connection:
                update(connection, row.number, waiting=reason)
            self.progress(self._done, self.total, reason)
        self.handle.clock.sleep(seconds)

    def _fail(self, error: Exception) -> None:
        """Let the migration say that it failed; the reason names no path or item of a gallery."""
        told = isinstance(error, MigrationError | RegistryError | WorkspaceError)
        reason = f"{type(error).__name__}: {error}" if told else type(error).__name__
        with suppress(SegueError), self.handle.database.write() as connection:
            row = read_row(connection, self.handle.number, lock=True)
            if row.state == "running":
                advance(connection, row.number, "fail", details={"reason": reason}, waiting=None)

    def _embedder(self, row: Row) -> Embedder:
        if self.embedder is None:
            self.embedder = self.handle.registry.load(row.target)
        return self.embedder
