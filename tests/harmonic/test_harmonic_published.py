import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import UnknownNameError, UsageError, VectorError
from segue.harmonic.losses import (
    NEEDS,
    BctLoss,
    ContraRactLoss,
    HarmonicTripletLoss,
    HocLoss,
    L2Loss,
    LceLoss,
    MixBctLoss,
    TripletContraRactLoss,
    TripletLoss,
    WeakL2Loss,
    apply_loss,
    check_needs,
    class_means,
    class_radii,
    list_losses,
    make_loss,
    register_loss,
)

SIZES = (st.integers(0, 10_000), st.integers(1, 10), st.integers(1, 4))


def batch(seed, rows=14, people=4, dimension=4, noise=0.5):
    """New and old unit vectors of the same images in float64, and labels with no class empty."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(people, (rows,), generator=generator).unique(return_inverse=True)[1]
    pair = []
    for _ in range(2):
        centres = torch.randn(people, dimension, generator=generator, dtype=torch.float64)
        spread = torch.randn(rows, dimension, generator=generator, dtype=torch.float64)
        pair.append(torch.nn.functional.normalize(centres[labels] + noise * spread, dim=1))
    return pair[0].requires_grad_(), labels, pair[1]


def given_all(v1, labels, seed=0):
    """Everything that a loss can need of v1 and the classes, by name."""
    means = class_means(v1, labels)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(means.shape, generator=generator, dtype=means.dtype)
    return {
        "old_vectors": v1,
        "old_means": means,
        "old_radii": class_radii(v1, labels),
        "class_weights": weights.requires_grad_(),
    }


def same_loss_and_gradient(found, expected, v2):
    """Both agree to 1e-9, in value and in gradient."""
    assert found.shape == ()
    assert abs(found.item() - expected.item()) < 1e-9
    (ours,) = torch.autograd.grad(found, v2)
    (theirs,) = torch.autograd.grad(expected, v2)
    assert (ours - theirs).abs().max() < 1e-9


def mean(terms):
    return sum(terms) / len(terms)


@settings(max_examples=15, deadline=None)
@given(*SIZES)
def test_regressions_are_their_formulas(seed, rows, people):
    """`l2` is the mean ‖q - o‖², `weak_l2` the mean [‖q - o‖ - t]₊, image by image."""
    v2, labels, v1 = batch(seed, rows, people)
    pairs = list(zip(v2, v1, strict=True))
    expected = mean([((q - o) ** 2).sum() for q, o in pairs])
    same_loss_and_gradient(L2Loss()(v2, labels, v1), expected, v2)
    for threshold in (0.4, 1.0):
        expected = mean([torch.relu((q - o).norm() - threshold) for q, o in pairs])
        same_loss_and_gradient(WeakL2Loss(threshold)(v2, labels, v1), expected, v2)


def test_a_v2_that_equals_v1_has_no_loss_and_a_finite_gradient():
    """The root of a distance of 0 does not make a gradient NaN."""
    v2, labels, _ = batch(0)
    for loss in (L2Loss(), WeakL2Loss()):
        value = loss(v2, labels, v2.detach())
        (gradient,) = torch.autograd.grad(value, v2)
        assert value.item() == 0
        assert not gradient.any()


@settings(max_examples=15, deadline=None)
@given(*SIZES, st.sampled_from([1.0, 30.0]))
def test_bct_is_the_formula(seed, rows, people, scale):
    """Cross-entropy over v1's class means, written out for each image."""
    v2, labels, v1 = batch(seed, rows, people)
    means = class_means(v1, labels)
    terms = []
    for q, y in zip(v2, labels, strict=True):
        scores = [torch.exp(scale * (q @ c)) for c in means]
        terms.append(-torch.log(scores[y] / sum(scores)))
    found = BctLoss(scale)(v2, labels, old_means=means)
    same_loss_and_gradient(found, mean(terms), v2)
    assert BctLoss(scale)(v2, labels, v1, old_means=means) == found


