"""gRPC as its clients use it: unary calls, health, deadlines, cancels, compression, and every error with its status."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.grpc.aio as agrpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .models import plan
from .rig import DataPath, eventually, wait_for

ALONE = [("grpc.use_local_subchannel_pool", 1)]
SERVICE = "inference.GRPCInferenceService"


def request(model: str, value: np.ndarray, version: str = "", id: str = "") -> service_pb2.ModelInferRequest:
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version, id=id)
    message.inputs.add(name="x", datatype="FP32", shape=value.shape)
    message.raw_input_contents.append(value.astype(np.float32).tobytes())
    return message


GATE = request("gate", np.ones((1, 2)))


def test_health_and_metadata(path: DataPath) -> None:
    with tgrpc.InferenceServerClient(path.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("pair", "2")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata().name == "serving"
        model = client.get_model_metadata("pair")
        assert list(model.versions) == ["1", "2"]
        assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("a", "INT32", [-1, 16]), ("b", "INT32", [-1, 16])]
        assert client.get_model_metadata("pair", "2").versions == ["2"]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("columns", [3, 100_000])
def test_compressed_messages(path: DataPath, algorithm: str, columns: int) -> None:
    value = np.random.default_rng(1).random((2, columns), np.float32)
    with tgrpc.InferenceServerClient(path.grpc) as client:
        x = tgrpc.InferInput("x", value.shape, "FP32")
        x.set_data_from_numpy(value)
        np.testing.assert_array_equal(client.infer("echo_fp32", [x], compression_algorithm=algorithm).as_numpy("y"), value)


async def test_the_asynchronous_client(path: DataPath) -> None:
    async with agrpc.InferenceServerClient(path.grpc) as client:

        async def one(number: int) -> None:
            value = np.full((1 + number % 5, 3), number, np.float32)
            x = agrpc.InferInput("x", value.shape, "FP32")
            x.set_data_from_numpy(value)
            answer = await client.infer("echo_fp32", [x], request_id=str(number))
            np.testing.assert_array_equal(answer.as_numpy("y"), value)
            assert answer.get_response().id == str(number)

        await asyncio.gather(*(one(n) for n in range(200)))


ERRORS = [
    ("nobody", "", {}, "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
    ("marked", "9", {}, "NOT_FOUND", "Request for unknown model: 'marked' version 9 is not found"),
    ("marked", "abc", {}, "INVALID_ARGUMENT", "failed to get model version from specified version string 'abc'"),
    ("marked", "", {"datatype": "FP99"}, "INVALID_ARGUMENT", "invalid datatype for input x"),
    ("marked", "", {"datatype": "INT32"}, "INVALID_ARGUMENT", "input 'x' data-type is 'INT32', but model 'marked' expects 'FP32'"),
    ("marked", "", {"shape": [1, 4]}, "INVALID_ARGUMENT", "shape for input 'x' for model 'marked'. Expected [-1,3], got [1,4]"),
    ("marked", "", {"shape": [-1, 3]}, "INVALID_ARGUMENT", "unexpected shape for input"),
    ("marked", "", {"shape": [9, 3]}, "INVALID_ARGUMENT", "inference request batch-size must be <= 8 for 'marked'"),
    ("marked", "", {"name": "z"}, "INVALID_ARGUMENT", "unexpected inference input 'z' for model 'marked'"),
    ("marked", "", {"raws": []}, "INVALID_ARGUMENT", "unable to find data for input tensor 'x' for model 'marked' in request."),
    ("marked", "", {"raws": [bytes(8)]}, "INVALID_ARGUMENT", "byte size mismatch for input 'x' for model 'marked'. Expected 12, got 8"),
    ("marked", "", {"raws": [bytes(12), bytes(12)]}, "INVALID_ARGUMENT", "unexpected additional input data for model 'marked'"),
    ("marked", "", {"outputs": ["q"]}, "INVALID_ARGUMENT", "unexpected inference output 'q' for model 'marked'"),
    ("marked", "", {"parameter": "triton_x"}, "INVALID_ARGUMENT", "parameter keys starting with 'triton_' are reserved"),
    ("marked", "", {"raws": [np.array([-1, 0, 0], np.float32).tobytes()]}, "INTERNAL", "a row is marked"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "version", "changes", "status", "text"), ERRORS, ids=[e[4][:40] for e in ERRORS])
def test_errors(path: DataPath, model: str, version: str, changes: dict[str, object], status: str, text: str) -> None:
    message = request(model, np.ones((1, 3)), version)
    x = message.inputs[0]
    x.name, x.datatype = str(changes.get("name", "x")), str(changes.get("datatype", "FP32"))
    if "shape" in changes:
        x.shape[:] = changes["shape"]
        message.raw_input_contents[0] = bytes(4 * abs(int(np.prod(changes["shape"]))))
    if "raws" in changes:
        message.raw_input_contents[:] = changes["raws"]
    for name in changes.get("outputs", ()):  # type: ignore[attr-defined]
        message.outputs.add(name=name)
    if "parameter" in changes:
        message.parameters[changes["parameter"]].int64_param = 1
    with grpc.insecure_channel(path.grpc) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        with pytest.raises(grpc.RpcError) as failure:
            call(message)
        assert failure.value.code().name == status
        assert text in failure.value.details()
        assert call(request("marked", np.ones((1, 3)))).raw_output_contents[0] == np.full(3, 2, np.float32).tobytes()


def test_typed_and_raw_contents_do_not_mix(path: DataPath) -> None:
    message = request("marked", np.ones((1, 3)))
    message.inputs[0].contents.fp32_contents.extend([1, 2, 3])
    with grpc.insecure_channel(path.grpc) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        with pytest.raises(grpc.RpcError, match="contents field must not be specified when using raw_input_contents for 'x'"):
            call(message)
        del message.raw_input_contents[:]
        message.inputs[0].contents.Clear()
        message.inputs[0].contents.int_contents.extend([1, 2, 3])
        with pytest.raises(grpc.RpcError, match="unexpected explicit tensor data for input tensor 'x' for model 'marked' of type 'INT32'"):
            call(message)


@pytest.mark.parametrize("method", ["/inference.GRPCInferenceService/Nothing", "/inference.GRPCInferenceService/", "/a.B/C"])
def test_unknown_methods(path: DataPath, method: str) -> None:
    with grpc.insecure_channel(path.grpc) as channel:
        with pytest.raises(grpc.RpcError) as failure:
            channel.unary_unary(method)(b"")
        assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
        stream = channel.stream_stream(method)(iter([b"x"]))
        with pytest.raises(grpc.RpcError) as failure:
            next(stream)
        assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_message(path: DataPath) -> None:
    with grpc.insecure_channel(path.grpc) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for garbage in (b"", b"\xff" * 9, b"\x0a\x7fshort"):
            with pytest.raises(grpc.RpcError) as failure:
                call(garbage)
            assert failure.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL)


async def test_a_deadline_ends_the_call_everywhere(path: DataPath, gate: Path) -> None:
    async with agrpc.InferenceServerClient(path.grpc) as client, grpc.aio.insecure_channel(path.grpc) as channel:
        running = asyncio.ensure_future(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(GATE))
        await eventually(lambda: (path.open("gate"), path.queued("gate")) == (1, 0))
        x = agrpc.InferInput("x", (1, 2), "FP32")
        x.set_data_from_numpy(np.ones((1, 2), np.float32))
        started = time.monotonic()
        with pytest.raises(tgrpc.InferenceServerException, match="Deadline Exceeded") as failure:
            await client.infer("gate", [x], client_timeout=0.25)
        assert failure.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        assert time.monotonic() - started > 0.2
        await eventually(lambda: path.queued("gate") == 0)
        path.open_gate()
        await running


async def test_a_deadline_is_kept_by_the_gateway_too(path: DataPath, gate: Path) -> None:
    """For a client that does not keep it itself: the time-out travels as metadata only."""
    head = "POST /inference.GRPCInferenceService/ModelInfer HTTP/1.1\r\nhost: h\r\ncontent-type: application/grpc\r\n"
    raw = GATE.SerializeToString()
    body = b"\0" + len(raw).to_bytes(4, "big") + raw
    reader, writer = await asyncio.open_unix_connection(path.config.gateway_path(0))
    for timeout, status in (("200m", b"grpc-status: 4\r\n"), ("0m", b"grpc-status: 4\r\n"), ("1x", b"grpc-status: 3\r\n")):
        writer.write(f"{head}grpc-timeout: {timeout}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        assert status in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    writer.close()


async def test_a_cancelled_call_leaves_the_queue(path: DataPath, gate: Path) -> None:
    async with grpc.aio.insecure_channel(path.grpc) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        calls = [infer(GATE) for _ in range(50)]
        waits = [asyncio.ensure_future(c) for c in calls]
        await eventually(lambda: path.open("gate") == 50)
        for call in calls[:-1]:
            call.cancel()
        await eventually(lambda: path.open("gate") <= 2)
        path.open_gate()
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        assert [isinstance(o, asyncio.CancelledError) for o in outcomes] == [True] * 49 + [False]


async def test_a_client_that_hangs_up_leaves_the_queue(path: DataPath, gate: Path) -> None:
    async with grpc.aio.insecure_channel(path.grpc) as stays:
        running = asyncio.ensure_future(service_pb2_grpc.GRPCInferenceServiceStub(stays).ModelInfer(GATE))
        await eventually(lambda: (path.open("gate"), path.queued("gate")) == (1, 0))
        channel = grpc.aio.insecure_channel(path.grpc, options=ALONE)
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        waits = [asyncio.ensure_future(infer(GATE)) for _ in range(20)]
        await eventually(lambda: path.queued("gate") == 20)
        await channel.close()
        await eventually(lambda: path.queued("gate") == 0)
        await asyncio.gather(*waits, return_exceptions=True)
        path.open_gate()
        await running


def test_health_check_by_service(path: DataPath) -> None:
    with grpc.insecure_channel(path.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as failure:
            health.Check(health_pb2.HealthCheckRequest(service="other"))
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_watch_tells_when_a_model_goes_and_comes(tmp_path: Path) -> None:
    path = DataPath()
    try:
        models = plan(tmp_path, path.gate)
        first = path.replica(models, "r1")
        path.gateway("a")
        with grpc.insecure_channel(path.grpc) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            other = health.Watch(health_pb2.HealthCheckRequest(service="other"))
            response = health_pb2.HealthCheckResponse
            assert next(watch).status == response.SERVING
            assert next(other).status == response.SERVICE_UNKNOWN
            path.forget(first)
            assert next(watch).status == response.NOT_SERVING
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            with pytest.raises(grpc.RpcError, match="'marked' version 1 is not at ready state") as failure:
                infer(request("marked", np.ones((1, 3))))
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
            path.replica(models, "r2")
            assert next(watch).status == response.SERVING
            infer(request("marked", np.ones((1, 3))))
            watch.cancel()
            other.cancel()
            wait_for(lambda: not path.members[0].server._host.grpc._streams)  # type: ignore[union-attr]
        assert path.faults() == []
    finally:
        path.close()
