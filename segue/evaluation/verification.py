"""LFW's verification task: pairs in ten folds, each judged by the threshold of the nine others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from segue.errors import EvaluationError, MissingPathError

if TYPE_CHECKING:
    from pathlib import Path

    from segue.types import Bools, Doubles, Ints


class ImageName(NamedTuple):
    """One image of a list of pairs: the person and the image's number, from 1."""

    person: str
    number: int

    def path(self, root: Path, suffix: str = ".jpg") -> Path:
        """Return the file as LFW lays it: `ROOT/NAME/NAME_0001.jpg`."""
        return root / self.person / f"{self.person}_{self.number:04d}{suffix}"


@dataclass(frozen=True)
class PairList:
    """Pairs of images: `left[i]` and `right[i]`, whether they are the `same` person, their fold.

    `same` is bool [P]; `folds` int64 [P], from 0.
    """

    left: tuple[ImageName, ...]
    right: tuple[ImageName, ...]
    same: Bools
    folds: Ints

    def __len__(self) -> int:
        return len(self.left)

    @property
    def images(self) -> tuple[ImageName, ...]:
        """The images that must be embedded, each once, sorted."""
        return tuple(sorted({*self.left, *self.right}))

    def rows(self) -> tuple[Ints, Ints]:
        """Return for each pair the position of its two images in `images`: int64 [P] each."""
        position = {image: row for row, image in enumerate(self.images)}
        left = np.array([position[image] for image in self.left], dtype=np.int64)
        right = np.array([position[image] for image in self.right], dtype=np.int64)
        return left, right


@dataclass(frozen=True)
class Verification:
    """LFW's result.

    `accuracy` is the mean over folds and `standard_error` its standard error (as LFW states it);
    `folds` are the accuracies and `thresholds` the distances chosen on the other folds.
    """

    accuracy: float
    standard_error: float
    thresholds: tuple[float, ...]
    folds: tuple[float, ...]


def read_pairs(path: Path) -> PairList:
    """Read a list of pairs in LFW's `pairs.txt` format.

    The first line tells the folds and the pairs of each kind in a fold (one number alone: one
    fold). A fold is that many lines `NAME N1 N2`, then as many `NAME1 N1 NAME2 N2`, separated by
    tabs (or by spaces, where names have none).

    Raises:
        MissingPathError: there is no such file.
        EvaluationError: a line is not of the format, or lines are missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise MissingPathError(path, "list of pairs") from error
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path.name} is no text file: {error}") from error
    rows = [line for line in lines if line.strip()]
    folds, each = _header(path.name, rows[0] if rows else "")
    if len(rows) != 1 + 2 * folds * each:
        raise EvaluationError(
            f"{path.name} announces {folds} folds of twice {each} pairs and has {len(rows) - 1} "
            "lines; it is cut off or its first line is wrong"
        )
    pairs = [
        _pair(path.name, number, line, same=(number - 1) // each % 2 == 0)
        for number, line in enumerate(rows[1:], start=1)
    ]
    return PairList(
        left=tuple(pair[0] for pair in pairs),
        right=tuple(pair[1] for pair in pairs),
        same=np.tile(np.repeat([True, False], each), folds),
        folds=np.repeat(np.arange(folds, dtype=np.int64), 2 * each),
    )


def verify(distances: Any, same: Any, folds: Any) -> Verification:
    """Return accuracy over folds: each is judged at the threshold that is best on all others.

    Args:
        distances: float [P].
        same: bool [P], whether a pair is of one person.
        folds: int [P].

    Thresholds lie halfway between neighbouring distances; of equally good ones the smallest is
    taken, which accepts fewest impostors. The standard error is the sample standard deviation of
    the folds' accuracies divided by the root of their number.

    Raises:
        EvaluationError: shapes that do not fit, NaN, or fewer than two folds.

    >>> verify([0.1, 0.9, 0.2, 0.8], [True, False, True, False], [0, 0, 1, 1]).accuracy
    1.0
    """
    d2 = np.asarray(distances, dtype=np.float64)
    truth = np.asarray(same, dtype=np.bool_)
    fold = np.asarray(folds)
    if d2.ndim != 1 or truth.shape != d2.shape or fold.shape != d2.shape:
        raise EvaluationError(
            f"distances {d2.shape}, same {truth.shape} and folds {fold.shape} must be [P] each"
        )
    if np.isnan(d2).any():
        raise EvaluationError("distances hold NaN; remove or embed those images again")
    names = np.unique(fold)
    if len(names) < 2:
        raise EvaluationError("one fold leaves none to choose a threshold on; give two or more")
    thresholds, accuracies = [], []
    for name in names:
        judged = fold == name
        threshold = _best_threshold(d2[~judged], truth[~judged])
        thresholds.append(threshold)
        accuracies.append(float(((d2[judged] <= threshold) == truth[judged]).mean()))
    error = float(np.std(accuracies, ddof=1) / np.sqrt(len(names)))
    return Verification(float(np.mean(accuracies)), error, tuple(thresholds), tuple(accuracies))


def _best_threshold(d2: Doubles, same: Bools) -> float:
    """Return the threshold with most pairs right, smallest of the best, between two distances."""
    values = np.unique(d2)
    accepted_same = np.searchsorted(np.sort(d2[same]), values, side="right")
    accepted_other = np.searchsorted(np.sort(d2[~same]), values, side="right")
    # Refusing everything is a choice too: right for every pair of different people, for no other.
    right = np.concatenate([[0], accepted_same - accepted_other])
    best = int(np.argmax(right))
    if best == 0:
        return float(np.nextafter(values[0], -np.inf))
    if best == len(values):
        return float(values[-1])
    middle = (values[best - 1] + values[best]) / 2
    return float(middle) if middle < values[best] else float(values[best - 1])


def _header(name: str, line: str) -> tuple[int, int]:
    """Return the folds and the pairs of each kind in a fold, as the first line tells them."""
    fields = line.split()
    if len(fields) not in {1, 2} or not all(field.isdecimal() for field in fields):
        raise EvaluationError(
            f"{name} does not start with 'FOLDS<TAB>PAIRS' but with {line[:40]!r}; "
            "give a file in the format of LFW's pairs.txt"
        )
    numbers = [int(field) for field in fields]
    folds, each = (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
    if folds < 1 or each < 1:
        raise EvaluationError(f"{name} announces {folds} folds of {each} pairs; nothing to measure")
    return folds, each


def _pair(name: str, number: int, line: str, *, same: bool) -> tuple[ImageName, ImageName]:
    """Read one pair; `number` counts lines after the first."""
    fields = line.strip().split("\t") if "\t" in line else line.split()
    wanted = "NAME N1 N2" if same else "NAME1 N1 NAME2 N2"
    if len(fields) == (3 if same else 4):
        person, first, other, second = (
            (fields[0], fields[1], fields[0], fields[2]) if same else tuple(fields)
        )
        if first.isdecimal() and second.isdecimal():
            return ImageName(person, int(first)), ImageName(other, int(second))
    # The line itself is not quoted: it holds a person's name, and messages end up in logs.
    raise EvaluationError(f"{name}, line {number + 1}: expected {wanted!r} separated by tabs")
