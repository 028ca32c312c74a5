"""A fitted bridge: what it maps, and its file.

The file's format is 1 for an affine map, 2 where a network's layers stand beside it, so that a
Segue that knows no such network refuses the file instead of leaving them out. One checksum covers
the numbers, another what is said of them; files of either format that were written before the
second was are read too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from segue.arrays import check_vectors, normalise
from segue.errors import FormatError, MissingPathError, UnsafeModelError, VectorError
from segue.files import write_durably

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

    from segue.types import Doubles, Floats

AFFINE_FORMAT, NETWORK_FORMAT = 1, 2
"""The versions of the file's form."""

_TENSORS = {
    AFFINE_FORMAT: ("matrix", "bias"),
    NETWORK_FORMAT: ("matrix", "bias", "inner", "inner_bias", "outer"),
}
_TEXTS = ("kind", "source_version", "target_version", "source_fingerprint", "target_fingerprint")
_LARGEST_HEADER = 1 << 20
_HEADER_KEY = "segue_bridge"
_NUMBERS, _SEAL = "sha256", "description_sha256"


class Correction(NamedTuple):
    """What a network of one hidden layer adds to the affine map.

    It adds `maximum(source @ inner + inner_bias, 0) @ outer`. Shapes, of h hidden units: inner
    float32 [d1, h], inner_bias float32 [h], outer float32 [h, d2].
    """

    inner: Floats
    inner_bias: Floats
    outer: Floats

    def of(self, source: Doubles) -> Doubles:
        """Return what is added to the affine map of `source` [N, d1]: float64 [N, d2]."""
        hidden = source @ self.inner.astype(np.float64) + self.inner_bias
        return np.asarray(np.maximum(hidden, 0) @ self.outer.astype(np.float64))


