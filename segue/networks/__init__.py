"""Networks by registered name, safe weights, preprocessing, and the runners that embed images.

A network is an architecture's registered name, JSON settings and safetensors; a foreign model is an
ONNX file. Nothing here loads a file that could run code.

The names below are imported on first use, so that preparing images or running an ONNX model loads
no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.networks.base import EmbeddingNetwork
    from segue.networks.onnx_runner import OnnxRunner
    from segue.networks.preprocess import prepare
    from segue.networks.registry import (
        build_network,
        list_architectures,
        register_architecture,
    )
    from segue.networks.runner import Runner, embed
    from segue.networks.torch_runner import TorchRunner
    from segue.networks.weights import load_network, save_weights

__all__ = [
    "EmbeddingNetwork",
    "OnnxRunner",
    "Runner",
    "TorchRunner",
    "build_network",
    "embed",
    "list_architectures",
    "load_network",
    "prepare",
    "register_architecture",
    "save_weights",
]

_HOME = {
    "EmbeddingNetwork": "base",
    "OnnxRunner": "onnx_runner",
    "Runner": "runner",
    "TorchRunner": "torch_runner",
    "build_network": "registry",
    "embed": "runner",
    "list_architectures": "registry",
    "load_network": "weights",
    "prepare": "preprocess",
    "register_architecture": "registry",
    "save_weights": "weights",
}


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
