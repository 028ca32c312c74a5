"""LFW's pairs.txt and ten-fold verification."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from segue.errors import EvaluationError, MissingPathError
from segue.evaluation.verification import ImageName, read_pairs, verify

DATA = Path(os.environ.get("SEGUE_DATA", Path(__file__).parents[3] / "shared" / "data"))

TWO_FOLDS = """2\t1
Ann_Lee\t1\t2
Ann_Lee\t1\tBob\t3
Cy\t4\t10
Cy\t4\tDee\t1
"""


def test_a_list_of_pairs_is_read_as_lfw_writes_it(tmp_path):
    """Same and different pairs alternate in blocks, fold by fold; images are listed once."""
    path = tmp_path / "pairs.txt"
    path.write_text(TWO_FOLDS)
    pairs = read_pairs(path)
    assert len(pairs) == 4
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [0, 0, 1, 1]
    assert pairs.left[2] == ImageName("Cy", 4)
    assert pairs.right[1] == ImageName("Bob", 3)
    left, right = pairs.rows()
    assert [pairs.images[row] for row in left] == list(pairs.left)
    assert [pairs.images[row] for row in right] == list(pairs.right)
    assert len(pairs.images) == 6
    assert ImageName("Cy", 4).path(Path("x")) == Path("x/Cy/Cy_0004.jpg")


def test_a_list_of_one_fold_has_one_number_in_its_head(tmp_path):
    """LFW's development lists tell only the pairs of each kind."""
    path = tmp_path / "pairsDevTest.txt"
    path.write_text("1\nAnn\t1\t2\nAnn\t1\tBob\t3\n")
    assert read_pairs(path).folds.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "does not start"),
        ("Ann\t1\t2\n", "does not start"),
        ("0\t3\n", "nothing to measure"),
        (TWO_FOLDS + "Cy\t1\t2\n", "announces"),
        ("1\nAnn\t1\t2\nAnn\t1\t2\n", "line 3"),
        ("1\nAnn\t1\tx\nAnn\t1\tBob\t3\n", "line 2"),
    ],
)
def test_another_format_is_refused_with_its_line(tmp_path, content, message):
    """A damaged list names the line, and never quotes a person's name."""
    path = tmp_path / "pairs.txt"
    path.write_text(content)
    with pytest.raises(EvaluationError, match=message):
        read_pairs(path)


def test_a_missing_list_is_said_so(tmp_path):
    """No file: an error with the path."""
    with pytest.raises(MissingPathError):
        read_pairs(tmp_path / "none.txt")


def test_a_binary_file_is_no_list(tmp_path):
    """Bytes that are no text are refused."""
    path = tmp_path / "pairs.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvaluationError, match="no text"):
        read_pairs(path)


def by_loops(distances, same, folds):
    """Try every midpoint on the other folds, judge the fold left out."""
    accuracies = []
    for fold in sorted(set(folds)):
        train = [(d, s) for d, s, f in zip(distances, same, folds, strict=True) if f != fold]
        test = [(d, s) for d, s, f in zip(distances, same, folds, strict=True) if f == fold]
        values = sorted({d for d, _ in train})
        middles = [(a + b) / 2 for a, b in itertools.pairwise(values)]
        candidates = [values[0] - 1, *middles, values[-1]]
        best = max(candidates, key=lambda t: sum((d <= t) == s for d, s in train))
        accuracies.append(sum((d <= best) == s for d, s in test) / len(test))
    return accuracies


def test_ten_folds_are_judged_by_the_nine_others():
    """Accuracy, its standard error and the folds equal the loop over thresholds."""
    random = np.random.default_rng(3)
    same = np.tile([True, False], 200)
    distances = random.normal(np.where(same, 1.0, 1.6), 0.3).clip(0, 4)
    folds = np.repeat(np.arange(10), 40)
    found = verify(distances, same, folds)
    expected = by_loops(distances.tolist(), same.tolist(), folds.tolist())
    assert found.folds == pytest.approx(expected)
    assert found.accuracy == pytest.approx(np.mean(expected))
    assert found.standard_error == pytest.approx(np.std(expected, ddof=1) / np.sqrt(10))
    assert len(found.thresholds) == 10
    assert all(1 < threshold < 1.6 for threshold in found.thresholds)


def test_pairs_that_are_all_different_are_all_refused():
    """Where refusing everything is best, the threshold lies below every distance."""
    found = verify([0.0, 1.0, 0.0, 1.0], [False] * 4, [0, 0, 1, 1])
    assert found.accuracy == 1


def test_pairs_that_are_all_the_same_are_all_accepted():
    """Where accepting everything is best, the largest distance is the threshold."""
    assert verify([0.0, 1.0, 0.0, 1.0], [True] * 4, [0, 0, 1, 1]).accuracy == 1


@pytest.mark.parametrize(
    ("distances", "same", "folds", "message"),
    [
        ([1.0, 2.0], [True], [0, 1], "must be"),
        ([1.0, float("nan")], [True, False], [0, 1], "NaN"),
        ([1.0, 2.0], [True, False], [0, 0], "one fold"),
    ],
)
def test_unusable_pairs_are_refused(distances, same, folds, message):
    """Shapes that do not fit, NaN and a single fold each give their sentence."""
    with pytest.raises(EvaluationError, match=message):
        verify(distances, same, folds)


@pytest.mark.lfw
def test_the_real_list_has_ten_folds_of_disjoint_people():
    """LFW's list reads whole, its images exist, and no person is in two folds."""
    if not (DATA / "lfw" / "pairs.txt").exists():
        pytest.skip("needs the real faces: set SEGUE_DATA")
    pairs = read_pairs(DATA / "lfw" / "pairs.txt")
    assert len(pairs) == 4800
    assert pairs.same.mean() == 0.5
    people = [set() for _ in range(10)]
    for left, right, fold in zip(pairs.left, pairs.right, pairs.folds, strict=True):
        people[fold] |= {left.person, right.person}
    assert sum(map(len, people)) == len(set().union(*people))
    assert all(image.path(DATA / "lfw" / "images").exists() for image in pairs.images)
