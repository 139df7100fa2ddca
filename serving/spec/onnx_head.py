"""tensors: what an ONNX file says of its inputs and outputs, read from its protobuf without the `onnx` package and without its weights."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.errors import DecodeError, InvalidArgument
from serving.protocol.protobuf import FIXED_BYTES, read_varint

_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_NAME = 8
_DTYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL", 10: "FP16", 11: "FP64",
    12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip

Tensor = dict[str, Any]
"""name, dtype, shape with -1 for any size: as the YAML has it."""


def tensors(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Return (inputs, outputs). Raises OSError, and InvalidArgument where it is no ONNX file."""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            raise InvalidArgument(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            try:
                return _of_model(view)
            except (DecodeError, UnicodeDecodeError, IndexError):
                raise InvalidArgument(f"{path} is not an ONNX file") from None


def _of_model(view: memoryview) -> tuple[list[Tensor], list[Tensor]]:
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    weights: set[str] = set()
    for number, start, stop in _fields(view, 0, len(view)):
        if number != _MODEL_GRAPH:
            continue
        for inner, at, end in _fields(view, start, stop):
            if inner == _GRAPH_INITIALIZER:
                weights |= {bytes(view[a:b]).decode() for n, a, b in _fields(view, at, end) if n == _TENSOR_NAME}
            elif inner in (_GRAPH_INPUT, _GRAPH_OUTPUT):
                (inputs if inner == _GRAPH_INPUT else outputs).append(_tensor(bytes(view[at:end])))
    if not outputs:
        raise DecodeError("no outputs")
    return [t for t in inputs if t["name"] not in weights], outputs


def _tensor(info: bytes) -> Tensor:
    name = dtype = ""
    shape: list[int] = []
    for number, at, end in _fields(info, 0, len(info)):
        if number == 1:
            name = info[at:end].decode()
        elif number == 2:
            for kind, a, b in _fields(info, at, end):
                if kind == 1:
                    dtype, shape = _tensor_type(info, a, b)
    return {"name": name, "dtype": dtype, "shape": shape}


def _tensor_type(info: bytes, at: int, end: int) -> tuple[str, list[int]]:
    dtype = ""
    shape: list[int] = []
    for number, a, b in _fields(info, at, end):
        if number == 1:
            dtype = _DTYPES.get(a, "")
        elif number == 2:
            shape = [next((v for n, v, _ in _fields(info, x, y) if n == 1), -1) for k, x, y in _fields(info, a, b) if k == 1]
    return dtype, shape


def _fields(data: bytes | memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number, start, stop) of each field; of a plain number (number, its value, 0). Raises DecodeError."""
    while at < end:
        key, at = read_varint(data, at, end)
        kind = key & 7
        if kind == 0:
            value, at = read_varint(data, at, end)
            yield key >> 3, value, 0
        elif kind == 2:
            size, at = read_varint(data, at, end)
            if at + size > end:
                raise DecodeError("truncated")
            yield key >> 3, at, at + size
            at += size
        elif kind in FIXED_BYTES:
            at += FIXED_BYTES[kind]
        else:
            raise DecodeError("wire type")
