"""What a checkpoint says of itself: its JSON header, checked, and a checksum over all of it.

The checksum is beside the header in the file's metadata. Checkpoints of format 2 that were written
without it are read too.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from segue.errors import FormatError, UnsafeModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

FORMAT = 2
"""The newest format; format 1 is read too."""

_HEADER, _CHECKSUM = "segue", "segue.sha256"


@dataclass(frozen=True)
class Header:
    """The header of a checkpoint, every entry of its type.

    Attributes:
        format: 1 or 2.
        of: what it is a checkpoint of, as JSON values.
        step: optimiser steps done, over all stages.
        history: entries so far.
        seconds: spent so far.
    """

    format: int
    of: dict[str, Any]
    step: int
    history: list[dict[str, float]]
    seconds: float


def write_header(
    tensors: Mapping[str, Tensor],
    *,
    of: Mapping[str, Any],
    step: int,
    history: list[dict[str, float]],
    seconds: float,
) -> dict[str, str]:
    """Return the metadata of a checkpoint's safetensors: its header and the checksum."""
    header = {"format": FORMAT, "of": of, "step": step, "history": history, "seconds": seconds}
    text = json.dumps(header)
    return {_HEADER: text, _CHECKSUM: _checksum(text, tensors)}


def read_header(content: bytes, tensors: Mapping[str, Tensor], path: Path) -> Header:
    """Read and check the header of a checkpoint.

    Args:
        content: the file, which `read_tensors` found to be whole safetensors.
        tensors: what it read from them.
        path: named in errors.

    Raises:
        UnsafeModelError: there is none, or header or tensors are not those that were saved.
        FormatError: written by a newer Segue.
    """
    metadata = _metadata(content)
    try:
        text = metadata[_HEADER]
        value = json.loads(text)
        found = value["format"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UnsafeModelError(path, "it is no checkpoint of a training") from error
    if type(found) is not int or found < 1:
        raise UnsafeModelError(path, "its header is damaged (format)")
    if found > FORMAT:
        raise FormatError(path, found, FORMAT)
    if _CHECKSUM not in metadata:
        _check_finite(tensors, path)
    elif metadata[_CHECKSUM] != _checksum(text, tensors):
        raise UnsafeModelError(path, "it is damaged: it is not what was saved")
    wrong = [name for name, right in _ENTRIES.items() if not right(value.get(name))]
    if wrong:
        raise UnsafeModelError(path, f"its header is damaged ({', '.join(wrong)})")
    return Header(**{name: value[name] for name in ("format", *_ENTRIES)})


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    return metadata


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    """Return a sha256 over the header's text, and each tensor's name, type, shape and values."""
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse the one damage of numbers that shows without a checksum."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UnsafeModelError(path, f"it is damaged: tensor {name} holds NaN or infinity")


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_time(value: Any) -> bool:
    return _is_number(value) and 0 <= value < math.inf


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, dict) and all(map(_is_number, entry.values())) for entry in value
    )


def _is_description(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("settings", {}), dict)


_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "of": _is_description,
    "step": _is_whole,
    "history": _is_history,
    "seconds": _is_time,
}
