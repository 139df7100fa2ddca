"""The table of errors, row by row over both protocols: status and text are what clients compare."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .rig import DataPath
from .test_grpc import ALONE

INT64_MAX = (1 << 63) - 1
ROWS = bytes(64)
KINDS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}


@dataclass(frozen=True)
class In:
    """A tensor in binary; without data it says nothing of where they are."""

    name: str = "x"
    dtype: str = "FP32"
    shape: tuple[int, ...] = (1, 3)
    data: bytes | None = bytes(12)
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """One request that both protocols can say."""

    model: str = "marked"
    inputs: tuple[In, ...] = (In(),)
    outputs: tuple[tuple[str, dict[str, Any]], ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    def rest(self) -> tuple[bytes, int]:
        """Return the body, and how many bytes of it are JSON."""
        inputs = [{"name": i.name, "datatype": i.dtype, "shape": i.shape, "parameters": {**i.more, **_size(i.data)}} for i in self.inputs]
        outputs = [{"name": name, "parameters": more} for name, more in self.outputs]
        head = json.dumps({"inputs": inputs, "outputs": outputs, "parameters": self.parameters}).encode()
        return head + b"".join(i.data or b"" for i in self.inputs), len(head)

    def grpc(self) -> service_pb2.ModelInferRequest:
        message = service_pb2.ModelInferRequest(model_name=self.model)
        for i in self.inputs:
            _put(message.inputs.add(name=i.name, datatype=i.dtype, shape=i.shape).parameters, i.more)
            if i.data is not None:
                message.raw_input_contents.append(i.data)
        for name, more in self.outputs:
            _put(message.outputs.add(name=name).parameters, more)
        _put(message.parameters, self.parameters)
        return message


def _size(data: bytes | None) -> dict[str, int]:
    return {} if data is None else {"binary_data_size": len(data)}


def _put(into: Any, parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        if value is None:
            into[name].SetInParent()
        else:
            setattr(into[name], KINDS[type(value)], value)


def x(**changes: Any) -> tuple[In, ...]:
    return (In(**changes),)


def pair(a: In | None = None, b: In | None = None, **more: Any) -> Ask:
    first, second = In("a", "INT32", (1, 16), ROWS), In("b", "INT32", (1, 16), ROWS)
    return Ask("pair", (a or first, b or second), **more)


def text(data: bytes, *shape: int) -> Ask:
    return Ask("echo_bytes", x(dtype="BYTES", shape=shape or (1, 2), data=data))


A, B = pair().inputs
BOTH = [
    ("unknown model", Ask("nobody"), 404, "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
    ("no batch dimension", Ask(inputs=x(shape=(), data=bytes(4))), 400, "INVALID_ARGUMENT",
     "input 'x' has no shape but model requires batch dimension for 'marked'"),
    ("batch differs", pair(b=replace(B, shape=(2, 16), data=bytes(128))), 400, "INVALID_ARGUMENT",
     "input 'b' batch size does not match other inputs for 'pair'"),
    ("batch too large", Ask(inputs=x(shape=(9, 3), data=bytes(108))), 400, "INVALID_ARGUMENT",
     "inference request batch-size must be <= 8 for 'marked'"),
    ("wrong shape", pair(a=replace(A, shape=(1, 8), data=bytes(32))), 400, "INVALID_ARGUMENT",
     "unexpected shape for input 'a' for model 'pair'. Expected [-1,16], got [1,8]. NOTE: "),
    ("element overflow", Ask(inputs=x(shape=(1 << 40, 1 << 40))), 400, "INVALID_ARGUMENT",
     f"causes total element count to exceed maximum size of {INT64_MAX}"),
    ("byte overflow", Ask(inputs=x(shape=(1, 1 << 62))), 400, "INVALID_ARGUMENT", "byte size overflow for input 'x'"),
    ("unknown datatype", Ask(inputs=x(dtype="INT33")), 400, "INVALID_ARGUMENT", "invalid datatype for input x"),
    ("wrong datatype", Ask(inputs=x(dtype="INT32")), 400, "INVALID_ARGUMENT",
     "inference input 'x' data-type is 'INT32', but model 'marked' expects 'FP32'"),
    ("missing input", replace(pair(), inputs=(B,)), 400, "INVALID_ARGUMENT",
     "expected 2 inputs but got 1 inputs for model 'pair'. Got input(s) ['b'], but missing required input(s) ['a']. "
     "Please provide all required input(s)."),
    ("unknown input", pair(b=replace(B, name="BAD")), 400, "INVALID_ARGUMENT", "unexpected inference input 'BAD' for model 'pair'"),
    ("duplicate input", pair(b=A), 400, "INVALID_ARGUMENT", "input 'a' already exists in request"),
    ("unknown output", pair(outputs=(("X", {}),)), 400, "INVALID_ARGUMENT", "unexpected inference output 'X' for model 'pair'"),
    ("duplicate output", pair(outputs=(("sum", {}), ("sum", {}))), 400, "INVALID_ARGUMENT", "output 'sum' already exists in request"),
    ("size lie", pair(b=replace(B, data=bytes(60))), 400, "INVALID_ARGUMENT",
     "input byte size mismatch for input 'b' for model 'pair'. Expected 64, got 60"),
    ("BYTES too few", text(b"\x01\0\0\0a"), 400, "INVALID_ARGUMENT",
     "expected 2 string elements for inference input 'x' for model 'echo_bytes', got 1"),
    ("BYTES too many", text(bytes(12)), 400, "INVALID_ARGUMENT",
     "unexpected number of string elements 3 for inference input 'x' for model 'echo_bytes', expecting 2"),
    ("BYTES length cut", text(bytes(3), 1, 1), 400, "INVALID_ARGUMENT", "incomplete string length indicator for inference input 'x'"),
    ("BYTES data cut", text(b"\x09\0\0\0a", 1, 1), 400, "INVALID_ARGUMENT", "incomplete string data for inference input 'x'"),
    ("triton_ parameter", Ask(parameters={"triton_x": 1}), 400, "INVALID_ARGUMENT",
     "parameter keys starting with 'triton_' are reserved for Triton usage"),
    ("headers parameter", Ask(parameters={"headers": "a"}), 400, "INVALID_ARGUMENT", "parameter 'headers' is reserved"),
    ("parameter without a value", Ask(parameters={"foo": None}), 400, "INVALID_ARGUMENT",
     "parameter 'foo' has invalid type. It should be either 'int', 'bool', or 'string'."),
    ("priority text", Ask(parameters={"priority": "1"}), 400, "INVALID_ARGUMENT", "Unable to parse 'priority'"),
    ("negative time-out", Ask(parameters={"timeout": -1}), 400, "INVALID_ARGUMENT", "Unable to parse 'timeout'"),
    ("classes of BYTES", replace(text(bytes(8)), outputs=(("y", {"classification": 1}),)), 400, "INVALID_ARGUMENT",
     "class result not available for output due to unsupported type 'BYTES'"),
    ("no classes", Ask(outputs=(("y", {"classification": 0}),)), 400, "INVALID_ARGUMENT", "'classification'"),
    ("too many classes", Ask("echo_fp32", x(shape=(1, 1_000_001), data=bytes(4_000_004)), (("y", {"classification": 1}),)), 400,
     "INVALID_ARGUMENT", "classification output tensor too large"),
    ("shared memory that is off", Ask(inputs=x(data=None, more={"shared_memory_region": "r", "shared_memory_byte_size": 12})), 501,
     "UNIMPLEMENTED", "Client shared memory is disabled"),
    ("decoupled", Ask("count", x(name="n", dtype="INT32", shape=(1, 1), data=bytes(4))), 501, "UNIMPLEMENTED",
     "doesn't support models with decoupled transaction policy"),
    ("model raised", Ask(inputs=x(data=np.array([-1, 0, 0], np.float32).tobytes())), 500, "INTERNAL", "a row is marked"),
]  # fmt: skip
OTHER = [
    ("metadata of an unknown version", "GET", "models/pair/versions/9", None, 404, "ModelMetadata",
     service_pb2.ModelMetadataRequest(name="pair", version="9"), "NOT_FOUND", "Request for unknown model: 'pair' version 9 is not found"),
    ("version that is no number", "GET", "models/pair/versions/abc", None, 400, "ModelMetadata",
     service_pb2.ModelMetadataRequest(name="pair", version="abc"), "INVALID_ARGUMENT",
     "failed to get model version from specified version string 'abc'"),
    ("config of nobody", "GET", "models/nobody/config", None, 404, "ModelConfig", service_pb2.ModelConfigRequest(name="nobody"),
     "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
    ("statistics of nobody", "GET", "models/nobody/stats", None, 400, "ModelStatistics",
     service_pb2.ModelStatisticsRequest(name="nobody"), "INVALID_ARGUMENT", "requested model 'nobody' is not available"),
    ("trace of nobody", "GET", "models/nobody/trace/setting", None, 400, "TraceSetting",
     service_pb2.TraceSettingRequest(model_name="nobody"), "INVALID_ARGUMENT", "Request for unknown model : nobody"),
    ("log file", "POST", "logging", {"log_file": "a"}, 501, "LogSettings",
     service_pb2.LogSettingsRequest(settings={"log_file": service_pb2.LogSettingsRequest.SettingValue(string_param="a")}), "UNIMPLEMENTED",
     "log file location can not be updated through network protocol"),
    ("trace file", "POST", "trace/setting", {"trace_file": "a"}, 501, "TraceSetting",
     service_pb2.TraceSettingRequest(settings={"trace_file": service_pb2.TraceSettingRequest.SettingValue(value=["a"])}), "UNIMPLEMENTED",
     "trace file location can not be updated through network protocol"),
    ("named repository", "POST", "repository/other/index", {}, 501, "RepositoryIndex",
     service_pb2.RepositoryIndexRequest(repository_name="other"), "UNIMPLEMENTED", "'repository_name' specification is not supported"),
    ("region while memory is off", "POST", "systemsharedmemory/region/r/register", {"key": "/k", "offset": 0, "byte_size": 8}, 501,
     "SystemSharedMemoryRegister", service_pb2.SystemSharedMemoryRegisterRequest(name="r", key="/k", byte_size=8), "UNIMPLEMENTED",
     "Client shared memory is disabled"),
    ("two trace levels, one of them OFF", "POST", "trace/setting", {"trace_level": ["OFF", "TENSORS"]}, 400, "TraceSetting",
     service_pb2.TraceSettingRequest(settings={"trace_level": service_pb2.TraceSettingRequest.SettingValue(value=["OFF", "TENSORS"])}),
     "INVALID_ARGUMENT", "Expect only one trace level 'OFF' is specified"),
]  # fmt: skip
JSON = [
    ("several dimensions that are none", b'{"inputs":[{"name":"x","datatype":"FP32","shape":["1",3],"data":[1,2,3]}]}',
     "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer"),
    ("no data", b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3]}]}', "Input must set only one of the following fields: "),
    ("two kinds of data", b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3],"parameters":{"binary_data_size":12}}]}',
     "Input must set only one of the following fields: "),
    ("too many elements", b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3,4]}]}',
     "Shape does not match true shape of 'data' field"),
    ("deep", b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":' + b"[" * 101 + b"]" * 101 + b"}]}",
     "JSON nesting depth exceeds maximum allowed limit (100)"),
    ("deeper than any parser", b"[" * 250_000, "JSON nesting depth exceeds maximum allowed limit (100)"),
    ("output in memory and in the answer", b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}],"outputs":'
     b'[{"name":"y","parameters":{"shared_memory_region":"r","shared_memory_byte_size":12,"binary_data":true}}]}',
     "Output can't set both 'shared_memory_region' and 'binary_data'"),
    ("parameter that is an object", b'{"inputs":[],"parameters":{"foo":{}}}', "parameter 'foo' has invalid type"),
]  # fmt: skip


@pytest.fixture(scope="module")
def client(path: DataPath) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{path.rest}/v2/") as client:
        yield client


@pytest.fixture(scope="module")
def stub(path: DataPath) -> Iterator[Any]:
    with grpc.insecure_channel(path.grpc, options=ALONE) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return the status and the one thing that the body of an error says."""
    body = answer.json()
    assert list(body) == ["error"]
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, body["error"]


