import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import EvaluationError, FormatError, UnsupportedFarError, UsageError, VectorError
from segue.harmonic.calibration import (
    ACCEPTS_NEEDED,
    KNOTS,
    Calibration,
    calibrate,
    count_people_pairs,
    impostor_distances,
)


def fitted(sample, people_pairs=4950, people=100):
    return Calibration.fit(sample, people_pairs=people_pairs, people=people)


@st.composite
def samples(draw):
    """Impostor distances of many shapes: few, many, tied, with zeros, gaps, one value only."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(10, 3000))
    shape = draw(st.sampled_from(["normal", "tied", "one", "gap", "zeros", "high", "edge", "tiny"]))
    values = {
        "normal": lambda: rng.normal(2, 0.3, size),
        "tied": lambda: rng.choice([0.9, 1.1, 1.3, 2.0], size),
        "one": lambda: np.full(size, rng.uniform(0, 4)),
        "gap": lambda: np.where(rng.random(size) < 0.5, 1e-30, 3.9),
        "zeros": lambda: np.where(rng.random(size) < 0.3, 0.0, rng.normal(2, 0.3, size)),
        "high": lambda: rng.uniform(3.99, 4, size),
        "edge": lambda: np.where(rng.random(size) < 0.5, 0.0, 4.0),
        "tiny": lambda: rng.uniform(0, 1e-12, size),
    }[shape]()
    return np.clip(values, 0, 4)


float32s = st.floats(0, 4, width=32)


@settings(max_examples=150, deadline=None)
@given(samples(), st.lists(float32s, min_size=2, max_size=50), st.integers(1, 5000))
def test_the_score_is_strictly_increasing_on_the_grid_of_float32(sample, drawn, people_pairs):
    """Any two different float32 distances in [0, 4] have different finite scores, in order."""
    calibration = fitted(sample, people_pairs=people_pairs)
    near = np.array([*drawn, *calibration.distances[::40], *np.linspace(0, 4, 20)], np.float32)
    beside = np.concatenate([np.nextafter(near, np.float32(x)) for x in (0, 4)])
    ladder = np.unique(np.concatenate([near, beside, np.float32([0, 1e-45, 4])]))
    scores = calibration.log10_far(ladder)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 0).all()
    assert scores[-1] == 0
    far = calibration.far(ladder)
    assert (far > 0).all()
    assert (far <= 1).all()
    assert (np.diff(far) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(samples(), st.floats(0, 4), st.floats(1e-9, 1))
def test_the_score_is_strictly_increasing_in_float64(sample, low, apart):
    """Two float64 distances more than one part in 10^9 apart have different scores."""
    calibration = fitted(sample)
    high = min(4.0, low * (1 + 2 * apart) if low else apart * 1e-300)
    if high > low * (1 + 1e-9):
        assert calibration.log10_far(low) < calibration.log10_far(high)


def test_matches_below_every_impostor_keep_their_order():
    """A strong model's matches, all below the smallest impostor, rank as by distance."""
    rng = np.random.default_rng(1)
    calibration = fitted(rng.normal(1.9, 0.1, 200_000).clip(1.2, 4))
    matches = np.sort(rng.uniform(0, 1.0, 5000))
    assert (np.diff(calibration.log10_far(matches)) > 0).all()
    assert calibration.extrapolated(matches).all()
    assert np.isfinite(calibration.log10_far(0.0))


def test_inside_the_data_the_far_is_the_counted_one():
    """Above the tail the map agrees with counting impostors at or below a distance within 1 %."""
    sample = np.random.default_rng(2).beta(20, 20, 100_000) * 4
    calibration = fitted(sample, people_pairs=100_000)
    for far in (1e-3, 3e-3, 1e-2, 1e-1, 0.5, 0.99):
        distance = calibration.distance_at(far)
        assert not calibration.extrapolated(distance)
        assert (sample <= distance).mean() == pytest.approx(far, rel=0.01)


def test_knots_are_exact_order_statistics():
    """At each kept knot the FAR is exactly (pairs at or below it) / (pairs + 1)."""
    sample = np.random.default_rng(3).choice(np.linspace(0.5, 3.5, 700), 20_000)
    calibration = fitted(sample)
    for distance in calibration.distances[:-1]:
        counted = (sample <= distance).sum() / (len(sample) + 1)
        assert calibration.far(distance) == pytest.approx(counted, rel=1e-12)
    assert len(calibration.distances) <= KNOTS


def test_the_tail_recovers_a_power_law():
    """Where FAR falls as distance^5 (10 dimensions), the tail goes on near that power."""
    sample = 2 * np.random.default_rng(4).random(200_000) ** (1 / 5)
    calibration = fitted(sample, people_pairs=5000)
    for far in (1e-4, 1e-6, 1e-8):
        true = 2 * far ** (1 / 5)
        assert calibration.extrapolated(true)
        assert calibration.log10_far(true) == pytest.approx(np.log10(far), rel=0.1)


