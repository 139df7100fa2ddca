"""NaN in answers: counted by rows, whatever the datatype, and never in the way."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from serving.batching.nan import float_outputs, nan_rows
from serving.tensor import DType, Signature, TensorSpec

NAN = float("nan")
INF = float("inf")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_rows_with_nan_are_counted_once(dtype: Any) -> None:
    y = np.array([[1, NAN], [NAN, NAN], [3, 4], [INF, -INF]], dtype)
    z = np.array([[NAN], [1], [1], [1]], dtype)
    assert nan_rows({"y": y}, ("y",), 4, True) == 2
    assert nan_rows({"y": y[2:], "z": z[:2]}, ("y", "z"), 2, True) == 1
    assert nan_rows({"y": np.asfortranarray(y), "z": z}, ("y", "z"), 4, True) == 2
    assert nan_rows({"y": y}, ("y",), 4, False) == 1
    assert nan_rows({"y": np.full((2, 3), 1e30, np.float32)}, ("y",), 2, True) == 0


@pytest.mark.parametrize(
    "answer",
    [None, [], {"y": None}, {"y": [NAN]}, {"y": np.zeros((0, 2), np.float32)}, {"z": np.array([NAN])}, {"y": np.array(["text"], object)}],
)
def test_what_is_not_as_declared_counts_as_none(answer: Any) -> None:
    assert nan_rows(answer, ("y",), 1, True) == 0


def test_only_floating_outputs_are_looked_at() -> None:
    outputs = tuple(TensorSpec(d.label, d, (1,)) for d in DType)
    assert float_outputs(Signature((), outputs)) == ("FP16", "FP32", "FP64", "BF16")
