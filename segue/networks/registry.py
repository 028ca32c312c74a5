"""Architectures by registered name; a user's own register through an entry point."""

from __future__ import annotations

import inspect
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, TypeVar

from segue.errors import InvalidNameError, UnknownNameError, UsageError
from segue.types import DEFAULT_OUTPUT, check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from segue.networks.base import EmbeddingNetwork

    Builder = Callable[..., EmbeddingNetwork]
    B = TypeVar("B", bound=Builder)

ENTRY_POINTS = "segue.architectures"
"""The entry-point group: each names a builder, or a module that registers some."""

_OUTPUTS = "outputs"
_BUILDERS: dict[str, Builder] = {}
_BUILT_IN = ("segue.networks.small",)


def register_architecture(name: str) -> Callable[[B], B]:
    """Register a builder of `EmbeddingNetwork` (a subclass, or a function) under `name`.

    Its keyword parameters are the architecture's settings: JSON values, each with a default, so
    that it can be built and tried as soon as it is registered; one of them is `dimension`.

    Raises:
        InvalidNameError: the name is unusable or taken.
        UsageError: a parameter has no default, or there is no `dimension`.
    """
    check_name(name, "architecture")

    def register(builder: B) -> B:
        if name in _BUILDERS:
            raise InvalidNameError("free architecture", name, "it is registered; choose another")
        parameters = _parameters(builder)
        bare = [p.name for p in parameters.values() if p.default is inspect.Parameter.empty]
        if bare or "dimension" not in parameters:
            lacking = f"a default for {', '.join(bare)}" if bare else "a setting 'dimension'"
            raise UsageError(f"architecture {name!r} needs {lacking}")
        _BUILDERS[name] = builder
        return builder

    return register


def list_architectures() -> list[str]:
    """Return the registered names, sorted; entry points included."""
    _load_entry_points()
    return sorted(_BUILDERS)


def build_network(architecture: str, settings: Mapping[str, Any] | None = None) -> EmbeddingNetwork:
    """Build an architecture with fresh weights from torch's global random state.

    Args:
        architecture: a registered name.
        settings: JSON settings by name; `outputs` (name -> dimension) adds heads beside
            `embedding`.

    Raises:
        UnknownNameError: no such architecture or setting; the message lists those there are.
        UsageError: a value that the architecture refuses, or outputs that contradict `dimension`.
    """
    builder = _find(architecture)
    given = dict(settings or {})
    outputs = given.pop(_OUTPUTS, None)
    known = _parameters(builder)
    for name in given:
        if name not in known:
            raise UnknownNameError(f"setting of {architecture}", name, [*known, _OUTPUTS])
    complete = {name: given.get(name, p.default) for name, p in known.items()}
    try:
        network = builder(**complete)
    except (TypeError, ValueError) as error:
        raise UsageError(f"architecture {architecture!r} refuses {complete}: {error}") from error
    network.describe_as(architecture, complete)
    if outputs is not None:
        _add_outputs(network, outputs)
    return network


def _add_outputs(network: EmbeddingNetwork, outputs: Mapping[str, Any]) -> None:
    own = network.outputs[DEFAULT_OUTPUT]
    if outputs.get(DEFAULT_OUTPUT, own) != own:
        raise UsageError(
            f"outputs give '{DEFAULT_OUTPUT}' dimension {outputs[DEFAULT_OUTPUT]}, "
            f"the setting 'dimension' is {own}; make them agree"
        )
    for name, dimension in outputs.items():
        if name != DEFAULT_OUTPUT:
            network.add_head(name, int(dimension))


def _parameters(builder: Builder) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(builder).parameters)


def _find(architecture: str) -> Builder:
    if architecture not in _BUILDERS:
        _load_entry_points()
    if architecture not in _BUILDERS:
        raise UnknownNameError("architecture", architecture, _BUILDERS)
    return _BUILDERS[architecture]


def _load_entry_points() -> None:
    for module in _BUILT_IN:
        import_module(module)
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        if entry.name in _BUILDERS:
            continue
        try:
            found = entry.load()
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"entry point {entry.name!r} ({entry.value}) cannot be imported: {error}; "
                "mend or remove the package that declares it"
            ) from error
        if entry.name not in _BUILDERS:
            register_architecture(entry.name)(found)
