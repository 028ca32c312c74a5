"""The bootstrap over identities against copying people by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import EvaluationError
from segue.evaluation.bootstrap import Curve, Estimate, Resamples, all_pairs
from segue.evaluation.roc import auc, val_at_far

FARS = (0.5, 0.2, 0.05)


def copied_pairs(scores, labels, drawn, *, directed):
    """Lay every drawn person's images out, copy by copy, and pair them one by one."""
    images = [
        (image, copy, person)
        for copy, person in enumerate(drawn)
        for image in np.flatnonzero(labels == person)
    ]
    genuine, impostor = [], []
    for i, copy_i, person_i in images:
        for j, copy_j, person_j in images:
            if i == j or (not directed and i > j):
                continue
            if copy_i == copy_j:
                genuine.append(scores[i, j])
            elif person_i != person_j:
                impostor.append(scores[i, j])
    return np.array(genuine), np.array(impostor)


@st.composite
def cases(draw):
    seed = draw(st.integers(0, 10_000))
    random = np.random.default_rng(seed)
    people = draw(st.integers(3, 6))
    counts = random.integers(1, 4, people)
    counts[:2] = 2
    labels = np.repeat(np.arange(people), counts)
    scores = random.integers(0, draw(st.sampled_from([6, 1000])), (len(labels),) * 2) / 8
    return scores, labels, seed, draw(st.booleans())


@given(cases())
@settings(max_examples=40, deadline=None)
def test_a_resample_is_what_copying_people_gives(case):
    """Weights give VAL and FAR of a gallery with copied people, no copy being an impostor."""
    scores, labels, seed, directed = case
    if not directed:
        scores = np.triu(scores, 1) + np.triu(scores, 1).T
    pairs = all_pairs(labels, directed=directed)
    curve = Curve(pairs, scores)
    resamples = Resamples.draw(np.bincount(labels), 10, seed)
    refused = curve.refused_in(resamples, FARS)
    for b in range(resamples.count):
        drawn = np.repeat(np.arange(labels.max() + 1), resamples.weights[:, b].astype(int))
        genuine, impostor = copied_pairs(scores, labels, drawn, directed=directed)
        assert curve.total(resamples)[b] == len(impostor)
        assert curve.far_below(resamples, 2.0)[b] == pytest.approx((impostor < 2.0).mean())
        for far, below in zip(FARS, refused, strict=True):
            val, _ = curve.val_below(resamples, below)
            assert val[b] == pytest.approx(val_at_far(genuine, impostor, far).val)


@given(cases())
@settings(max_examples=30, deadline=None)
def test_everybody_once_is_the_point_estimate(case):
    """Weights of one give the exact order statistic, and AUC that of the plain lists."""
    scores, labels, _, directed = case
    pairs = all_pairs(labels, directed=directed)
    curve = Curve(pairs, scores)
    once = Resamples.point(int(labels.max()) + 1)
    genuine, impostor = scores.ravel()[pairs.genuine], scores.ravel()[pairs.impostor]
    for far in FARS:
        refused = curve.refused_in(once, (far,))[0]
        assert refused[0] == curve.refused(far)
        assert curve.val_below(once, refused)[0][0] == val_at_far(genuine, impostor, far).val
    assert curve.auc == pytest.approx(auc(genuine, impostor))
    assert curve.auc_in(once) == pytest.approx(curve.auc)


def test_identity_averaged_val_gives_each_person_the_same_say():
    """One person with many accepted pairs does not outvote another with few refused ones."""
    labels = np.array([0, 0, 0, 1, 1])
    scores = np.full((5, 5), 2.0)
    scores[:3, :3] = 0.0
    curve = Curve(all_pairs(labels, directed=False), scores)
    val, averaged = curve.val_below(Resamples.point(2), np.array([1.0]))
    assert val[0] == pytest.approx(3 / 4)
    assert averaged[0] == pytest.approx(1 / 2)


def test_blocks_do_not_change_the_threshold():
    """More impostors than one block holds give the same thresholds as one sorted list."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(60), 3)
    scores = random.normal(size=(180, 180)).round(2)
    curve = Curve(all_pairs(labels, directed=True), scores)
    once = Resamples.point(60)
    assert len(curve.impostor) > 3 * 4096
    fars = (0.9, 0.5, 0.1, 0.01, 1e-3)
    assert curve.refused_in(once, fars)[:, 0].tolist() == [curve.refused(far) for far in fars]


def test_the_auc_of_a_resample_is_that_of_copied_people():
    """What is left out is of second order: far below what the draw of people moves."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 3)
    kind = random.normal(size=40)[labels] / 2
    scores = random.normal(size=(120, 120)) + kind[:, None] + kind
    scores += 1.5 * (labels[:, None] != labels)
    resamples = Resamples.draw(np.full(40, 3), 20, 1)
    for directed in (True, False):
        curve = Curve(all_pairs(labels, directed=directed), scores)
        exact = []
        for weights in resamples.weights.T:
            drawn = np.repeat(np.arange(40), weights.astype(int))
            exact.append(auc(*copied_pairs(scores, labels, drawn, directed=directed)))
        found = curve.auc_in(resamples)
        assert np.abs(found - exact).mean() < 0.15 * np.std(exact)
        assert np.std(found) == pytest.approx(np.std(exact), rel=0.1)
        assert curve.auc_in(Resamples.point(40)) == pytest.approx(curve.auc)


