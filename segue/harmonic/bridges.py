"""Maps between the spaces of two models that were not trained together.

A bridge is an affine map, fitted on vectors of the same images under both versions, and a
direction: it takes vectors of its source version and no others. Its file is safetensors (matrix,
bias) with its description as JSON in the header; nothing in it can run code. Kinds are registered
by name; each is a function from the two sets of vectors to matrix and bias.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from segue.arrays import check_labels, check_vectors, normalise
from segue.errors import (
    EvaluationError,
    FormatError,
    InvalidNameError,
    MissingPathError,
    PeopleError,
    UnknownNameError,
    UnsafeModelError,
    UsageError,
    VectorError,
)
from segue.files import write_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike

    from segue.types import Doubles, Floats, Ints

FORMAT = 1
"""The version of the file's form."""

FOLDS = 5
"""Folds of the cross-validation that chooses the strength of ridge regression."""

STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(4, -13, -1))
"""Ridge strengths tried, strongest first, as multiples of the source's mean variance."""

_LARGEST_HEADER = 1 << 20
_HEADER_KEY = "segue_bridge"


class Affine(NamedTuple):
    """What a fitter returns: `source @ matrix + bias` is near `target`.

    Shapes: matrix float64 [d1, d2], bias float64 [d2]; `settings` says what was chosen.
    """

    matrix: Doubles
    bias: Doubles
    settings: dict[str, Any]


class Fitter(Protocol):
    """A kind of bridge: fits on unit vectors [N, d1] and [N, d2] of the same images."""

    def __call__(self, source: Doubles, target: Doubles, groups: Ints, seed: int) -> Affine:
        """Fit; `groups` int64 [N] says which rows show one person (each its own if unknown)."""


_FITTERS: dict[str, Fitter] = {}
_F = TypeVar("_F", bound=Fitter)


def register_bridge(kind: str) -> Callable[[_F], _F]:
    """Register a fitter under a name that `fit_bridge` then knows.

    Raises:
        InvalidNameError: the name is taken.
    """
    if kind in _FITTERS:
        raise InvalidNameError("new kind of bridge", kind, "the name is taken; choose another")

    def register(fitter: _F) -> _F:
        _FITTERS[kind] = fitter
        return fitter

    return register


