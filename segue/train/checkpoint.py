"""Checkpoints: one safetensors file with the weights, the optimiser's state and a JSON header.

A checkpoint is written durably and whole, so a kill leaves the last one. It remembers what it is a
checkpoint *of*: settings, data and starting weights; anything else is refused.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safetensors.torch import save as save_tensors

from segue.errors import TrainingError, UnsafeModelError
from segue.files import write_durably
from segue.networks.weights import read_tensors
from segue.train.header import Header, read_header, write_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

FILE_NAME = "checkpoint.safetensors"
_WEIGHTS, _OPTIMISER, _NETWORK = "weights.", "optimiser.", "network."
_STATE = re.compile(rf"{re.escape(_OPTIMISER)}(?P<number>[0-9]{{1,9}})\.(?P<key>.+)")
_ADVICE = "delete it to begin the training anew"
_SHOWN = 3

_SINCE_FORMAT_1 = {"precision": "float32", "mine_every": 0, "mine_images": 2000}
_HARMONIC_SINCE_FORMAT_1 = {
    "separate_head": False,
    "head_dropout": 0.5,
    "head_last": False,
    "head_images": 0,
    "head_people": 256,
    "head_singles": 256,
}
"""Settings that format 1 knew nothing of, as they then were."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after `step` steps.

    Attributes:
        step: optimiser steps done, over all stages.
        weights: parameters and buffers by name.
        optimiser: state of the optimiser of the stage at hand: parameter number -> name -> value;
            empty at the end of a stage.
        history: entries so far.
        seconds: spent so far.
    """

    step: int
    weights: dict[str, Tensor]
    optimiser: dict[int, dict[str, Tensor]]
    history: list[dict[str, float]]
    seconds: float


def save_checkpoint(folder: Path, checkpoint: Checkpoint, of: Mapping[str, Any]) -> None:
    """Write `folder/checkpoint.safetensors`, replacing an earlier one.

    Args:
        folder: made if it is not there.
        checkpoint: the state.
        of: what it is a checkpoint of, as JSON values.

    Raises:
        DiskFullError, ReadOnlyError: it cannot be written; the earlier one is whole.
    """
    tensors = {_WEIGHTS + name: value for name, value in checkpoint.weights.items()}
    for number, state in checkpoint.optimiser.items():
        tensors |= {f"{_OPTIMISER}{number}.{name}": value for name, value in state.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = write_header(
        tensors,
        of=of,
        step=checkpoint.step,
        history=checkpoint.history,
        seconds=checkpoint.seconds,
    )
    write_durably(folder / FILE_NAME, save_tensors(tensors, metadata=metadata))


def load_checkpoint(folder: Path, of: Mapping[str, Any]) -> Checkpoint | None:
    """Read the checkpoint of `folder`, or return None where there is none yet.

    Raises:
        TrainingError: it is the checkpoint of another training; the differences are named.
        UnsafeModelError: the file is no checkpoint, or damaged.
        FormatError: written by a newer Segue.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    with refusing(folder):
        content = path.read_bytes()
        tensors = read_tensors(content, path)
        header = read_header(content, tensors, path)
        if header.format == 1:
            tensors, header = _lift(tensors, header)
        weights, optimiser = _sorted_out(tensors, path)
    _check_same(header.of, json.loads(json.dumps(of)), path)
    return Checkpoint(header.step, weights, optimiser, header.history, header.seconds)


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """Say what to do about the checkpoint of `folder` where it is refused.

    Raises:
        UnsafeModelError: as it was raised inside, with that advice.
    """
    try:
        yield
    except UnsafeModelError as error:
        raise UnsafeModelError(folder / FILE_NAME, error.reason, _ADVICE) from error


def _sorted_out(
    tensors: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    """Return the weights by name, and the optimiser's state by parameter number and name."""
    weights: dict[str, Tensor] = {}
    optimiser: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        state = _STATE.fullmatch(name)
        if state is not None:
            optimiser.setdefault(int(state["number"]), {})[state["key"]] = value
        elif name.startswith(_WEIGHTS):
            weights[name.removeprefix(_WEIGHTS)] = value
        else:
            raise UnsafeModelError(path, f"it holds {name!r}, which is no tensor of a training")
    return weights, optimiser


def _lift(tensors: Mapping[str, Tensor], header: Header) -> tuple[dict[str, Tensor], Header]:
    """Say in the words of today what format 1 said: its weights are of a network alone."""
    further = _SINCE_FORMAT_1
    if header.of.get("kind") != "base":
        further = further | _HARMONIC_SINCE_FORMAT_1
    lifted = {**header.of, "settings": {**further, **header.of.get("settings", {})}}
    renamed = {
        _WEIGHTS + _NETWORK + name.removeprefix(_WEIGHTS)
        if name.startswith(_WEIGHTS)
        else name: value
        for name, value in tensors.items()
    }
    return renamed, replace(header, of=lifted)


def _check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    there, here = _flat(found), _flat(wanted)
    names = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    if names:
        told = "; ".join(
            f"{name} {_short(there.get(name))} there, {_short(here.get(name))} here"
            for name in names[:_SHOWN]
        )
        raise TrainingError(
            f"{path} is the checkpoint of another training ({told}); "
            "go on with what it was begun with, or delete it to begin anew"
        )


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings beside the other entries, so that a difference names one of them."""
    flat = {name: one for name, one in value.items() if name != "settings"}
    return {**flat, **value.get("settings", {})}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "…"