IN_GRPC = {
    "Unable to parse 'priority'": "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
    "Unable to parse 'timeout'": "invalid value for 'timeout', expected value >= 0.",
}
"""What gRPC says in words of its own."""


@pytest.mark.parametrize(("ask", "status", "code", "says"), [row[1:] for row in BOTH], ids=[row[0] for row in BOTH])
def test_predictions(client: httpx.Client, stub: Any, ask: Ask, status: int, code: str, says: str) -> None:
    body, length = ask.rest()
    got, told = refusal(client.post(f"models/{ask.model}/infer", content=body, headers={"Inference-Header-Content-Length": str(length)}))
    assert (got, says in told) == (status, True), told
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(ask.grpc(), timeout=60)
    says = IN_GRPC.get(says, says)
    assert (refused.value.code().name, says in refused.value.details()) == (code, True), refused.value.details()


def test_a_stream_says_them_in_band_and_goes_on(stub: Any) -> None:
    rows = [row for row in BOTH if row[0] != "decoupled"]
    asks = [row[1].grpc() for row in rows]
    for number, message in enumerate(asks):
        message.id = str(number)
    good = replace(pair(), parameters={}).grpc()
    good.id = "good"
    answers = list(stub.ModelStreamInfer(iter([*asks, good]), timeout=60))
    assert [a.infer_response.id for a in answers] == [*map(str, range(len(asks))), "good"]
    assert [row[0] for row, answer in zip(rows, answers, strict=False) if IN_GRPC.get(row[4], row[4]) not in answer.error_message] == []
    assert answers[-1].error_message == ""


