"""Write one file of every format, once for each format version, into `tests/golden/vN/`.

Run it only when a format changes, into a new folder: what stands there is never written again, so
that newer code goes on reading it. Faces are drawn, vectors are random: nobody real is in it.

    python tests/golden/make.py tests/golden/v1

A file that ends in `.safetensors` becomes the checkpoint of a training that was killed half-way.

    python tests/golden/make.py tests/golden/checkpoint-format-2.safetensors
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from segue import Workspace
from segue.harmonic.bridges import fit_bridge
from segue.harmonic.calibration import calibrate
from segue.images import read_faces
from segue.index import NewItem
from segue.networks import save_weights
from segue.synthetic import write_faces
from segue.train import TrainSettings, train_base
from segue.train.checkpoint import FILE_NAME

ACTOR = "golden"
ITEMS = 12
SETTINGS = TrainSettings(
    width=2, dimension=8, image_size=32, steps=2, people_per_batch=4, threads=1, seed=4
)


def unit(seed: int, count: int, dimension: int = 8) -> np.ndarray:
    """Return the random unit vectors [count, dimension] that stand for a seed."""
    drawn = np.random.default_rng(seed).normal(size=(count, dimension))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


class _Killed(Exception):  # noqa: N818  # it stands for a kill, not for an error
    """Ends a training from within its callback."""


def _kill_after_a_step(_done: int, _total: int | None, what: str) -> None:
    if what.startswith("steps"):
        raise _Killed


def write_checkpoint(target: Path) -> None:
    """Write the checkpoint after one of two steps."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        write_faces(made / "faces", people=16, images=3, size=32, seed=9)
        faces = read_faces(made / "faces").part("train")
        settings = dataclasses.replace(SETTINGS, checkpoint_every=1)
        with suppress(_Killed):
            train_base(faces, settings, checkpoint=made / "out", progress=_kill_after_a_step)
        shutil.copy(made / "out" / FILE_NAME, target)


def main(target: Path) -> None:
    """Make the folder, or the checkpoint."""
    if target.exists():
        raise SystemExit(f"{target} is frozen; name a new one")
    if target.suffix == ".safetensors":
        write_checkpoint(target)
        return
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        write_faces(made / "faces", people=16, images=3, size=32, seed=9)
        faces = read_faces(made / "faces").part("train")
        trained = train_base(faces, SETTINGS, checkpoint=made / "out" / "checkpoint")
        workspace = Workspace.init(made / "out" / "workspace")
        for _ in range(2):
            workspace.registry.register_network(
                "faces",
                architecture=trained.architecture,
                settings=trained.settings,
                weights=save_weights(trained.network),
                preprocessing=trained.preprocessing,
                details={"kind": "base"},
                actor=ACTOR,
            )
        workspace.registry.promote("faces/1", reason="golden", actor=ACTOR)
        labels = np.arange(60) // 3
        calibration = calibrate(unit(5, 60), labels, unit(5, 60), labels, same_images=True)
        for probe, stored in (("1", "1"), ("2", "1"), ("2", "2")):
            workspace.registry.save_edge(
                probe=f"faces/{probe}",
                stored=f"faces/{stored}",
                probe_output="embedding",
                stored_output="embedding",
                calibration=calibration,
                measured={"made": "golden"},
                report=None,
                actor=ACTOR,
            )
        _fill(workspace)
        bridge = fit_bridge(
            "ridge", unit(6, 40), unit(7, 40), source_version="faces/1", target_version="faces/2"
        )
        bridge.save(made / "out" / "bridge.safetensors")
        plan = workspace.plan("plain", "faces/2", strategy="blue-green").to_json()
        (made / "out" / "plan.json").write_text(json.dumps(plan, indent=1))
        workspace.database.close()
        for left in (made / "out" / "workspace").glob("mlflow*"):
            left.unlink()
        shutil.rmtree(made / "out" / "workspace" / "mlartifacts", ignore_errors=True)
        connection = sqlite3.connect(made / "out" / "workspace" / "segue.db")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        shutil.copytree(made / "out", target)


def _fill(workspace: Workspace) -> None:
    """Enrol the same vectors as a segment in one gallery, as int8 and fresh rows in another."""
    items = [NewItem(f"item-{i}", f"person-{i // 2}") for i in range(ITEMS)]
    plain = workspace.create_gallery("plain", "faces/1")
    plain.enroll_vectors(items, "faces/1", {"embedding": unit(1, ITEMS)})
    plain.files()
    small = workspace.create_gallery("small", "faces/1", codec="int8")
    small.enroll_vectors(items, "faces/1", {"embedding": unit(1, ITEMS)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
