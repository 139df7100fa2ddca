"""Every datatype both ways, over each protocol and each form that a tensor may have in it."""

from __future__ import annotations

import json
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.tensor import DType

from .models import echo_name
from .rig import DataPath

CONTENTS = {
    DType.BOOL: "bool_contents", DType.UINT8: "uint_contents", DType.UINT16: "uint_contents", DType.UINT32: "uint_contents",
    DType.UINT64: "uint64_contents", DType.INT8: "int_contents", DType.INT16: "int_contents", DType.INT32: "int_contents",
    DType.INT64: "int64_contents", DType.FP32: "fp32_contents", DType.FP64: "fp64_contents", DType.BYTES: "bytes_contents",
}  # fmt: skip
"""Field of InferTensorContents by type; FP16 and BF16 have none."""
NOT_IN_JSON = (DType.FP16, DType.BF16)
ALL = pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.label)


def sample(dtype: DType) -> np.ndarray[Any, Any]:
    """Return two rows with the extremes of the type."""
    if dtype is DType.BYTES:
        return np.array([[b"a", b"", "ß€".encode()], [b"\x00\xff" * 30, b"x" * 70_000, b"end"]], dtype=np.object_)
    if dtype is DType.BOOL:
        return np.array([[True, False, True], [False, False, True]])
    if dtype in (DType.FP16, DType.FP32, DType.FP64, DType.BF16):
        return np.array([[1.5, -0.0, np.inf], [-2.25, 3e4, 1e-3]]).astype(dtype.numpy)
    info = np.iinfo(dtype.numpy)
    return np.array([[info.min, 0, info.max], [1, 2, 3]], dtype=dtype.numpy)


def text(dtype: DType) -> np.ndarray[Any, Any]:
    """Return what JSON can carry: text instead of any bytes, no infinity."""
    if dtype is DType.BYTES:
        return np.array([["a", "", "ß€"], ['"', "\\\n", "end"]], dtype=np.object_)
    value = sample(dtype)
    return np.where(np.isinf(value), dtype.numpy.type(7), value) if dtype in (DType.FP32, DType.FP64) else value


@ALL
def test_rest_binary(path: DataPath, dtype: DType) -> None:
    value = sample(dtype)
    with thttp.InferenceServerClient(path.rest) as client:
        x = thttp.InferInput("x", value.shape, dtype.label)
        x.set_data_from_numpy(value, binary_data=True)
        answer = client.infer(echo_name(dtype), [x], request_id="7")
        np.testing.assert_array_equal(answer.as_numpy("y"), value)
        assert answer.get_output("y")["datatype"] == dtype.label
        assert answer.get_response()["id"] == "7"


@ALL
def test_rest_json(path: DataPath, dtype: DType) -> None:
    value = text(dtype)
    with thttp.InferenceServerClient(path.rest) as client:
        x = thttp.InferInput("x", value.shape, dtype.label)
        if dtype in NOT_IN_JSON:
            body = {"inputs": [{"name": "x", "shape": [2, 3], "datatype": dtype.label, "data": [1, 2, 3, 4, 5, 6]}]}
            answer = httpx.post(f"http://{path.rest}/v2/models/{echo_name(dtype)}/infer", json=body)
            assert answer.status_code == 400
            assert f"receiving {dtype.label} data via JSON is not supported" in answer.json()["error"]
            return
        x.set_data_from_numpy(value, binary_data=False)
        y = thttp.InferRequestedOutput("y", binary_data=False)
        answer = client.infer(echo_name(dtype), [x], outputs=[y])
        if dtype is DType.BYTES:
            assert answer.get_output("y")["data"] == value.reshape(-1).tolist()
        else:
            np.testing.assert_array_equal(answer.as_numpy("y"), value)
        assert "id" not in answer.get_response()


@ALL
def test_grpc_raw(path: DataPath, dtype: DType) -> None:
    value = sample(dtype)
    with tgrpc.InferenceServerClient(path.grpc) as client:
        x = tgrpc.InferInput("x", value.shape, dtype.label)
        x.set_data_from_numpy(value)
        answer = client.infer(echo_name(dtype), [x], request_id="7")
        np.testing.assert_array_equal(answer.as_numpy("y"), value)
        assert answer.get_response().id == "7"
        assert answer.get_output("y").datatype == dtype.label


@pytest.mark.parametrize("dtype", list(CONTENTS), ids=lambda d: d.label)
def test_grpc_typed_contents(path: DataPath, dtype: DType) -> None:
    value = sample(dtype)
    request = service_pb2.ModelInferRequest(model_name=echo_name(dtype))
    x = request.inputs.add(name="x", datatype=dtype.label, shape=value.shape)
    getattr(x.contents, CONTENTS[dtype]).extend(value.reshape(-1).tolist())
    with grpc.insecure_channel(path.grpc) as channel:
        answer = tgrpc.InferResult(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request))
    np.testing.assert_array_equal(answer.as_numpy("y"), value)
    assert not answer.get_response().id


