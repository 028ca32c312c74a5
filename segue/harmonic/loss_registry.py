"""Losses by registered name, what each needs, and the checks that they share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import torch

from segue.errors import InvalidNameError, UnknownNameError, UsageError, VectorError
from segue.harmonic.mining import check_tensor, check_tensor_labels, check_unit, wide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

NEEDS = {
    "labels": "who each row shows, int64 [N]",
    "old_vectors": "v1's vectors of the same images, float [N, d]",
    "old_means": "v1's class means, float [classes, d], as `class_means(v1, labels)` gives",
    "old_radii": "how far v1's vectors lie from their class means, float [classes], as "
    "`class_radii(v1, labels, quantile=loss.radii_quantile)` gives",
    "class_weights": "v2's own class weights, trained with it, float [classes, d], such as a "
    "torch.nn.Parameter",
}
"""What a loss can need, by name: the keywords that `apply_loss` takes."""

OPTIONS = {
    "weights": "how far each image is relied on, float [N]",
    "triplets": "triplets to be used in place of mined ones",
    "generator": "the torch.Generator to draw from",
}
"""What some losses take besides, by name."""

OWN = frozenset({"labels"})
"""What a loss of v2 alone needs."""

CROSS = frozenset({"labels", "old_vectors"})
"""What a loss that compares v2's vectors with v1's needs."""


class Loss(Protocol):
    """A loss with its settings, called with v2's unit vectors and the labels.

    `needs` says what else it is called with: `old_vectors` as the third argument, everything else
    of NEEDS as a keyword. A loss that can use one of OPTIONS lists it in `options`.
    """

    needs: ClassVar[frozenset[str]]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss as a scalar with a graph to v2's vectors."""


_KINDS: dict[type | tuple[type, ...], str] = {
    bool: "truth; give true or false",
    (int, float): "number",
    str: "text",
}
"""Of settings, in the order in which they are told apart: a truth is an int too."""

_LOSSES: dict[str, type[Loss]] = {}
_L = TypeVar("_L", bound=type[Loss])


def register_loss(name: str) -> Callable[[_L], _L]:
    """Register a class of losses under a name that `make_loss` then knows.

    Raises:
        InvalidNameError: the name is taken.
        UnknownNameError: the class needs something that nobody can give it.
    """
    if name in _LOSSES:
        raise InvalidNameError("new loss", name, "the name is taken; choose another")

    def register(loss: _L) -> _L:
        for need in loss.needs - NEEDS.keys():
            raise UnknownNameError("need of a loss", need, NEEDS)
        _LOSSES[name] = loss
        return loss

    return register


def registered_losses() -> dict[str, type[Loss]]:
    """Return the registered classes by name."""
    return dict(_LOSSES)


def make_loss(name: str, **settings: Any) -> Loss:
    """Return the loss of that name with these settings.

    Raises:
        UnknownNameError: no such loss.
        UsageError: a setting that the loss does not have, or a value out of range.
    """
    if name not in _LOSSES:
        raise UnknownNameError("loss", name, _LOSSES)
    _check_names(name, settings)
    _check_kinds(name, settings)
    try:
        return _LOSSES[name](**settings)
    except TypeError as error:
        raise UsageError(f"loss {name!r} does not take these settings: {error}") from error


