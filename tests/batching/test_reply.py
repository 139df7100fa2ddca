from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serving.batching.reply import model_error, unpack
from serving.errors import ModelFailed, Unavailable


def test_parameters_come_sorted_and_plain() -> None:
    outputs, parameters = unpack(({"y": 1}, {"b": np.int64(3), "a": "x", "c": np.bool_(True), "d": np.float32(0.5)}), "m")
    assert outputs == {"y": 1}
    assert parameters == (("a", "x"), ("b", 3), ("c", True), ("d", 0.5))
    assert [type(value) for _, value in parameters] == [str, int, bool, float]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (({}, {}, {}), "tuple of 3"),
        (({}, None), "parameters of type NoneType"),
        (({}, {1: 2}), "name is a int"),
        (({}, {"triton_x": 2}), "reserved"),
        (({}, {"a": None}), "is None, expected text"),
        (({}, {"a": [1]}), "is \\[1\\]"),
        (({}, {"a": float("nan")}), "is nan"),
        (({}, {"a": 1 << 64}), "64-bit"),
        (({}, {"a": "\ud800"}), "surrogate"),
        (({}, {"\ud800": 1}), "surrogate"),
        (({}, {str(n): n for n in range(1025)}), "1025 parameters"),
    ],
)
def test_what_cannot_be_sent_is_refused(reply: Any, says: str) -> None:
    with pytest.raises(ModelFailed, match=says):
        unpack(reply, "m")


def test_what_a_model_raised_is_its_text_and_its_type_where_that_tells_something() -> None:
    told = [
        model_error(e).message
        for e in (RuntimeError("no"), Exception("no"), KeyError("x"), ValueError("no"), RuntimeError(), Unavailable("no"))
    ]
    assert told == ["no", "no", "KeyError: 'x'", "ValueError: no", "RuntimeError: ", "no"]