def list_bridges() -> tuple[str, ...]:
    """Return the registered kinds, sorted.

    >>> list_bridges()
    ('procrustes', 'ridge')
    """
    return tuple(sorted(_FITTERS))


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
    """

    kind: str
    source_version: str
    target_version: str
    source_fingerprint: str
    target_fingerprint: str
    matrix: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    settings: Mapping[str, Any]

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
        checked = check_vectors(vectors, dimension=self.matrix.shape[0])
        mapped = checked.astype(np.float64) @ self.matrix.astype(np.float64) + self.bias
        return normalise(mapped, name="mapped vectors")

    def to_bytes(self) -> bytes:
        """Return the bridge's file: the same bytes for the same bridge."""
        from safetensors.numpy import save

        tensors = {
            "matrix": np.ascontiguousarray(self.matrix, dtype=np.float32),
            "bias": np.ascontiguousarray(self.bias, dtype=np.float32),
        }
        description = {
            "format": FORMAT,
            "kind": self.kind,
            "source_version": self.source_version,
            "target_version": self.target_version,
            "source_fingerprint": self.source_fingerprint,
            "target_fingerprint": self.target_fingerprint,
            "settings": dict(self.settings),
            "sha256": _checksum(**tensors),
        }
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
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(content)
        except SafetensorError as error:
            raise UnsafeModelError(where, f"damaged safetensors ({error})") from error
        matrix, bias = tensors["matrix"], tensors["bias"]
        if matrix.ndim != 2 or bias.shape != matrix.shape[1:]:
            raise UnsafeModelError(where, f"matrix {matrix.shape} and bias {bias.shape} do not fit")
        if not (np.isfinite(matrix).all() and np.isfinite(bias).all()):
            raise UnsafeModelError(where, "it holds NaN or infinity")
        if description.get("sha256") != _checksum(matrix, bias):
            raise UnsafeModelError(where, "its numbers are not those that were saved")
        try:
            return cls(
                **{name: _text(description[name]) for name in _TEXTS},
                matrix=matrix,
                bias=bias,
                settings=dict(description["settings"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UnsafeModelError(where, f"its description is damaged ({error})") from error


_TEXTS = ("kind", "source_version", "target_version", "source_fingerprint", "target_fingerprint")


def fit_bridge(
    kind: str,
    source: ArrayLike,
    target: ArrayLike,
    *,
    source_version: str,
    target_version: str,
    source_fingerprint: str = "",
    target_fingerprint: str = "",
    seed: int = 0,
    labels: ArrayLike | None = None,
) -> Bridge:
    """Fit a map from `source` to `target`, which embed the same images in the same order.

    Args:
        kind: a registered kind, see `list_bridges`.
        source: unit vectors of the source version, float [N, d1].
        target: unit vectors of the target version, float [N, d2].
        source_version: the version of `source`, such as `faces/2`.
        target_version: the version of `target`, such as `faces/1`.
        source_fingerprint: fingerprint of the source version.
        target_fingerprint: fingerprint of the target version.
        seed: of the folds, where a kind chooses something by cross-validation.
        labels: who each row shows, [N]; folds are then over people, as they should be.

    Raises:
        UnknownNameError: no such kind.
        UsageError: source and target are one version.
        VectorError: no unit vectors, or not one target per source.
        EvaluationError: fewer than two rows.
        PeopleError: `labels` name fewer than two people and the kind needs folds.
    """
    if kind not in _FITTERS:
        raise UnknownNameError("kind of bridge", kind, _FITTERS)
    if source_version == target_version:
        raise UsageError(f"a bridge joins two versions; both are {source_version}")
    left = check_vectors(source, name="source vectors").astype(np.float64)
    right = check_vectors(target, name="target vectors").astype(np.float64)
    if len(left) != len(right):
        raise VectorError(
            f"{len(left)} source vectors and {len(right)} target vectors; "
            "give one of each for every image, in the same order"
        )
    if len(left) < 2:
        raise EvaluationError("a bridge needs vectors of at least two images under both versions")
    groups = np.arange(len(left)) if labels is None else check_labels(labels, len(left))
    fitted = _FITTERS[kind](left, right, groups, seed)
    people = {} if labels is None else {"people": len(np.unique(groups))}
    return Bridge(
        kind=kind,
        source_version=source_version,
        target_version=target_version,
        source_fingerprint=source_fingerprint,
        target_fingerprint=target_fingerprint,
        matrix=fitted.matrix.astype(np.float32),
        bias=fitted.bias.astype(np.float32),
        settings={**fitted.settings, "images": len(left), **people},
    )


@register_bridge("procrustes")
def fit_procrustes(source: Doubles, target: Doubles, groups: Ints, seed: int) -> Affine:  # noqa: ARG001
    """Fit the rotation (partial isometry, if d1 != d2) nearest to the target in least squares.

    U Vᵀ of the singular value decomposition of sourceᵀ target (Schönemann, 1966). It has no bias:
    a rotation about the origin keeps all distances between mapped vectors, and the sphere.
    """
    left, _, right = np.linalg.svd(source.T @ target, full_matrices=False)
    return Affine(left @ right, np.zeros(target.shape[1]), {})


@register_bridge("ridge")
def fit_ridge(source: Doubles, target: Doubles, groups: Ints, seed: int) -> Affine:
    """Fit ridge regression with a bias that is not penalised.

    Its strength is chosen among `STRENGTHS` by cross-validation over `groups`: the smallest mean
    squared distance between normalised mapped vectors and their targets.
    """
    folds = _folds(groups, seed)
    errors = np.zeros(len(STRENGTHS))
    for fold in np.unique(folds):
        held = folds == fold
        maps = _ridge_path(source[~held], target[~held], STRENGTHS)
        for place, (matrix, bias) in enumerate(maps):
            mapped = source[held] @ matrix + bias
            lengths = np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)
            errors[place] += float(np.square(mapped / lengths - target[held]).sum())
    best = int(np.argmin(errors))
    matrix, bias = _ridge_path(source, target, (STRENGTHS[best],))[0]
    chosen = {"strength": STRENGTHS[best], "held_out_distance": errors[best] / len(source)}
    return Affine(matrix, bias, chosen)


def _ridge_path(
    source: Doubles, target: Doubles, strengths: tuple[float, ...]
) -> list[tuple[Doubles, Doubles]]:
    """Return matrix and bias for each strength from one eigendecomposition."""
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    centred = source - mean_source
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values = np.maximum(values, 0)
    right = vectors.T @ (centred.T @ (target - mean_target))
    unit = max(float(values.mean()), 1e-12)
    maps = []
    for strength in strengths:
        matrix = vectors @ (right / (values + strength * unit)[:, None])
        maps.append((matrix, mean_target - mean_source @ matrix))
    return maps


def _folds(groups: Ints, seed: int) -> Ints:
    """Return each row's fold, int64 [N]: whole groups, shuffled by `seed`, dealt in turn."""
    _, members = np.unique(groups, return_inverse=True)
    count = int(members.max()) + 1
    if count < 2:
        raise PeopleError("choosing the ridge strength needs images of at least two people")
    order = np.random.default_rng(seed).permutation(count)
    fold_of_group = np.empty(count, dtype=np.int64)
    fold_of_group[order] = np.arange(count) % min(FOLDS, count)
    return np.asarray(fold_of_group[members])


def _checksum(matrix: Floats, bias: Floats) -> str:
    little = (np.ascontiguousarray(x, dtype="<f4").tobytes() for x in (matrix, bias))
    return hashlib.sha256(b"".join(little)).hexdigest()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _read_description(content: bytes, where: str) -> dict[str, Any]:
    """Read the JSON of a safetensors header and refuse all but the two tensors of a bridge."""
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
    if found != FORMAT:
        raise FormatError(where, str(found), FORMAT)
    if dtypes != {"matrix": "F32", "bias": "F32"}:
        raise UnsafeModelError(where, "it holds other tensors than a bridge's matrix and bias")
    return dict(description)