def test_the_tail_of_held_out_impostors_is_calibrated():
    """A tail fitted on people that support FAR 1e-2 is within a factor of 1.5 at 1e-3 and 1e-4."""
    rng = np.random.default_rng(5)
    rank = rng.normal(size=(2, 400_000, 1)).squeeze(2)
    sample, other = 2 - 0.35 * rank  # Gaussian cosines, as of high-dimensional embeddings
    calibration = fitted(sample)
    for far in (1e-3, 1e-4):
        realised = (other <= calibration.distance_at(far)).mean()
        assert far / 1.5 < realised < far * 1.5


@settings(max_examples=100, deadline=None)
@given(samples(), st.floats(-40, 0))
def test_distance_at_undoes_far(sample, score):
    """`distance_at` finds the distance of any FAR that the map takes, in the tail too."""
    calibration = fitted(sample)
    far = 10.0**score
    if score < calibration.log10_far(0.0) - 1e-6:
        with pytest.raises(UnsupportedFarError):
            calibration.distance_at(far)
        return
    distance = calibration.distance_at(far)
    assert 0 <= distance <= 4
    # Exact to the spacing of floats: at a tie the map is steep, and one float is a step of it.
    below, above = (np.nextafter(distance, end) for end in (0.0, 4.0))
    assert calibration.log10_far(below) - 1e-9 <= np.log10(far)
    assert np.log10(far) <= calibration.log10_far(above) + 1e-9


@settings(max_examples=60, deadline=None)
@given(samples(), st.floats(0, 4))
def test_far_undoes_distance_at(sample, distance):
    """A distance translated to its FAR and back is the same distance."""
    calibration = fitted(sample)
    score = float(calibration.log10_far(distance))
    if score > -300:
        back = calibration.distance_at(float(calibration.far(distance)))
        assert calibration.log10_far(back) == pytest.approx(score, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(samples())
def test_json_keeps_every_score(sample):
    """A calibration read back from JSON text equals the one written and scores the same."""
    calibration = fitted(sample)
    back = Calibration.from_json(json.loads(json.dumps(calibration.to_json(), allow_nan=False)))
    assert back == calibration
    assert hash(back) == hash(calibration)
    grid = np.linspace(0, 4, 101)
    assert np.array_equal(back.log10_far(grid), calibration.log10_far(grid))
    assert calibration.shape >= 0
    assert calibration.scale > 0


def test_the_order_of_the_sample_does_not_matter():
    """The same distances in another order give the same calibration."""
    sample = np.random.default_rng(6).normal(2, 0.3, 5000)
    assert fitted(sample) == fitted(sample[::-1])


def test_smallest_far_needs_accepts_and_people():
    """It rests on 100 accepts and on 50 pairs of people, whichever asks for more."""
    sample = np.random.default_rng(7).normal(2, 0.3, 10_000)
    assert fitted(sample, people_pairs=10_000).smallest_far == ACCEPTS_NEEDED / 10_000
    assert fitted(sample, people_pairs=500).smallest_far == 0.1
    assert fitted(sample, people_pairs=3).smallest_far == 1
    assert fitted(sample, people_pairs=3).supports(1)
    assert not fitted(sample, people_pairs=3).supports(0.9)
    calibration = fitted(sample, people_pairs=500)
    assert not calibration.extrapolated(calibration.distance_at(0.101))
    assert calibration.extrapolated(calibration.distance_at(0.099))


def fewest_accepts(sample, behind, copies):
    """The smallest number of nearest pairs, ties together, that is enough; all if none is."""
    order = sorted(range(len(sample)), key=lambda i: sample[i])
    for rank in range(1, len(order) + 1):
        tied = rank < len(order) and sample[order[rank]] == sample[order[rank - 1]]
        people = {behind[i] for i in order[:rank]}
        if not tied and rank >= 100 * copies and len(people) >= 50:
            return rank
    return len(order)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 2), st.sampled_from([1, 2, 6]), st.integers(30, 400))
def test_accepts_hold_enough_people(seed, copies, digits, pairs):
    """The accepts of the smallest supported FAR hold 100 pairs of images of 50 pairs of people."""
    rng = np.random.default_rng(seed)
    behind = rng.geometric(1 / pairs, 900)  # some pairs of people have many images
    sample = np.clip(2 + 0.001 * behind + rng.normal(0, 0.2, 900), 0, 4).round(digits)
    calibration = Calibration.fit(
        sample, people_pairs=10**6, people=2000, behind=behind, copies=copies
    )
    assert calibration.accepts_needed == fewest_accepts(sample, behind, copies)
    assert calibration.smallest_far == calibration.accepts_needed / 900


