"""Random walks over the state machine, with a real small gallery beneath."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from migration_world import GO, NEW, NO_GO, OLD, World

from segue.errors import (
    ConsentError,
    DriftError,
    GalleryError,
    ItemsLeftError,
    MismatchError,
    TransitionError,
)
from segue.migrations import open_migration
from segue.migrations.states import CLOSED, COMMANDS, SETTLED, TRANSITIONS

BOTH_WAYS = [(NEW, OLD), (OLD, NEW), (NEW, NEW), (OLD, OLD)]
ONE_WAY = [(NEW, OLD), (NEW, NEW), (OLD, OLD)]


class MigrationWalk(RuleBasedStateMachine):
    """Everything an operator, a server or a broken disk may do, in any order.

    At every moment each enrolled item is live exactly once and is the nearest to its own image, for
    probes of the version that serves.
    """

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="segue-walk-"))
        self.world = World(self.folder)
        self.world.new.before = lambda: None
        self.migration = None
        self.broken = {}

    def teardown(self):
        self.world.database.close()
        shutil.rmtree(self.folder)

    @initialize(edges=st.sampled_from([BOTH_WAYS, ONE_WAY, []]), go=st.booleans())
    def measured(self, edges, go):
        self.world.edges(edges)
        self.world.report(GO if go else NO_GO)
        self.edges = edges
        self.world.enroll(4)

    @property
    def state(self):
        return "none" if self.migration is None else self.migration.state

    @property
    def over(self):
        return self.migration is None or self.state in CLOSED

    # --- servers ----------------------------------------------------------------------------

    @rule(count=st.integers(1, 3))
    def enroll(self, count):
        self.world.enroll(count)

    @rule()
    def enroll_by_old_server(self):
        if OLD in self.world.gallery.preference:
            self.world.enroll_by_old_server(1)
        else:
            with pytest.raises(GalleryError):
                self.world.enroll_by_old_server(1)

    @rule(number=st.integers(0, 100))
    def erase(self, number):
        ids = sorted(self.world.enrolled)
        if len(ids) > 2:
            item_id = ids[number % len(ids)]
            self.world.gallery.erase([item_id])
            del self.world.enrolled[item_id]

    @rule(number=st.integers(0, 100))
    def touch(self, number):
        ids = sorted(self.world.enrolled)
        self.world.gallery.search(self.world.probe([ids[number % len(ids)]]), k=2)
        self.world.gallery.flush_touched()

    @rule(number=st.integers(0, 100))
    def break_image(self, number):
        paths = sorted(set(self.world.enrolled.values()) - self.broken.keys())
        if paths:
            path = paths[number % len(paths)]
            self.broken[path] = path.read_bytes()
            path.write_bytes(self.broken[path][:50])

    @rule()
    def mend_images(self):
        for path, content in self.broken.items():
            path.write_bytes(content)
        self.broken.clear()

    # --- operators --------------------------------------------------------------------------

    @precondition(lambda self: self.over)
    @rule(order=st.sampled_from(["oldest", "random", "farthest"]), mixed=st.booleans())
    def start(self, order, mixed):
        if self.world.gallery.serving == NEW:
            return
        mixed = mixed and bool(self.edges)
        strategy = "mixed" if mixed else "blue-green"
        force = "a walk" if mixed else None
        self.migration = self.world.start(force, strategy=strategy, order=order, batch=2)

    @precondition(lambda self: self.state in {"running", "failed"} | SETTLED)
    @rule(batches=st.integers(1, 4))
    def run(self, batches):
        """Run, interrupted by a pause after some batches."""
        calls = len(self.world.new.calls)

        def before():
            if len(self.world.new.calls) - calls == batches and self.state == "running":
                self.migration.pause()

        def then():  # the runner waits for a resume: fail it instead, as a kill would end it
            raise KeyboardInterrupt

        self.world.new.before, self.world.time.then = before, then
        try:
            result = self.migration.run(self.world.new)
            assert result.state in SETTLED
        except KeyboardInterrupt:
            assert self.state == "paused"
        finally:
            self.world.new.before, self.world.time.then = (lambda: None), (lambda: None)

    @precondition(lambda self: self.state == "running")
    @rule()
    def crash(self):
        calls = len(self.world.new.calls)

        def before():
            if len(self.world.new.calls) > calls + 1:
                raise MemoryError

        self.world.new.before = before
        try:
            assert self.migration.run(self.world.new).state in SETTLED
        except MemoryError:
            assert self.state == "failed"
        finally:
            self.world.new.before = lambda: None

    @precondition(lambda self: self.state == "paused")
    @rule()
    def resume(self):
        self.migration.resume()

    @precondition(lambda self: not self.over and self.migration.status().quarantined)
    @rule()
    def retry(self):
        assert self.migration.retry() > 0

    @precondition(lambda self: self.state in SETTLED)
    @rule()
    def verify(self):
        try:
            self.migration.verify(3, embedder=self.world.new)
        except ItemsLeftError:
            assert self.state == "running"
        except MismatchError:  # only where no sampled item has its image any more
            assert self.broken
            assert self.state in SETTLED

    @precondition(lambda self: self.state == "verified")
    @rule()
    def cutover(self):
        try:
            self.migration.cutover()
        except (DriftError, TransitionError, ItemsLeftError):
            return
        assert self.world.gallery.serving == NEW

    @precondition(lambda self: self.state in {"verified", "cut_over"})
    @rule(leave_old=st.booleans())
    def complete(self, leave_old):
        with pytest.raises((ConsentError, TransitionError)):
            self.migration.complete(yes=False)
        try:
            done = self.migration.complete(yes=True, leave_old=leave_old)
        except (DriftError, TransitionError, ItemsLeftError):
            return
        assert done.state == self.state == "completed"
        assert len(self.world.vectors(OLD)) == done.left

    @precondition(lambda self: not self.over)
    @rule(really=st.integers(0, 4))
    def revert(self, really):
        if really and self.state != "reverting":
            return
        if "revert" not in TRANSITIONS[self.state] and self.state != "reverting":
            return
        try:
            self.migration.revert(embedder=self.world.old)
        except ItemsLeftError:
            assert self.state == "reverting"
            return
        assert self.world.gallery.serving == OLD

    @precondition(lambda self: not self.over)
    @rule(really=st.integers(0, 4))
    def abort(self, really):
        if really:
            return
        try:
            self.migration.abort()
        except TransitionError:
            return
        assert self.world.gallery.serving == OLD

    @precondition(lambda self: self.migration is not None)
    @rule(command=st.sampled_from(COMMANDS))
    def refused(self, command):
        """A command that the state does not have changes nothing."""
        before = (self.state, self.migration.history())
        if command in TRANSITIONS[before[0]] or command in {"start", before[0]}:
            return
        acts = {
            "pause": self.migration.pause,
            "resume": self.migration.resume,
            "verify": lambda: self.migration.verify(embedder=self.world.new),
            "cutover": self.migration.cutover,
            "complete": lambda: self.migration.complete(yes=True),
            "revert": self.migration.revert,
            "abort": self.migration.abort,
        }
        if command == "revert" and before[0] == "reverting":
            return
        with pytest.raises(TransitionError):
            acts[command]()
        assert (self.state, self.migration.history()) == before

    @rule(steps=st.integers(1, 5))
    def go_on(self, steps):
        """Do what the status says comes next, some times."""
        for _ in range(steps):
            self._next()
            self.everything_is_found()

    def _next(self):
        if self.over:
            self.start("oldest", mixed=True)
        elif self.state == "paused":
            self.migration.resume()
        elif self.state in {"running", "failed"}:
            self.run(100)
        elif self.state == "caught_up":
            self.verify()
        elif self.state == "verified" and self.world.gallery.serving == OLD:
            self.cutover()
        elif self.state in {"verified", "cut_over"}:
            self.complete(leave_old=False)

    # --- what holds -------------------------------------------------------------------------

    @invariant()
    def everything_is_found(self):
        self.world.check_found()

    @invariant()
    def the_count_is_the_data(self):
        if self.migration is None:
            return
        status = self.migration.status()
        have = len(self.world.vectors(NEW))
        assert (status.items, status.migrated) == (len(self.world.enrolled), have)
        assert status.left == status.items - have
        assert sum(status.quarantined.values()) <= status.left
        assert (open_migration(self.world.database, "staff") is None) == self.over


TestMigrationWalk = MigrationWalk.TestCase
TestMigrationWalk.settings = settings(
    max_examples=8,
    stateful_step_count=16,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
