"""Bodies that are read in slices: the request or the error is that of a body that is read as a whole."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ServingError
from serving.protocol import json_tensor
from serving.protocol.json_numbers import Wire
from serving.protocol.json_slices import PIECE_BYTES, SLICED_BYTES, Outline, read_slices
from serving.protocol.rest import RestCodec
from serving.tensor import DType
from tests.protocol.samples import signature

T = TypeVar("T")
DTYPES = [d for d in DType if d not in (DType.FP16, DType.BF16)]
INTEGERS = st.integers(-128, 127)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
FLAT = st.one_of(st.lists(INTEGERS, min_size=8, max_size=60), st.lists(FLOATS, min_size=8, max_size=60))
ARRAYS = st.one_of(FLAT, st.lists(FLAT, min_size=1, max_size=5), st.lists(st.lists(FLAT, min_size=1, max_size=3), min_size=1, max_size=3))
PIECES = st.integers(8, 90)


def count(data: Any) -> int:
    return sum(map(count, data)) if isinstance(data, list) else 1


def drained(work: Generator[None, None, T]) -> T:
    """Return what comes of work that would give others their turn."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def read(text: Any, piece_bytes: int = PIECE_BYTES) -> Outline | None:
    return drained(read_slices(text, piece_bytes))


def outcome(codec: RestCodec, body: bytes, piece_bytes: int = 0) -> Any:
    """Return the request, or the error; read in slices where there is a size for them and the body can be read so."""
    try:
        outline = read(body, piece_bytes) if piece_bytes else None
        request, plan = codec.decode(body, None) if outline is None else codec.decode_outline(outline)
    except ServingError as error:
        return type(error), error.message
    return request.layout, b"".join(map(bytes, request.payload)), plan.id


def tensor(data: Any, dtype: DType = DType.FP32, name: str = "x", **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": dtype.label, "shape": [count(data)], "data": data, **more}


@settings(max_examples=300)
@given(
    dtype=st.sampled_from(DTYPES), data=ARRAYS, off=st.sampled_from([0, 0, 1]), piece=PIECES, indent=st.sampled_from([None, None, 0, 3]),
    last=st.booleans(),
)  # fmt: skip
def test_in_slices_and_as_a_whole_are_the_same(dtype: DType, data: Any, off: int, piece: int, indent: int | None, last: bool) -> None:
    item = tensor(data, dtype)
    item["shape"] = [count(data) + off]
    if last:
        item["parameters"] = {"a": [1]}
    body = json.dumps({"inputs": [item], "id": "7", "parameters": {"p": "q"}}, indent=indent).encode()
    codec = RestCodec("m", "1", signature(dtype, (-1,)))
    assert outcome(codec, body, piece) == outcome(codec, body)


@settings(max_examples=400)
@given(
    data=ARRAYS,
    piece=PIECES,
    at=st.integers(0, 400),
    put=st.sampled_from([b"", b",", b"]", b"[", b"1", b" ", b'"', b"}", b"NaN", b"-", b"\\"]),
    cut=st.integers(0, 2),
)
def test_texts_that_are_broken_somewhere_get_the_same_answer(data: Any, piece: int, at: int, put: bytes, cut: int) -> None:
    body = json.dumps({"inputs": [tensor(data)]}).encode()
    at %= len(body)
    body = body[:at] + put + body[at + cut :]
    codec = RestCodec("m", "1", signature(DType.FP32, (-1,)))
    assert repr(outcome(codec, body, piece)) == repr(outcome(codec, body))


def test_long_arrays_are_cut_and_the_rest_is_kept() -> None:
    numbers = [float(n) for n in range(100)]
    body = json.dumps({"id": "a", "inputs": [tensor(numbers), tensor([1.0], name="y"), tensor([numbers, numbers], name="z")]}).encode()
    outline = read(body, 64)
    assert outline is not None
    assert len(outline.text) < 400
    data = [item["data"] for item in outline.document["inputs"]]
    assert [type(d) for d in data] == [Wire, list, Wire]
    assert [d.count for d in (data[0], data[2])] == [100, 200]


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[30],"data":%s,"data":[1]}]}',  # twice: the last one counts
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1],"data":%s}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1],"parameters":{"data":%s}}]}',
        b'{"data":%s,"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}',
        b'{"a\\"data":%s,"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}',
        b'{"id":"@array:0","inputs":[{"name":"x","datatype":"FP32","shape":[30],"data":%s}]}',
        b'{"id":"\\"data\\":[","inputs":[{"name":"x","datatype":"FP32","shape":[30],"data":%s}]}',
        b'{"inputs":[{"name":"x","datatype":"FP16","shape":[30],"data":%s}]}',
        b'{"inputs":[{"name":"x","datatype":"FP33","shape":[30],"data":%s}]}',
        b'{"inputs":[{"name":"x","shape":[30],"data":%s}]}',
        b'{"inputs":{"data":%s}}',
        b'[{"data":%s}]',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[30],"data":%s,}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[30],"data":%s',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[30],"data":%s  ,  "parameters":{}}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[30],"data":[[[%s]]]}]}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("array", [list(range(30)), [list(range(15)), list(range(15))], [1, 2, 3] * 9 + [[1], [], [1, 1]]])
def test_forms_that_are_odd(body: bytes, array: list[Any]) -> None:
    codec = RestCodec("m", "1", signature(DType.FP32, (-1,)))
    text = body % json.dumps(array).encode()
    for piece in range(8, 60):
        assert outcome(codec, text, piece) == outcome(codec, text)


def test_a_large_body_is_read_in_small_pieces() -> None:
    assert PIECE_BYTES * 2 <= SLICED_BYTES  # an array of that size is cut
    body = json.dumps({"inputs": [tensor([0.125] * 100_000)]}).encode()
    outline = read(memoryview(bytearray(body)))
    assert outline is not None
    assert len(outline.document["inputs"][0]["data"].parts) == len(body) // PIECE_BYTES + 1
    codec = RestCodec("m", "1", signature(DType.FP32, (-1,)))
    assert outcome(codec, body, PIECE_BYTES) == outcome(codec, body)


@pytest.mark.parametrize("dtype", [DType.FP32, DType.INT64, DType.BOOL, DType.UINT8, DType.BYTES], ids=str)
@pytest.mark.parametrize("elements", [0, 1, 8192, 8193, 20_000])
def test_tensors_are_written_in_slices_as_they_are_at_once(dtype: DType, elements: int) -> None:
    data = b"\1\0\0\0a" * elements if dtype is DType.BYTES else np.arange(elements).astype(dtype.numpy).tobytes()
    if dtype is DType.FP32 and elements > 9000:
        data = data[:40_000] + np.array([np.nan, -np.inf, np.inf], np.float32).tobytes() + data[40_012:]
    assert drained(json_tensor.encode_slices(dtype, data, "y")) == json_tensor.encode(dtype, data, "y")