@settings(max_examples=15, deadline=None)
@given(*SIZES, st.sampled_from([0.01, 0.05, 1]), st.booleans())
def test_contra_ract_is_the_formula(seed, rows, people, temperature, new_negatives):
    """Equal to the written formula, `contra` too: what is masked adds nothing, not exp(0)."""
    v2, labels, v1 = batch(seed, rows, people)
    terms = []
    for i in range(len(labels)):
        own = torch.exp(v2[i] @ v1[i] / temperature)
        rest = [
            torch.exp(v2[i] @ other[j] / temperature)
            for other in ((v1, v2) if new_negatives else (v1,))
            for j in range(len(labels))
            if labels[j] != labels[i]
        ]
        terms.append(-torch.log(own / (own + sum(rest))))
    loss = ContraRactLoss(temperature, new_negatives=new_negatives)
    same_loss_and_gradient(loss(v2, labels, v1), mean(terms), v2)


def test_combined_loss_is_the_weighted_sum():
    """`triplet+contra_ract` adds its two parts by their weights."""
    v2, labels, v1 = batch(3)
    loss = TripletContraRactLoss(self_weight=0.7, cross_weight=0.2)
    expected = 0.7 * TripletLoss()(v2, labels) + 0.2 * ContraRactLoss()(v2, labels, v1)
    same_loss_and_gradient(loss(v2, labels, v1), expected, v2)


@settings(max_examples=15, deadline=None)
@given(*SIZES)
def test_hoc_is_the_formula(seed, rows, people):
    """InfoNCE of each image against the v1 vectors of all images, written out."""
    v2, labels, v1 = batch(seed, rows, people)
    terms = []
    for i, q in enumerate(v2):
        scores = [torch.exp(10 * (q @ o)) for o in v1]
        terms.append(-torch.log(scores[i] / sum(scores)))
    same_loss_and_gradient(HocLoss()(v2, labels, v1), mean(terms), v2)


@settings(max_examples=15, deadline=None)
@given(*SIZES, st.sampled_from([0.0, 1.0]))
def test_lce_is_the_formula(seed, rows, people, classify):
    """Alignment, boundary and classification, written out; the class weights get a gradient."""
    v2, labels, v1 = batch(seed, rows, people)
    known = given_all(v1, labels, seed)
    means, weights = known["old_means"], known["class_weights"]
    unit = [w / w.norm() for w in weights]
    squares = [(w[k] - c[k]) ** 2 for w, c in zip(unit, means, strict=True) for k in range(len(c))]
    short, entropy = [], []
    for q, y in zip(v2, labels, strict=True):
        radius = min(float(o @ means[y]) for o, other in zip(v1, labels, strict=True) if other == y)
        short.append(torch.relu(radius - q @ means[y]))
        scores = [torch.exp(30 * (q @ w)) for w in unit]
        entropy.append(-torch.log(scores[y] / sum(scores)))
    expected = 100 * mean(squares) + mean(short) + classify * mean(entropy)
    loss = LceLoss(classify=classify)
    found = apply_loss(loss, v2, labels, **known)
    (ours,) = torch.autograd.grad(found, weights, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, weights, retain_graph=True)
    assert (ours - theirs).abs().max() < 1e-9
    same_loss_and_gradient(found, expected, v2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 40), st.integers(1, 4))
