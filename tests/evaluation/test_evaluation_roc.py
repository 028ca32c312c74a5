"""VAL at a FAR, ROC and AUC against plain loops and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from segue.errors import EvaluationError
from segue.evaluation.roc import auc, far_grid, roc_curve, val_at_far

# Eighths: many ties, and exact in binary, so that equality is meant exactly.
distances = st.lists(st.integers(0, 32).map(lambda x: x / 8), min_size=1, max_size=60)


def val_by_loops(genuine, impostor, far):
    """Try every threshold there is: FaceNet eq. 5-6 read aloud."""
    best = 0.0
    for threshold in sorted({-1.0, *genuine, *impostor}):
        accepted = sum(1 for d in impostor if d <= threshold)
        if accepted <= math.floor(round(far * len(impostor), 9)):
            best = max(best, sum(1 for d in genuine if d <= threshold) / len(genuine))
    return best


@given(distances, distances, st.sampled_from([0.01, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0]))
@settings(max_examples=150, deadline=None)
def test_val_is_what_trying_every_threshold_finds(genuine, impostor, far):
    """VAL at a FAR equals the best VAL over all thresholds that keep the FAR, ties included."""
    found = val_at_far(genuine, impostor, far)
    assert found.val == val_by_loops(genuine, impostor, far)
    assert found.accepts == sum(1 for d in impostor if d <= found.threshold)
    assert found.realised_far == found.accepts / len(impostor) <= far + 1e-12


@given(distances, distances)
@settings(max_examples=60, deadline=None)
def test_val_never_falls_with_far(genuine, impostor):
    """A larger FAR never lowers VAL."""
    values = [val_at_far(genuine, impostor, far).val for far in (0.01, 0.1, 0.3, 0.6, 1)]
    assert values == sorted(values)


def test_the_threshold_is_the_largest_that_keeps_the_far():
    """One representable step above the threshold lets one impostor too many in."""
    impostor = np.random.default_rng(0).uniform(1, 3, 1000)
    found = val_at_far([1.0], impostor, 0.05)
    assert (impostor <= found.threshold).sum() == 50
    assert (impostor <= np.nextafter(found.threshold, 9)).sum() == 51


def test_no_value_is_interpolated():
    """Between two order statistics VAL stays what the lower one gives."""
    genuine, impostor = [0.5, 1.5, 2.5, 3.5], [1.0, 2.0, 3.0, 4.0]
    values = [val_at_far(genuine, impostor, far).val for far in (0.24, 0.25, 0.49, 0.5)]
    assert values == [0.25, 0.5, 0.5, 0.75]


def test_a_far_just_under_a_whole_number_is_not_rounded_away():
    """0.29 x 100 is 28.999… in binary; 29 impostors are allowed."""
    assert val_at_far([0.0], np.arange(100) / 100, 0.29).accepts == 29


def test_measurable_needs_a_hundred_accepts_from_fifty_pairs_of_people():
    """A FAR without 100 accepts, or with accepts of few people, is said to be not measurable."""
    impostor = np.linspace(1, 2, 100_000)
    few, many = np.zeros(100_000, dtype=int), np.arange(100_000) % 50
    assert val_at_far([1.0], impostor, 1e-3).measurable
    assert not val_at_far([1.0], impostor[1:], 1e-3).measurable
    assert val_at_far([1.0], impostor, 1e-3, people_pairs=many).measurable
    assert not val_at_far([1.0], impostor, 1e-3, people_pairs=few).measurable
    assert not val_at_far([1.0], impostor, 1e-3, people_pairs=many % 49).measurable


def test_all_impostors_equal_accept_none_below_far_one():
    """Impostors tied together come in together: below FAR 1 none of them may."""
    assert val_at_far([0.5, 1.0], [1.0, 1.0, 1.0], 0.9).val == 0.5
    assert val_at_far([0.5, 1.0], [1.0, 1.0, 1.0], 1.0).val == 1.0


@pytest.mark.parametrize("far", [0, -0.1, 1.5, float("nan")])
def test_no_rate_is_refused(far):
    """A FAR outside (0, 1] is refused with what to give instead."""
    with pytest.raises(EvaluationError, match="no false accept rate"):
        val_at_far([1.0], [1.0], far)


@pytest.mark.parametrize("genuine", [[], [float("nan")], [[1.0]]])
def test_unusable_distances_are_refused(genuine):
    """Empty, NaN or matrix-shaped distances are refused."""
    with pytest.raises(EvaluationError):
        val_at_far(genuine, [1.0], 0.1)


def test_people_pairs_must_fit_the_impostors():
    """One pair of people for each impostor, or an error."""
    with pytest.raises(EvaluationError, match="one pair of people"):
        val_at_far([1.0], np.ones(200), 1.0, people_pairs=[1])


@given(distances, distances)
@settings(max_examples=80, deadline=None)
def test_roc_and_auc_are_scikit_learns(genuine, impostor):
    """ROC points and AUC equal scikit-learn's, ties included."""
    truth = [1] * len(genuine) + [0] * len(impostor)
    scores = -np.array(genuine + impostor)
    far, val, thresholds = sklearn_roc_curve(truth, scores, drop_intermediate=False)
    found = roc_curve(genuine, impostor)
    np.testing.assert_allclose(found.far, far[1:], atol=1e-12)
    np.testing.assert_allclose(found.val, val[1:], atol=1e-12)
    np.testing.assert_allclose(found.thresholds, -thresholds[1:])
    assert auc(genuine, impostor) == pytest.approx(roc_auc_score(truth, scores))


def test_the_grid_shares_its_steps_between_runs():
    """A curve's FARs are powers of a tenth of a decade, whatever its end."""
    assert far_grid(1e-3)[20] == pytest.approx(1e-2)
    assert len(far_grid(1e-3)) == 31
    assert far_grid(1e-5)[: len(far_grid(1e-3))] == far_grid(1e-3)
