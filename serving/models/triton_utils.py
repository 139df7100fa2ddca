"""What `import triton_python_backend_utils as pb_utils` gives to a model: tensors, requests, responses, look-ups in its configuration.

Names and behaviour are those of Triton's Python backend, as far as it makes sense without Triton's core.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from serving.errors import Unsupported
from serving.models.model import Array
from serving.models.triton_sender import FINAL, ResponseSender
from serving.tensor import DType

_log = logging.getLogger("triton_python_backend_utils")

TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL


class TritonModelException(Exception):
    """Raised by models."""


class TritonError:
    """Why a request has failed."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    """A named array in the processor's memory."""

    def __init__(self, name: str, array: Any) -> None:
        self._name = name
        self._array: Array = np.asarray(array)

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Array:
        return self._array

    def triton_dtype(self) -> str:
        return "TYPE_STRING" if self._array.dtype.kind in "OSU" else f"TYPE_{DType.of_numpy(self._array.dtype).label}"

    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self._array.shape)

    def is_cpu(self) -> bool:
        return True

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    def to_dlpack(self) -> Any:
        return self._array.__dlpack__()

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Tensor:
        return Tensor(name, np.from_dlpack(tensor))


class InferenceRequest:
    """The rows of a batch."""

    def __init__(
        self,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        model_version: int = -1,
        parameters: Mapping[str, Any] | None = None,
        request_id: str = "",
        correlation_id: int = 0,
    ) -> None:
        self._inputs = list(inputs)
        self._outputs = list(requested_output_names)
        self._model_name = model_name
        self._model_version = model_version
        self._parameters = dict(parameters or {})
        self._id = request_id
        self._correlation_id = correlation_id
        self.sender: ResponseSender[InferenceResponse] | None = None
        """What the model answers with, where it asked for it."""

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def requested_output_names(self) -> list[str]:
        return self._outputs

    def model_name(self) -> str:
        return self._model_name

    def model_version(self) -> int:
        return self._model_version

    def parameters(self) -> str:
        """Return JSON text."""
        return json.dumps(self._parameters)

    def request_id(self) -> str:
        return self._id

    def correlation_id(self) -> int:
        return self._correlation_id

    def is_cancelled(self) -> bool:
        return self.sender is not None and self.sender.is_cancelled()

    def exec(self, *_: Any, **__: Any) -> Any:
        raise Unsupported("business logic scripting (InferenceRequest.exec) is not supported; call the engine as a client")

    async_exec = exec

    def get_response_sender(self) -> ResponseSender[InferenceResponse]:
        if self.sender is None:
            self.sender = ResponseSender()
        return self.sender


class InferenceResponse:
    """The answer to a request: tensors, or what went wrong."""

    def __init__(self, output_tensors: Iterable[Tensor] = (), error: TritonError | None = None, parameters: Any = None) -> None:
        self._outputs = list(output_tensors or ())
        self._error = error

    def output_tensors(self) -> list[Tensor]:
        return self._outputs

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class Logger:
    """Writes to the replica's log."""

    @staticmethod
    def log_info(message: str) -> None:
        _log.info("%s", message)

    log = log_info

    @staticmethod
    def log_warn(message: str) -> None:
        _log.warning("%s", message)

    @staticmethod
    def log_error(message: str) -> None:
        _log.error("%s", message)

    @staticmethod
    def log_verbose(message: str) -> None:
        _log.debug("%s", message)


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return _named(request.inputs(), name)


def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor | None:
    return _named(response.output_tensors(), name)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    return next((t for t in model_config.get("input", ()) if t["name"] == name), None)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    return next((t for t in model_config.get("output", ()) if t["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_string_to_numpy(kind: str) -> Any:
    """Return the numpy type of "TYPE_FP32"."""
    return np.object_ if kind == "TYPE_STRING" else DType.of(kind.removeprefix("TYPE_")).numpy.type


def _named(tensors: Iterable[Tensor], name: str) -> Tensor | None:
    return next((t for t in tensors if t.name() == name), None)
