import json
import subprocess
import sys

import numpy as np
import pytest

from segue.errors import PeopleError, UnknownNameError, UsageError, VectorError
from segue.evaluation.roc import val_at_far
from segue.harmonic.bridges import choose_bridge, fit_bridge, list_bridges
from segue.harmonic.bridges.fit import people_folds

AFFINE = ("procrustes", "ridge", "low_rank")
VERSIONS = {"source_version": "faces/2", "target_version": "faces/1"}


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def people(seed, count=60, each=4, d1=10, d2=8, noise=0.25):
    """Images of people under two models: person and image noise, seen through two matrices."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count), each)
    latent = rng.normal(size=(count, d1))[labels] + noise * rng.normal(size=(count * each, d1))
    source = unit(latent + 0.1 * rng.normal(size=latent.shape))
    return source, unit(latent @ rng.normal(size=(d1, d2)) + 0.5), labels


def test_the_best_kind_is_the_one_of_the_loops():
    """Plain loops over folds find the same figures, the same order, the same held-out rows."""
    source, target, labels = people(0)
    choice = choose_bridge(source, target, labels, kinds=AFFINE, seed=3, **VERSIONS)
    folds = people_folds(labels, 3)
    distances, vals, rows = {}, {}, {}
    for kind in AFFINE:
        mapped, genuine, impostor = np.empty_like(target), [], []
        for fold in range(5):
            held = folds == fold
            bridge = fit_bridge(
                kind, source[~held], target[~held], labels=labels[~held], seed=3, **VERSIONS
            )
            mapped[held] = bridge.apply(source[held], version="faces/2")
            for i in np.flatnonzero(held):
                for j in np.flatnonzero(held):
                    if i != j:
                        d2 = np.square(mapped[i].astype(float) - target[j]).sum()
                        (genuine if labels[i] == labels[j] else impostor).append(d2)
        distances[kind] = np.square(mapped.astype(float) - target).sum(axis=1).mean()
        vals[kind] = val_at_far(genuine, impostor, 1e-2).val
        rows[kind] = mapped
    order = sorted(AFFINE, key=lambda kind: round(distances[kind], 6))
    assert [score.kind for score in choice.scores] == order
    assert choice.bridge.kind == order[0]
    for score in choice.scores:
        assert score.distance == pytest.approx(distances[score.kind], rel=1e-5)
        assert score.val == pytest.approx(vals[score.kind], abs=0.01)
    assert np.allclose(choice.held_out, rows[order[0]], atol=1e-6)


def test_a_map_that_learned_nothing_is_as_near_to_other_people():
    """`unrelated` is the loop's mean over pairs of two people; random targets are no nearer."""
    source, target, labels = people(6, count=12)
    choice = choose_bridge(source, target, labels, kinds=["ridge"], **VERSIONS)
    mapped = choice.held_out.astype(float)
    pairs = [
        np.square(mapped[i] - target[j]).sum()
        for i in range(len(labels))
        for j in range(len(labels))
        if labels[i] != labels[j]
    ]
    assert choice.unrelated == pytest.approx(np.mean(pairs), rel=1e-6)
    assert choice.scores[0].distance < choice.unrelated
    random = unit(np.random.default_rng(0).normal(size=target.shape))
    nothing = choose_bridge(source, random, labels, kinds=["procrustes"], **VERSIONS)
    assert nothing.scores[0].distance >= nothing.unrelated - 0.1


def test_the_chosen_bridge_is_fitted_on_everybody():
    """What is returned is what `fit_bridge` fits on all rows, with both fingerprints."""
    source, target, labels = people(1, count=20)
    marks = {"source_fingerprint": "aa", "target_fingerprint": "bb"}
    choice = choose_bridge(source, target, labels, kinds=["ridge"], seed=2, **VERSIONS, **marks)
    expected = fit_bridge("ridge", source, target, labels=labels, seed=2, **VERSIONS, **marks)
    assert choice.bridge.to_bytes() == expected.to_bytes()
    assert choice.held_out.shape == target.shape


def test_all_registered_kinds_are_compared_both_ways():
    """Without a choice of kinds every one of them is in the table, in either direction."""
    source, target, labels = people(2, count=8)
    for one, other in ((source, target), (target, source)):
        choice = choose_bridge(one, other, labels, **VERSIONS)
        assert sorted(row["kind"] for row in choice.table()) == sorted(list_bridges())
        assert json.loads(json.dumps(choice.table(), allow_nan=False)) == choice.table()
        assert choice.table()[0]["kind"] == choice.bridge.kind


def test_a_val_that_cannot_be_measured_is_not_told():
    """With few pairs of different people there is a distance and no VAL."""
    source, target, labels = people(3, count=6)
    choice = choose_bridge(source, target, labels, kinds=["procrustes"], **VERSIONS)
    assert choice.scores[0].val is None
    assert 0 < choice.scores[0].distance < 4


def test_a_wrong_choice_is_refused():
    """Nothing to choose from, unknown kinds, too few people, and rows that do not pair."""
    source, target, labels = people(4, count=6)
    with pytest.raises(UsageError, match="at least one kind"):
        choose_bridge(source, target, labels, kinds=[], **VERSIONS)
    with pytest.raises(UsageError, match="two folds"):
        choose_bridge(source, target, labels, folds=1, **VERSIONS)
    with pytest.raises(UnknownNameError, match="procrustes"):
        choose_bridge(source, target, labels, kinds=["affine"], **VERSIONS)
    with pytest.raises(PeopleError):
        choose_bridge(source[:4], target[:4], labels[:4], **VERSIONS)
    with pytest.raises(PeopleError):
        choose_bridge(source[:8], target[:8], labels[:8], kinds=["ridge"], **VERSIONS)
    with pytest.raises(VectorError):
        choose_bridge(source, target[1:], labels, **VERSIONS)
    with pytest.raises(VectorError):
        choose_bridge(source, target, labels[1:], **VERSIONS)


def test_applying_a_network_loads_no_torch(tmp_path):
    """A bridge with a network is read and applied in a process without torch."""
    source, target, labels = people(5, count=30)
    rng = np.random.default_rng(0)
    bend = unit(target + 2 * np.abs(source @ rng.normal(size=(10, 8))))
    bridge = fit_bridge("mlp", source, bend, labels=labels, **VERSIONS)
    assert bridge.correction is not None
    bridge.save(tmp_path / "b")
    code = (
        "import sys, numpy as np, segue.harmonic\n"
        f"bridge = segue.harmonic.Bridge.load({str(tmp_path / 'b')!r})\n"
        "bridge.apply(np.eye(10, dtype='f4'), version='faces/2')\n"
        "print(*{'torch', 'scipy', 'mlflow', 'faiss'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "", "")
