"""Running a foreign network from an ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segue.arrays import normalise
from segue.errors import RegistryError, UnknownNameError, UnsafeModelError, VectorError
from segue.networks.onnx_file import check_onnx
from segue.networks.runner import BATCH, check_batch
from segue.types import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segue.types import Floats

_MOST_BATCH = 1024  # images in the batch that a model may be fixed to
_MOST_PIXELS = 4096  # a side of its input


class OnnxRunner:
    """An ONNX model of one image input: prepared batches in, unit vectors out, on the CPU.

    It is loaded from bytes that were checked first (`check_onnx`), so no other file is ever read.
    A model exported for a fixed batch is fed batches of that size, the last one padded.

    Args:
        model: the content of the file.
        output: the name that its vectors have in Segue.
        graph_output: the model's own name of the output; needed when it has more than one.
        threads: threads of the runtime; 0 takes every core.
        source: named in errors.

    Raises:
        UnsafeModelError: no ONNX model, external data, operators of other domains, or a model that
            the runtime refuses.
        RegistryError: its input is no float32 [N, 3, h, w], or the output no [N, d].
        UnknownNameError: it has no such output.
    """

    def __init__(
        self,
        model: bytes,
        output: str = DEFAULT_OUTPUT,
        *,
        graph_output: str | None = None,
        threads: int = 0,
        source: Path | str = "the ONNX model",
    ) -> None:
        check_onnx(model, source)
        self._output = output
        self._source = source
        self._session = _open(model, threads, source)
        self._input, shape = _image_input(self._session, source)
        self._fixed = shape[0] if isinstance(shape[0], int) else None
        height, width = (size if isinstance(size, int) else None for size in shape[2:])
        self.input_size: tuple[int | None, int | None] = (height, width)
        self._graph_output, dimension = _vector_output(self._session, graph_output, source)
        self._dimension = dimension or self._measure_dimension()

    @property
    def outputs(self) -> dict[str, int]:
        """Output name -> dimension."""
        return {self._output: self._dimension}

    def run(self, batch: Floats) -> dict[str, Floats]:
        """Embed prepared images float32 [N, 3, h, w]: unit float32 [N, d].

        Raises:
            VectorError: another shape than the model's input, or a vector with NaN or of length 0.
        RegistryError: the model fails in the runtime.
        """
        check_batch(batch)
        for wanted, found in zip(self.input_size, batch.shape[2:], strict=True):
            if wanted is not None and wanted != found:
                height, width = self.input_size
                raise VectorError(
                    f"{self._source} takes images of {height} x {width} pixels, "
                    f"these are {batch.shape[2]} x {batch.shape[3]}; mend the preprocessing"
                )
        size = self._fixed or BATCH
        parts = [self._vectors(batch[i : i + size]) for i in range(0, len(batch), size)]
        empty = np.empty((0, self._dimension), np.float32)
        return {self._output: normalise(np.concatenate([empty, *parts]), dimension=self._dimension)}

    def _vectors(self, part: Floats) -> Floats:
        count = len(part)
        if self._fixed is not None and count < self._fixed:
            part = np.concatenate([part, np.repeat(part[-1:], self._fixed - count, axis=0)])
        try:
            found = self._session.run(
                [self._graph_output], {self._input: np.ascontiguousarray(part)}
            )
        except _runtime_errors() as error:
            raise RegistryError(f"{self._source} cannot be run: {_told(error)}") from error
        vectors: Floats = np.asarray(found[0], dtype=np.float32).reshape(len(part), -1)[:count]
        return vectors

    def _measure_dimension(self) -> int:
        height, width = self.input_size
        if height is None or width is None:
            raise RegistryError(
                f"{self._source} declares neither its input's size nor its vectors' dimension; "
                "export it with a fixed height and width"
            )
        probe = np.zeros((self._fixed or 1, 3, height, width), dtype=np.float32)
        return int(self._vectors(probe).shape[1])


def _open(model: bytes, threads: int, source: Path | str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # its errors come as exceptions, which are told below
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        session = onnxruntime.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # it would print to standard output and try the same again
            read_config_from_model=0,  # a model has no say in how it is run
        )
        for one in (*session.get_inputs(), *session.get_outputs()):
            _ = (one.name, one.shape)  # decoded here, so that text that is no UTF-8 is told below
    except _runtime_errors() as error:
        raise UnsafeModelError(source, f"the ONNX runtime refuses it ({_told(error)})") from error
    return session


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Return what the runtime raises; its classes have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (
        "EPFail",
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoModel",
        "NoSuchFile",
        "NotFound",
        "NotImplemented",
        "RuntimeException",
    )
    classes = [getattr(state, name) for name in own if hasattr(state, name)]
    return (*classes, RuntimeError, ValueError)  # ValueError: also messages that are no UTF-8


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _image_input(session: Any, source: Path | str) -> tuple[str, Sequence[int | str | None]]:
    inputs = session.get_inputs()
    told = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in inputs)
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        raise RegistryError(
            f"{source} has the input {told}; Segue runs models of one input "
            "float32 [N, 3, height, width]"
        )
    shape: Sequence[int | str | None] = inputs[0].shape
    limits = (_MOST_BATCH, 3, _MOST_PIXELS, _MOST_PIXELS)
    fits = [
        not isinstance(size, int) or 1 <= size <= limit
        for size, limit in zip(shape, limits, strict=True)
    ]
    if not all(fits) or (isinstance(shape[1], int) and shape[1] != 3):
        raise RegistryError(
            f"{source} has the input {told}; Segue gives at most {_MOST_BATCH} images at once, "
            f"as [N, 3, height, width] of at most {_MOST_PIXELS} pixels a side"
        )
    return str(inputs[0].name), shape


def _vector_output(session: Any, wanted: str | None, source: Path | str) -> tuple[str, int | None]:
    outputs = {one.name: one for one in session.get_outputs()}
    if wanted is None and len(outputs) > 1:
        raise RegistryError(
            f"{source} has several outputs ({', '.join(sorted(outputs))}); "
            "name the one that holds the vectors"
        )
    if not outputs:
        raise RegistryError(f"{source} has no output; export it with its vectors as the output")
    name = wanted if wanted is not None else next(iter(outputs))
    if name not in outputs:
        raise UnknownNameError(f"output of {source}", name, outputs)
    shape = outputs[name].shape
    if outputs[name].type != "tensor(float)" or len(shape) < 2 or any(x != 1 for x in shape[2:]):
        raise RegistryError(
            f"{source} gives {name} as {outputs[name].type} {shape}; "
            "Segue needs one vector for each image, float32 [N, d]"
        )
    return str(name), shape[1] if isinstance(shape[1], int) else None