def test_mixbct_mixes_the_share_it_says_from_the_rows_near_their_mean(seed, rows, people):
    """30 % of the rows become v1's, none of them among the farthest tenth of its class."""
    v2, labels, v1 = batch(seed, rows, people)
    means = class_means(v1, labels)
    radii = class_radii(v1, labels, quantile=MixBctLoss.radii_quantile)
    far = set()
    for y in range(len(means)):
        members = [i for i in range(rows) if labels[i] == y]
        members.sort(key=lambda i: float(v1[i] @ means[labels[i]]))
        far |= set(members[: len(members) // 10])
    loss = MixBctLoss()
    torch.manual_seed(seed)
    mixed, is_old = loss.mix(v2, labels, v1, old_means=means, old_radii=radii)
    replaced = set(is_old.nonzero().squeeze(1).tolist())
    assert len(replaced) == min(round(0.3 * rows), rows - len(far))
    assert not replaced & far
    expected = torch.stack([v1[i] if i in replaced else v2[i] for i in range(rows)])
    assert torch.equal(mixed, expected)
    torch.manual_seed(seed)
    found = loss(v2, labels, v1, old_means=means, old_radii=radii)
    same_loss_and_gradient(found, TripletLoss()(expected, labels), v2)


def test_mixbct_draws_anew_each_time_and_again_from_a_seed():
    """Two calls draw different rows; a generator or the global seed gives the same ones again."""
    v2, labels, v1 = batch(0, rows=40)
    known = {"old_means": class_means(v1, labels), "old_radii": class_radii(v1, labels)}
    loss = MixBctLoss()
    first, second = (loss.mix(v2, labels, v1, **known)[1] for _ in range(2))
    assert not torch.equal(first, second)
    drawn = [
        loss.mix(v2, labels, v1, **known, generator=torch.Generator().manual_seed(5))[1]
        for _ in range(2)
    ]
    assert torch.equal(*drawn)
    every = {"generator": torch.Generator().manual_seed(5), **known}
    assert apply_loss(loss, v2, labels, old_vectors=v1, **every).isfinite()


def test_mixbct_has_the_own_loss_and_margin_it_is_told():
    """The own loss comes by name; its margin is the setting's unless given by itself."""
    v2, labels, v1 = batch(2, rows=20)
    known = {"old_means": class_means(v1, labels), "old_radii": class_radii(v1, labels)}

    def value(**given):
        torch.manual_seed(1)
        return MixBctLoss(**given)(v2, labels, v1, **known)

    torch.manual_seed(1)
    mixed, _ = MixBctLoss().mix(v2, labels, v1, **known)
    assert value(margin=0.5) == TripletLoss(0.5)(mixed, labels)
    told = {"margin": 0.4, "strategy": "hardest"}
    assert value(margin=0.5, own_settings=told) == TripletLoss(**told)(mixed, labels)
    with pytest.raises(UsageError, match="v2 alone"):
        MixBctLoss(own="harmonic")
    with pytest.raises(UnknownNameError):
        MixBctLoss(own="arcface")


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5), st.sampled_from([0, 0.1, 0.5])
)
def test_class_means_and_radii_are_those_of_the_loops(seed, rows, people, quantile):
    """The mean of each class at unit length, and the cosine that all but the farthest reach."""
    _, labels, v1 = batch(seed, rows, people)
    means = class_means(v1, labels)
    radii = class_radii(v1, labels, quantile=quantile)
    assert len(means) == len(radii) == len(labels.unique())
    for y in range(len(means)):
        members = [v for v, other in zip(v1, labels, strict=True) if other == y]
        total = sum(members)
        assert (means[y] - total / total.norm()).abs().max() < 1e-9
        cosines = sorted(float(v @ means[y]) for v in members)
        assert abs(radii[y].item() - cosines[math.floor(quantile * len(members))]) < 1e-9
    from_arrays = class_means(v1.numpy(), labels.numpy())
    assert torch.equal(from_arrays, means)
    assert torch.equal(class_radii(v1.numpy(), labels.numpy(), means, quantile=quantile), radii)


def test_class_means_need_a_direction_for_each_class():
    """Gaps in the numbering, vectors that cancel out and labels that are no numbers are told."""
    eye = torch.eye(3)
    with pytest.raises(VectorError, match="class 1 has no mean"):
        class_means(eye, torch.tensor([0, 0, 2]))
    with pytest.raises(VectorError, match="class 0 has no mean"):
        class_means(torch.cat([eye[:1], -eye[:1]]), torch.tensor([0, 0]))
    with pytest.raises(VectorError, match="0 to 1"):
        class_means(eye, torch.tensor([0, 1, 2]), classes=2)
    with pytest.raises(VectorError, match="numbers"):
        class_means(eye, torch.tensor([0.0, 0.5, 1.0]))
    with pytest.raises(VectorError, match="class 2 has no vectors"):
        class_radii(eye[:2], torch.tensor([0, 1]), eye)
    with pytest.raises(UsageError, match="quantile"):
        class_radii(eye, torch.tensor([0, 1, 2]), quantile=1.0)
    assert class_means(np.empty((0, 3), "f4"), np.empty(0, "i8")).shape == (0, 3)


