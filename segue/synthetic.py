"""Faces that Segue draws itself: a vectorised renderer of parametric faces, all synthetic.

A drawn person is a row of identity parameters (shape, colours, spacing, hair, marks) that stay
fixed; a drawn image adds pose, light, expression, noise and occlusion. No real person's face, or
any part of one, is used. It is made for demonstrations and tests: the figures measured on it say
that the machinery works, not how well faces are recognised.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segue.files import write_durably
from segue.types import Progress, no_progress

if TYPE_CHECKING:
    from pathlib import Path

    from segue.types import Images

Array = NDArray[np.floating[Any]]

NOTICE = "synthetic faces drawn by Segue; no real person is shown"
"""Said wherever drawn faces, or figures measured on them, are shown."""

NOTICE_FILE = "NOTICE.txt"
"""Lies in a folder of drawn faces and holds `NOTICE`."""

# Identity parameters: name -> (mean, standard deviation), lengths in half image widths.
_IDENTITY: dict[str, tuple[float, float]] = {
    "face_width": (0.62, 0.05),
    "face_height": (0.80, 0.05),
    "jaw": (0.35, 0.13),
    "eye_spacing": (0.27, 0.028),
    "eye_height": (-0.14, 0.03),
    "eye_width": (0.115, 0.014),
    "eye_aspect": (0.52, 0.08),
    "eye_tilt": (0.0, 0.14),
    "brow_height": (0.15, 0.025),
    "brow_thickness": (0.03, 0.009),
    "brow_tilt": (0.0, 0.16),
    "brow_length": (0.16, 0.02),
    "nose_length": (0.29, 0.035),
    "nose_width": (0.10, 0.018),
    "mouth_height": (0.43, 0.03),
    "mouth_width": (0.22, 0.03),
    "lip_thickness": (0.042, 0.012),
    "hairline": (-0.50, 0.08),
    "hair_volume": (0.14, 0.06),
    "hair_part": (0.0, 0.4),
    "beard": (-0.3, 0.6),
    "mole_x": (0.0, 0.3),
    "mole_y": (0.15, 0.25),
    "mole_size": (0.02, 0.015),
    "cheek": (0.0, 0.5),
}
_COLOURS = {  # name -> (mean RGB, standard deviation along a shared axis, and of each channel)
    "skin": ((0.74, 0.57, 0.47), 0.08, 0.025),
    "hair": ((0.30, 0.22, 0.16), 0.15, 0.05),
    "iris": ((0.35, 0.32, 0.26), 0.10, 0.08),
    "lips": ((0.66, 0.36, 0.35), 0.06, 0.04),
}


@dataclass(frozen=True)
class People:
    """Identity parameters of drawn people: each a float32 [P], colours float32 [P, 3]."""

    shape: dict[str, Array]
    colour: dict[str, Array]

    def __len__(self) -> int:
        return len(self.shape["jaw"])


def draw_people(count: int, seed: int) -> People:
    """Draw the fixed parameters of `count` people; the same seed gives the same people."""
    generator = np.random.default_rng([seed, 1])
    shape = {
        name: generator.normal(mean, deviation, count).astype(np.float32)
        for name, (mean, deviation) in _IDENTITY.items()
    }
    colour = {}
    for name, (mean_rgb, shared, own) in _COLOURS.items():
        tone = generator.normal(0, shared, (count, 1)) + generator.normal(0, own, (count, 3))
        colour[name] = np.clip(np.asarray(mean_rgb) + tone, 0.03, 0.97).astype(np.float32)
    return People(shape, colour)


def render(people: People, who: NDArray[np.int64], *, size: int = 64, seed: int = 0) -> Images:
    """Draw one image for each entry of `who`: uint8 [N, size, size, 3], RGB.

    Args:
        people: identity parameters.
        who: int64 [N], the person of each image.
        size: height and width in pixels.
        seed: fixes pose, light, expression, noise and occlusion of every image.
    """
    chunks = [who[start : start + 256] for start in range(0, len(who), 256)]
    drawn = [
        _Canvas(people, chunk, size, np.random.default_rng([seed, 2, number])).draw()
        for number, chunk in enumerate(chunks)
    ]
    return np.concatenate(drawn) if drawn else np.empty((0, size, size, 3), np.uint8)


class _Canvas:
    """One chunk of images, drawn back to front with soft masks."""

    def __init__(
        self, people: People, who: NDArray[np.int64], size: int, generator: np.random.Generator
    ) -> None:
        self.generator, self.count, self.size = generator, len(who), size
        self.shape = {name: value[who][:, None, None] for name, value in people.shape.items()}
        self.colour = {name: value[who][:, None, None] for name, value in people.colour.items()}
        self.yaw = self._vary(0.11)
        self.pitch = self._vary(0.06)
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        x, y = np.meshgrid(axis, axis)
        roll, scale = self._vary(0.06), 1 + self._vary(0.05)
        x0, y0 = x[None] - self._vary(0.035), y[None] - self._vary(0.035)
        self.x = (np.cos(roll) * x0 + np.sin(roll) * y0) / scale
        self.y = (np.cos(roll) * y0 - np.sin(roll) * x0) / scale
        self.image = np.empty((self.count, size, size, 3), np.float32)

    def draw(self) -> Images:
        self._background()
        self._head()
        self._eyes()
        self._nose()
        self._mouth()
        self._occlusion()
        return self._photograph()

    def _vary(self, deviation: float) -> Array:
        drawn = self.generator.normal(0, deviation, (self.count, 1, 1))
        return np.clip(drawn, -2.2 * deviation, 2.2 * deviation).astype(np.float32)

    def _paint(self, mask: Array, colour: Array | float, strength: Array | float = 1.0) -> None:
        alpha = (mask * strength)[..., None]
        self.image += alpha * (colour - self.image)

    def _soft(self, inside: Array) -> Array:
        """Turn a signed distance (positive inside) into a mask with an edge of about a pixel."""
        edge = 1.2 / self.size
        mask: Array = np.clip(inside / (2 * edge) + 0.5, 0, 1)
        return mask

    def _ellipse(
        self, cx: Array, cy: Array, rx: Array, ry: Array, tilt: Array | float = 0
    ) -> Array:
        cos, sin = np.cos(tilt), np.sin(tilt)
        dx, dy = self.x - cx, self.y - cy
        u, v = cos * dx + sin * dy, cos * dy - sin * dx
        return self._soft((1 - np.sqrt((u / rx) ** 2 + (v / ry) ** 2)) * np.minimum(rx, ry))

    def _background(self) -> None:
        base = self.generator.uniform(0.2, 0.8, (self.count, 1, 1, 3)).astype(np.float32)
        slope = self.generator.normal(0, 0.15, (self.count, 1, 1, 3)).astype(np.float32)
        self.image[:] = base + slope * self.y[..., None]

    def _head(self) -> None:
        shape, width = self.shape, self.shape["face_width"]
        volume = np.abs(shape["hair_volume"])
        hair = self._ellipse(0 * width, 0 * width - 0.12, width + volume, shape["face_height"])
        self._paint(hair, self.colour["hair"])
        taper = 1 - shape["jaw"] * np.clip(self.y, 0, None) ** 2
        inside = 1 - np.sqrt((self.x / (width * taper)) ** 2 + (self.y / shape["face_height"]) ** 2)
        face = self._soft(inside * 0.6)
        roundness = np.clip(1 - (self.x / width) ** 2 - 0.5 * self.y**2, 0, 1)
        skin = self.colour["skin"] * (0.72 + 0.28 * roundness[..., None])
        self._paint(face, skin)
        blush = self._ellipse(0.3 + self.yaw, 0.2 + self.pitch, 0.16 + 0 * width, 0.12 + 0 * width)
        blush += self._ellipse(
            -0.3 + self.yaw, 0.2 + self.pitch, 0.16 + 0 * width, 0.12 + 0 * width
        )
        self._paint(face * blush, self.colour["lips"], 0.25 * np.clip(shape["cheek"], 0, 1))
        line = shape["hairline"] + 0.25 * (self.x - 0.4 * shape["hair_part"]) ** 2
        self._paint(face * self._soft(line + 0.4 * self.pitch - self.y), self.colour["hair"])
        low = self._soft(self.y - 0.28 - 0.5 * (0.6 - np.abs(self.x)) * 0.3)
        self._paint(face * low, self.colour["hair"], 0.7 * np.clip(shape["beard"], 0, 1))
        size = np.clip(shape["mole_size"], 0.004, None)
        mole = self._ellipse(shape["mole_x"] + self.yaw, shape["mole_y"] + self.pitch, size, size)
        self._paint(face * mole, 0.25 * self.colour["skin"])

    def _eyes(self) -> None:
        shape = self.shape
        open_eyes = np.clip(1 + 2.5 * self._vary(0.11), 0.35, 1.4)
        raised, gaze = self._vary(0.02), self._vary(0.022)
        for side in (-1, 1):
            cx = side * shape["eye_spacing"] * (1 - 0.3 * side * self.yaw) + 0.9 * self.yaw
            cy = shape["eye_height"] + 0.8 * self.pitch
            rx, ry = shape["eye_width"], shape["eye_width"] * shape["eye_aspect"] * open_eyes
            tilt = side * shape["eye_tilt"]
            white = self._ellipse(cx, cy, rx, ry, tilt)
            socket = self._ellipse(cx, cy, rx * 1.25, ry * 1.45, tilt)
            self._paint(socket, 0.55 * self.colour["skin"], 0.6)
            self._paint(white, 0.93)
            iris = 0.52 * shape["eye_width"] + 0 * cx
            self._paint(white * self._ellipse(cx + gaze, cy, iris, iris), self.colour["iris"])
            self._paint(white * self._ellipse(cx + gaze, cy, 0.5 * iris, 0.5 * iris), 0.04)
            brow = self._ellipse(
                cx,
                cy - shape["brow_height"] - raised,
                shape["brow_length"],
                np.clip(shape["brow_thickness"], 0.008, None),
                side * shape["brow_tilt"],
            )
            self._paint(brow, 0.7 * self.colour["hair"], 0.9)

    def _nose(self) -> None:
        shape, skin = self.shape, self.colour["skin"]
        cx = 1.4 * self.yaw
        tip = shape["eye_height"] + shape["nose_length"] + 1.1 * self.pitch
        middle, half = tip - shape["nose_length"] / 2, shape["nose_length"] / 2
        bridge = self._ellipse(cx * 0.8 + 0.035, middle, 0.025 + 0 * cx, half)
        self._paint(bridge, 0.75 * skin, 0.6)
        self._paint(self._ellipse(cx, tip, shape["nose_width"], 0.05 + 0 * cx), 0.86 * skin, 0.9)
        for side in (-1, 1):
            nostril = self._ellipse(
                cx + side * 0.55 * shape["nose_width"], tip + 0.02, 0.022 + 0 * cx, 0.015 + 0 * cx
            )
            self._paint(nostril, 0.35 * skin)

    def _mouth(self) -> None:
        shape = self.shape
        smile, opened = self._vary(0.5), np.clip(self._vary(0.035), 0, None)
        cx, cy = 0.9 * self.yaw, shape["mouth_height"] + 0.8 * self.pitch
        width = shape["mouth_width"] * (1 + 0.18 * smile)
        bent = self.y + smile * (self.x - cx) ** 2 - cy
        across = np.clip(1 - ((self.x - cx) / width) ** 2, 0, None)
        within = self._soft(width - np.abs(self.x - cx))
        thick = np.clip(shape["lip_thickness"], 0.012, None)
        lips = self._soft((thick + opened) * across - np.abs(bent))
        self._paint(within * lips, self.colour["lips"])
        self._paint(within * self._soft((0.006 + opened) * across - np.abs(bent)), 0.12)

    def _occlusion(self) -> None:
        glasses = (self.generator.random((self.count, 1, 1)) < 0.12).astype(np.float32)
        for side in (-1, 1):
            cx = side * 0.27 + 0.9 * self.yaw
            cy = -0.13 + 0.8 * self.pitch
            outer = self._ellipse(cx, cy, 0.19 + 0 * cx, 0.14 + 0 * cx)
            inner = self._ellipse(cx, cy, 0.165 + 0 * cx, 0.115 + 0 * cx)
            self._paint((outer - inner) * glasses, 0.08)
        covered = (self.generator.random((self.count, 1, 1)) < 0.15).astype(np.float32)
        cx, cy = (self.generator.uniform(-0.8, 0.8, (self.count, 1, 1)) for _ in range(2))
        colour = self.generator.uniform(0, 1, (self.count, 1, 1, 3)).astype(np.float32)
        rx, ry = (self.generator.uniform(0.1, 0.3, (self.count, 1, 1)) for _ in range(2))
        patch = self._ellipse(*(value.astype(np.float32) for value in (cx, cy, rx, ry)))
        self._paint(patch * covered, colour)

    def _photograph(self) -> Images:
        light_x, light_y = self._vary(0.22), self._vary(0.16)
        gain, tint = 1 + self._vary(0.16), self.generator.normal(1, 0.07, (self.count, 1, 1, 3))
        shade = np.clip(gain * (1 + light_x * self.x + light_y * self.y), 0.2, 2.0)
        image = self.image * shade[..., None] * tint
        image += self.generator.normal(0, 0.035, image.shape)
        return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def write_faces(
    folder: Path,
    *,
    people: int,
    images: int,
    size: int = 64,
    seed: int = 0,
    progress: Progress = no_progress,
) -> None:
    """Write a drawn data set: `people.csv`, `images/PERSON/IMAGE.png` and a notice.

    Of the people, half are `train` (every other one with v1 = 1), a quarter `validation` and a
    quarter `calibration`; every ninth person has a single image and serves as impostor.
    """
    from PIL import Image

    drawn = draw_people(people, seed)
    parts = ("train", "validation", "train", "calibration")
    rows = []
    for index in range(people):
        name, count = f"drawn{index:04d}", 1 if index % 9 == 8 else images
        faces = render(drawn, np.full(count, index), size=size, seed=seed * 1_000_003 + index)
        for number, face in enumerate(faces, start=1):
            buffer = io.BytesIO()
            Image.fromarray(face).save(buffer, "PNG", compress_level=1)
            path = folder / "images" / name / f"{name}_{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(buffer.getvalue())
        rows.append((name, count, parts[index % 4], int(index % 4 == 0)))
        progress(index + 1, people, "people drawn")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([("person", "images", "part", "v1"), *rows])
    write_durably(folder / "people.csv", table.getvalue().encode())
    write_durably(folder / NOTICE_FILE, f"{NOTICE}\n".encode())
