"""Runtime `onnx`: model.onnx with onnxruntime (extra `onnx`), on the processor or on one CUDA device.

The signature comes from the graph; names count. With max_batch_size 1 or more, the first dimension of every tensor must be of any size.
Threads of one call are the plan's; they sleep between calls instead of spinning, because a replica shares its cores with others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from serving.errors import InvalidArgument, SignatureMismatch, Unavailable
from serving.hosting import VersionPlan
from serving.models.artefact import artefact_file
from serving.models.model import Array, Arrays
from serving.models.python import guard
from serving.models.signature import settle
from serving.tensor import DType, Signature, TensorSpec

_DTYPES: dict[str, DType] = {
    "tensor(bool)": DType.BOOL,
    "tensor(uint8)": DType.UINT8,
    "tensor(uint16)": DType.UINT16,
    "tensor(uint32)": DType.UINT32,
    "tensor(uint64)": DType.UINT64,
    "tensor(int8)": DType.INT8,
    "tensor(int16)": DType.INT16,
    "tensor(int32)": DType.INT32,
    "tensor(int64)": DType.INT64,
    "tensor(float16)": DType.FP16,
    "tensor(float)": DType.FP32,
    "tensor(double)": DType.FP64,
    "tensor(string)": DType.BYTES,
}
_ERRORS_ONLY = 3


def create(plan: VersionPlan, device: str) -> OnnxModel:
    return OnnxModel(plan, device)


class OnnxModel:
    """An onnxruntime session behind the Model port."""

    platform = "onnxruntime_onnx"
    own_inputs = False
    parametric = False
    decoupled = False
    signature: Signature

    def __init__(self, plan: VersionPlan, device: str) -> None:
        self._plan = plan
        self._cuda = device == "cuda"
        self._session: Any = None
        self._outputs: list[str] = []
        self._texts: tuple[str, ...] = ()
        self.predict: Callable[[Arrays], Arrays] = self._predict

    def load(self) -> None:
        plan = self._plan
        path = artefact_file(plan)
        providers = ["CPUExecutionProvider"]
        if self._cuda:
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise Unavailable(f"'{plan.key}': a GPU is asked for, but this onnxruntime has no CUDA (pip install onnxruntime-gpu)")
            providers.insert(0, "CUDAExecutionProvider")
        self._session = guard(plan, "onnxruntime", lambda: onnxruntime.InferenceSession(path, self._options(), providers=providers))
        self.signature = settle(plan, _found(plan, self._session), names=True)
        self._outputs = [s.name for s in self.signature.outputs]
        self._texts = tuple(s.name for s in self.signature.inputs if s.dtype is DType.BYTES)
        if not self._texts:
            self.predict = _direct(self._session.run, self._outputs)

    def warm_up(self, batches: list[Arrays]) -> list[Arrays]:
        return [self.predict(batch) for batch in batches]

    def check(self) -> None:
        return None

    def _options(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._plan.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _predict(self, inputs: Arrays) -> Arrays:
        """For models that take text: onnxruntime wants str where the protocol has bytes."""
        for name in self._texts:
            if name in inputs:
                inputs = {**inputs, name: _decoded(inputs[name])}
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))


def _direct(run: Callable[[list[str], Arrays], list[Array]], outputs: list[str]) -> Callable[[Arrays], Arrays]:
    """Return `predict` with nothing in between."""
    if len(outputs) == 1:
        name = outputs[0]
        return lambda inputs: {name: run(outputs, inputs)[0]}
    return lambda inputs: dict(zip(outputs, run(outputs, inputs), strict=True))


def _decoded(texts: Array) -> Array:
    out = np.empty(texts.shape, np.object_)
    out.reshape(-1)[:] = [t.decode("utf-8", "surrogateescape") if isinstance(t, bytes) else str(t) for t in texts.reshape(-1)]
    return out


def _found(plan: VersionPlan, session: Any) -> Signature:
    batched = plan.batching.max_batch_size > 0
    inputs, outputs = (tuple(_spec(plan, node, batched) for node in side) for side in (session.get_inputs(), session.get_outputs()))
    return Signature(inputs, outputs, plan.batching.max_batch_size)


def _spec(plan: VersionPlan, node: Any, batched: bool) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise InvalidArgument(f"'{plan.key}': '{node.name}' of {plan.artefact} is a {node.type}, which cannot be served")
    shape = tuple(d if isinstance(d, int) else -1 for d in node.shape)
    if not batched:
        return TensorSpec(node.name, dtype, shape)
    if not shape or shape[0] != -1:
        raise SignatureMismatch(
            f"'{plan.key}': '{node.name}' of {plan.artefact} is {list(shape)}, but max_batch_size {plan.batching.max_batch_size} "
            "needs a first dimension of any size, or max_batch_size 0"
        )
    return TensorSpec(node.name, dtype, shape[1:])
