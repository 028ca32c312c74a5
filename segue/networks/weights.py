"""Weights as safetensors, loaded strictly: names, shapes and types must be the network's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from segue.errors import UnsafeModelError
from segue.networks.registry import build_network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from segue.networks.base import EmbeddingNetwork

_SHOWN = 3


def save_weights(network: EmbeddingNetwork) -> bytes:
    """Return parameters and buffers as safetensors: the same weights give the same bytes."""
    state = network.state_dict()
    content: bytes = save_tensors(
        {name: value.detach().cpu().contiguous() for name, value in state.items()}
    )
    return content


def load_network(
    architecture: str,
    settings: Mapping[str, Any],
    weights: bytes,
    *,
    source: Path | str = "the weights",
) -> EmbeddingNetwork:
    """Build a network and fill it with `weights`; it comes in evaluation mode.

    `source` is named in errors. No code of the file is run: only safetensors are read.

    Raises:
        UnknownNameError: an unknown architecture or setting.
        UnsafeModelError: no safetensors (a pickle, a `.pt` or `.pt2` archive, damaged), or tensors
            of other names, shapes or types than the network's.
    """
    network = build_network(architecture, settings)
    tensors = read_tensors(weights, source)
    check_tensors(tensors, network.state_dict(), source)
    network.load_state_dict(tensors)
    return network.eval()


def read_tensors(content: bytes, source: Path | str) -> dict[str, Tensor]:
    """Read safetensors from bytes; nothing else is ever parsed.

    Raises:
        UnsafeModelError: the bytes are something else, or truncated.
    """
    try:
        tensors: dict[str, Tensor] = load_tensors(content)
    except (SafetensorError, ValueError) as error:
        raise UnsafeModelError(source, _what_it_is(content)) from error
    return tensors


def check_tensors(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Path | str
) -> None:
    """Check that `found` has exactly the names, shapes and types of `expected`.

    Raises:
        UnsafeModelError: it has others; the first few are named.
    """
    missing, foreign = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or foreign:
        raise UnsafeModelError(
            source,
            f"its tensors are not this network's (missing: {_some(missing)}; "
            f"foreign: {_some(foreign)})",
        )
    for name, tensor in expected.items():
        other = found[name]
        if other.shape != tensor.shape or other.dtype != tensor.dtype:
            raise UnsafeModelError(
                source,
                f"tensor {name} is {other.dtype} {list(other.shape)}, "
                f"this network's is {tensor.dtype} {list(tensor.shape)}",
            )


def _some(names: set[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return (", ".join(listed[:_SHOWN]) + more) or "none"


def _what_it_is(content: bytes) -> str:
    if content.startswith(b"PK"):
        return "it is a zip archive such as .pt or .pt2, which can run code when it is loaded"
    if content.startswith(b"\x80"):
        return "it is a pickle, which can run code when it is loaded"
    return "it is no safetensors file, or it is truncated"
