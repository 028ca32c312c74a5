"""Affine bridges: a rotation, ridge regression, and ridge regression of reduced rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segue.harmonic.bridges.fit import Fitted, mapped_distances, people_folds, register_bridge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.types import Doubles, Ints

STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(4, -13, -1))
"""Ridge strengths tried, strongest first, as multiples of the source's mean variance."""


@register_bridge("procrustes")
def fit_procrustes(source: Doubles, target: Doubles, groups: Ints, seed: int) -> Fitted:  # noqa: ARG001
    """Fit the rotation (partial isometry, if d1 != d2) nearest to the target in least squares.

    U Vᵀ of the singular value decomposition of sourceᵀ target (Schönemann, 1966). It has no bias:
    a rotation about the origin keeps all distances between mapped vectors, and the sphere.
    """
    left, _, right = np.linalg.svd(source.T @ target, full_matrices=False)
    return Fitted(left @ right, np.zeros(target.shape[1]), {})


@register_bridge("ridge")
def fit_ridge(source: Doubles, target: Doubles, groups: Ints, seed: int) -> Fitted:
    """Fit ridge regression with a bias that is not penalised.

    Its strength is chosen among `STRENGTHS` by cross-validation over `groups`: the smallest mean
    squared distance between normalised mapped vectors and their targets.
    """
    folds = people_folds(groups, seed)
    errors = np.zeros(len(STRENGTHS))
    for fold in np.unique(folds):
        held = folds == fold
        maps = ridge_path(source[~held], target[~held], STRENGTHS)
        for place, (matrix, bias) in enumerate(maps):
            errors[place] += mapped_distances(source[held] @ matrix + bias, target[held]).sum()
    best = int(np.argmin(errors))
    matrix, bias = next(ridge_path(source, target, (STRENGTHS[best],)))
    chosen = {"strength": STRENGTHS[best], "held_out_distance": float(errors[best]) / len(source)}
    return Fitted(matrix, bias, chosen)


@register_bridge("low_rank")
def fit_low_rank(source: Doubles, target: Doubles, groups: Ints, seed: int) -> Fitted:
    """Fit ridge regression of reduced rank, with a bias that is not penalised.

    Of all matrices of rank r the one of least penalised squared error is B V Vᵀ, where B is the
    ridge solution and V are the r leading right singular vectors of its fit to the penalised data
    (Mukherjee and Zhu, Statistical Analysis and Data Mining 2011). Rank and strength are chosen
    together, as in `fit_ridge`; the full rank is among the choices.
    """
    folds = people_folds(groups, seed)
    errors = np.zeros((len(STRENGTHS), min(source.shape[1], target.shape[1])))
    for fold in np.unique(folds):
        held = folds == fold
        paths = _reduced_path(source[~held], target[~held], STRENGTHS)
        for place, (matrix, bias, directions) in enumerate(paths):
            errors[place] += _distances_by_rank(
                source[held] @ matrix + bias, target[held], directions, target[~held].mean(axis=0)
            ).sum(axis=0)
    strength, last = np.unravel_index(int(np.argmin(errors)), errors.shape)
    matrix, _, directions = next(_reduced_path(source, target, (STRENGTHS[strength],)))
    kept = directions[:, : last + 1]
    reduced = matrix @ kept @ kept.T
    bias = target.mean(axis=0) - source.mean(axis=0) @ reduced
    chosen = {
        "rank": int(last) + 1,
        "strength": STRENGTHS[strength],
        "held_out_distance": float(errors[strength, last]) / len(source),
    }
    return Fitted(reduced, bias, chosen)


def ridge_path(
    source: Doubles, target: Doubles, strengths: tuple[float, ...]
) -> Iterator[tuple[Doubles, Doubles]]:
    """Yield matrix [d1, d2] and bias [d2] for each strength, from one eigendecomposition."""
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    centred = source - mean_source
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values = np.maximum(values, 0)
    right = vectors.T @ (centred.T @ (target - mean_target))
    unit = max(float(values.mean()), 1e-12)
    for strength in strengths:
        matrix = vectors @ (right / (values + strength * unit)[:, None])
        yield matrix, mean_target - mean_source @ matrix


def _reduced_path(
    source: Doubles, target: Doubles, strengths: tuple[float, ...]
) -> Iterator[tuple[Doubles, Doubles, Doubles]]:
    """Yield the ridge solution of each strength and its leading directions [d2, min(d1, d2)].

    The penalised data is [centred; sqrt(strength) I] and [target; 0]; the square of its fit is
    Bᵀ (CᵀC + strength I) B = Bᵀ Cᵀ target, whose eigenvectors are the fit's singular vectors.
    """
    cross = (source - source.mean(axis=0)).T @ target
    for matrix, bias in ridge_path(source, target, strengths):
        square = matrix.T @ cross
        _, vectors = np.linalg.eigh((square + square.T) / 2)
        yield matrix, bias, vectors[:, ::-1][:, : len(matrix)]


def _distances_by_rank(
    mapped: Doubles, target: Doubles, directions: Doubles, mean: Doubles
) -> Doubles:
    """Return what `mapped_distances` gives at every rank: float64 [N, ranks].

    A map of rank r keeps r coordinates of `mapped - mean`, so that dot products and lengths at all
    ranks are cumulative sums.
    """
    kept = (mapped - mean) @ directions
    dot = (target @ mean)[:, None] + np.cumsum(kept * (target @ directions), axis=1)
    square = mean @ mean + np.cumsum(kept * (kept + 2 * (mean @ directions)), axis=1)
    return np.asarray(2 - 2 * dot / np.sqrt(np.maximum(square, 1e-24)))
