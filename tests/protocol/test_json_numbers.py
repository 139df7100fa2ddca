"""Large JSON bodies: whatever way a body is read, the request or the error is the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ServingError
from serving.protocol import rest
from serving.protocol.json_numbers import LARGE_BYTES
from serving.protocol.rest import RestCodec
from serving.tensor import DType
from tests.protocol.samples import signature

DTYPES = [d for d in DType if d not in (DType.FP16, DType.BF16)]
ITEMS = st.one_of(
    st.integers(-(1 << 65), 1 << 65), st.integers(-300, 300), st.floats(), st.booleans(), st.none(), st.text(max_size=3), st.just(1e300)
)
OF_ONE_KIND = st.one_of(
    st.lists(st.integers(-128, 127)), st.lists(st.floats(allow_nan=False)), st.lists(st.integers(0, (1 << 64) - 1)), st.lists(st.booleans())
)
NESTED = st.recursive(OF_ONE_KIND, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


def read(body: bytes, dtype: DType, large_bytes: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what a codec makes of the body where texts from `large_bytes` on count as large: the payload, or the error's text."""
    with monkeypatch.context() as patched:
        patched.setattr(rest, "LARGE_BYTES", large_bytes)
        codec = RestCodec("m", "1", signature(dtype, (-1,)))
        try:
            request, plan = codec.decode(body, None)
        except ServingError as error:
            return type(error), error.message
        return request.layout, b"".join(map(bytes, request.payload)), plan.id


def count(data: Any) -> int:
    return sum(map(count, data)) if isinstance(data, list) else 1


def same_both_ways(body: bytes, dtype: DType) -> Any:
    monkeypatch = pytest.MonkeyPatch()
    small = read(body, dtype, len(body) + 1, monkeypatch)
    assert read(body, dtype, 0, monkeypatch) == small
    return small


@given(dtype=st.sampled_from(DTYPES), data=st.one_of(NESTED, st.lists(ITEMS, max_size=6)), off=st.sampled_from([0, 0, 0, 1]))
def test_large_and_small_bodies_are_read_alike(dtype: DType, data: Any, off: int) -> None:
    tensor = {"name": "x", "datatype": dtype.label, "shape": [count(data) + off], "data": data, "parameters": {}}
    same_both_ways(json.dumps({"id": "7", "inputs": [tensor], "parameters": {"a": 1}}).encode(), dtype)


@given(st.binary(max_size=60))
def test_anything_gets_the_same_error(body: bytes) -> None:
    same_both_ways(body, DType.FP32)


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1],"data":[2]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * 101 + b"1" + b"]" * 101 + b"}]}",
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[0],"data":[]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[[1][2]]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":{"a":1}}]}',
        b'{"inputs":{"name":"x"}}',
        b'{"inputs":[1]}',
        b"[1]",
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]} more',
    ],
)
def test_forms_of_their_own(body: bytes) -> None:
    same_both_ways(body, DType.FP32)


def test_a_parser_goes_on_after_an_error() -> None:
    codec = RestCodec("m", "1", signature(DType.INT8, (-1,)))
    numbers = list(range(100)) * 100
    body = json.dumps({"inputs": [{"name": "x", "datatype": "INT8", "shape": [10_000], "data": numbers}]}).encode()
    assert len(body) > LARGE_BYTES
    errors = []
    for wrong in (body.replace(b"99", b"999"), body.replace(b"[10000]", b"[9999]"), body[:-1], body.replace(b"98,", b'"98",')):
        with pytest.raises(ServingError) as caught:
            codec.decode(wrong, None)
        errors.append(caught)  # keeps the traceback, and with it the document
        assert bytes(codec.decode(body, None)[0].payload[0]) == bytes(numbers)
    assert len({str(error.value) for error in errors}) == 4
