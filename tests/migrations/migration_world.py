"""A small world to migrate in: drawn images, two fake models, a workspace without MLflow."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from segue import database as tables
from segue.database import Database
from segue.errors import UnmeasuredEdgeError
from segue.evaluation import Check, GateResult, Named, Subject, SubjectEdge
from segue.harmonic.calibration import Calibration
from segue.index import Gallery, NewItem, Probe
from segue.migrations import Clock, Migration
from segue.registry import Registry
from segue.types import utc_now

SIZE, WIDTH = (8, 8), 12  # of the images; of the vectors
OLD, NEW = "faces/1", "faces/2"
GO = GateResult(True, (Check("tax", True, 0.01, 0.02, "the tax is within its budget"),))
NO_GO = GateResult(False, (Check("tax", False, 0.03, 0.02, "the tax is above its budget"),))


class FakeEmbedder:
    """Images to unit vectors by a fixed random projection; the two versions are harmonic."""

    def __init__(self, version):
        self.version = version
        self.outputs = {"embedding": WIDTH}
        self.input_size = SIZE
        base = np.random.default_rng(1).normal(size=(SIZE[0] * SIZE[1] * 3, WIDTH))
        other = np.random.default_rng(int(version.split("/")[1]) + 100).normal(size=base.shape)
        self.projection = base + 0.25 * other
        self.calls = []
        self.before = lambda: None  # what happens elsewhere while a batch is embedded

    def embed(self, images):
        self.calls.append(len(images))
        self.before()
        raw = (images.reshape(len(images), -1) / 255.0 - 0.5) @ self.projection
        vectors = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        return {"embedding": vectors.astype(np.float32)}


class FakeRegistry(Registry):
    """A registry whose models are the fake embedders."""

    embedders: dict

    def load(self, reference):
        return self.embedders[reference]


class FakeTime:
    """A clock that moves when somebody sleeps; `then` runs at each sleep."""

    def __init__(self):
        self.seconds = 0.0
        self.slept = []
        self.then = lambda: None
        self.clock = Clock(monotonic=lambda: self.seconds, now=self.now, sleep=self.sleep)

    def now(self):
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def sleep(self, seconds):
        assert seconds >= 0
        self.seconds += seconds
        self.slept.append(seconds)
        self.then()


def _calibration():
    distances = np.sort(np.random.default_rng(3).normal(1.9, 0.35, size=3000)).clip(0.05, 3.9)
    return Calibration.fit(distances, people_pairs=1000, people=50)


CALIBRATION = _calibration()


@dataclass
class World:
    """One workspace with one gallery served by `faces/1`, and what a test does with it."""

    folder: Path
    codec: str = "float32"
    time: FakeTime = field(default_factory=FakeTime)

    def __post_init__(self):
        self.root = self.folder / "workspace"
        self.root.mkdir()
        self.database = Database(self.root / "segue.db")
        self.database.create()
        self.registry = FakeRegistry(self.database, self.root)
        self.old, self.new = FakeEmbedder(OLD), FakeEmbedder(NEW)
        self.registry.embedders = {OLD: self.old, NEW: self.new}
        for version in (OLD, NEW):
            self.add_version(version)
        self.gallery = Gallery.create(
            self.database, self.root, "staff", serving=OLD, codec=self.codec
        )
        self.drawn = 0
        self.enrolled = {}  # item id -> path
        self.pictures = {}  # path -> pixels, which stay known when the file is broken

    def add_version(self, version, kind="network"):
        with self.database.write() as connection:
            connection.execute(
                tables.versions.insert().values(
                    version=version,
                    name=version.split("/")[0],
                    number=int(version.split("/")[1]),
                    kind=kind,
                    outputs={"embedding": WIDTH},
                    files={},
                    fingerprint=f"print of {version}",
                    details={},
                    created_at=utc_now(),
                )
            )

    def edges(self, pairs=None):
        """Measure edges, by default all four of the two versions."""
        for probe, stored in product((OLD, NEW), (OLD, NEW)) if pairs is None else pairs:
            self.registry.save_edge(probe=probe, stored=stored, calibration=CALIBRATION)

    def report(self, gate):
        """Keep a report of the upgrade that measured the edges as they are stored now."""
        edges = [edge for edge in map(self._edge, product((OLD, NEW), repeat=2)) if edge]
        roles = {OLD: "v1", NEW: "v2"}
        old, new = (Named(version, f"print of {version}") for version in (OLD, NEW))
        kept = tuple(SubjectEdge(e.probe, e.stored, e.probe_output, e.stored_output) for e in edges)
        value = {
            "gate": gate.to_json(),
            "calibrations": [
                {
                    "probe": roles[edge.probe],
                    "stored": roles[edge.stored],
                    "calibration": edge.calibration.to_json(),
                }
                for edge in edges
            ],
            **Subject(old, new, new, "faces", "others", kept).to_json(),
        }
        folder = self.root / "reports" / str(np.random.default_rng().integers(1 << 40))
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(value))
        with self.database.write() as connection:
            number = self.registry.save_report(OLD, NEW, folder, gate, connection=connection)
            for edge in edges:
                self.registry.save_edge(connection, replace(edge, report=number))
        return number

    def _edge(self, pair):
        try:
            return self.registry.edge(*pair)
        except UnmeasuredEdgeError:
            return None

    def draw(self, count):
        """Draw `count` further images and return them as items."""
        folder = self.folder / "images"
        folder.mkdir(exist_ok=True)
        items = []
        for number in range(self.drawn, self.drawn + count):
            picture = np.random.default_rng(1000 + number).integers(0, 256, (*SIZE, 3), np.uint8)
            path = folder / f"{number:04}.png"
            Image.fromarray(picture).save(path)
            self.pictures[path] = picture
            items.append(NewItem(f"item-{number:04}", f"person-{number % 5}", str(path)))
        self.drawn += count
        return items

    def enroll(self, count, *embedders):
        """Enrol `count` drawn images, by default as an up-to-date server would."""
        items = self.draw(count)
        if not embedders:
            wanted = (self.gallery.serving, *self.gallery.companions)
            embedders = tuple(self.registry.embedders[version] for version in wanted)
        result = self.gallery.enroll(items, embedders)
        assert result.enrolled == count, result
        self.enrolled.update({item.item_id: Path(item.source) for item in items})
        return items

    def enroll_by_old_server(self, count):
        """Enrol vectors of the old version alone, as a server not yet upgraded does."""
        items = self.draw(count)
        images = np.stack([self.pictures[Path(item.source)] for item in items])
        self.gallery.enroll_vectors(items, OLD, self.old.embed(images))
        self.enrolled.update({item.item_id: Path(item.source) for item in items})
        return items

    def plan(self, **choices):
        return Migration.plan(
            self.database, self.root, self.registry, self.gallery, NEW, **{"batch": 4, **choices}
        )

    def start(self, force=None, **choices):
        return self.begin(self.plan(**choices), force)

    def begin(self, plan, force=None):
        return Migration.start(
            plan,
            self.database,
            self.root,
            self.registry,
            self.gallery,
            force=force,
            clock=self.time.clock,
        )

    def elsewhere(self):
        """The same migration as another process sees it."""
        database = Database(self.root / "segue.db")
        registry = FakeRegistry(database, self.root)
        registry.embedders = self.registry.embedders
        gallery = Gallery(database, self.root, "staff")
        return Migration(database, self.root, registry, gallery, clock=self.time.clock)

    def probe(self, item_ids, version=None):
        embedder = self.registry.embedders[version or self.gallery.serving]
        images = np.stack([self.pictures[self.enrolled[item_id]] for item_id in item_ids])
        return Probe(embedder.version, embedder.embed(images))

    def check_found(self, version=None):
        """Every enrolled item is live exactly once, and the nearest to its own image."""
        assert self.gallery.check() == []
        assert self.gallery.count_items() == len(self.enrolled)
        if not self.enrolled:
            return
        ids = sorted(self.enrolled)
        found = self.gallery.search(self.probe(ids, version), k=len(ids) + 1, touch=False)
        for item_id, hits in zip(ids, found, strict=True):
            assert hits[0].item_id == item_id
            assert sorted(hit.item_id for hit in hits) == ids

    def vectors(self, version):
        """Item id -> stored vector of `version`."""
        found = {}
        for item_id in self.enrolled:
            rows = [row for row in self.gallery.item(item_id) if row.version == version]
            assert len(rows) <= 1
            found.update((item_id, row.vector) for row in rows)
        return found

    def check_vectors(self, version):
        """Every enrolled item has exactly the vector that `version` gives for its image."""
        stored = self.vectors(version)
        assert stored.keys() == self.enrolled.keys()
        for item_id, path in self.enrolled.items():
            picture = self.pictures[path]
            fresh = self.registry.embedders[version].embed(picture[None])["embedding"][0]
            assert float(((stored[item_id] - fresh) ** 2).sum()) < 1e-10

    def ledger(self, action):
        return [entry for entry in self.registry.ledger("staff") if entry.action == action]
