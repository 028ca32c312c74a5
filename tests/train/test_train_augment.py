"""Augmentation of prepared images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segue.train.augment import augment
from segue.train.settings import TrainSettings

STILL = {
    "flip": False,
    "shift": 0.0,
    "zoom": 0.0,
    "rotation": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
}


def batch_of(count=6, side=16):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def changed(batch, seed=0, **changes):
    how = TrainSettings(**{**STILL, **changes})
    return augment(batch, how, np.random.default_rng(seed))


def test_no_change_asked_for_changes_nothing():
    """With every limit at 0 the images come back as they were."""
    torch.testing.assert_close(changed(batch_of()), batch_of(), atol=1e-5, rtol=0)


def test_flip_gives_each_image_or_its_mirror_image():
    """With flip alone each image is itself or its mirror, and both happen."""
    batch = batch_of(40)
    kinds = set()
    for image, found in zip(batch, changed(batch, flip=True), strict=True):
        same = torch.allclose(found, image, atol=1e-5)
        mirrored = torch.allclose(found, image.flip(2), atol=1e-5)
        assert same is not mirrored
        kinds.add(same)
    assert kinds == {True, False}


def test_a_shift_moves_by_at_most_its_share():
    """A single bright pixel ends up at most the given share of the side away."""
    batch = torch.zeros(30, 3, 21, 21)
    batch[:, :, 10, 10] = 1
    moved = changed(batch, shift=0.2)[:, 0]
    places = torch.stack([torch.tensor(divmod(int(one.argmax()), 21)) for one in moved]) - 10
    assert 2 <= places.abs().max() <= 5  # 0.2 of 21 pixels, and half a pixel of rounding
    assert len({tuple(p) for p in places.tolist()}) > 5


@pytest.mark.parametrize("change", [{"rotation": 30.0}, {"zoom": 0.3}])
def test_turning_and_zooming_keep_the_centre(change):
    """A turn or a change of size leaves the middle pixel of an odd image where it was."""
    batch = batch_of(side=17)
    moved = changed(batch, **change)
    torch.testing.assert_close(moved[:, :, 8, 8], batch[:, :, 8, 8], atol=1e-4, rtol=0)
    assert (moved - batch).abs().max() > 0.1


def test_brightness_and_contrast_are_linear_within_their_limits():
    """Contrast scales around the image's mean, brightness adds; both within what was asked."""
    batch = batch_of()
    mean = batch.mean(dim=(1, 2, 3), keepdim=True)
    stretched = (changed(batch, contrast=0.3) - mean) / (batch - mean)
    lifted = changed(batch, brightness=0.1) - batch
    for image in range(len(batch)):
        assert stretched[image].min() >= 0.7 - 1e-3
        assert stretched[image].max() <= 1.3 + 1e-3
        torch.testing.assert_close(
            lifted[image], lifted[image].mean().expand_as(lifted[image]), atol=1e-4, rtol=0
        )
    assert lifted.abs().max() <= 0.2 + 1e-4  # 0.1 of a range of 2
    assert lifted.abs().max() > 0


def test_the_same_generator_gives_the_same_images():
    """Augmentation is a function of the generator it is given, and of nothing else."""
    how = {
        "flip": True,
        "shift": 0.1,
        "zoom": 0.1,
        "rotation": 9.0,
        "brightness": 0.1,
        "contrast": 0.1,
    }
    assert torch.equal(changed(batch_of(), 4, **how), changed(batch_of(), 4, **how))
    assert not torch.equal(changed(batch_of(), 4, **how), changed(batch_of(), 5, **how))
