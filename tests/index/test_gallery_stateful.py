from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gallery_world import World, calibration, new_items, probe, unit
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from segue.errors import DuplicateItemError
from segue.index import Reembedded, acquire_lease

OLD, NEW = "faces/1", "faces/2"
WAYS = {OLD: calibration(1.6), NEW: calibration(2.1)}
NAMES = st.lists(st.integers(0, 12).map("i{}".format), min_size=1, max_size=4, unique=True)


@dataclass
class Row:
    """What the model knows of one item: its number, person, and vector by version."""

    seq: int
    identity: str
    vectors: dict[str, np.ndarray]


class GalleryMachine(RuleBasedStateMachine):
    """A gallery beside a dictionary: whatever happens, both answer the same."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.folder)
        self.model: dict[str, Row] = {}
        self.preference = [OLD]
        self.used: set[int] = set()
        self.batch: Reembedded | None = None
        self.seed = 0

    @initialize(codec=st.sampled_from(["float32", "int8"]))
    def create(self, codec):
        self.gallery = self.world.create(codec=codec)
        self.other = self.world.open()  # a second process's view of the same gallery
        for version, mean in ((OLD, 1.6), (NEW, 2.1)):
            self.world.edge(NEW, version, mean=mean)

    def teardown(self):
        self.world.database.close()
        shutil.rmtree(self.folder)

    def draw(self, count):
        self.seed += 1
        return unit(count, seed=self.seed)

    @rule(names=NAMES, fresh=st.booleans(), replace=st.booleans())
    def enroll(self, names, fresh, replace):
        version = self.preference[0]
        items = new_items(names, [f"p{name[-1]}" for name in names])
        call = {"replace": replace, "fresh": fresh}
        vectors = {"embedding": self.draw(len(names))}
        if any(name in self.model for name in names) and not replace:
            with pytest.raises(DuplicateItemError):
                self.gallery.enroll_vectors(items, version, vectors, **call)
            return
        assert self.gallery.enroll_vectors(items, version, vectors, **call) == len(names)
        for item in items:
            (row,) = self.other.item(item.item_id)
            assert row.item.seq not in self.used
            self.used.add(row.item.seq)
            self.model[item.item_id] = Row(row.item.seq, item.identity, {version: row.vector})

    @precondition(lambda self: self.model)
    @rule(data=st.data(), whole=st.booleans())
    def erase(self, data, whole):
        name = data.draw(st.sampled_from(sorted(self.model)))
        person = self.model[name].identity
        if whole:
            gone = [x for x, row in self.model.items() if row.identity == person]
            done = self.gallery.erase(identity=person)
        else:
            gone = [name]
            done = self.gallery.erase([name])
        assert (done.items, done.swept) == (len(gone), True)
        for item_id in gone:
            del self.model[item_id]

    @rule(limit=st.integers(1, 5), order=st.sampled_from(["oldest", "random", "farthest"]))
    def embed_a_batch(self, limit, order):
        items = self.other.pending(NEW, order=order, limit=limit, seed=self.seed)
        left = {row.seq for row in self.model.values() if NEW not in row.vectors}
        assert {item.seq for item in items} <= left
        assert len(items) == min(limit, len(left))
        vectors = self.draw(len(items)) if items else np.empty((0, 8), np.float32)
        self.batch = Reembedded(NEW, tuple(items), {"embedding": vectors})

    @precondition(lambda self: self.batch is not None)
    @rule(as_segment=st.booleans())
    def commit_the_batch(self, as_segment):
        """Commit a batch that may be stale by now."""
        batch, self.batch = self.batch, None
        by_seq = {row.seq: row for row in self.model.values()}
        wanted = [
            item.seq
            for item in batch.items
            if item.seq in by_seq and NEW not in by_seq[item.seq].vectors
        ]
        with (
            pytest.MonkeyPatch.context() as patch,
            acquire_lease(self.world.database, "door", "migration") as lease,
        ):
            patch.setattr("segue.index.gallery.FRESH_BELOW", 0 if as_segment else 1000)
            assert self.gallery.commit_reembedded(batch, lease=lease) == len(wanted)
        for name, row in self.model.items():
            if row.seq in wanted:
                stored = {x.version: x.vector for x in self.gallery.item(name)}
                row.vectors[NEW] = stored[NEW]

    @rule(mixed=st.booleans())
    def serve(self, mixed):
        """Go mixed, or back to the old version while every item has its vector."""
        if mixed:
            self.preference = [NEW, OLD]
        elif all(OLD in row.vectors for row in self.model.values()):
            self.preference = [OLD]
        self.world.serve(self.gallery, *self.preference)

    @rule()
    def remove_the_old(self):
        if self.preference != [NEW, OLD]:
            return
        moved = [row for row in self.model.values() if {OLD, NEW} <= row.vectors.keys()]
        assert self.gallery.remove_version(OLD, keep_only_there=True) == len(moved)
        for row in moved:
            del row.vectors[OLD]

    @rule(how=st.sampled_from(["files", "compact", "reopen"]))
    def tend(self, how):
        if how == "reopen":
            self.gallery, self.other = self.world.open(), self.gallery
            return
        getattr(self.gallery, how)()
        rows = self.gallery.stats().rows
        assert self.gallery.stats().fresh == 0
        listed = [s.rows for s in self.gallery._shelf.view().snapshot.segments]
        assert sum(listed) == sum(rows.values())

    @precondition(lambda self: self.model)
    @rule(k=st.integers(1, 15), reader=st.booleans())
    def search(self, k, reader):
        """Compare a search with plain loops over the dictionary."""
        version = self.preference[0]
        wanted = self.draw(1)
        scored = []
        live = [
            (row, next(v for v in self.preference if v in row.vectors))
            for row in self.model.values()
        ]
        mixed = len({v for _, v in live}) > 1
        for row, where in live:
            difference = row.vectors[where].astype(np.float64) - wanted[0].astype(np.float64)
            distance = float((difference**2).sum())
            score = float(WAYS[where].log10_far(np.array([distance]))[0]) if mixed else distance
            scored.append((score, row.seq, where, distance))
        expected = sorted(scored)[:k]
        opened = self.other if reader else self.gallery
        hits = opened.search(probe(version, wanted), k=k, touch=False)[0]
        assert [(hit.seq, hit.version) for hit in hits] == [(s, v) for _, s, v, _ in expected]
        found = [hit.distance for hit in hits]
        np.testing.assert_allclose(found, [d for *_, d in expected], atol=1e-5)

    @invariant()
    def the_counts_agree(self):
        if not hasattr(self, "gallery"):
            return
        assert self.other.count_items() == len(self.model)
        left = sum(NEW not in row.vectors for row in self.model.values())
        assert self.other.count_pending(NEW) == left
        _, rows = self.other.sql("SELECT item_id, seq, version FROM live ORDER BY item_id")
        assert rows == sorted(
            (name, row.seq, next(v for v in self.preference if v in row.vectors))
            for name, row in self.model.items()
        )

    @invariant()
    def nothing_is_wrong(self):
        if hasattr(self, "gallery"):
            assert self.gallery.check() == []


TestGallery = GalleryMachine.TestCase
TestGallery.settings = settings(
    max_examples=12,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestGallery.__doc__ = (
    "One live row for each item, and answers as plain loops give, whatever happens."
)
