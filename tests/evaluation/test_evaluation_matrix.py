"""A chain of versions: every ordered pair measured, what cannot be compared marked."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from segue.errors import EvaluationError, FormatError, UnknownNameError, VectorError
from segue.evaluation import (
    Estimate,
    VersionMatrix,
    measure_matrix,
    render_matrix,
    write_matrix,
)
from segue.evaluation.identification import rank1
from segue.evaluation.matrix import comparable_outputs
from segue.evaluation.matrix_report import matrix_lines, plot_matrix
from segue.evaluation.roc import val_at_far
from segue.harmonic.distances import squared_distances

FARS = (0.1, 1e-4)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_chain(seed=0, people=30, images=4):
    """v1, a v2 with a head of v1's dimension, and a v3 whose head is of v2's: three spaces."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), images)
    centres = random.normal(size=(people, 8))[labels]

    def seen(noise, dimension, lift):
        space = np.linalg.qr(np.random.default_rng(lift).normal(size=(dimension, 8)))[0].T
        return unit((centres + noise * random.normal(size=centres.shape)) @ space)

    return labels, {
        "faces/1": seen(1.0, 8, 1),
        "faces/2": {"embedding": seen(0.6, 12, 2), "compatible": seen(0.7, 8, 1)},
        "faces/3": {"embedding": seen(0.3, 16, 3), "compatible": seen(0.4, 12, 2)},
    }


@pytest.fixture(scope="module")
def chain():
    return make_chain()


@pytest.fixture(scope="module")
def matrix(chain):
    labels, vectors = chain
    return measure_matrix(vectors, labels, fars=FARS, bootstrap=20)


def test_every_cell_is_the_loop_over_its_pairs(chain, matrix):
    """VAL and rank-1 of an edge are those of its own outputs' distances, nobody's inferred."""
    labels, vectors = chain
    two, three = vectors["faces/2"], vectors["faces/3"]
    compared = {
        ("faces/1", "faces/1"): (vectors["faces/1"], vectors["faces/1"]),
        ("faces/1", "faces/2"): (vectors["faces/1"], two["compatible"]),
        ("faces/2", "faces/1"): (two["compatible"], vectors["faces/1"]),
        ("faces/2", "faces/2"): (two["embedding"], two["embedding"]),
        ("faces/2", "faces/3"): (two["embedding"], three["compatible"]),
        ("faces/3", "faces/2"): (three["compatible"], two["embedding"]),
        ("faces/3", "faces/3"): (three["embedding"], three["embedding"]),
    }
    assert {(c.probe, c.stored) for c in matrix.cells if c.comparable} == set(compared)
    others = ~np.eye(len(labels), dtype=bool)
    same = labels[:, None] == labels
    for edge, (probe, stored) in compared.items():
        distances = squared_distances(probe, stored)
        expected = val_at_far(distances[others & same], distances[~same], 0.1)
        cell = matrix.cell(*edge)
        assert cell.val[0].value == pytest.approx(expected.val)
        assert cell.val[0].low <= cell.val[0].value <= cell.val[0].high
        assert cell.rank1.value == rank1(distances, labels, labels, same_images=True)


def test_what_cannot_be_compared_is_marked(matrix):
    """v3 has no output of v1's dimension: the cell says so and holds nothing."""
    for edge in (("faces/1", "faces/3"), ("faces/3", "faces/1")):
        cell = matrix.cell(*edge)
        assert not cell.comparable
        assert (cell.val, cell.rank1, cell.auc) == ((None, None), None, None)


def test_what_the_people_cannot_measure_is_none(matrix):
    """Without 100 accepts there is no VAL in any cell, and rank-1 all the same."""
    for cell in matrix.cells:
        assert cell.val[1] is None
        assert cell.val_against_stored[1] is None


def test_probes_are_held_against_the_stored_version_itself(matrix):
    """The criterion M(new, old) > M(old, old), paired; nothing differs from itself."""
    cross, own = matrix.cell("faces/2", "faces/1"), matrix.cell("faces/1", "faces/1")
    difference = cross.rank1.value - own.rank1.value
    assert cross.rank1_against_stored.value == pytest.approx(difference)
    assert own.val_against_stored[0] == Estimate(0, 0, 0)
    assert cross.val_against_stored[0].value == pytest.approx(cross.val[0].value - own.val[0].value)


def test_a_bridge_makes_an_edge_comparable(chain):
    """Mapped probes are compared in place of the version's own, and the cell says so."""
    labels, vectors = chain
    edge = ("faces/3", "faces/1")
    settings = {"fars": FARS, "bootstrap": 10, "outputs": {edge: ("embedding", "embedding")}}
    mapped = {edge: vectors["faces/2"]["compatible"]}
    matrix = measure_matrix(vectors, labels, mapped=mapped, **settings)
    found, same = matrix.cell(*edge), matrix.cell("faces/2", "faces/1")
    assert found.bridged
    assert (found.val, found.rank1) == (same.val, same.rank1)


