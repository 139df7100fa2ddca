from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidArgument, ModelFailed
from serving.inference import InferResponse, Layout, TensorLayout
from serving.protocol.generate import GenerateCodec, GeneratePlan
from serving.tensor import DType, Signature, TensorSpec, encode_bytes_tensor

TEXTS = Signature(
    (TensorSpec("PROMPT", DType.BYTES, (1,)), TensorSpec("STREAM", DType.BOOL, (1,)), TensorSpec("seed", DType.INT64, (1,), optional=True)),
    (TensorSpec("TEXT", DType.BYTES, (-1,)),),
)


def codec(signature: Signature = TEXTS) -> GenerateCodec:
    return GenerateCodec("m", "1", signature, max_json_bytes=10_000)


def of(shape: tuple[int, ...], dtype: DType = DType.FP32, rows: int = 0) -> GenerateCodec:
    return codec(Signature((TensorSpec("x", dtype, shape),), (TensorSpec("y", dtype, shape),), rows))


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_inputs_become_tensors_and_the_rest_parameters() -> None:
    request, plan = codec().decode(
        body(STREAM=False, PROMPT=["hi"], id="7", temperature=0.5, parameters={"top": 3, "seed": 9, "priority": 2}, word="w")
    )
    assert plan.id == request.id == "7"
    assert [(t.name, t.shape, t.nbytes) for t in request.layout.tensors] == [("PROMPT", (1,), 6), ("STREAM", (1,), 1), ("seed", (1,), 8)]
    assert b"".join(map(bytes, request.payload)) == b"\x02\0\0\0hi\0" + (9).to_bytes(8, "little")
    assert request.layout.parameters == (("temperature", 0.5), ("top", 3), ("word", "w"))
    assert request.priority == 2


@pytest.mark.parametrize(
    ("declared", "rows", "count", "shape"),
    [
        ((-1,), 0, 5, (5,)),
        ((-1, 4), 0, 8, (2, 4)),
        ((-1, -1, 2), 0, 8, (1, 4, 2)),
        ((3, 2), 0, 6, (3, 2)),
        ((-1,), 8, 5, (1, 5)),
        ((4,), 8, 8, (2, 4)),
        ((), 8, 3, (3,)),
        ((), 0, 1, ()),
    ],
)
def test_shapes_are_fitted(declared: tuple[int, ...], rows: int, count: int, shape: tuple[int, ...]) -> None:
    request, _ = of(declared, rows=rows).decode(body(x=[1.0] * count))
    assert request.layout.tensors[0].shape == shape