def test_look_alikes_support_no_far():
    """Three pairs of people with a hundred near images each say nothing of a small FAR."""
    rng = np.random.default_rng(0)
    near, far = rng.uniform(0.2, 0.4, 300), rng.uniform(1.5, 2.5, 99_700)
    behind = np.concatenate([np.repeat([0, 1, 2], 100), np.arange(3, 99_703)])
    sample = np.concatenate([near, far])
    blind = Calibration.fit(sample, people_pairs=99_703, people=450)
    assert blind.supports(0.0011)
    seeing = Calibration.fit(sample, people_pairs=99_703, people=450, behind=behind)
    assert seeing.accepts_needed == 347
    assert not seeing.supports(0.0034)
    assert seeing.supports(0.0035)
    assert np.array_equal(seeing.log10_far(sample), blind.log10_far(sample))


def test_one_pair_of_people_for_each_distance():
    """Another number of pairs of people than of distances is refused."""
    with pytest.raises(EvaluationError, match="one pair of people"):
        Calibration.fit(np.ones(200), people_pairs=10, people=5, behind=[1, 2])


def test_both_directions_of_a_pair_count_once():
    """Between two versions (i, j) and (j, i) are one pair of images: 200 accepts are needed."""
    rng = np.random.default_rng(1)
    a, b, labels = unit(rng, 60, 8), unit(rng, 60, 8), np.arange(60)
    assert calibrate(a, labels, a, labels, same_images=True).accepts_needed == 100
    assert calibrate(a, labels, b, labels, same_images=True).accepts_needed == 200
    assert calibrate(a, labels, b, labels, same_images=False).accepts_needed == 100


def test_the_first_format_is_read():
    """What was written before `accepts_needed` needs 100 accepts, as it did."""
    written = fitted(np.random.default_rng(2).normal(2, 0.3, 1000)).to_json()
    del written["accepts_needed"]
    assert Calibration.from_json({**written, "format": 1}).accepts_needed == 100
    with pytest.raises(EvaluationError, match="damaged"):
        Calibration.from_json(written)


@pytest.mark.parametrize(
    ("sample", "people"),
    [([], 10), (np.ones(9), 10), (np.ones(100), 1)],
)
def test_too_little_data_is_refused(sample, people):
    """Too few impostor pairs or people raise an error that says what is needed."""
    with pytest.raises(EvaluationError, match="at least 10 pairs"):
        Calibration.fit(sample, people_pairs=1, people=people)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 4.1])
def test_what_is_no_distance_is_refused(bad):
    """NaN and values outside [0, 4] are no squared distances of unit vectors."""
    with pytest.raises(EvaluationError, match="squared L2"):
        fitted([*np.ones(20), bad])


@pytest.mark.parametrize("far", [0, -1, 1.1, float("nan")])
def test_what_is_no_far_is_refused(far):
    """`distance_at` takes only FARs above 0 and at most 1."""
    with pytest.raises(UsageError, match="false accept rate"):
        fitted(np.random.default_rng(8).normal(2, 0.3, 500)).distance_at(far)


def test_another_format_and_damage_are_refused():
    """JSON of another format or with damaged knots is not read."""
    written = fitted(np.random.default_rng(9).normal(2, 0.3, 500)).to_json()
    with pytest.raises(FormatError):
        Calibration.from_json({**written, "format": 3})
    with pytest.raises(FormatError):
        Calibration.from_json({})
    for damage in (
        {"distances": written["distances"][::-1]},
        {"ranks": written["ranks"][:-1]},
        {"tail": {"shape": -0.1, "scale": 1.0}},
        {"tail": {"shape": 0.1}},
        {"impostors": "many"},
        {"distances": [float("nan")] * len(written["ranks"])},
        {"distances": [], "ranks": []},
        {"distances": "0123"},
        {"tail": [0.1, 1.0]},
        {"tail": {"shape": True, "scale": 1.0}},
        {"people": -1},
        {"people": 1},
        {"people_pairs": 0},
        {"accepts_needed": 0},
        {"impostors": 0, "distances": [4.0], "ranks": [1]},
        {"ranks": [*written["ranks"][:-2], 10**30, 10**31], "impostors": 10**31 - 1},
    ):
        with pytest.raises(EvaluationError, match="damaged"):
            Calibration.from_json({**written, **damage})


@pytest.mark.parametrize("name", ["impostors", "people", "people_pairs", "accepts_needed", "ranks"])
@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), 2.5, "3", None, True, [1], 10**400])
def test_a_count_that_is_none_is_damage(name, wrong):
    """Infinity, fractions, text and numbers beyond every sample are told as damage."""
    written = fitted(np.random.default_rng(9).normal(2, 0.3, 500)).to_json()
    damaged = [wrong, *written["ranks"][1:]] if name == "ranks" else wrong
    with pytest.raises(EvaluationError, match=r"damaged .*measure the edge again"):
        Calibration.from_json({**written, name: damaged})


