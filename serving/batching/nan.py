"""nan_rows: how many rows of an answer have a NaN in them. NaN is a number like others and is passed on; it is counted, because
nobody wants it."""

from __future__ import annotations

from math import isnan
from typing import Any

import numpy as np

from serving.tensor import DType, Signature

_FLOATS = (DType.FP16, DType.BF16, DType.FP32, DType.FP64)
_BLAS = (np.dtype(np.float32), np.dtype(np.float64))


def float_outputs(signature: Signature) -> tuple[str, ...]:
    """Return the names of the outputs that can hold a NaN."""
    return tuple(s.name for s in signature.outputs if s.dtype in _FLOATS)


def nan_rows(outputs: Any, names: tuple[str, ...], rows: int, batched: bool) -> int:
    """Return how many of the rows have a NaN in one of the named outputs; without a batch dimension 0 or 1.

    What is not as declared counts as none: `stack.Splitter` says what is wrong with it.
    """
    if type(outputs) is not dict:
        return 0
    found: Any = None
    for name in names:
        array = outputs.get(name)
        if type(array) is not np.ndarray or not array.size or not _has_nan(array):
            continue
        if not batched or not array.ndim or len(array) != rows:
            return 1
        bad = np.isnan(array).reshape(rows, -1).any(axis=1)
        found = bad if found is None else np.logical_or(found, bad)
    return 0 if found is None else int(found.sum())


def _has_nan(array: np.ndarray[Any, Any]) -> bool:
    if array.dtype in _BLAS:
        return isnan(np.vdot(array, array))  # NaN only where there is one: squares never cancel out. 1.3 µs where isnan().any() takes 3
    return array.dtype.kind in "fV" and bool(np.isnan(array).any())
