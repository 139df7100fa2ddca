"""Answers to predictions, read and compared: the right outputs, of the right type and shape, with the expected values if there are any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.bench.inputs import Array, fits
from serving.bench.target import Wire
from serving.errors import InvalidArgument, ServingError
from serving.protocol.schema import ModelInferResponse, parse
from serving.tensor import DType, decode_bytes_tensor, element_count

_HEAD_CHARACTERS = 1 << 16
_PREFIX_BYTES = 5
_CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_TOLERANCES = {DType.FP64: (1e-6, 1e-8), DType.FP32: (1e-4, 1e-5), DType.FP16: (1e-2, 1e-3), DType.BF16: (3e-2, 1e-2)}
"""Relative and absolute. The order of additions differs between machines and batch sizes; a wrong answer differs by more."""


@dataclass(frozen=True, slots=True)
class Expected:
    """One output as it should come. A size of -1 may be any; `values` None: any values."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    values: Array | None = None


@dataclass(frozen=True, slots=True)
class AnswerCheck:
    """Says what is wrong with an answer's body. Without `outputs` the answer has to be readable, no more."""

    protocol: Wire
    outputs: tuple[Expected, ...]

    def __call__(self, body: bytes) -> str | None:
        try:
            answer = read_grpc(body[_PREFIX_BYTES:]) if self.protocol == "grpc" else read_rest(body)
        except (ServingError, ValueError, KeyError, TypeError) as error:
            return f"the answer cannot be read: {error}"
        return compare(answer, self.outputs)


def compare(answer: Mapping[str, tuple[DType, Array]], outputs: tuple[Expected, ...]) -> str | None:
    """Return what is wrong with the outputs of an answer, None where nothing is."""
    for expected in outputs:
        if expected.name not in answer:
            return f"the answer has no output '{expected.name}', it has {', '.join(answer) or 'none'}"
        dtype, array = answer[expected.name]
        if dtype is not expected.dtype:
            return f"output '{expected.name}' is {dtype.label}, expected {expected.dtype.label}"
        if not fits(array.shape, expected.shape):
            return f"output '{expected.name}' has the shape {list(array.shape)}, expected {list(expected.shape)}"
        if expected.values is not None and (wrong := _wrong_values(expected, array)):
            return wrong
    return None


def _wrong_values(expected: Expected, array: Array) -> str | None:
    assert expected.values is not None
    if expected.dtype in _TOLERANCES:
        relative, absolute = _TOLERANCES[expected.dtype]
        wide = array.astype(np.float64), expected.values.astype(np.float64)
        same = np.isclose(*wide, rtol=relative, atol=absolute, equal_nan=True)
    else:
        same = np.asarray(array == expected.values)
    if same.all():
        return None
    first = tuple(int(i) for i in np.argwhere(~same)[0])
    return (
        f"output '{expected.name}': {int((~same).sum())} of {same.size} values differ, "
        f"the first at {list(first)}: {array[first]}, expected {expected.values[first]}"
    )


def read_rest(body: bytes) -> dict[str, tuple[DType, Array]]:
    """Return type and array of each output of a REST answer, binary or JSON. Raises ValueError and the like for what cannot be read.

    The answer's header with the length of its JSON is not needed: JSON ends where its last bracket closes.
    """
    try:
        head, end = json.JSONDecoder().raw_decode(body[:_HEAD_CHARACTERS].decode("latin-1"))
    except ValueError:
        head, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    if not body[:end].isascii():
        head = json.loads(body[:end])
    if "outputs" not in head:
        raise ValueError(f"it has no outputs: {body[:200]!r}")
    found: dict[str, tuple[DType, Array]] = {}
    at = end
    for output in head["outputs"]:
        dtype, shape, name = DType.of(output["datatype"]), tuple(output["shape"]), str(output["name"])
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            found[name] = dtype, _of_json(dtype, output["data"], shape)
        else:
            found[name] = dtype, _of_bytes(dtype, body[at : at + size], shape)
            at += size
    if at != len(body) and body[at:].strip():
        raise ValueError(f"{len(body) - at} bytes behind its outputs")
    return found


def read_grpc(message: bytes) -> dict[str, tuple[DType, Array]]:
    """Return type and array of each output of a ModelInferResponse. Raises DecodeError, ValueError and the like."""
    answer = parse(ModelInferResponse, message)
    raws = answer.raw_output_contents
    if raws and len(raws) != len(answer.outputs):
        raise ValueError(f"{len(answer.outputs)} outputs and {len(raws)} raw contents")
    found: dict[str, tuple[DType, Array]] = {}
    for i, output in enumerate(answer.outputs):
        dtype, shape = DType.of(output.datatype), tuple(output.shape)
        if raws:
            array = _of_bytes(dtype, raws[i], shape)
        elif dtype.label in _CONTENTS:
            array = _of_json(dtype, list(getattr(output.contents, _CONTENTS[dtype.label])), shape)
        else:
            raise ValueError(f"output '{output.name}' is {dtype.label} and has no raw contents")
        found[output.name] = dtype, array
    return found


def _of_bytes(dtype: DType, data: bytes, shape: tuple[int, ...]) -> Array:
    if dtype is DType.BYTES:
        return decode_bytes_tensor(data, element_count(shape)).reshape(shape)
    if len(data) != element_count(shape) * dtype.itemsize:
        raise InvalidArgument(f"{len(data)} bytes for {dtype.label}{list(shape)}")
    return np.frombuffer(data, dtype.numpy).reshape(shape)


def _of_json(dtype: DType, data: Any, shape: tuple[int, ...]) -> Array:
    if dtype is DType.BYTES:
        flat = np.empty(element_count(shape), dtype=np.object_)
        flat[:] = [item if isinstance(item, bytes) else str(item).encode() for item in _leaves(data)]
        return flat.reshape(shape)
    return np.array(list(_leaves(data)), dtype.numpy).reshape(shape)


def _leaves(data: Any) -> list[Any]:
    """Return the elements of a list that may be nested."""
    while data and isinstance(data[0], list):
        data = [item for row in data for item in row]
    return list(data)
