"""What an ONNX file would pull in, read from its bytes before any runtime sees them.

An ONNX model can name other files as its weights (*external data*) and operators of other domains,
which a runtime would look for in libraries. Both are found by walking the protocol-buffer message
itself: https://protobuf.dev/programming-guides/encoding and `onnx.proto3`. Only field numbers that
can hold a tensor, a node or a graph are followed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.errors import UnsafeModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Operator domains of the ONNX standard itself."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_DEPTH = 64

# Message -> field number -> message inside. Numbers as in onnx.proto3.
_INSIDE: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
}
_MODEL_GRAPH = 7
_NODE_DOMAIN, _NODE_OPERATOR = 7, 4
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14


class _MalformedError(Exception):
    """The bytes are no protocol-buffer message."""


def check_onnx(model: bytes, source: Path | str) -> None:
    """Check that `model` is a self-contained ONNX model of standard operators.

    Raises:
        UnsafeModelError: it is something else, names external data, or uses operators of other
            domains than those of the ONNX standard.
    """
    view = memoryview(model)
    graphs = 0
    waiting = [("Model", view, 0)]
    try:
        while waiting:
            kind, message, depth = waiting.pop()
            for field, wire, value in _fields(message, depth):
                inside = _INSIDE.get(kind, {}).get(field)
                if wire == _BYTES and inside is not None:
                    waiting.append((inside, value, depth + 1))
                    graphs += kind == "Model" and field == _MODEL_GRAPH
                elif kind == "Node" and wire == _BYTES and field == _NODE_DOMAIN:
                    _check_domain(bytes(value), message, source)
                elif kind == "Tensor":
                    _check_tensor(field, wire, value, source)
    except _MalformedError as error:
        raise UnsafeModelError(source, "it is no ONNX model, or it is truncated") from error
    if not graphs:
        raise UnsafeModelError(source, "it is no ONNX model: it holds no graph")


def _check_domain(domain: bytes, node: memoryview, source: Path | str) -> None:
    name = domain.decode(errors="replace")
    if name not in STANDARD_DOMAINS:
        operators = [bytes(v) for f, w, v in _fields(node, 0) if (f, w) == (_NODE_OPERATOR, _BYTES)]
        operator = operators[-1].decode(errors="replace") if operators else "?"
        raise UnsafeModelError(
            source,
            f"it uses the operator {operator[:64]!r} of the domain {name[:64]!r}, which is not of "
            "the ONNX standard (export it with standard operators only)",
        )


def _check_tensor(field: int, wire: int, value: memoryview, source: Path | str) -> None:
    external = wire == _BYTES and field == _TENSOR_EXTERNAL
    if external or (wire == _VARINT and field == _TENSOR_LOCATION and _varint(value, 0)[0] != 0):
        raise UnsafeModelError(
            source, "it keeps weights in other files (save it as one file, without external data)"
        )


def _fields(message: memoryview, depth: int) -> Iterator[tuple[int, int, memoryview]]:
    """Yield (field number, wire type, raw value) of one message, in order."""
    if depth > _MOST_DEPTH:
        raise _MalformedError
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            start, (_, end) = place, _varint(message, place)
        elif wire in (_FIXED64, _FIXED32):
            start, end = place, place + (8 if wire == _FIXED64 else 4)
        elif wire == _BYTES:
            length, start = _varint(message, place)
            end = start + length
        else:
            raise _MalformedError
        if field == 0 or end > len(message):
            raise _MalformedError
        yield field, wire, message[start:end]
        place = end


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Read the number at `place`; return it and the place after it."""
    number = 0
    for index in range(10):
        if place + index >= len(message):
            break
        byte = message[place + index]
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, place + index + 1
    raise _MalformedError
