"""Kill a migration's runner with SIGKILL at random moments, then look at every item.

    python benchmarks/kill_battery.py [--kills 20] [--items 1200] [--seed 0] [--folder DIR]

A gallery of drawn images is migrated from `faces/1` to `faces/2` by runners in processes of their
own. Each is killed at a seeded random moment: some batches after it began to work, and then
some microseconds to milliseconds later, so that kills fall on embedding, on writing files and on
commits alike. The last runner is left alone. Afterwards every enrolled item must be there exactly
once, with exactly the vector that the new version gives for its image, and be found first by it.

Every other runner commits its batches as segments, which batches this small would not be, and all
fold fresh rows early, so that kills find half-written files too.

Needs nothing but Segue: the two models are random projections. Exits 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from segue import database as tables
from segue.database import Database
from segue.harmonic.calibration import Calibration
from segue.index import Gallery, NewItem, Probe, commit
from segue.index import gallery as gallery_module
from segue.migrations import Migration
from segue.registry import Registry
from segue.types import utc_now

GALLERY, OLD, NEW = "battery", "faces/1", "faces/2"
SIZE, WIDTH = (8, 8), 16
BATCH = 8


class Projection:
    """Images to unit vectors by a random projection; the versions differ by a little noise."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.outputs = {"embedding": WIDTH}
        self.input_size = SIZE
        shape = (SIZE[0] * SIZE[1] * 3, WIDTH)
        own = np.random.default_rng(int(version.split("/")[1]) + 10).normal(size=shape)
        self.projection = np.random.default_rng(1).normal(size=shape) + 0.2 * own

    def embed(self, images: np.ndarray) -> dict[str, np.ndarray]:
        raw = (images.reshape(len(images), -1) / 255.0 - 0.5) @ self.projection
        return {"embedding": (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)}


def opened(folder: Path) -> tuple[Database, Path, Registry, Gallery]:
    root = folder / "workspace"
    database = Database(root / "segue.db")
    return database, root, Registry(database, root), Gallery(database, root, GALLERY)


def pixels(number: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, number]).integers(0, 256, (*SIZE, 3), np.uint8)


def prepare(folder: Path, items: int, seed: int) -> None:
    """Enrol drawn images by the old version and start a mixed migration."""
    (folder / "images").mkdir(parents=True)
    (folder / "workspace").mkdir()
    database = Database(folder / "workspace" / "segue.db")
    database.create()
    with database.write() as connection:
        for version in (OLD, NEW):
            row = {
                "version": version,
                "name": "faces",
                "number": int(version[-1]),
                "kind": "network",
                "outputs": {"embedding": WIDTH},
                "files": {},
                "fingerprint": version,
                "details": {},
                "created_at": utc_now(),
            }
            connection.execute(tables.versions.insert().values(row))
    root = folder / "workspace"
    gallery = Gallery.create(database, root, GALLERY, serving=OLD)
    enrolled = []
    for number in range(items):
        path = folder / "images" / f"{number}.png"
        Image.fromarray(pixels(number, seed)).save(path)
        enrolled.append(NewItem(f"item-{number}", f"person-{number % 40}", str(path)))
    gallery.enroll(enrolled, [Projection(OLD)])
    registry = Registry(database, root)
    impostors = np.random.default_rng(seed).normal(2, 0.35, 3000).clip(0.05, 3.95)
    calibration = Calibration.fit(impostors, people_pairs=1000, people=50)
    for probe in (OLD, NEW):
        for stored in (OLD, NEW):
            registry.save_edge(probe=probe, stored=stored, calibration=calibration)
    plan = Migration.plan(database, root, registry, gallery, NEW, strategy="mixed", batch=BATCH)
    Migration.start(plan, database, root, registry, gallery, force="the kill battery")


def run(folder: Path, *, segments: bool) -> None:
    """Run the migration as a process of its own, telling each batch on standard output."""
    commit.FOLD_ABOVE = 20 * BATCH
    if segments:
        gallery_module.FRESH_BELOW = 1
    database, root, registry, gallery = opened(folder)

    def tell(done: int, total: int | None, what: str) -> None:
        sys.stdout.write(f"{done} {total} {what}\n")
        sys.stdout.flush()

    print("ready", flush=True)
    result = Migration(database, root, registry, gallery).run(Projection(NEW), progress=tell)
    print(json.dumps({"state": result.state, "left": result.left}), flush=True)