@pytest.mark.parametrize("name", list_losses())
def test_every_registered_loss_trains(name):
    """Each loss, called with its needs, brings people together and stays finite for one image."""
    loss = make_loss(name)
    assert loss.needs <= NEEDS.keys()
    v2, labels, v1 = batch(1, rows=24, people=6, dimension=8)
    known = given_all(v1, labels)
    references = None if {"old_vectors", "old_means"}.isdisjoint(loss.needs) else v1
    trained = [v2.detach().clone().requires_grad_(), known["class_weights"]]
    optimiser = torch.optim.SGD(trained, lr=0.5)

    def quality():
        unit = torch.nn.functional.normalize(trained[0], dim=1).detach()
        distances = torch.cdist(unit, unit if references is None or name == "mixbct" else v1)
        same = (labels[:, None] == labels) & ~torch.eye(24, dtype=torch.bool)
        return (distances[same].mean() / distances[labels[:, None] != labels].mean()).item()

    before = quality()
    for _ in range(30):
        optimiser.zero_grad()
        unit = torch.nn.functional.normalize(trained[0], dim=1)
        value = apply_loss(loss, unit, labels, **known)
        value.backward()
        optimiser.step()
        assert math.isfinite(value.item())
    assert quality() < before
    one = {k: v[:1] if k == "old_vectors" else v for k, v in known.items()}
    alone = apply_loss(loss, v2[:1], labels[:1], **one)
    (gradient,) = torch.autograd.grad(alone, v2)
    assert gradient.isfinite().all()
    if name in {"triplet", "harmonic", "contra_ract", "triplet+contra_ract", "hoc"}:
        assert alone.item() == 0
        assert not gradient.any()


@pytest.mark.parametrize("name", list_losses())
def test_old_vectors_stay_frozen(name):
    """No gradient reaches what comes from v1, even if it asks for one."""
    v2, labels, v1 = batch(0)
    known = given_all(v1, labels)
    old = [known[need].requires_grad_() for need in ("old_vectors", "old_means", "old_radii")]
    apply_loss(make_loss(name), v2, labels, **known).backward()
    assert all(tensor.grad is None for tensor in old)
    assert v2.grad is not None


@pytest.mark.parametrize("name", list_losses())
def test_short_floats_are_computed_in_float32(name):
    """Half-precision vectors, also under autocast, give the loss of the same values in float32."""
    v2, labels, v1 = batch(4, rows=24, dimension=16)
    known = {key: value.detach().float() for key, value in given_all(v1, labels).items()}

    def value(dtype):
        torch.manual_seed(0)
        given = {**known, "old_vectors": v1.to(torch.float16).to(dtype)}
        return apply_loss(make_loss(name), v2.detach().to(torch.float16).to(dtype), labels, **given)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value(torch.float16)
        assert value(torch.bfloat16).isfinite()
    assert found.dtype == torch.float32
    expected = value(torch.float32).item()
    assert abs(found.item() - expected) < 1e-5 * max(expected, 1)


@pytest.mark.parametrize(
    ("name", "need"),
    [(name, need) for name in list_losses() for need in sorted(make_loss(name).needs)],
)
def test_a_missing_input_is_named_before_anything_is_computed(name, need):
    """A loss without one of its inputs says which one and what it is, called in any way."""
    if need == "labels":
        return
    loss = make_loss(name)
    v2, labels, v1 = batch(0)
    known = {key: value for key, value in given_all(v1, labels).items() if key != need}
    with pytest.raises(UsageError, match=f"{name.split('+')[0]}.*needs {need}: "):
        check_needs(loss, {"labels", *known})
    with pytest.raises(UsageError, match=f"needs {need}: "):
        apply_loss(loss, v2, labels, **known)
    more = (v1,) if "old_vectors" in loss.needs and need != "old_vectors" else ()
    keywords = {key: known[key] for key in loss.needs - {"labels", "old_vectors", need}}
    with pytest.raises(UsageError, match=f"needs {need}: "):
        loss(v2, labels, *more, **keywords)
    check_needs(loss, NEEDS)


@pytest.mark.parametrize("name", [name for name in list_losses() if name != "triplet"])
def test_another_dimension_asks_for_a_head(name):
    """Vectors and class means of another dimension than v2's are refused, never cut or padded."""
    v2, labels, v1 = batch(0)
    wide = torch.nn.functional.normalize(torch.cat([v1, v1[:, :1]], dim=1), dim=1)
    with pytest.raises(VectorError, match="head of v1's dimension"):
        apply_loss(make_loss(name), v2, labels, **given_all(wide, labels))


