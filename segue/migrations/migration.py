"""`Migration`: moving a gallery from one embedding version to another, as one object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.errors import UnknownMigrationError, UsageError
from segue.migrations import finish, undo
from segue.migrations.clock import CLOCK, Clock
from segue.migrations.handle import Handle
from segue.migrations.left import count_left
from segue.migrations.pace import check_rate
from segue.migrations.planning import make_plan
from segue.migrations.rows import (
    Event,
    add_event,
    advance,
    list_migrations,
    open_migration,
    read_events,
    read_row,
    release,
    update,
)
from segue.migrations.runner import Runner, RunResult
from segue.migrations.start import start_migration
from segue.migrations.states import CLOSED, SETTLED
from segue.migrations.status import Status, read_status
from segue.migrations.verify import Verification, verify
from segue.types import no_progress

if TYPE_CHECKING:
    from pathlib import Path

    from segue.database import Database
    from segue.index import Gallery
    from segue.migrations.finish import Completion
    from segue.migrations.plan import Plan
    from segue.registry import Registry
    from segue.types import Embedder, Progress


class Migration:
    """One migration of one gallery: opened, or planned and started.

    Any process may open the same migration and pause, throttle, ask or revert it: what it does goes
    through the database, and a runner looks there in every batch.

    Args:
        database: the workspace's database.
        root: the workspace folder.
        registry: versions, edges, reports and the ledger.
        gallery: the gallery.
        number: the migration's number; without it the gallery's open migration, or the newest
            closed one if none is open.

    Raises:
        UnknownMigrationError: the gallery never had a migration, or the number is another's.
    """

    def __init__(
        self,
        database: Database,
        root: Path,
        registry: Registry,
        gallery: Gallery,
        number: int | None = None,
        *,
        clock: Clock = CLOCK,
    ) -> None:
        known = list_migrations(database, gallery.name)
        if number is None:
            number = open_migration(database, gallery.name) or (known[-1].number if known else None)
        if number is None or number not in {row.number for row in known}:
            raise UnknownMigrationError(gallery.name)
        self._handle = Handle(database, root, registry, gallery, number, clock)

    @classmethod
    def plan(
        cls,
        database: Database,
        root: Path,  # noqa: ARG003 - the same pieces everywhere
        registry: Registry,
        gallery: Gallery,
        target: str,
        *,
        strategy: str | None = None,
        order: str = "oldest",
        batch: int = 256,
        embedder: Embedder | None = None,
    ) -> Plan:
        """Plan the migration of a gallery to `target`; nothing is changed.

        Args:
            database: the workspace's database.
            root: the workspace folder.
            registry: versions, edges and reports.
            gallery: the gallery.
            target: a version's id or alias.
            strategy: `mixed` or `blue-green`; None lets the gate decide.
            order: `oldest`, `random` or `farthest` (from the mean of its identity).
            batch: items per commit.
            embedder: of the target; with it some items are embedded to estimate the time.

        Raises:
            UnknownVersionError: no such version.
            UsageError: the gallery is served by it already, or a choice that there is not.
        """
        return make_plan(
            database,
            registry,
            gallery,
            target,
            strategy=strategy,
            order=order,
            batch=batch,
            embedder=embedder,
        )

    @classmethod
    def start(
        cls,
        plan: Plan,
        database: Database,
        root: Path,
        registry: Registry,
        gallery: Gallery,
        *,
        force: str | None = None,
        clock: Clock = CLOCK,
    ) -> Migration:
        """Start a planned migration: one transaction, which for `mixed` also changes what serves.

        Args:
            plan: what `plan` returned, or was read from JSON.
            database: the workspace's database.
            root: the workspace folder.
            registry: versions, edges and reports.
            gallery: the gallery.
            force: a reason for a mixed migration although the gate is not GO; the ledger keeps it.
            clock: the time.

        Raises:
            LockedError: the gallery has an open migration.
            StalePlanError: what the plan was made from has changed.
            GateError: mixed is not allowed; it explains the blue-green road.
        """
        number = start_migration(plan, database, registry, gallery, force=force)
        return cls(database, root, registry, gallery, number, clock=clock)

    @property
    def number(self) -> int:
        """The migration's number."""
        return self._handle.number

    @property
    def gallery(self) -> Gallery:
        """The gallery that migrates."""
        return self._handle.gallery

    @property
    def source(self) -> str:
        """The old version's id."""
        return self._handle.row().source

    @property
    def target(self) -> str:
        """The new version's id."""
        return self._handle.row().target

    @property
    def state(self) -> str:
        """The state as it is stored; `status()` also sees what came in since."""
        return self._handle.row().state

    def run(
        self,
        embedder: Embedder | None = None,
        *,
        progress: Progress = no_progress,
        until_caught_up: bool = True,
        limit: int | None = None,
    ) -> RunResult:
        """Re-embed what is left, in this process, until nothing is left to try.

        A killed run goes on with the same call. A paused migration is waited for. Items that fail
        are quarantined, each with its reason, and stay findable by their old vector; `check()` of
        the result raises when some were left.

        Args:
            embedder: of the target; loaded from the registry without one.
            progress: is told items, and why the runner waits.
            until_caught_up: False goes on for ever, for items that the old version enrols.
            limit: stop after so many items, migrated or quarantined; None does not stop.

        Raises:
            LockedError: another runner is alive.
            TransitionError: the migration is closed, completing or reverting.
        """
        if limit is not None and limit < 1:
            raise UsageError(f"limit {limit} is no number of items; give 1 or more")
        return Runner(self._handle, embedder, progress, until_caught_up, limit).run()

    def pause(self) -> None:
        """Let every runner of this migration stop after the batch in flight.

        Raises:
            TransitionError: it is not running.
        """
        self._advance("pause")

    def resume(self) -> None:
        """Go on after `pause` or a failure; a runner that waits continues by itself.

        Raises:
            TransitionError: it is neither paused nor failed.
        """
        self._advance("resume")

    def _advance(self, event: str) -> None:
        left = count_left(self._handle).left
        with self._handle.database.write() as connection:
            advance(connection, self.number, event, details={"left": left}, waiting=None)

    def throttle(self, items_per_second: float | None) -> None:
        """Limit every runner of this migration; None lifts the limit.

        Raises:
            UsageError: not a positive number.
            UnknownMigrationError: the migration is closed.
        """
        check_rate(items_per_second)
        left = count_left(self._handle).left
        with self._handle.database.write() as connection:
            row = read_row(connection, self.number, lock=True)
            if row.state in CLOSED:
                raise UnknownMigrationError(row.gallery)
            update(connection, self.number, throttle=items_per_second)
            details = {"items_per_second": items_per_second, "left": left}
            add_event(connection, self.number, "throttle", row.state, details)

    def status(self) -> Status:
        """Count and tell how the migration stands, and why nothing moves if nothing does."""
        return read_status(self._handle)

    def retry(self) -> int:
        """Take every item out of quarantine, so that the next run tries again; return how many.

        Raises:
            UnknownMigrationError: the migration is closed.
        """
        with self._handle.database.write() as connection:
            row = read_row(connection, self.number, lock=True)
            if row.state in CLOSED:
                raise UnknownMigrationError(row.gallery)
            count = release(connection, self.number)
            state = row.state
            if count and state in SETTLED:
                state = advance(connection, self.number, "reopen", complete_after=None)
            add_event(connection, self.number, "retry", state, {"released": count})
        return count

    def verify(
        self,
        sample: int = 200,
        *,
        seed: int = 0,
        embedder: Embedder | None = None,
        progress: Progress = no_progress,
    ) -> Verification:
        """Verify by content that what is stored is what the target gives.

        Re-embeds a seeded sample and compares (squared distance at most 1e-5, for int8 the codec's
        own bound more), checks every segment and that each item is live once, and searches for the
        sampled items end to end with the version that serves.

        Raises:
            TransitionError: it is not caught up.
            ItemsLeftError: items came in since; it runs again.
            MismatchError: something else is there than should be.
        """
        return verify(self._handle, sample=sample, seed=seed, embedder=embedder, progress=progress)

    def cutover(self) -> None:
        """Let the target serve a verified blue-green gallery.

        Raises:
            TransitionError: it is not verified, or the target serves already.
            DriftError: what was verified is no longer what is there; items that came in reopen it.
            ItemsLeftError: quarantined items would not be found any more.
        """
        finish.cutover(self._handle)

    def complete(
        self,
        *,
        yes: bool,
        grace: float = 0.0,
        leave_old: bool = False,
        wait: bool = True,
        progress: Progress = no_progress,
    ) -> Completion:
        """Remove the old version's rows; from then on there is no way back to it.

        Args:
            yes: consent.
            grace: seconds between asking and removing, in which `revert` still works. The same
                call made again, after a kill too, keeps the time of the first asking.
            leave_old: leave items that have only an old vector searchable as they are.
            wait: False returns during the grace period instead of waiting for its end.
            progress: is told versions removed.

        Raises:
            ConsentError: without `yes`.
            TransitionError: not verified, or blue-green and not cut over.
            ItemsLeftError: items have only an old vector and `leave_old` is False.
            DriftError: items came in since the verification.
            MismatchError: a file is damaged; the old rows are kept.
        """
        return finish.complete(
            self._handle, yes=yes, grace=grace, leave_old=leave_old, wait=wait, progress=progress
        )

    def revert(self, *, embedder: Embedder | None = None, progress: Progress = no_progress) -> None:
        """Let the old version serve again, and close the migration; the new rows are kept.

        Items enrolled meanwhile stay findable: they have both vectors, or the edge old -> new finds
        them, or they are embedded by the old version now, before it serves.

        Args:
            embedder: of the old version, loaded from the registry if one is needed.
            progress: is told items that are given an old vector.

        Raises:
            TransitionError: completing, or closed.
            ItemsLeftError: items that the old version cannot embed; the new one keeps serving.
        """
        undo.revert(self._handle, embedder=embedder, progress=progress)

    def abort(self) -> int:
        """Remove the new rows and close the migration; return how many rows were removed.

        Raises:
            TransitionError: the new version serves (then `revert`), or it is closed.
            LockedError: a reader or writer was in the way; the migration stays as it was.
        """
        return undo.abort(self._handle)

    def history(self, *, all_migrations: bool = False) -> tuple[Event, ...]:
        """Return this migration's events, oldest first, or those of all of the gallery's."""
        database = self._handle.database
        numbers = [self.number]
        if all_migrations:
            numbers = [row.number for row in list_migrations(database, self.gallery.name)]
        with database.read() as connection:
            return tuple(event for x in numbers for event in read_events(connection, x))
