from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.errors import InvalidNameError, UsageError
from segue.types import LARGEST_SIDE, Preprocessing, VersionId, check_name, check_seed, check_side


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    st.integers(1, 10**8),
    st.none() | st.integers(1, 1000),
)
def test_version_id_is_read_as_it_was_written(name, number, bridge):
    """A version id survives being written and read, mapped ones included."""
    version = VersionId(name, number, bridge)
    assert VersionId.parse(str(version)) == version


@pytest.mark.parametrize(
    "text", ["faces", "faces/0", "faces/", "/1", "a b/1", "faces/1~b", "../x/1"]
)
def test_what_is_no_version_is_refused(text):
    """Text that is no NAME/NUMBER raises with the form to write."""
    with pytest.raises(InvalidNameError, match="is no version"):
        VersionId.parse(text)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "x" * 65, "é", "-x", "..", "a\n"])
def test_names_that_could_leave_a_folder_are_refused(name):
    """A name never holds a separator, a space or a leading dot."""
    with pytest.raises(InvalidNameError):
        check_name(name)


def test_seeds_are_what_every_generator_takes():
    """Whole numbers from 0; what numpy or torch would refuse is refused first, by one sentence."""
    for seed in (0, 7, 2**63 - 1):
        assert check_seed(seed) == seed
        np.random.default_rng(seed)
    for wrong in (-1, 2**63, 0.5, "1", None):
        with pytest.raises(UsageError, match=r"seed .* give a whole number"):
            check_seed(wrong)


def test_sides_of_images_are_bounded():
    """A size that fills the memory is refused, naming what it is of."""
    assert [check_side("height", side) for side in (1, LARGEST_SIDE)] == [1, LARGEST_SIDE]
    for wrong in (0, LARGEST_SIDE + 1, 64.0, None):
        with pytest.raises(UsageError, match=r"height .* from 1 to 1024"):
            check_side("height", wrong)


def test_preprocessing_survives_json():
    """Preprocessing read back from its JSON equals itself."""
    value = Preprocessing(112, 96, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3), "BGR")
    assert Preprocessing.from_json(value.to_json()) == value