def test_json_numbers_that_json_does_not_have(path: DataPath) -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[NaN, Infinity, -Infinity]}]}'
    answer = httpx.post(f"http://{path.rest}/v2/models/echo_fp32/infer", content=body)
    assert answer.status_code == 200
    data = json.loads(answer.content)["outputs"][0]["data"]
    assert [str(d) for d in data] == ["nan", "inf", "-inf"]


def test_bytes_that_are_not_text_ask_for_binary(path: DataPath) -> None:
    value = np.array([[b"\xff"]], dtype=np.object_)
    with thttp.InferenceServerClient(path.rest) as client:
        x = thttp.InferInput("x", value.shape, "BYTES")
        x.set_data_from_numpy(value)
        with pytest.raises(thttp.InferenceServerException, match="binary"):
            client.infer("echo_bytes", [x], outputs=[thttp.InferRequestedOutput("y", binary_data=False)])


def test_tensors_with_no_elements(path: DataPath) -> None:
    value = np.zeros((3, 0), np.float32)
    with thttp.InferenceServerClient(path.rest) as rest, tgrpc.InferenceServerClient(path.grpc) as rpc:
        for binary in (True, False):
            x = thttp.InferInput("x", value.shape, "FP32")
            x.set_data_from_numpy(value, binary_data=binary)
            answer = rest.infer("echo_fp32", [x], outputs=[thttp.InferRequestedOutput("y", binary_data=binary)])
            assert answer.get_output("y")["shape"] == [3, 0]
        x = tgrpc.InferInput("x", value.shape, "FP32")
        x.set_data_from_numpy(value)
        assert list(rpc.infer("echo_fp32", [x]).get_output("y").shape) == [3, 0]


def test_a_model_without_a_batch_dimension(path: DataPath) -> None:
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    with thttp.InferenceServerClient(path.rest) as rest, tgrpc.InferenceServerClient(path.grpc) as rpc:
        for client, kind in ((rest, thttp), (rpc, tgrpc)):
            x = kind.InferInput("x", value.shape, "FP32")
            x.set_data_from_numpy(value)
            np.testing.assert_array_equal(client.infer("whole", [x]).as_numpy("y"), value.T)
        assert rest.get_model_metadata("whole")["inputs"][0]["shape"] == [-1, -1]


def test_two_inputs_and_two_outputs_in_any_order(path: DataPath) -> None:
    a = np.arange(32, dtype=np.int32).reshape(2, 16)
    b = np.full((2, 16), 5, np.int32)
    with thttp.InferenceServerClient(path.rest) as rest, tgrpc.InferenceServerClient(path.grpc) as rpc:
        for client, kind in ((rest, thttp), (rpc, tgrpc)):
            inputs = {}
            for name, value in (("a", a), ("b", b)):
                inputs[name] = kind.InferInput(name, value.shape, "INT32")
                inputs[name].set_data_from_numpy(value)
            for order in ("ab", "ba"):
                answer = client.infer("pair", [inputs[n] for n in order])
                np.testing.assert_array_equal(answer.as_numpy("sum"), a + b)
                np.testing.assert_array_equal(answer.as_numpy("difference"), a - b)
            one = client.infer("pair", [inputs["a"], inputs["b"]], outputs=[kind.InferRequestedOutput("difference")], model_version="2")
            assert one.as_numpy("sum") is None
            np.testing.assert_array_equal(one.as_numpy("difference"), a - b)
            got = one.get_response()
            assert (got["model_version"] if isinstance(got, dict) else got.model_version) == "2"


def test_json_and_binary_inputs_in_one_request(path: DataPath) -> None:
    a, b = np.ones((1, 16), np.int32), np.full((1, 16), 3, np.int32)
    with thttp.InferenceServerClient(path.rest) as client:
        x, y = thttp.InferInput("a", a.shape, "INT32"), thttp.InferInput("b", b.shape, "INT32")
        x.set_data_from_numpy(a, binary_data=False)
        y.set_data_from_numpy(b, binary_data=True)
        outputs = [thttp.InferRequestedOutput("sum", binary_data=True), thttp.InferRequestedOutput("difference", binary_data=False)]
        answer = client.infer("pair", [x, y], outputs=outputs)
        np.testing.assert_array_equal(answer.as_numpy("sum"), a + b)
        np.testing.assert_array_equal(answer.as_numpy("difference"), a - b)
        assert "data" not in answer.get_output("sum")
        assert answer.get_output("difference")["data"] == [-2] * 16


def test_one_raw_tensor_without_any_json(path: DataPath) -> None:
    raw = np.arange(3, dtype=np.float32).tobytes()
    headers = {"Inference-Header-Content-Length": "0"}
    answer = httpx.post(f"http://{path.rest}/v2/models/echo_fp32/infer", content=raw, headers=headers)
    assert answer.status_code == 200
    cut = int(answer.headers["inference-header-content-length"])
    assert answer.content[cut:] == raw
    assert json.loads(answer.content[:cut])["outputs"][0]["shape"] == [1, 3]