@pytest.mark.parametrize(
    ("verb", "where", "body", "status", "method", "message", "code", "says"), [r[1:] for r in OTHER], ids=[r[0] for r in OTHER]
)
def test_other_calls(
    client: httpx.Client, stub: Any, verb: str, where: str, body: Any, status: int, method: str, message: Any, code: str, says: str
) -> None:
    got, told = refusal(client.request(verb, where, content=None if body is None else json.dumps(body)))
    assert (got, says in told) == (status, True), told
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stub, method)(message, timeout=60)
    assert (refused.value.code().name, says in refused.value.details()) == (code, True), refused.value.details()


@pytest.mark.parametrize(("body", "says"), [row[1:] for row in JSON], ids=[row[0] for row in JSON])
def test_json(client: httpx.Client, body: bytes, says: str) -> None:
    got, told = refusal(client.post("models/marked/infer", content=body))
    assert (got, says in told) == (400, True), told


@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata", "ModelReady", "ModelConfig", "ModelStatistics", "TraceSetting"])
def test_bytes_that_are_no_message(path: DataPath, method: str) -> None:
    with grpc.insecure_channel(path.grpc, options=ALONE) as channel:
        for data in (b"\x0a\xff", b"\xff\xff\xff"):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(data, timeout=60)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "cannot parse" in refused.value.details()