def runner(folder: Path, *, segments: bool) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--run", str(folder)]
    command += ["--segments"] if segments else []
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_one(folder: Path, batches: int, microseconds: int, *, segments: bool) -> bool:
    """Kill a runner that has done `batches`, a little later; False if it had ended before."""
    with runner(folder, segments=segments) as process:
        assert process.stdout is not None
        for _ in range(batches + 1):  # "ready" is the first line
            if not process.stdout.readline():
                break
        try:
            process.wait(timeout=microseconds / 1e6)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.stdout.read()
    return process.returncode == -signal.SIGKILL


def wrong(folder: Path, items: int, seed: int) -> list[str]:
    """Return what is wrong with the gallery; nothing, if all is well."""
    *_, gallery = opened(folder)
    found = gallery.check()
    embedder = Projection(NEW)
    images = np.stack([pixels(number, seed) for number in range(items)])
    vectors = embedder.embed(images)["embedding"]
    _, rows = gallery.sql("SELECT item_id, version, count(*) FROM embeddings GROUP BY ALL")
    counts = {(item_id, version): count for item_id, version, count in rows}
    wanted = {(f"item-{n}", version): 1 for n in range(items) for version in (OLD, NEW)}
    found += [
        f"{key} is there {counts.get(key, 0)} times" for key in wanted if counts.get(key) != 1
    ]
    found += [f"{key} should not be there" for key in counts if key not in wanted]
    if gallery.count_items() != items:
        found.append(f"{gallery.count_items()} live items instead of {items}")
    answers = gallery.search(Probe(NEW, {"embedding": vectors}), k=1, touch=False)
    for number, hits in enumerate(answers):
        right = hits and hits[0].item_id == f"item-{number}" and hits[0].version == NEW
        if not right or hits[0].distance > 1e-10:
            found.append(f"item-{number} is not found with the vector of {NEW}")
    return found


def leftovers(folder: Path) -> list[str]:
    """Compact the gallery; return files of dead runners that are still there."""
    _, root, _, gallery = opened(folder)
    gallery.compact()
    listed = {path.name for path in gallery.files()}
    there = {path.name for path in (root / "galleries" / GALLERY).rglob("*.parquet*")}
    return [f"{name} was left behind" for name in sorted(there - listed)]


def battery(folder: Path, kills: int, items: int, seed: int) -> int:
    prepare(folder, items, seed)
    random = np.random.default_rng(seed)
    done, killed = 0, 0
    for number in range(kills):
        batches = int(random.integers(0, max(2, items // BATCH // (kills + 1) * 2)))
        later = int(10 ** random.uniform(0, 4.3))
        if kill_one(folder, batches, later, segments=number % 2 == 1):
            killed += 1
        database, root, registry, gallery = opened(folder)
        status = Migration(database, root, registry, gallery).status()
        print(f"kill {killed:2}: {status.migrated}/{items} migrated, state {status.state}")
        if status.migrated < done:
            print("items that were committed are gone")
            return 1
        done = status.migrated
    with runner(folder, segments=False) as process:
        output = process.communicate()[0]
    ended = json.loads(output.splitlines()[-1])
    problems = wrong(folder, items, seed) + leftovers(folder) + wrong(folder, items, seed)
    problems += [f"the last run ended as {ended}"] if ended["state"] != "caught_up" else []
    problems += ["fewer kills than wanted; give more items"] if killed < kills else []
    for problem in problems:
        print(problem)
    print(f"{killed} kills, {items} items: {'WRONG' if problems else 'all there once, all right'}")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--items", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--segments", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run is not None:
        run(given.run, segments=given.segments)
        return 0
    with tempfile.TemporaryDirectory(prefix="segue-kills-") as temporary:
        folder = given.folder or Path(temporary) / "battery"
        return battery(folder, given.kills, given.items, given.seed)


if __name__ == "__main__":
    sys.exit(main())