def _check_names(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a setting that the loss does not have, naming those that it has.

    Raises:
        UsageError: the setting is named.
    """
    known = [each.name for each in _fields(_LOSSES[name]) if each.init]
    unknown = settings.keys() - set(known)
    if dataclasses.is_dataclass(_LOSSES[name]) and unknown:
        raise UsageError(
            f"loss {name!r} has no setting {', '.join(sorted(unknown))}; it takes "
            f"{', '.join(known) or 'none'}"
        )


def _check_kinds(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a number, truth or text where the loss's default is another of these.

    Raises:
        UsageError: the setting is named.
    """
    defaults = {each.name: each.default for each in _fields(_LOSSES[name])}
    for setting, value in settings.items():
        default = defaults.get(setting)
        for kind, told in _KINDS.items():
            if isinstance(default, kind) and not isinstance(value, kind):
                raise UsageError(f"{setting} {value!r} of loss {name!r} is no {told}")
            if isinstance(default, kind):
                break


def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()


def loss_name(loss: Loss) -> str:
    """Return the name that a loss is registered under, or else its class."""
    names = (name for name, kind in _LOSSES.items() if kind is type(loss))
    return next(names, type(loss).__name__)


def check_needs(loss: Loss, given: Iterable[str]) -> None:
    """Refuse to begin with a loss that would lack an input.

    Args:
        loss: the loss.
        given: names of NEEDS that it can be called with.

    Raises:
        UsageError: it needs something else; the message says what that is.
    """
    for need in sorted(loss.needs - set(given)):
        raise UsageError(f"loss {loss_name(loss)!r} needs {need}: {NEEDS[need]}")


def apply_loss(loss: Loss, v2: Tensor, labels: Tensor, **given: Any) -> Tensor:
    """Return the loss, called with what it needs of the inputs given.

    Args:
        loss: the loss.
        v2: unit vectors being learned, float [N, d].
        labels: who each row shows, int64 [N]; numbers of classes where classes are given.
        given: inputs by their names in NEEDS, of which each loss is passed its own; and options by
            their names in OPTIONS.

    Raises:
        UsageError: an input that it needs is missing, or an option that it does not have is given.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - NEEDS.keys() - OPTIONS.keys():
        raise UnknownNameError("input of a loss", name, [*NEEDS, *OPTIONS])
    options: frozenset[str] = getattr(loss, "options", frozenset())
    for name in (given.keys() & OPTIONS.keys()) - options:
        raise UsageError(f"loss {loss_name(loss)!r} does not use {name}: {OPTIONS[name]}")
    check_needs(loss, {"labels", *given})
    first = (given["old_vectors"],) if "old_vectors" in loss.needs else ()
    kept = (loss.needs | options) - {"labels", "old_vectors"}
    return loss(v2, labels, *first, **{name: given[name] for name in kept if name in given})


# --- checks that the losses share -----------------------------------------------------------


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of every row of `a` to every row of `b`, at least float32 [N, M]."""
    with torch.autocast(a.device.type, enabled=False):
        return wide(a) @ b.to(wide(a)).T


def check_new(v2: Tensor, labels: Tensor) -> None:
    """Refuse new vectors that are not of unit length, or not one label for each, or none at all.

    Raises:
        VectorError: they are not, or no tensors, or the labels are no whole numbers.
    """
    check_unit(v2, "new vectors")
    check_tensor_labels(labels, v2)
    if labels.is_floating_point() or labels.is_complex():
        raise VectorError(f"labels are {labels.dtype}; give whole numbers, int64 [N] (.long())")
    if not len(v2):
        raise VectorError("the batch has no vectors, so that its mean loss is not defined; skip it")


def check_old(loss: Loss, v2: Tensor, labels: Tensor, v1: Tensor | None) -> Tensor:
    """Check a batch; return `v1` without gradient, in the dtype and place of `v2`.

    Raises:
        UsageError: there are no old vectors.
        VectorError: no unit vectors, another dimension or number of rows, or not one label per row.
    """
    v1 = needed(loss, "old_vectors", v1)
    check_new(v2, labels)
    check_unit(v1, "old vectors")
    if v1.shape[0] != v2.shape[0]:
        raise VectorError(
            f"{len(v2)} new and {len(v1)} old vectors; give both for every image, in one order"
        )
    _check_dimension(v2, v1, "old ones")
    return v1.detach().to(v2)


def check_means(loss: Loss, v2: Tensor, labels: Tensor, means: Tensor | None) -> Tensor:
    """Check a batch and v1's class means; return these frozen, in the dtype and place of `v2`.

    Raises:
        UsageError: there are none.
        VectorError: no unit vectors, another dimension, or labels that are not rows of `means`.
    """
    means = needed(loss, "old_means", means)
    check_new(v2, labels)
    check_unit(means, "old class means")
    _check_dimension(v2, means, "old class means")
    check_class_numbers(labels, len(means))
    return means.detach().to(wide(v2))


def check_radii(loss: Loss, means: Tensor, radii: Tensor | None) -> Tensor:
    """Return the classes' radii frozen, in the dtype and place of the class means.

    Raises:
        UsageError: there are none.
        VectorError: not one cosine for each class.
    """
    radii = needed(loss, "old_radii", radii)
    if radii.shape != means.shape[:1] or not bool((radii.abs() <= 1 + 1e-3).all()):
        raise VectorError(
            f"old_radii of shape {tuple(radii.shape)} for {len(means)} classes; give the smallest "
            "cosine of each to its class mean, as `class_radii` gives"
        )
    return radii.detach().to(means)


def check_class_weights(loss: Loss, means: Tensor, weights: Tensor | None) -> Tensor:
    """Return v2's class weights, each of unit length, with their graph.

    Raises:
        UsageError: there are none.
        VectorError: not one of the means' dimension for each class.
    """
    weights = needed(loss, "class_weights", weights)
    if weights.shape != means.shape:
        raise VectorError(
            f"class_weights are {tuple(weights.shape)}, old class means {tuple(means.shape)}; "
            "give one of each for every class, of v1's dimension"
        )
    return torch.nn.functional.normalize(weights.to(means), dim=1)


def check_class_numbers(labels: Tensor, classes: int) -> None:
    """Refuse labels that are not whole numbers from 0 to `classes` - 1.

    Raises:
        VectorError: they are not.
    """
    whole = not (labels.is_floating_point() or labels.is_complex())
    inside = whole and bool(((labels >= 0) & (labels < classes)).all())
    if not inside:
        raise VectorError(
            f"labels are not numbers of the {classes} classes, 0 to {classes - 1}; number people "
            "as the class means are (numpy.unique(..., return_inverse=True))"
        )


def needed(loss: Loss, name: str, value: Tensor | None) -> Tensor:
    """Return an input that must be there.

    Raises:
        UsageError: it is None.
        VectorError: it is no tensor.
    """
    if value is None:
        raise UsageError(f"loss {loss_name(loss)!r} needs {name}: {NEEDS[name]}")
    check_tensor(value, name, NEEDS[name])
    return value


def check_weight(name: str, value: float) -> None:
    """Refuse a weight that is not finite and at least 0.

    Raises:
        UsageError: it is not.
    """
    if not 0 <= value < float("inf"):
        raise UsageError(f"{name} {value!r}: give a number of at least 0")


def check_above(name: str, value: float) -> None:
    """Refuse a setting that is not finite and above 0.

    Raises:
        UsageError: it is not.
    """
    if not 0 < value < float("inf"):
        raise UsageError(f"{name} {value!r} is not above 0")


def _check_dimension(v2: Tensor, old: Tensor, name: str) -> None:
    if old.shape[1] != v2.shape[1]:
        raise VectorError(
            f"new vectors have dimension {v2.shape[1]}, {name} {old.shape[1]}; "
            "give v2 a head of v1's dimension and pass its output here"
        )