def test_a_scalar_and_nested_lists_are_elements() -> None:
    assert of((-1,)).decode(body(x=1.5))[0].layout.tensors[0].shape == (1,)
    request, _ = of((2, 2)).decode(body(x=[[1, 2], [3, [4]]]))
    assert b"".join(map(bytes, request.payload)) == np.array([1, 2, 3, 4], np.float32).tobytes()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "request JSON is empty"),
        (b"[]", "the document is not an object"),
        (b"{", "failed to parse the request JSON buffer"),
        (b"{}", "expected number of inputs between 2 and 3 but got 0 inputs"),
        (body(abc=1), "but got 0 inputs"),
        (body(PROMPT="x"), "but got 1 inputs"),
        (body(PROMPT=123, STREAM=False), "attempt to access JSON non-string as string"),
        (body(PROMPT=True, STREAM=123), "attempt to access JSON non-string as string"),
        (body(STREAM=123, PROMPT=True), "attempt to access JSON non-boolean as boolean"),
        (body(PROMPT={"a": 1}, STREAM=True), "attempt to access JSON non-string as string"),
        (body(PROMPT="x", STREAM="false"), "attempt to access JSON non-boolean as boolean"),
        (body(PROMPT=None, STREAM=True), "attempt to access JSON non-string as string"),
        (b'{"PROMPT": "x", "STREAM": false, "PROMPT": "y", "STREAM": true}', "input 'PROMPT' already exists in request"),
        (b'{"PROMPT": "x", "STREAM": false, "STREAM": true, "PROMPT": "y"}', "input 'STREAM' already exists in request"),
        (b'{"PROMPT": "x", "STREAM": true, "parameters": {"PROMPT": "y"}}', "input 'PROMPT' already exists in request"),
        (body(PROMPT="x", STREAM=True, p={"a": 1}), "parameter 'p' has invalid type. It should be either 'int', 'bool', or 'string'."),
        (body(PROMPT="x", STREAM=True, p=None), "parameter 'p' has invalid type"),
        (body(PROMPT="x", STREAM=True, parameters=1), "Expected JSON object for keyword: 'parameters'"),
        (body(PROMPT="x", STREAM=True, parameters={"n": {"t": 1}}), "Converting keyword: 'parameters': parameter 'n' has invalid type."),
        (body(PROMPT="x", STREAM=True, id=1), "Unable to parse 'id'"),
        (body(PROMPT=["x", "y"], STREAM=True), "2 elements of input 'PROMPT' do not fit its shape [1]"),
        (body(PROMPT="x" * 10_000, STREAM=True), "exceeds the maximum allowed input size of 10000 bytes"),
        (body(PROMPT="x", STREAM=True, triton_x=1), "reserved"),
    ],
)
def test_what_is_refused(text: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        codec().decode(text)
    assert says in refusal.value.message


def test_elements_that_do_not_divide() -> None:
    with pytest.raises(InvalidArgument, match=r"7 elements of input 'x' do not fit its shape \[-1,4\]"):
        of((-1, 4)).decode(body(x=[1] * 7))
    with pytest.raises(InvalidArgument, match="FP16"):
        of((1,), DType.FP16).decode(body(x=1))


def test_a_name_in_a_value_is_no_second_key() -> None:
    request, _ = codec().decode(b'{"PROMPT": "\\"PROMPT\\"", "STREAM": true, "note": "PROMPT"}')
    assert request.layout.parameters == (("note", "PROMPT"),)


def answer(array: np.ndarray[Any, Any], dtype: DType, **parameters: Any) -> InferResponse:
    payload = encode_bytes_tensor(array) if dtype is DType.BYTES else array.tobytes()
    layout = Layout((TensorLayout("y", dtype, array.shape, len(payload)),), parameters=tuple(sorted(parameters.items())))
    return InferResponse("m", "1", layout, payload)


@pytest.mark.parametrize(
    ("array", "dtype", "value"),
    [
        (np.array([b"hallo"], object), DType.BYTES, "hallo"),
        (np.array(["a", "ü"], object), DType.BYTES, ["a", "ü"]),
        (np.zeros((0,), np.float32), DType.FP32, []),
        (np.array([[1.5]], np.float32), DType.FP32, 1.5),
        (np.array(3, np.int32), DType.INT32, 3),
        (np.array([True]), DType.BOOL, True),
        (np.array([[1, 2], [3, 4]], np.int64), DType.INT64, [1, 2, 3, 4]),
    ],
)
def test_one_element_stands_without_brackets(array: np.ndarray[Any, Any], dtype: DType, value: Any) -> None:
    got = json.loads(codec().encode(GeneratePlan(""), answer(array, dtype)))
    assert got == {"model_name": "m", "model_version": "1", "y": value}


def test_an_answer_has_id_and_parameters_at_its_top() -> None:
    got = json.loads(codec().encode(GeneratePlan("i"), answer(np.array([2], np.int32), DType.INT32, n=1, ok=True, y="not this")))
    assert got == {"id": "i", "model_name": "m", "model_version": "1", "n": 1, "ok": True, "y": 2}


def test_what_json_cannot_say() -> None:
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        codec().encode(GeneratePlan(""), answer(np.array([b"\xff"], object), DType.BYTES))
    with pytest.raises(ModelFailed):
        codec().encode(GeneratePlan(""), InferResponse("m", "1", None, b""))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=8
)


@given(st.dictionaries(st.sampled_from(["PROMPT", "STREAM", "seed", "id", "parameters", "p", "priority", "timeout", "headers"]), JSON))
def test_any_object_is_a_request_or_a_refusal(fields: dict[str, Any]) -> None:
    try:
        request, _ = codec().decode(json.dumps(fields).encode())
    except InvalidArgument:
        return
    assert sum(memoryview(part).nbytes for part in request.payload) == request.layout.payload_bytes


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1)))
def test_numbers_go_both_ways(numbers: list[int]) -> None:
    one = of((-1,), DType.INT64)
    request, plan = one.decode(body(x=numbers))
    tensor = request.layout.tensors[0]
    layout = Layout((TensorLayout("y", tensor.dtype, tensor.shape, tensor.nbytes),))
    got = json.loads(one.encode(plan, InferResponse("m", "1", layout, b"".join(map(bytes, request.payload)))))
    assert got["y"] == (numbers[0] if len(numbers) == 1 else numbers)
