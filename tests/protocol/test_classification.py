"""Classes in place of numbers: which, in which order, how written, and for which outputs not at all."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from serving.errors import InvalidArgument
from serving.inference import InferResponse, Layout, TensorLayout
from serving.protocol import classification
from serving.protocol.classification import best, classify
from serving.protocol.grpc import GrpcCodec
from serving.protocol.grpc_head import Splitter
from serving.protocol.rest import RestCodec
from serving.tensor import DType, Signature, TensorSpec, decode_bytes_tensor
from tests.protocol.samples import body, declared, message, tensor


def texts(values: Any, dtype: DType, k: int, shape: tuple[int, ...], batched: bool = True, labels: tuple[str, ...] = ()) -> Any:
    array = np.array(values, dtype.numpy)
    layout, raw = classify(TensorLayout.fixed("y", dtype, shape), array.tobytes(), k, batched, labels)
    found = decode_bytes_tensor(raw, layout.shape[0] * (layout.shape[1] if batched else 1))
    return layout.shape, [t.decode() for t in found]


@pytest.mark.parametrize(
    ("values", "dtype", "k", "shape", "batched", "labels", "expected"),
    [
        ([0.1, 0.7, 0.2], DType.FP32, 2, (1, 3), True, ("a", "b", "c"), ((1, 2), ["0.700000:1:b", "0.200000:2:c"])),
        ([0.1, 0.7, 0.2], DType.FP32, 9, (1, 3), True, ("a",), ((1, 3), ["0.700000:1", "0.200000:2", "0.100000:0:a"])),
        ([1, 2, 3, 4], DType.INT32, 1, (2, 2), True, (), ((2, 1), ["2:1", "4:1"])),
        ([5, 5, 5], DType.UINT64, 2, (3,), False, (), ((2,), ["5:0", "5:1"])),
        ([2**64 - 1, 1], DType.UINT64, 1, (2,), False, (), ((1,), ["18446744073709551615:0"])),
        ([float("nan"), -1.0, float("inf")], DType.FP64, 3, (3,), False, (), ((3,), ["inf:2", "-1.000000:1", "nan:0"])),
        ([1, 2, 3, 4], DType.INT8, 1, (1, 2, 2), True, (), ((1, 1), ["4:3"])),
        ([], DType.FP32, 3, (2, 0), True, (), ((2, 0), [])),
    ],
)
def test_the_highest_come_first(
    values: Any, dtype: DType, k: int, shape: tuple[int, ...], batched: bool, labels: tuple[str, ...], expected: Any
) -> None:
    assert texts(values, dtype, k, shape, batched, labels) == expected


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.integers(1, 40))
def test_the_best_are_those_of_a_sort(values: list[int], k: int) -> None:
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert best(np.array(values), k).tolist() == expected


def test_a_large_output_has_no_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "MAX_ELEMENTS", 3)
    with pytest.raises(InvalidArgument, match="classification output tensor too large"):
        texts([1, 2, 3, 4], DType.INT32, 1, (1, 4))


def scores(dtype: DType) -> Signature:
    return Signature((TensorSpec("x", DType.INT32, (1,)),), (TensorSpec("y", dtype, (3,), labels=("cat", "dog", "eel")),), 4)


def answer(response_dtype: DType) -> InferResponse:
    values = np.array([[1, 3, 2]], response_dtype.numpy)
    return InferResponse("m", "1", Layout((TensorLayout.fixed("y", response_dtype, (1, 3)),)), values.tobytes())


def nowhere(*_: object) -> None:
    raise AssertionError("nothing is shared here")


@pytest.mark.parametrize("binary", [True, False])
def test_rest_answers_with_classes(binary: bool) -> None:
    codec = RestCodec("m", "1", scores(DType.FP32))
    wanted = {"name": "y", "parameters": {"classification": 2, "binary_data": binary}}
    document, length = body({"inputs": [tensor("x", shape=(1, 1), size=4)], "outputs": [wanted]}, bytes(4))
    for _ in range(2):
        _, plan = codec.decode(document, length)
        response = answer(DType.FP32)
        assert plan.special is not None
        plan.special.finish(response, nowhere)
        parts, header_length = codec.encode(plan, response)
        result = triton_http.InferenceServerClient.parse_response_body(b"".join(parts), header_length=header_length)
        assert [t if isinstance(t, str) else t.decode() for t in result.as_numpy("y").reshape(-1)] == ["3.000000:1:dog", "2.000000:2:eel"]


def test_grpc_answers_with_classes() -> None:
    codec = GrpcCodec("m", "1", scores(DType.INT16))
    asked = message(
        declared("x", shape=(1, 1)), raws=[bytes(4)], outputs=[{"name": "y", "parameters": {"classification": {"int64_param": 1}}}]
    )
    _, plan = codec.decode(Splitter().split(asked.SerializeToString()))
    response = answer(DType.INT16)
    assert plan.special is not None
    plan.special.finish(response, nowhere)
    told = service_pb2.ModelInferResponse.FromString(b"".join(codec.encode(plan, response)))
    assert (told.outputs[0].datatype, list(told.outputs[0].shape)) == ("BYTES", [1, 1])
    assert told.raw_output_contents[0][4:] == b"3:1:dog"


@pytest.mark.parametrize("dtype", [DType.BYTES, DType.BOOL, DType.FP16, DType.BF16])
def test_what_cannot_be_ranked_is_refused(dtype: DType) -> None:
    document, length = body(
        {"inputs": [tensor("x", shape=(1, 1), size=4)], "outputs": [{"name": "y", "parameters": {"classification": 1}}]}, bytes(4)
    )
    with pytest.raises(InvalidArgument, match=f"class result not available for output due to unsupported type '{dtype.label}'"):
        RestCodec("m", "1", scores(dtype)).decode(document, length)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, None])
def test_the_number_of_classes_is_at_least_one(value: Any) -> None:
    wanted = {"name": "y", "parameters": {"classification": value}}
    document = json.dumps({"inputs": [tensor("x", shape=(1, 1), size=None, data=[1])], "outputs": [wanted]}).encode()
    with pytest.raises(InvalidArgument, match="classification"):
        RestCodec("m", "1", scores(DType.FP32)).decode(document, None)