def test_methods_that_are_not_there(path: DataPath) -> None:
    with grpc.insecure_channel(path.grpc, options=ALONE) as channel:
        for method in ("/inference.GRPCInferenceService/Nothing", "/another.Service/ModelInfer"):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(method)(b"", timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("kind", ["application/json", "application/grpc-web+proto", "application/grpcx"])
def test_http2_that_is_not_grpc(path: DataPath, kind: str) -> None:
    """Asked of the REST port, where no HAProxy stands before the gateway."""
    where = f"http://{path.rest}/inference.GRPCInferenceService/ServerLive"
    words = [
        "curl",
        "-s",
        "--http2-prior-knowledge",
        "-w",
        "%{http_code} %{content_type}",
        "-H",
        f"Content-Type: {kind}",
        "-d",
        "{}",
        where,
    ]
    told = subprocess.run(words, capture_output=True, timeout=120, check=True, text=True).stdout
    assert told == '{"error":"HTTP/2 is for gRPC here; REST speaks HTTP/1.1"}415 application/json'


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "Application/grpc; charset=utf-8"])
def test_content_types_of_grpc(path: DataPath, kind: str) -> None:
    with httpx.Client(base_url=f"http://{path.rest}") as client:
        answer = client.post("/inference.GRPCInferenceService/ServerLive", content=bytes(5), headers={"Content-Type": kind})
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "application/grpc", b"\0\0\0\0\2\x08\1")


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("kind", ["application/json", "application/grpc-web+proto", "application/grpcx", "application/grpc+proto"])
def test_content_types_on_the_port_of_grpc(path: DataPath, kind: str) -> None:
    """Over HTTP/2, also where HAProxy stands before the gateways."""
    where = f"http://{path.grpc}/inference.GRPCInferenceService/ServerLive"
    asked = ["curl", "-s", "-o", "-", "--http2-prior-knowledge", "-w", "%{http_code}", "-H", f"Content-Type: {kind}"]
    told = subprocess.run([*asked, "--data-binary", "@-", where], input=bytes(5), capture_output=True, timeout=20, check=True).stdout
    assert told.endswith(b"200" if kind.startswith("application/grpc+") else b"415"), told