@dataclass(frozen=True, eq=False)
class Bridge:
    """A fitted map from the space of `source_version` to that of `target_version`.

    Attributes:
        kind: the registered name it was fitted by.
        source_version: the version whose vectors it takes.
        target_version: the version whose vectors its output is compared with.
        source_fingerprint: fingerprint of the source version, or empty.
        target_fingerprint: fingerprint of the target version, or empty.
        matrix: float32 [d1, d2].
        bias: float32 [d2].
        settings: what fitting chose and how many rows and people it saw, as JSON values.
        correction: added to the affine map before its output is normalised, or None.
        sealed: whether its file has a checksum of all the above but the numbers. False for one that
            was read from an older file: it is written again as it was.
    """

    kind: str
    source_version: str
    target_version: str
    source_fingerprint: str
    target_fingerprint: str
    matrix: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    settings: Mapping[str, Any]
    correction: Correction | None = field(default=None, repr=False)
    sealed: bool = field(default=True, repr=False)

    def apply(self, vectors: ArrayLike, *, version: str) -> Floats:
        """Map unit vectors of the source version into the target's space.

        Args:
            vectors: unit vectors, float [N, d1].
            version: the version that they are of. A map applied in the wrong direction passes
                every check of shape, hence this one.

        Returns:
            unit vectors, float32 [N, d2].

        Raises:
            VectorError: of another version or dimension, or not unit vectors.
        """
        if version != self.source_version:
            wrong = " (the wrong direction)" if version == self.target_version else ""
            raise VectorError(
                f"the bridge {self.source_version} -> {self.target_version} was given vectors of "
                f"{version}{wrong}; fit or name the bridge that starts at {version}"
            )
        source = check_vectors(vectors, dimension=self.matrix.shape[0]).astype(np.float64)
        mapped = source @ self.matrix.astype(np.float64) + self.bias
        if self.correction is not None:
            mapped += self.correction.of(source)
        return normalise(mapped, name="mapped vectors")

    def to_bytes(self) -> bytes:
        """Return the bridge's file: the same bytes for the same bridge."""
        from safetensors.numpy import save

        network = {} if self.correction is None else self.correction._asdict()
        found = NETWORK_FORMAT if network else AFFINE_FORMAT
        given = {"matrix": self.matrix, "bias": self.bias, **network}
        tensors = {
            name: np.ascontiguousarray(given[name], dtype=np.float32) for name in _TENSORS[found]
        }
        description = {
            "format": found,
            "kind": self.kind,
            "source_version": self.source_version,
            "target_version": self.target_version,
            "source_fingerprint": self.source_fingerprint,
            "target_fingerprint": self.target_fingerprint,
            "settings": dict(self.settings),
            _NUMBERS: _checksum(list(tensors.values())),
        }
        if self.sealed:
            description[_SEAL] = _seal(description)
        text = json.dumps(description, sort_keys=True, allow_nan=False)
        content: bytes = save(tensors, metadata={_HEADER_KEY: text})
        return content

    def save(self, path: Path | str) -> None:
        """Write the bridge durably to a safetensors file.

        Raises:
            ReadOnlyError: the folder cannot be written.
            DiskFullError: no space left.
        """
        write_durably(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: Path | str) -> Bridge:
        """Read a file that `save` wrote.

        Raises:
            MissingPathError: there is none.
            UnsafeModelError: it is something else, or was changed.
            FormatError: a newer Segue wrote it.
        """
        try:
            content = Path(path).read_bytes()
        except FileNotFoundError as error:
            raise MissingPathError(path, "bridge file") from error
        return cls.from_bytes(content, str(path))

    @classmethod
    def from_bytes(cls, content: bytes, where: str = "the bridge") -> Bridge:
        """Read what `to_bytes` returned; `where` names it in errors, which are those of `load`."""
        description = _read_description(content, where)
        tensors = _read_tensors(content, where, _TENSORS[description["format"]])
        if description.get(_NUMBERS) != _checksum(tensors):
            raise UnsafeModelError(where, "its numbers are not those that were saved")
        sealed = _SEAL in description
        if sealed and description[_SEAL] != _seal(description):
            raise UnsafeModelError(where, "its description is not the one that was saved")
        matrix, bias, *network = tensors
        try:
            return cls(
                **{name: _text(description[name]) for name in _TEXTS},
                matrix=matrix,
                bias=bias,
                settings=dict(description["settings"]),
                correction=Correction(*network) if network else None,
                sealed=sealed,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UnsafeModelError(where, f"its description is damaged ({error})") from error


def _checksum(tensors: Sequence[Floats]) -> str:
    little = (np.ascontiguousarray(x, dtype="<f4").tobytes() for x in tensors)
    return hashlib.sha256(b"".join(little)).hexdigest()


def _seal(description: Mapping[str, Any]) -> str:
    """Return a sha256 over a description, which holds the checksum of the numbers."""
    rest = {name: value for name, value in description.items() if name != _SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _read_description(content: bytes, where: str) -> dict[str, Any]:
    """Read the JSON of a safetensors header; refuse all but the tensors of its format."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, _LARGEST_HEADER):
        raise UnsafeModelError(where, "it is no safetensors file")
    try:
        header = json.loads(content[8 : 8 + length])
        description = json.loads(header["__metadata__"][_HEADER_KEY])
        found = description["format"]
        dtypes = {name: header[name]["dtype"] for name in header if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnsafeModelError(where, "its header describes no bridge") from error
    if type(found) is not int or found not in _TENSORS:
        raise FormatError(where, str(found), max(_TENSORS))
    if dtypes != dict.fromkeys(_TENSORS[found], "F32"):
        raise UnsafeModelError(where, "it holds other tensors than a bridge of its format")
    return dict(description)


def _read_tensors(content: bytes, where: str, names: tuple[str, ...]) -> list[Floats]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        stored = load(content)
    except SafetensorError as error:
        raise UnsafeModelError(where, f"damaged safetensors ({error})") from error
    tensors = [stored[name] for name in names]
    if not _fit_together(tensors):
        shapes = ", ".join(f"{name} {stored[name].shape}" for name in names)
        raise UnsafeModelError(where, f"its shapes do not fit: {shapes}")
    if not all(np.isfinite(tensor).all() for tensor in tensors):
        raise UnsafeModelError(where, "it holds NaN or infinity")
    return tensors


def _fit_together(tensors: Sequence[Floats]) -> bool:
    matrix, bias, *network = tensors
    if matrix.ndim != 2 or bias.shape != matrix.shape[1:]:
        return False
    if not network:
        return True
    inner, inner_bias, outer = network
    return (
        inner_bias.ndim == 1
        and inner.shape == (matrix.shape[0], len(inner_bias))
        and outer.shape == (len(inner_bias), matrix.shape[1])
    )
