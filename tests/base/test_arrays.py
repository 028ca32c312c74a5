from __future__ import annotations

import numpy as np
import pytest

from segue.arrays import check_images, check_labels, check_vectors, normalise
from segue.errors import UnitLengthError, VectorError


def test_unit_vectors_pass_and_become_exactly_unit():
    """Vectors of nearly unit length are taken and normalised exactly."""
    vectors = np.random.default_rng(0).normal(size=(20, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) * (1 + 5e-4)
    checked = check_vectors(vectors, dimension=8)
    assert checked.dtype == np.float32
    assert np.abs(np.linalg.norm(checked, axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 0.0], "shape"),
        ([[1.0, 0.0, 0.0]], "dimension 3, the version has 2"),
        ([[np.nan, 1.0]], "NaN"),
        ([[np.inf, 1.0]], "NaN or infinity"),
        ([[1.0, 1.0]], "unit length"),
        ([["a", "b"]], "no array of numbers"),
    ],
)
def test_bad_vectors_are_refused_with_the_reason(value, message):
    """Wrong shape, dimension, NaN and length each raise their own sentence."""
    with pytest.raises(VectorError, match=message):
        check_vectors(value, dimension=2)


def test_vectors_of_another_length_are_told_without_a_command_s_options():
    """Only the command that has `--normalise` may speak of it."""
    with pytest.raises(UnitLengthError, match=r"off by up to 0.414\); .* length$") as caught:
        check_vectors([[1.0, 1.0]], name="old vectors")
    assert (caught.value.name, round(caught.value.off, 3)) == ("old vectors", 0.414)


def test_normalise_refuses_a_vector_without_direction():
    """A zero vector cannot be normalised and is refused instead of becoming NaN."""
    with pytest.raises(VectorError, match="length 0"):
        normalise([[0.0, 0.0]])


def test_labels_are_numbered_in_order_of_first_use():
    """Any hashable labels become numbers; one label a row is demanded."""
    assert check_labels(["x", "y", "x"], 3).tolist() == [0, 1, 0]
    with pytest.raises(VectorError, match="one for each"):
        check_labels([1, 2], 3)


def test_images_of_another_size_or_type_are_refused():
    """Images are uint8 of the model's input size."""
    images = np.zeros((2, 8, 8, 3), np.uint8)
    assert check_images(images, (8, 8)).shape == (2, 8, 8, 3)
    for wrong in (images.astype(np.float32), images[0], np.zeros((1, 8, 9, 3), np.uint8)):
        with pytest.raises(VectorError, match="give uint8"):
            check_images(wrong, (8, 8))
