import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.harmonic.bridges import affine, fit_low_rank, fit_ridge
from segue.harmonic.bridges.fit import mapped_distances, people_folds


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def drawn(seed, rows=60, d1=7, d2=5, rank=2, noise=0.05):
    """A source, and a target that a map of small rank and a bias make of it, up to noise."""
    rng = np.random.default_rng(seed)
    source = unit(rng.normal(size=(rows, d1)))
    matrix = rng.normal(size=(d1, rank)) @ rng.normal(size=(rank, d2))
    return source, unit(source @ matrix + 0.3 + noise * rng.normal(size=(rows, d2)))


def textbook(source, target, strength, rank):
    """Reduced-rank ridge regression as Mukherjee and Zhu state it, on augmented data."""
    centred, wanted = source - source.mean(axis=0), target - target.mean(axis=0)
    penalty = strength * np.linalg.eigvalsh(centred.T @ centred).mean()
    rows = np.vstack([centred, np.sqrt(penalty) * np.eye(source.shape[1])])
    values = np.vstack([wanted, np.zeros((source.shape[1], target.shape[1]))])
    full = np.linalg.lstsq(rows, values, rcond=None)[0]
    right = np.linalg.svd(rows @ full)[2][:rank].T
    matrix = full @ right @ right.T
    return matrix, target.mean(axis=0) - source.mean(axis=0) @ matrix


@pytest.mark.parametrize(("d1", "d2"), [(7, 5), (5, 7), (6, 6)])
def test_every_rank_is_the_textbooks(d1, d2, monkeypatch):
    """Matrix and bias of each rank are those of the singular value decomposition of the fit."""
    source, target = drawn(1, d1=d1, d2=d2, noise=0.3)
    for strength in (1e-3, 0.3):
        matrix, _, directions = next(affine._reduced_path(source, target, (strength,)))
        assert directions.shape == (d2, min(d1, d2))
        for rank in range(1, min(d1, d2) + 1):
            kept = directions[:, :rank]
            assert np.allclose(
                matrix @ kept @ kept.T, textbook(source, target, strength, rank)[0], atol=1e-9
            )
    monkeypatch.setattr(affine, "STRENGTHS", (1e-2,))
    fitted = fit_low_rank(source, target, np.arange(len(source)), 0)
    expected = textbook(source, target, 1e-2, fitted.settings["rank"])
    assert np.allclose(fitted.matrix, expected[0], atol=1e-9)
    assert np.allclose(fitted.bias, expected[1], atol=1e-9)
    assert np.linalg.matrix_rank(fitted.matrix, tol=1e-9) == fitted.settings["rank"]


def test_rank_and_strength_are_those_of_the_loops():
    """Cross-validation over people by plain loops, fitting each rank anew, chooses the same."""
    source, target = drawn(2, rows=45, noise=0.4)
    groups = np.arange(45) // 3
    folds = people_folds(groups, seed=5)
    errors = {}
    for strength in affine.STRENGTHS:
        for rank in range(1, 6):
            total = 0.0
            for fold in range(5):
                held = folds == fold
                matrix, bias = textbook(source[~held], target[~held], strength, rank)
                total += mapped_distances(source[held] @ matrix + bias, target[held]).sum()
            errors[strength, rank] = total / 45
    best = min(errors, key=errors.get)
    chosen = fit_low_rank(source, target, groups, 5).settings
    assert (chosen["strength"], chosen["rank"]) == best
    assert chosen["held_out_distance"] == pytest.approx(errors[best], abs=1e-9)


def test_the_true_rank_is_found():
    """A target that two directions explain gets rank two, and does no worse than ridge."""
    source, target = drawn(3, rows=400, noise=0.2)
    groups = np.arange(400) // 4
    reduced, ridge = (fit(source, target, groups, 0) for fit in (fit_low_rank, fit_ridge))
    assert reduced.settings["rank"] == 2
    assert reduced.settings["held_out_distance"] <= ridge.settings["held_out_distance"] + 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 6), st.data())
def test_no_other_map_of_its_rank_fits_better(seed, d1, d2, data):
    """Any other matrix of the rank has at least the penalised squared error of the fitted one."""
    rank = data.draw(st.integers(1, min(d1, d2)))
    source, target = drawn(seed, rows=25, d1=d1, d2=d2, rank=2, noise=0.5)
    centred, wanted = source - source.mean(axis=0), target - target.mean(axis=0)
    penalty = 0.1 * np.linalg.eigvalsh(centred.T @ centred).mean()

    def error(matrix):
        return np.square(centred @ matrix - wanted).sum() + penalty * np.square(matrix).sum()

    matrix, _, directions = next(affine._reduced_path(source, target, (0.1,)))
    kept = directions[:, :rank]
    least = error(matrix @ kept @ kept.T)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        other = np.linalg.qr(kept + 0.3 * rng.normal(size=kept.shape))[0]
        assert error(matrix @ other @ other.T) >= least - 1e-9
