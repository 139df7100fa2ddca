"""DType, TensorSpec, Signature: what a model takes and gives. Knows numpy, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import ml_dtypes
import numpy as np

from serving.errors import InvalidArgument

ANY = -1
"""A dimension of any size."""


class DType(Enum):
    """Datatypes of the Open Inference Protocol. `numpy` is the array type; BYTES arrays hold `bytes` objects."""

    BOOL = ("BOOL", np.dtype(np.bool_))
    UINT8 = ("UINT8", np.dtype(np.uint8))
    UINT16 = ("UINT16", np.dtype(np.uint16))
    UINT32 = ("UINT32", np.dtype(np.uint32))
    UINT64 = ("UINT64", np.dtype(np.uint64))
    INT8 = ("INT8", np.dtype(np.int8))
    INT16 = ("INT16", np.dtype(np.int16))
    INT32 = ("INT32", np.dtype(np.int32))
    INT64 = ("INT64", np.dtype(np.int64))
    FP16 = ("FP16", np.dtype(np.float16))
    FP32 = ("FP32", np.dtype(np.float32))
    FP64 = ("FP64", np.dtype(np.float64))
    BF16 = ("BF16", np.dtype(ml_dtypes.bfloat16))
    BYTES = ("BYTES", np.dtype(np.object_))

    # Plain attributes: Enum properties cost a descriptor call on the hot path.
    label: str
    numpy: np.dtype[Any]
    itemsize: int

    def __init__(self, label: str, numpy: np.dtype[Any]) -> None:
        self.label = label
        self.numpy = numpy
        self.itemsize = 0 if label == "BYTES" else numpy.itemsize

    @classmethod
    def of(cls, label: str) -> DType:
        """Return the DType with that protocol name ("FP32"). Raises InvalidArgument naming all of them."""
        try:
            return _BY_LABEL[label]
        except (KeyError, TypeError):
            raise InvalidArgument(f"invalid datatype '{label}', expected one of {', '.join(_BY_LABEL)}") from None

    @classmethod
    def of_numpy(cls, dtype: np.dtype[Any]) -> DType:
        """Return the DType of a numpy array type; text and bytes arrays are BYTES."""
        if dtype.kind in "SUO":
            return cls.BYTES
        try:
            return _BY_NUMPY[dtype.newbyteorder("=")]
        except (KeyError, TypeError):
            raise InvalidArgument(f"numpy type '{dtype}' has no protocol datatype") from None


_BY_LABEL = {d.label: d for d in DType}
_BY_NUMPY = {d.numpy: d for d in DType if d is not DType.BYTES}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Declared input or output. `shape` leaves out the batch dimension when the signature is batched; -1 = any size.

    layout: of an image, "NHWC" or "NCHW", as clients are told; "" where it is none.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    optional: bool = False
    labels: tuple[str, ...] = ()
    layout: str = ""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model version takes and gives.

    max_batch_size >= 1: every tensor has a leading batch dimension, and rows of different requests may be joined.
    max_batch_size == 0: no batch dimension, every request runs alone.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = 0

    @property
    def batched(self) -> bool:
        return self.max_batch_size > 0

    def wire_shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """Return the shape that clients see: with a leading -1 where the signature is batched."""
        return (ANY, *spec.shape) if self.batched else spec.shape

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` takes back (travels in frames and the store)."""

        def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
            return [
                {"name": s.name, "dtype": s.dtype.label, "shape": list(s.shape)}
                | ({"optional": True} if s.optional else {})
                | ({"labels": list(s.labels)} if s.labels else {})
                | ({"layout": s.layout} if s.layout else {})
                for s in specs
            ]

        return {
            "inputs": tensors(self.inputs),
            "outputs": tensors(self.outputs),
            "max_batch_size": self.max_batch_size,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Signature:
        def tensors(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(
                    i["name"],
                    DType.of(i["dtype"]),
                    tuple(i["shape"]),
                    i.get("optional", False),
                    tuple(i.get("labels", ())),
                    i.get("layout", ""),
                )
                for i in items
            )

        return cls(tensors(value["inputs"]), tensors(value["outputs"]), value["max_batch_size"])


def element_count(shape: tuple[int, ...]) -> int:
    """Return the product of the dimensions (1 for a scalar)."""
    n = 1
    for d in shape:
        n *= d
    return n


def encode_bytes_tensor(array: np.ndarray[Any, Any]) -> bytes:
    """Return a BYTES tensor on the wire: per element a little-endian u32 length, then the bytes. Text is UTF-8."""
    parts: list[bytes] = []
    for item in array.reshape(-1).tolist() if array.dtype.kind != "O" else array.reshape(-1):
        raw = item if isinstance(item, bytes) else str(item).encode()
        parts.append(len(raw).to_bytes(4, "little"))
        parts.append(raw)
    return b"".join(parts)


def decode_bytes_tensor(data: bytes | memoryview, count: int, name: str = "", model: str = "") -> np.ndarray[Any, Any]:
    """Return a flat object array of `count` bytes elements. Raises InvalidArgument in the words of Triton."""
    out = np.empty(count, dtype=np.object_)
    view = memoryview(data).cast("B")
    end = len(view)
    at = 0
    n = 0
    where = f"for inference input '{name}' for model '{model}'"
    while at < end:
        if n == count:
            raise InvalidArgument(f"unexpected number of string elements {n + 1} {where}, expecting {count}")
        if at + 4 > end:
            raise InvalidArgument(f"incomplete string length indicator {where}, expecting 4 bytes but only {end - at} available")
        size = int.from_bytes(view[at : at + 4], "little")
        at += 4
        if at + size > end:
            raise InvalidArgument(f"incomplete string data {where}, expecting string of length {size} but only {end - at} bytes available")
        out[n] = bytes(view[at : at + size])
        at += size
        n += 1
    if n != count:
        raise InvalidArgument(f"expected {count} string elements {where}, got {n}")
    return out
