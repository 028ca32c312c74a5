"""Identity-balanced batches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import PeopleError
from segue.train import PKSampler


@st.composite
def labelled(draw):
    """Labels of some people in any order, at least two of them with two images."""
    counts = draw(st.lists(st.integers(1, 6), min_size=2, max_size=12))
    counts[:2] = [max(count, 2) for count in counts[:2]]
    labels = np.repeat(np.arange(len(counts)) * 3, counts)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)


@settings(max_examples=80, deadline=None)
@given(labelled(), st.integers(2, 8), st.integers(2, 5), st.integers(0, 5), st.integers(0, 40))
def test_a_batch_is_balanced_and_repeats_no_image(labels, people, images, singles, step):
    """A batch holds up to K images of each of P people, S one-image people, and no image twice."""
    batch = PKSampler(labels, people, images, singles, seed=1).batch(step)
    owned, drawn = Counter(labels.tolist()), Counter(labels[batch].tolist())
    many = {person for person, count in owned.items() if count > 1}
    assert len(set(batch.tolist())) == len(batch)
    assert len(drawn.keys() & many) == min(people, len(many))
    assert len(drawn.keys() - many) == min(singles, len(owned) - len(many))
    for person, count in drawn.items():
        assert count == min(images, owned[person])


@settings(max_examples=40, deadline=None)
@given(labelled(), st.integers(0, 30), st.integers(0, 5))
def test_a_batch_is_a_function_of_seed_and_step(labels, step, seed):
    """A sampler made anew gives the same batch at the same step, whatever came before."""
    sampler = PKSampler(labels, 3, 2, 2, seed=seed)
    for earlier in range(3):
        sampler.batch(earlier)
    again = PKSampler(labels, 3, 2, 2, seed=seed).batch(step)
    np.testing.assert_array_equal(sampler.batch(step), again)


def test_every_person_has_a_turn_in_every_epoch():
    """Over one epoch every person with two images appears once, and each single image too."""
    labels = np.concatenate([np.repeat(np.arange(12), 3), np.arange(12, 20)])
    sampler = PKSampler(labels, 4, 2, 2, seed=3)
    assert sampler.steps_per_epoch == 3
    people = [labels[sampler.batch(step)[:8]] for step in range(3)]
    assert sorted(set(np.concatenate(people).tolist())) == list(range(12))
    singles = [labels[sampler.batch(step)[8:]] for step in range(4)]
    assert sorted(np.concatenate(singles).tolist()) == list(range(12, 20))


def test_epochs_and_seeds_differ():
    """Orders are drawn anew in every epoch and with every seed."""
    labels = np.repeat(np.arange(30), 2)
    first, other = PKSampler(labels, 30, 2, seed=1), PKSampler(labels, 30, 2, seed=2)
    orders = [labels[s.batch(step)].tolist() for s in (first, other) for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_every_image_of_a_person_is_drawn_in_time():
    """A person with more than K images gives other ones at other steps."""
    labels = np.repeat([0, 1], 9)
    sampler = PKSampler(labels, 2, 2, seed=0)
    drawn = np.concatenate([sampler.batch(step) for step in range(60)])
    assert set(drawn.tolist()) == set(range(18))


@pytest.mark.parametrize("labels", [[], [1, 2, 3], [1, 1, 2], [1, 1, 1]])
def test_fewer_than_two_people_with_two_images_are_refused(labels):
    """Nothing can be mined from one person, so the sampler says what is missing."""
    with pytest.raises(PeopleError, match="at least two such people"):
        PKSampler(np.array(labels, dtype=np.int64), 2, 2)
