"""The words that every room shares: version ids, preprocessing, embedders, progress."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from segue.errors import InvalidNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]
    Doubles: TypeAlias = NDArray[np.float64]
    Ints: TypeAlias = NDArray[np.int64]
    Bools: TypeAlias = NDArray[np.bool_]
    Images: TypeAlias = NDArray[np.uint8]

DEFAULT_OUTPUT = "embedding"
"""The output that every version has: its own space."""

COMPATIBLE_OUTPUT = "compatible"
"""The head of v1's dimension that a harmonic v2 has beside its own, to be compared with v1."""

BASE_OUTPUT = "base"
"""The output of a retuned version that is the deployed version's own vector, not mapped."""

PARTS = ("train", "validation", "calibration", "test")
"""The parts that people are split into; images of a person never are."""

LARGEST_SIDE = 1024
"""The most pixels a side of a model's input; face models take 96 to 512."""

_LARGEST_SEED = 2**63 - 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(
    r"(?P<name>[^/@~]+)/(?P<number>[1-9][0-9]{0,8})(?:~b(?P<bridge>[1-9][0-9]*))?"
)


class Progress(Protocol):
    """What long work calls to tell how far it is; `total` is None where it is not known."""

    def __call__(self, done: int, total: int | None, what: str) -> None:
        """Report that `done` of `total` units of `what` are finished."""


def no_progress(done: int, total: int | None, what: str) -> None:
    """Tell nobody: the default `Progress`."""


def check_name(name: str, kind: str = "name") -> str:
    """Return `name` if it can name a model, gallery or alias.

    Raises:
        InvalidNameError: it holds other characters, is empty or longer than 64.

    >>> check_name("faces")
    'faces'
    """
    if not _NAME.fullmatch(name):
        raise InvalidNameError(kind, name)
    return name


def check_seed(seed: int) -> int:
    """Return `seed` if every generator of random numbers takes it.

    Raises:
        UsageError: it is no whole number, negative or too large.

    >>> check_seed(3)
    3
    """
    if not isinstance(seed, int) or not 0 <= seed <= _LARGEST_SEED:
        raise UsageError(f"seed {seed!r}; give a whole number of at least 0 and below 2**63")
    return seed


def check_side(name: str, pixels: int, least: int = 1) -> int:
    """Return `pixels` if a model's input can be so high or wide; `name` is told otherwise.

    Raises:
        UsageError: it is no whole number, too small or too large.

    >>> check_side("image_size", 64)
    64
    """
    if not isinstance(pixels, int) or not least <= pixels <= LARGEST_SIDE:
        raise UsageError(
            f"{name} {pixels!r}; give a whole number of pixels from {least} to {LARGEST_SIDE}"
        )
    return pixels


class VersionId(NamedTuple):
    """An embedding version's name and number, written like MLflow: `faces/1`.

    A mapped version (vectors of `faces/1` taken through bridge 3) is written `faces/1~b3`.

    >>> VersionId.parse("faces/2")
    VersionId(name='faces', number=2, bridge=None)
    >>> str(VersionId("faces", 1, 3))
    'faces/1~b3'
    """

    name: str
    number: int
    bridge: int | None = None

    @classmethod
    def parse(cls, text: str) -> VersionId:
        """Read `NAME/NUMBER` or `NAME/NUMBER~bN`.

        Raises:
            InvalidNameError: it is neither.
        """
        match = _VERSION.fullmatch(text)
        if match is None:
            raise InvalidNameError("version", text, "write NAME/NUMBER, such as faces/1")
        bridge = match["bridge"]
        return cls(
            check_name(match["name"], "version"),
            int(match["number"]),
            int(bridge) if bridge else None,
        )

    def __str__(self) -> str:
        mapped = "" if self.bridge is None else f"~b{self.bridge}"
        return f"{self.name}/{self.number}{mapped}"

    @property
    def slug(self) -> str:
        """The id as one file name: `faces-1`, `faces-1-b3`."""
        mapped = "" if self.bridge is None else f"-b{self.bridge}"
        return f"{self.name}-{self.number}{mapped}"


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image of 8-bit values becomes a network's input.

    The image is resized to `height` x `width`, divided by 255, then normalised by `mean` and `std`
    per channel, in the order that `colour` gives, as float32 [N, 3, height, width]. With `flip` the
    vectors of the image and of its mirror image are averaged: a usual small gain at twice the cost.
    """

    height: int
    width: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    colour: str = "RGB"
    flip: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_json` wrote."""
        mean, std = (tuple(float(x) for x in value[key]) for key in ("mean", "std"))
        return cls(
            int(value["height"]),
            int(value["width"]),
            (mean[0], mean[1], mean[2]),
            (std[0], std[1], std[2]),
            str(value["colour"]),
            bool(value.get("flip", False)),
        )


class Embedder(Protocol):
    """One loaded embedding version: images in, unit vectors out."""

    @property
    def version(self) -> str:
        """The version's id, such as `faces/1`."""

    @property
    def outputs(self) -> Mapping[str, int]:
        """Output name -> dimension; `embedding` is always there."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that `embed` wants its images in."""

    def embed(self, images: Images) -> dict[str, Floats]:
        """Embed RGB images uint8 [N, height, width, 3]: per output, unit float32 [N, d]."""


@runtime_checkable
class VectorMapper(Protocol):
    """What an embedder is too whose vectors are made of another version's stored ones."""

    @property
    def base(self) -> str:
        """The id of the version whose vectors it takes."""

    def embed_vectors(self, vectors: Floats) -> dict[str, Floats]:
        """Map unit vectors [N, d] of `base`: per output, unit float32 [N, d]."""


def utc_now() -> str:
    """Return the time as `2026-11-22T05:30:00.123456+00:00`: sorts as text, in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
