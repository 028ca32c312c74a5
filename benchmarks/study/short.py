"""The study's short form: drawn faces, tiny networks, some seconds. Its figures mean nothing."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.study.recipes import ABLATION, BRIDGE, NOISE, Recipe, Study
from segue.errors import UsageError
from segue.files import write_durably
from segue.synthetic import NOTICE, NOTICE_FILE, write_faces
from segue.train.settings import HarmonicSettings, TrainSettings, paper_settings

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

_TINY: dict[str, Any] = {"image_size": 32, "people_per_batch": 8, "threads": 1}
_PAPER = paper_settings(head_steps=4, steps=8, **_TINY)
_FURTHER: dict[str, Any] = {
    **_TINY,
    "head_steps": 24,
    "steps": 8,
    "head_images": _PAPER.head_steps * _PAPER.images_per_batch,
}

SHORT = Study(
    name="small to a larger network, drawn faces",
    says=f"All figures are of {NOTICE}: they say that the machinery works.",
    old=TrainSettings(width=2, steps=12, **_TINY),
    start=TrainSettings(width=4, steps=16, **_TINY),
    further=_PAPER,
    recipes=(
        Recipe(name="segue", says="Defaults.", settings=HarmonicSettings(**_FURTHER), seeds=2),
        Recipe(
            name="segue, retuned",
            says="Retuned vectors.",
            settings=HarmonicSettings(**_FURTHER),
            seeds=2,
            retuned=True,
        ),
        Recipe(name="twin", says="Without v1.", seeds=2),
        Recipe(name="harmonic", says="FaceNet's.", settings=_PAPER, seeds=2),
        Recipe(name="bridge ridge", says="A map.", bridge="ridge", group=BRIDGE, seeds=2),
        Recipe(
            name="segue, one output",
            says="No head of its own.",
            settings=replace(_PAPER, loss="harmonic_contrast"),
            group=ABLATION,
            seeds=1,
            beside="segue",
        ),
        Recipe(
            name="segue, 20% noise",
            says="Wrong labels.",
            settings=HarmonicSettings(**_FURTHER),
            group=NOISE,
            seeds=1,
            noise=0.2,
            beside="segue",
        ),
    ),
    bootstrap=20,
    decides=True,
    fars=(1e-1, 1e-2),
    rhos=(0.0, 0.5, 1.0),
)


def draw_faces(folder: Path) -> None:
    """Draw people for all four parts, unless they lie there already.

    Raises:
        UsageError: other people lie there; nothing guards their part test in the short form.
    """
    listed = folder / "people.csv"
    if listed.is_file():
        if not (folder / NOTICE_FILE).is_file():
            raise UsageError(f"{folder} holds no drawn faces, as --short needs; leave --data out")
        return
    write_faces(folder, people=100, images=9, size=32, seed=5)
    with listed.open(newline="") as file:
        head, *rows = csv.reader(file)
    parts = (("train", "1"), ("train", "0"), ("validation", "0"), ("calibration", "0"))
    for place, row in enumerate(rows):
        row[2:] = (*parts, ("test", "0"))[place % 5]
    text = "".join(",".join(row) + "\n" for row in (head, *rows))
    write_durably(listed, text.encode())
