"""The same faces with other parts: who is trained on, measured, calibrated on."""

from __future__ import annotations

import csv
from pathlib import Path


def with_parts(faces: Path, folder: Path, change) -> Path:
    """Return a new folder of the same faces; `change` changes the list of the people's parts."""
    with (faces / "people.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    place = head.index("part")
    parts = [row[place] for row in rows]
    change(parts)
    for row, part in zip(rows, parts, strict=True):
        row[place] = part
    folder.mkdir(exist_ok=True)
    (folder / "images").symlink_to(faces / "images")
    with (folder / "people.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])
    return folder


def half_of_train_tested(parts: list[str]) -> None:
    """Make every other person of part train one of part test."""
    for place in [at for at, part in enumerate(parts) if part == "train"][::2]:
        parts[place] = "test"


def one_less_to_calibrate(parts: list[str]) -> None:
    """Make the first person of part calibration one of part train."""
    parts[parts.index("calibration")] = "train"
