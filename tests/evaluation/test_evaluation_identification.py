"""Rank-1 and mAP against plain loops and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from segue.errors import EvaluationError
from segue.evaluation.identification import identify, mean_average_precision, rank1


def by_loops(scores, probes, stored, *, same_images):
    """Rank-1 and average precision of each probe that has a mate, one by one."""
    hits, precisions = [], []
    for i, person in enumerate(probes):
        kept = [j for j in range(len(stored)) if not (same_images and i == j)]
        mates = [scores[i][j] for j in kept if stored[j] == person]
        others = [scores[i][j] for j in kept if stored[j] != person]
        if not mates:
            continue
        hits.append(min(mates) < min(others, default=np.inf))
        truth = [stored[j] == person for j in kept]
        precisions.append(average_precision_score(truth, [-scores[i][j] for j in kept]))
    return np.mean(hits), np.mean(precisions)


@st.composite
def searches(draw):
    count = draw(st.integers(2, 14))
    labels = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    labels[1] = labels[0]
    values = draw(st.lists(st.integers(0, 12), min_size=count * count, max_size=count * count))
    return np.array(values).reshape(count, count) / 4, labels


@given(searches())
@settings(max_examples=80, deadline=None)
def test_leave_one_out_is_the_loop(search):
    """Rank-1 and mAP of images searched among themselves equal the loop and scikit-learn."""
    scores, labels = search
    hits, precision = by_loops(scores, labels, labels, same_images=True)
    assert rank1(scores, labels, labels, same_images=True) == pytest.approx(hits)
    found = mean_average_precision(scores, labels, labels, same_images=True)
    assert found == pytest.approx(precision)


@given(searches())
@settings(max_examples=40, deadline=None)
def test_probes_against_other_images_is_the_loop(search):
    """Probes that are not stored themselves are compared with every stored image."""
    scores, labels = search
    stored = labels[::-1]
    hits, precision = by_loops(scores, labels, stored, same_images=False)
    found = identify(scores, labels, stored, same_images=False)
    assert found.hits.mean() == pytest.approx(hits)
    assert found.average_precision.mean() == pytest.approx(precision)


def test_a_model_that_maps_all_to_one_point_scores_nothing():
    """Ties count against rank-1."""
    labels = [0, 0, 1, 1]
    assert rank1(np.zeros((4, 4)), labels, labels, same_images=True) == 0


def test_people_with_one_image_are_no_probes_but_stand_in_the_way():
    """A single image is not counted as a probe, and takes another probe's first rank."""
    scores = np.array([[0, 2, 1], [2, 0, 3], [1, 3, 0]])
    found = identify(scores, ["a", "a", "b"], ["a", "a", "b"], same_images=True)
    assert found.probes.tolist() == [0, 1]
    assert found.hits.tolist() == [False, True]
    assert found.nearest_mate.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros(4), "as \\[N, M\\]"),
        (np.full((2, 2), np.nan), "NaN"),
        (np.zeros((2, 3)), "same images"),
        (np.zeros((2, 2)), "nothing to find"),
    ],
)
def test_scores_that_cannot_be_searched_are_refused(scores, message):
    """A wrong shape, NaN, or nobody with a mate gives an error that says which."""
    columns = scores.shape[-1]
    with pytest.raises(EvaluationError, match=message):
        identify(scores, [0, 1], list(range(columns)), same_images=True)
