from __future__ import annotations

import numpy as np

from segue.images import read_faces
from segue.synthetic import draw_people, render, write_faces


def test_the_same_seed_draws_the_same_faces():
    """Rendering is a function of people, order and seed."""
    people = draw_people(4, seed=1)
    who = np.array([0, 1, 2, 3, 0])
    first, again = (render(people, who, size=32, seed=5) for _ in range(2))
    assert first.shape == (5, 32, 32, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, render(people, who, size=32, seed=6))


def test_images_of_one_person_are_nearer_than_images_of_two():
    """Identity shows through pose, light, expression and noise, on average."""
    people = draw_people(12, seed=2)
    who = np.repeat(np.arange(12), 6)
    pixels = render(people, who, size=32, seed=0)[:, 6:26, 8:24].reshape(72, -1) / 255
    pixels -= pixels.mean(axis=1, keepdims=True)
    distances = ((pixels[:, None] - pixels[None]) ** 2).sum(axis=2)
    same = (who[:, None] == who) & ~np.eye(72, dtype=bool)
    assert distances[same].mean() < 0.9 * distances[who[:, None] != who].mean()


def test_a_drawn_data_set_is_read_like_any_other(tmp_path):
    """The written folder has its list, its parts and a notice that nobody real is shown."""
    write_faces(tmp_path, people=20, images=3, size=32, seed=0)
    faces = read_faces(tmp_path)
    assert len(faces.people) == 20
    assert {one.part for one in faces.faces} == {"train", "validation", "calibration"}
    assert len(faces.part("train", old_only=True).people) == 5
    assert "no real person" in (tmp_path / "NOTICE.txt").read_text()
