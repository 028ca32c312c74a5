"""Vectors of people that nobody drew, in the shape a compatibility report wants them."""

import numpy as np
import pytest

from segue.evaluation import CompatibilityData, measure_compatibility


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_data(*, people=24, images=4, singles=4, seed=0, dimension=16, twin=True, spread=0.2):
    """A weak v1, a harmonic v2 that shares its space, a rotated twin and its bridge."""
    random = np.random.default_rng(seed)
    counts = np.concatenate([np.full(people, images), np.ones(singles, dtype=int)])
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = unit(random.normal(size=(len(counts), dimension)))[labels]
    shared, first, second, third = random.normal(size=(4, len(labels), dimension)) * spread
    rotation = np.linalg.qr(np.random.default_rng(99).normal(size=(dimension, dimension)))[0]
    better = unit(centres + 0.6 * shared + 0.5 * second)
    independent = unit(centres + 0.6 * shared + 0.5 * third)
    return CompatibilityData(
        labels=labels,
        v1=unit(centres + shared + first),
        v2=better,
        twin=unit(independent @ rotation) if twin else None,
        bridged=independent if twin else None,
    )


@pytest.fixture(scope="session")
def measured():
    """A report measured once: (data, report)."""
    data = make_data(people=60, seed=1)
    report = measure_compatibility(data, make_data(people=60, seed=2), bootstrap=40, seed=5)
    return data, report


@pytest.fixture(scope="session")
def report(measured):
    return measured[1]


@pytest.fixture(scope="session")
def make():
    return make_data