@pytest.mark.parametrize("wrong", [[], "text", 3, None])
def test_what_is_no_json_object_is_damage(wrong):
    """A stored calibration that is another value says so."""
    with pytest.raises(EvaluationError, match="damaged"):
        Calibration.from_json(wrong)


@settings(max_examples=60, deadline=None)
@given(samples(), st.integers(1, 5000), st.floats(-4, 0))
def test_what_the_data_supports_is_mostly_read_off_the_data(sample, people_pairs, exponent):
    """A supported FAR accepts 100 pairs of 50 pairs of people, and 1 is always supported."""
    calibration = fitted(sample, people_pairs=people_pairs)
    far = 10.0**exponent
    values = np.sort(np.clip(sample, 0, 4))
    accepts = max(
        (int((values <= d).sum()) for d in values if (values <= d).sum() <= far * len(values)),
        default=0,
    )
    enough = accepts >= 100 and far * people_pairs >= 50 * (1 - 1e-9)
    assert calibration.supports(far) == (enough or far == 1)
    assert calibration.supports(1)


# --- pairs ------------------------------------------------------------------------------------


def unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def looped(a, labels_a, b, labels_b, *, once):
    return sorted(
        float(np.square(a[i].astype(float) - b[j]).sum())
        for i in range(len(a))
        for j in range(i + 1 if once else 0, len(b))
        if labels_a[i] != labels_b[j]
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_impostor_pairs_are_those_of_the_loops(seed, same_images):
    """All pairs of different people, each once when both sides are one version's same images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 20)
    a = unit(rng, 20, 5)
    found = np.sort(impostor_distances(a, labels, a, labels, same_images=same_images))
    assert np.allclose(found, looped(a, labels, a, labels, once=same_images), atol=1e-5)
    b, labels_b = unit(rng, 20, 5), labels if same_images else rng.integers(0, 4, 20)
    found = np.sort(impostor_distances(a, labels, b, labels_b, same_images=same_images))
    assert np.allclose(found, looped(a, labels, b, labels_b, once=False), atol=1e-5)
    assert found.dtype == np.float64


def test_names_mean_the_same_person_on_both_sides():
    """Text labels are matched by name between the sides, whatever their order."""
    vectors = np.eye(2, dtype=np.float32)
    found = impostor_distances(vectors, ["ann", "bob"], vectors, ["bob", "ann"], same_images=False)
    assert found.tolist() == [0, 0]


def test_many_rows_are_counted_in_blocks(monkeypatch):
    """The pairs do not depend on how many rows are held at a time."""
    rng = np.random.default_rng(0)
    a, labels = unit(rng, 50, 4), rng.integers(0, 9, 50)
    whole = impostor_distances(a, labels, a, labels, same_images=True)
    monkeypatch.setattr("segue.harmonic.calibration._ROWS", 7)
    parts = impostor_distances(a, labels, a, labels, same_images=True)
    assert np.allclose(np.sort(whole), np.sort(parts), atol=1e-6)
    assert len(whole) == len(parts)


def test_rows_of_different_people_are_not_the_same_images():
    """Claiming the same images with other people per row is refused."""
    vectors = np.eye(2, dtype=np.float32)
    with pytest.raises(EvaluationError, match="same person"):
        impostor_distances(vectors, [0, 1], vectors, [1, 0], same_images=True)
    with pytest.raises(VectorError):
        impostor_distances(vectors, [0], vectors, [1, 0], same_images=False)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=9), st.lists(st.integers(0, 6), max_size=9))
def test_people_pairs_are_those_of_the_loops(a, b):
    """Pairs of people are counted once, whichever side each is on."""
    assert count_people_pairs(a, b) == len({frozenset((x, y)) for x in a for y in b if x != y})


def test_calibrate_counts_people():
    """`calibrate` measures all pairs and knows how many people they come from."""
    rng = np.random.default_rng(0)
    a, labels = unit(rng, 60, 8), np.arange(60) % 12
    calibration = calibrate(a, labels, a, labels, same_images=True)
    assert (calibration.people, calibration.people_pairs) == (12, 66)
    assert calibration.impostors == 66 * 25


def test_people_are_one_set_of_names():
    """A label that is a number here and text there is one person in every count."""
    rng = np.random.default_rng(0)
    a, numbers, texts = unit(rng, 60, 8), list(range(60)), [str(x) for x in range(60)]
    mixed = calibrate(a, numbers, a, texts, same_images=True)
    assert mixed == calibrate(a, texts, a, texts, same_images=True)