def test_a_fixed_seed_draws_the_same_people():
    """Resamples are a function of the seed; each draws as many people as there are."""
    images = np.array([2, 1, 3, 2])
    one, two = Resamples.draw(images, 12, 7), Resamples.draw(images, 12, 7)
    assert np.array_equal(one.weights, two.weights)
    assert (one.weights.sum(axis=0) == 4).all()
    assert not np.array_equal(one.weights, Resamples.draw(images, 12, 8).weights)


def test_a_resample_always_has_somebody_to_find():
    """Draws without a genuine pair, or of one person alone, are drawn again."""
    weights = Resamples.draw(np.array([2, 1, 1]), 200, 0).weights
    assert (weights[0] > 0).all()
    assert ((weights > 0).sum(axis=0) > 1).all()


def test_too_little_for_an_interval_is_refused():
    """A handful of resamples, or nobody with two images, gives an error."""
    with pytest.raises(EvaluationError, match="at least 10"):
        Resamples.draw(np.array([2, 2]), 5, 0)
    with pytest.raises(EvaluationError, match="too few people"):
        Resamples.draw(np.array([1, 1]), 20, 0)
    with pytest.raises(EvaluationError, match="two images"):
        all_pairs(np.array([0, 1, 2]), directed=False)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Over 60 draws of people, 95 % intervals of a weighted mean hold the true mean in most."""
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        skill = random.normal(0.5, 0.2, 80)
        values = np.repeat(skill, 3) + random.normal(0, 0.1, 240)
        people = np.repeat(np.arange(80), 3)
        resamples = Resamples.draw(np.full(80, 3), 100, seed)
        found = Estimate.of(values.mean(), resamples.mean_of(values, people))
        covered += found.low <= 0.5 <= found.high
    assert covered >= 51


def test_measurable_asks_for_pairs_of_people_too():
    """A hundred accepts that come from two people's images do not make a FAR measurable."""
    labels = np.repeat(np.arange(30), 15)
    random = np.random.default_rng(0)
    scores = random.uniform(2, 3, (450, 450))
    spread = Curve(all_pairs(labels, directed=False), scores)
    assert spread.measurable(0.002)
    scores[:15, 15:30] = 0.5
    assert not Curve(all_pairs(labels, directed=False), scores).measurable(0.002)


def test_accepts_tied_with_a_refused_impostor_are_not_counted():
    """A FAR that allows 141 accepts but meets a tie at the 61st accepts 60: not measurable."""
    labels = np.arange(450)
    scores = np.full((450, 450), 2.0)
    scores[0, 1:61] = 1.0
    spread = np.linspace(1.0, 1.5, 160)
    curve = Curve(all_pairs(np.repeat(np.arange(225), 2), directed=False), scores)
    assert not curve.measurable(0.002)
    assert not val_at_far([0.0], [*np.ones(60), *np.full(14_040, 2.0)], 0.01).measurable
    assert val_at_far([0.0], [*spread, *np.full(13_940, 2.0)], 0.01).measurable
    scores[0, :] = np.linspace(1.0, 1.5, 450)
    scores[labels, labels] = 2.0
    assert Curve(all_pairs(np.repeat(np.arange(225), 2), directed=False), scores).measurable(0.002)


@pytest.mark.parametrize("directed", [False, True])
def test_ties_are_weighed_once_however_far_one_looks(monkeypatch, directed):
    """With blocks and look-ups far smaller than the ties, each pair still weighs its own people."""
    monkeypatch.setattr("segue.evaluation.bootstrap._BLOCK", 64)
    monkeypatch.setattr("segue.evaluation.bootstrap._LOOKED_UP", 10)
    random = np.random.default_rng(5)
    labels = np.repeat(np.arange(30), 4)
    scores = random.integers(0, 5, (120, 120)) / 4
    pairs = all_pairs(labels, directed=directed)
    resamples = Resamples.draw(np.bincount(labels), 10, 0)
    curve = Curve(pairs, scores)
    flat = scores.reshape(-1)[pairs.impostor]
    weights = resamples.weights[pairs.left] * resamples.weights[pairs.right]
    for refused in (0.5, 1.25):
        expected = (weights * (flat < refused)[:, None]).sum(0) / weights.sum(0)
        first, second = (curve.far_below(resamples, refused) for _ in range(2))
        assert np.allclose(first, expected, rtol=1e-6)
        assert np.array_equal(first, second)
    fresh = Curve(pairs, scores)
    found = fresh.refused_in(resamples, (0.3, 0.6))
    order = np.argsort(flat, kind="stable")
    for b in range(resamples.count):
        total = np.cumsum(weights[order, b].astype(float))
        for row, far in enumerate((0.3, 0.6)):
            assert found[row, b] == flat[order][np.argmax(total > far * total[-1] * (1 + 1e-12))]
