"""Classification: an output as its best classes, `"value:index[:label]"`, in place of its numbers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from serving.errors import InvalidArgument
from serving.inference import Buffer, TensorLayout
from serving.tensor import DType, TensorSpec, encode_bytes_tensor

MAX_ELEMENTS: Final = 1_000_000
_NOT_RANKED: Final = (DType.BYTES, DType.BOOL, DType.FP16, DType.BF16)


def check(spec: TensorSpec) -> None:
    """Raise InvalidArgument for an output that has no classes."""
    if spec.dtype in _NOT_RANKED:
        raise InvalidArgument(f"class result not available for output due to unsupported type '{spec.dtype.label}'")


def classify(tensor: TensorLayout, data: Buffer, k: int, batched: bool, labels: tuple[str, ...]) -> tuple[TensorLayout, bytes]:
    """Return the `k` highest of each row (all, where there are fewer) as a BYTES tensor [rows, k], [k] without a batch dimension.

    Equals come in the order of their index, NaN last. Raises InvalidArgument above MAX_ELEMENTS.
    """
    values: np.ndarray[Any, Any] = np.frombuffer(data, tensor.dtype.numpy)
    if values.size > MAX_ELEMENTS:
        raise InvalidArgument(f"classification output tensor too large: {values.size} elements, at most {MAX_ELEMENTS}")
    rows = tensor.shape[0] if batched and tensor.shape else 1
    table = values.reshape(rows, -1) if values.size else values.reshape(rows, 0)
    decimals = tensor.dtype in (DType.FP32, DType.FP64)
    texts: list[str] = []
    for row in table:
        for index in best(row, k).tolist():
            number = f"{row[index]:f}" if decimals else str(row[index])
            texts.append(f"{number}:{index}:{labels[index]}" if index < len(labels) else f"{number}:{index}")
    shown = min(k, table.shape[1])
    raw = encode_bytes_tensor(np.array(texts, dtype=np.object_))
    return TensorLayout(tensor.name, DType.BYTES, (rows, shown) if batched else (shown,), len(raw)), raw


def best(row: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """Return the indices of the k highest values, highest first."""
    if row.dtype.kind == "f" and np.isnan(row).any():
        row = np.where(np.isnan(row), -np.inf, row)
    if k < len(row):
        least = np.partition(row, len(row) - k)[len(row) - k]
        above = np.flatnonzero(row > least)
        found = np.concatenate((above, np.flatnonzero(row == least)[: k - len(above)]))
        found.sort()
    else:
        found = np.arange(len(row))
    # a stable sort of the reverse, reversed: highest first and equals still in order
    upward = np.argsort(row[found[::-1]], kind="stable")
    ranked: np.ndarray[Any, Any] = found[::-1][upward][::-1]
    return ranked
