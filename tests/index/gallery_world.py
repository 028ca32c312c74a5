"""A workspace for tests of galleries: versions, drawn vectors, embedders without torch."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from segue import database as tables
from segue.database import Database
from segue.harmonic.calibration import Calibration
from segue.index import Gallery, NewItem, Probe, Reembedded, acquire_lease
from segue.registry.edges import Edge, write_edge
from segue.types import utc_now

D = 8


def unit(count, dimension=D, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def new_items(ids, identities=None):
    names = [None] * len(ids) if identities is None else identities
    return [NewItem(item_id, name) for item_id, name in zip(ids, names, strict=True)]


def calibration(mean=2.0, seed=0):
    sample = np.random.default_rng(seed).normal(mean, 0.3, 5000).clip(0.05, 3.99)
    return Calibration.fit(sample, people_pairs=4950, people=100)


def image_bytes(seed, size=(12, 10)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


@dataclass
class DrawnEmbedder:
    """A fixed random projection of the pixels: an `Embedder` without torch."""

    version: str
    outputs: dict[str, int] = field(default_factory=lambda: {"embedding": D})
    input_size: tuple[int, int] = (8, 8)

    def embed(self, images):
        flat = images.reshape(len(images), -1).astype(np.float64) / 255 - 0.5
        found = {}
        for output, dimension in self.outputs.items():
            entropy = list(f"{self.version} {output}".encode())
            matrix = np.random.default_rng(entropy).normal(size=(flat.shape[1], dimension))
            vectors = flat @ matrix
            found[output] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(
                np.float32
            )
        return found


class World:
    """A database, a folder and the versions faces/1 … faces/3, all of dimension 8."""

    def __init__(self, root):
        self.root = root
        self.database = Database(root / "segue.db")
        self.database.create()
        for number in (1, 2, 3):
            self.register(f"faces/{number}", {"embedding": D})

    def register(self, version, outputs):
        name, number = version.split("/")
        with self.database.write() as connection:
            connection.execute(
                tables.versions.insert().values(
                    version=version,
                    name=name,
                    number=int(number),
                    kind="vectors",
                    outputs=outputs,
                    files={},
                    fingerprint=version,
                    details={},
                    created_at=utc_now(),
                )
            )

    def edge(self, probe, stored, mean=2.0, **values):
        values.setdefault("calibration", calibration(mean))
        with self.database.write() as connection:
            write_edge(connection, self.root, Edge(probe, stored, **values))

    def create(self, name="door", serving="faces/1", codec="float32"):
        return Gallery.create(self.database, self.root, name, serving=serving, codec=codec)

    def open(self, name="door"):
        return Gallery(self.database, self.root, name)

    def serve(self, gallery, *preference, companions=()):
        with self.database.write() as connection:
            gallery.set_serving(connection, preference[0], list(preference), list(companions))

    def write(self, gallery, version, items, vectors):
        """Give stored items vectors of another version, through a lease."""
        outputs = vectors if isinstance(vectors, dict) else {"embedding": vectors}
        lease = acquire_lease(self.database, gallery.name, "migration")
        try:
            return gallery.commit_reembedded(
                Reembedded(version, tuple(items), outputs), lease=lease
            )
        finally:
            lease.release()

    def content(self):
        """Every byte of every file below the workspace."""
        return b"".join(p.read_bytes() for p in sorted(self.root.rglob("*")) if p.is_file())

    def files(self):
        return {
            p.relative_to(self.root).as_posix()
            for p in (self.root / "galleries").rglob("*")
            if p.is_file() and p.name != ".lock"
        }


def probe(version, vectors):
    return Probe(version, {"embedding": np.atleast_2d(vectors)})


def ids(hits):
    return [hit.item_id for hit in hits]
