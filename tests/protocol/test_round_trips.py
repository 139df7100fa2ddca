"""What tritonclient writes is read as it was meant, and what we write tritonclient reads: all datatypes, any shape, both codecs."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.grpc._utils import _get_inference_request as grpc_request
from tritonclient.http._utils import _get_inference_request as rest_request

from serving.inference import InferResponse, Layout, TensorLayout
from serving.protocol.grpc import GrpcCodec
from serving.protocol.grpc_head import Splitter
from serving.protocol.rest import RestCodec
from serving.tensor import DType, encode_bytes_tensor
from tests.protocol.samples import payload, signature

JSON_DTYPES = [d for d in DType if d not in (DType.FP16, DType.BF16)]
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
SPLITTER = Splitter()


@st.composite
def arrays(draw: Any, dtypes: list[DType]) -> tuple[DType, np.ndarray[Any, Any]]:
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(SHAPES)
    count = math.prod(shape)
    if dtype is DType.BYTES:
        flat = np.empty(count, dtype=np.object_)
        flat[:] = [t.encode() for t in draw(st.lists(st.text(max_size=6), min_size=count, max_size=count))]
        return dtype, flat.reshape(shape)
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    if dtype is DType.BOOL:
        raw = bytes(b & 1 for b in raw)
    return dtype, np.frombuffer(raw, dtype.numpy).reshape(shape)


def wire(dtype: DType, array: np.ndarray[Any, Any]) -> bytes:
    return encode_bytes_tensor(array) if dtype is DType.BYTES else array.tobytes()


def same(dtype: DType, got: Any, want: np.ndarray[Any, Any]) -> bool:
    if dtype is DType.BYTES:
        return [x if isinstance(x, bytes) else x.encode() for x in got.reshape(-1)] == list(want.reshape(-1))
    with np.errstate(invalid="ignore"):  # isnan of a signalling bfloat16 NaN sets the processor's flag
        return bool(np.array_equal(got, want, equal_nan=dtype in (DType.FP16, DType.FP32, DType.FP64, DType.BF16)))


def codec_signature(dtype: DType, array: np.ndarray[Any, Any]) -> Any:
    return signature(dtype, (-1,) * array.ndim)


def answer(dtype: DType, array: np.ndarray[Any, Any]) -> InferResponse:
    data = wire(dtype, array)
    return InferResponse("simple", "1", Layout((TensorLayout("y", dtype, array.shape, len(data)),)), data)


def client_input(kind: Any, dtype: DType, array: np.ndarray[Any, Any], **how: Any) -> Any:
    tensor = kind("x", list(array.shape), dtype.label)
    return tensor.set_data_from_numpy(array, **how)


def rest_result(parts: list[Any], header_length: int | None) -> Any:
    return triton_http.InferResult.from_response_body(b"".join(parts), header_length=header_length)


@settings(deadline=None)
@given(arrays(list(DType)), st.text(max_size=5))
def test_rest_binary(sample: tuple[DType, np.ndarray[Any, Any]], id: str) -> None:
    dtype, array = sample
    codec = RestCodec("simple", "1", codec_signature(dtype, array))
    request_body, length = rest_request([client_input(triton_http.InferInput, dtype, array)], id, None, 0, False, False, 0, None, None)
    length = len(request_body) if length is None else length
    for _ in range(2):  # the second time from what was kept
        request, plan = codec.decode(request_body, length)
        assert payload(request) == wire(dtype, array)
        assert (request.id, request.layout.tensors[0].shape) == (id, array.shape)
        result = rest_result(*codec.encode(plan, answer(dtype, array)))
        assert result.get_response().get("id", "") == id
        if array.size:
            assert same(dtype, result.as_numpy("y"), array)


@settings(deadline=None)
@given(arrays(JSON_DTYPES))
def test_rest_json(sample: tuple[DType, np.ndarray[Any, Any]]) -> None:
    dtype, array = sample
    codec = RestCodec("simple", "1", codec_signature(dtype, array))
    outputs = [triton_http.InferRequestedOutput("y", binary_data=False)]
    tensor = client_input(triton_http.InferInput, dtype, array, binary_data=False)
    request_body, length = rest_request([tensor], "", outputs, 0, False, False, 0, None, None)
    request, plan = codec.decode(request_body, length)
    assert same(dtype, decoded(dtype, payload(request), array.shape), array)
    parts, length = codec.encode(plan, answer(dtype, array))
    assert length is None
    got = np.array(rest_result(parts, None).get_output("y")["data"], dtype=dtype.numpy).reshape(array.shape)
    assert same(dtype, got, array)


def decoded(dtype: DType, data: bytes, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if dtype is not DType.BYTES:
        return np.frombuffer(data, dtype.numpy).reshape(shape)
    texts = []
    while data:
        size = int.from_bytes(data[:4], "little")
        texts.append(data[4 : 4 + size])
        data = data[4 + size :]
    flat = np.empty(len(texts), dtype=np.object_)
    flat[:] = texts
    return flat.reshape(shape)


@settings(deadline=None)
@given(arrays(list(DType)), st.text(max_size=5))
def test_grpc_raw(sample: tuple[DType, np.ndarray[Any, Any]], id: str) -> None:
    dtype, array = sample
    codec = GrpcCodec("simple", "1", codec_signature(dtype, array))
    tensor = client_input(triton_grpc.InferInput, dtype, array)
    data = grpc_request("simple", [tensor], "", id, None, 0, False, False, 0, None, None).SerializeToString()
    for _ in range(2):
        head = SPLITTER.split(memoryview(data))
        assert (head.model, head.version, head.id) == ("simple", "", id)
        request, plan = codec.decode(head)
        assert payload(request) == wire(dtype, array)
        assert (request.id, request.layout.tensors[0].shape) == (id, array.shape)
        message = service_pb2.ModelInferResponse.FromString(b"".join(codec.encode(plan, answer(dtype, array))))
        assert (message.id, message.model_name, message.model_version) == (id, "simple", "1")
        assert same(dtype, triton_grpc.InferResult(message).as_numpy("y"), array)


CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


@settings(deadline=None)
@given(arrays(JSON_DTYPES))
def test_grpc_typed_contents(sample: tuple[DType, np.ndarray[Any, Any]]) -> None:
    dtype, array = sample
    codec = GrpcCodec("simple", "1", codec_signature(dtype, array))
    contents = {CONTENTS[dtype.label]: array.reshape(-1).tolist()}
    item = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype=dtype.label, shape=array.shape, contents=contents)
    data = service_pb2.ModelInferRequest(model_name="simple", inputs=[item]).SerializeToString()
    request, _ = codec.decode(SPLITTER.split(memoryview(data)))
    assert same(dtype, decoded(dtype, payload(request), array.shape), array)


@settings(deadline=None)
@given(st.lists(arrays(list(DType)), min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_inputs_in_any_order_become_the_payload_in_model_order(samples: list[tuple[DType, np.ndarray[Any, Any]]], random: Any) -> None:
    from_model = [(f"in{i}", dtype, array) for i, (dtype, array) in enumerate(samples)]
    sent = list(from_model)
    random.shuffle(sent)
    declared = signature(DType.INT8)
    spec = type(declared.inputs[0])
    model = type(declared)(tuple(spec(n, d, (-1,) * a.ndim) for n, d, a in from_model), declared.outputs)
    expected = b"".join(wire(d, a) for _, d, a in from_model)

    rest_inputs = [triton_http.InferInput(n, list(a.shape), d.label).set_data_from_numpy(a) for n, d, a in sent]
    request_body, length = rest_request(rest_inputs, "", None, 0, False, False, 0, None, None)
    grpc_inputs = [triton_grpc.InferInput(n, list(a.shape), d.label).set_data_from_numpy(a) for n, d, a in sent]
    data = grpc_request("simple", grpc_inputs, "", "", None, 0, False, False, 0, None, None).SerializeToString()
    rest, grpc = RestCodec("simple", "1", model), GrpcCodec("simple", "1", model)
    for _ in range(2):
        for request in (
            rest.decode(request_body, len(request_body) if length is None else length)[0],
            grpc.decode(SPLITTER.split(memoryview(data)))[0],
        ):
            assert payload(request) == expected
            assert [t.name for t in request.layout.tensors] == [n for n, _, _ in from_model]


@pytest.mark.parametrize("count", [4, 4000])
def test_numbers_of_json_answers_are_exact(count: int) -> None:
    cases = [
        (DType.FP32, np.full(count, 0.1, np.float32), b"0.10000000149011612"),
        (DType.INT64, np.full(count, -(1 << 63), np.int64), b"-9223372036854775808"),
        (DType.UINT64, np.full(count, (1 << 64) - 1, np.uint64), b"18446744073709551615"),
        (DType.FP64, np.full(count, 1e-320, np.float64), b"1e-320"),
        (DType.FP32, np.full(count, np.nan, np.float32), b"NaN"),
        (DType.FP64, np.full(count, np.inf), b"Infinity"),
        (DType.FP32, np.full(count, -np.inf, np.float32), b"-Infinity"),
    ]
    for dtype, array, text in cases:
        codec = RestCodec("simple", "1", codec_signature(dtype, array))
        request = b'{"inputs":[{"name":"x","datatype":"%s","shape":[0],"data":[]}]}' % dtype.label.encode()
        (document,), _ = codec.encode(codec.decode(request, None)[1], answer(dtype, array))
        assert bytes(document).count(text) == count


@pytest.mark.parametrize("count", [6, 6000])
def test_literals_keep_their_places_among_numbers(count: int) -> None:
    array = np.array([np.nan, 1.5, np.inf, -np.inf, 2.5, np.nan] * (count // 6), np.float32)
    codec = RestCodec("simple", "1", codec_signature(DType.FP32, array))
    _, plan = codec.decode(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[0],"data":[]}]}', None)
    (document,), _ = codec.encode(plan, answer(DType.FP32, array))
    assert b"[NaN,1.5,Infinity,-Infinity,2.5,NaN" in bytes(document)
    assert np.array_equal(np.array(json.loads(bytes(document))["outputs"][0]["data"], np.float32), array, equal_nan=True)