def test_classes_that_do_not_fit_are_refused():
    """Labels that are no classes, and weights or radii of other classes, say what to give."""
    v2, labels, v1 = batch(0)
    known = given_all(v1, labels)
    with pytest.raises(VectorError, match="return_inverse"):
        BctLoss()(v2, labels + 1, old_means=known["old_means"])
    with pytest.raises(VectorError, match="return_inverse"):
        BctLoss()(v2, labels - 1, old_means=known["old_means"])
    with pytest.raises(VectorError, match="old class means"):
        BctLoss()(v2, labels, old_means=2 * known["old_means"])
    for changed, told in (
        ({"class_weights": known["class_weights"][:-1]}, "class_weights"),
        ({"old_radii": known["old_radii"][:-1]}, "class_radii"),
        ({"old_radii": known["old_radii"] * torch.nan}, "class_radii"),
    ):
        with pytest.raises(VectorError, match=told):
            apply_loss(LceLoss(), v2, labels, **{**known, **changed})


def test_inputs_that_a_loss_does_not_use_are_told_or_left_out():
    """Needs of other losses are left out; options of others and unknown names are errors."""
    v2, labels, v1 = batch(0)
    known = given_all(v1, labels)
    assert apply_loss(L2Loss(), v2, labels, **known) == L2Loss()(v2, labels, v1)
    weights = torch.ones(len(labels))
    found = apply_loss(HarmonicTripletLoss(), v2, labels, **known, weights=weights)
    assert found.item() == pytest.approx(HarmonicTripletLoss()(v2, labels, v1).item())
    with pytest.raises(UsageError, match="'l2' does not use weights"):
        apply_loss(L2Loss(), v2, labels, **known, weights=weights)
    with pytest.raises(UnknownNameError, match="old_mean"):
        apply_loss(BctLoss(), v2, labels, old_mean=known["old_means"])


@pytest.mark.parametrize("name", list_losses())
def test_an_empty_batch_is_refused(name):
    """The mean over no images is not defined: no loss returns NaN for it."""
    v2, labels, v1 = batch(0)
    known = {key: value for key, value in given_all(v1, labels).items() if key != "old_vectors"}
    with pytest.raises(VectorError, match="no vectors"):
        apply_loss(make_loss(name), v2[:0], labels[:0], old_vectors=v1[:0], **known)


@pytest.mark.parametrize("name", list_losses())
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_labels_of_any_whole_type_mean_the_same(name, dtype):
    """Labels as a data loader's int32 or uint8 give the loss of int64."""
    v2, labels, v1 = batch(1)
    known = given_all(v1, labels)
    losses = []
    for each in (labels, labels.to(dtype)):
        torch.manual_seed(0)  # MixBCT draws
        losses.append(apply_loss(make_loss(name), v2, each, **known).item())
    assert losses[0] == losses[1]


def test_a_loss_of_ones_own_is_registered_with_needs_that_exist():
    """A class that needs something nobody has is refused when it is registered."""

    class Impossible:
        needs = frozenset({"labels", "old_images"})

    with pytest.raises(UnknownNameError, match="old_images"):
        register_loss("impossible")(Impossible)
    assert "impossible" not in list_losses()


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("contra_ract", {"temperature": 0}),
        ("triplet+contra_ract", {"cross_weight": -1}),
        ("triplet+contra_ract", {"temperature": -1}),
        ("weak_l2", {"threshold": 0}),
        ("weak_l2", {"threshold": 2.5}),
        ("bct", {"scale": float("nan")}),
        ("hoc", {"scale": 0}),
        ("lce", {"align": -1}),
        ("lce", {"classify": float("inf")}),
        ("mixbct", {"share": 0}),
        ("mixbct", {"share": 1.0}),
        ("mixbct", {"own_settings": {"margin": -1}}),
    ],
)
def test_settings_out_of_range_are_refused(name, bad):
    """Each setting's range is checked when the loss is made."""
    with pytest.raises(UsageError):
        make_loss(name, **bad)