def test_two_versions_can_be_told_which_outputs_to_compare(chain):
    """An edge that names its outputs is measured by them."""
    labels, vectors = chain
    given = {"a": vectors["faces/1"], "b": {"embedding": vectors["faces/1"], **vectors["faces/2"]}}
    given["b"]["embedding"] = vectors["faces/1"]
    first = measure_matrix(given, labels, fars=FARS, bootstrap=10)
    assert first.cell("b", "a").outputs == ("compatible", "embedding")
    told = {("b", "a"): ("embedding", "embedding")}
    other = measure_matrix(given, labels, outputs=told, fars=FARS, bootstrap=10)
    assert other.cell("b", "a").rank1.value != first.cell("b", "a").rank1.value
    with pytest.raises(UnknownNameError, match="compatible"):
        measure_matrix(given, labels, outputs={("b", "a"): ("head", "embedding")}, bootstrap=10)


def test_a_compatible_head_is_preferred():
    """Two heads of one dimension, a head and an own output, two own outputs, nothing."""
    assert comparable_outputs({"embedding": 4, "compatible": 2}, {"embedding": 4}) == (
        "embedding",
        "embedding",
    )
    assert comparable_outputs({"embedding": 2, "compatible": 2}, {"embedding": 2}) == (
        "compatible",
        "embedding",
    )
    assert comparable_outputs({"embedding": 4}, {"embedding": 3}) is None


def test_the_matrix_travels_as_json(matrix):
    """What is read back equals what was written; other formats and damage are told apart."""
    value = json.loads(json.dumps(matrix.to_json(), allow_nan=False))
    assert VersionMatrix.from_json(value) == matrix
    with pytest.raises(FormatError):
        VersionMatrix.from_json({**value, "format": 2})
    with pytest.raises(EvaluationError, match="damaged"):
        VersionMatrix.from_json({**value, "cells": [{}]})


def test_the_matrix_is_written_for_people(matrix, tmp_path):
    """A table and a map for each measure; what was not measured is said, not left out."""
    paths = write_matrix(tmp_path, matrix, title="A chain", note="drawn")
    assert sorted(path.name for path in paths) == ["matrix.json", "matrix.md", "matrix.png"]
    text = render_matrix(matrix, title="A chain", note="drawn")
    assert text.startswith("# A chain\n\ndrawn\n")
    head = "| probe \\ stored | faces/1 | faces/2 | faces/3 |"
    assert text.count(head) == 3
    assert text.count("| not comparable |") == 2 * 3
    assert text.count("not measurable") == 7 + 1
    assert "faces/3 `compatible` → faces/2 `embedding`" in text
    with Image.open(tmp_path / "matrix.png") as picture:
        assert picture.width >= 1200
    lines = matrix_lines(matrix)
    assert len(lines) == 1 + 3 * 5
    assert len({len(line) for line in lines[2:6]}) == 1


@pytest.mark.parametrize("names", [["faces/1", "faces/2"], [f"arcface-r100/{n}~b1" for n in "123"]])
def test_the_picture_cuts_nothing_off(names):
    """Short names and long ones: no ink lies on the picture's rim, where it would be cut."""
    labels, vectors = make_chain(people=20)
    given = dict(zip(names, vectors.values(), strict=False))
    matrix = measure_matrix(given, labels, fars=(0.1, 0.05), bootstrap=10)
    drawn = plot_matrix(matrix, title="A chain", note="drawn")
    with Image.open(io.BytesIO(drawn)) as picture:
        pixels = np.asarray(picture.convert("L"))
    rim = np.concatenate([pixels[:4].ravel(), pixels[-4:].ravel(), pixels[:, :4].ravel()])
    assert rim.min() == 255
    assert pixels[:, -4:].min() == 255


def test_wrong_input_is_told(chain, matrix):
    """One version, no FAR, other rows, no own output, and unknown versions are refused."""
    labels, vectors = chain
    with pytest.raises(EvaluationError, match="two versions"):
        measure_matrix({"faces/1": vectors["faces/1"]}, labels)
    with pytest.raises(EvaluationError, match="at least one FAR"):
        measure_matrix(vectors, labels, fars=[])
    with pytest.raises(VectorError, match="faces/2 has 119 rows"):
        measure_matrix({**vectors, "faces/2": vectors["faces/1"][1:]}, labels)
    with pytest.raises(VectorError, match="own output"):
        measure_matrix({**vectors, "faces/2": {"head": vectors["faces/1"]}}, labels)
    with pytest.raises(UnknownNameError, match="faces/1, faces/2, faces/3"):
        matrix.cell("faces/9", "faces/1")


def test_of_a_person_ten_images_count():
    """More images of a person would let a few people decide."""
    labels, vectors = make_chain(people=12, images=13)
    matrix = measure_matrix(vectors, labels, fars=FARS, bootstrap=10)
    assert (matrix.people, matrix.images) == (12, 120)
