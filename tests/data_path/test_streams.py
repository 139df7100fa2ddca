"""ModelStreamInfer through the real edge: order, errors in their place, bounds, cancels and deadlines."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.grpc.aio as agrpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.gateway.stream import MAX_PENDING

from .rig import DataPath, eventually, wait_for
from .test_grpc import ALONE, GATE, request


def number(message: service_pb2.ModelStreamInferResponse) -> float:
    """Return the first value of an answer."""
    return float(np.frombuffer(message.infer_response.raw_output_contents[0], np.float32)[0])


def test_the_callback_client(path: DataPath) -> None:
    answers: queue.Queue[tuple[tgrpc.InferResult, tgrpc.InferenceServerException | None]] = queue.Queue()
    with tgrpc.InferenceServerClient(path.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for n in range(50):
            value = np.full((1, 3), -1 if n == 20 else n, np.float32)
            x = tgrpc.InferInput("x", value.shape, "FP32")
            x.set_data_from_numpy(value)
            client.async_stream_infer("nobody" if n == 10 else "marked", [x], request_id=str(n))
        for n in range(50):
            result, error = answers.get(timeout=60)
            if n in (10, 20):
                assert ("unknown model: 'nobody'" if n == 10 else "a row is marked") in str(error)
            else:
                assert error is None
                assert result.get_response().id == str(n)
                assert result.get_response().parameters["triton_final_response"].bool_param
                np.testing.assert_array_equal(result.as_numpy("y"), np.full((1, 3), 2 * n, np.float32))
        client.stop_stream()


async def test_a_thousand_messages_keep_their_order(path: DataPath) -> None:
    async def messages() -> AsyncIterator[service_pb2.ModelInferRequest]:
        for n in range(1000):
            yield request("echo_fp32", np.full((1 + n % 7, 2), n), id=str(n))

    async with grpc.aio.insecure_channel(path.grpc) as channel:
        stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
        got = [answer async for answer in stream(messages())]
    assert [(a.infer_response.id, number(a)) for a in got] == [(str(n), float(n)) for n in range(1000)]


async def test_errors_are_answers_and_the_stream_goes_on(path: DataPath) -> None:
    bad = request("marked", np.ones((1, 3)), id="bad")
    bad.inputs[0].datatype = "INT8"
    sent = [
        request("marked", np.ones((1, 3)), id="a"),
        bad,
        request("nobody", np.ones((1, 3)), id="who"),
        request("marked", np.ones((1, 3)), "x", id="version"),
        request("marked", np.full((1, 3), -1), id="raises"),
        request("marked", np.ones((1, 3)), id="b"),
    ]
    async with grpc.aio.insecure_channel(path.grpc) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(sent))
        got = [answer async for answer in call]
        assert await call.code() is grpc.StatusCode.OK
    assert [a.infer_response.id for a in got] == ["a", "bad", "who", "version", "raises", "b"]
    texts = ["", "data-type is 'INT8'", "'nobody' is not found", "version string 'x'", "a row is marked", ""]
    assert all(text in a.error_message and bool(text) == bool(a.error_message) for text, a in zip(texts, got, strict=True))
    assert all(a.infer_response.parameters["triton_final_response"].bool_param for a in got)


def test_a_client_may_ask_for_errors_as_status(path: DataPath) -> None:
    # not grpc.aio: it says INTERNAL by itself where a server ends a stream that is being written to
    good = request("marked", np.ones((1, 3)))
    with grpc.insecure_channel(path.grpc) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
        for more in (0, 5, 300, 1000):
            call = infer(iter([good, request("nobody", np.ones((1, 3))), *[good] * more]), metadata=[("triton_grpc_error", "true")])
            assert number(next(call)) == 2
            with pytest.raises(grpc.RpcError, match="unknown model: 'nobody'") as failure:
                next(call)
            assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    wait_for(lambda: path.open("marked") == 0)


async def test_a_message_that_is_none_ends_the_stream_with_its_reason(path: DataPath) -> None:
    async with grpc.aio.insecure_channel(path.grpc) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([b"\xff\xff\xff"]))
        answer = service_pb2.ModelStreamInferResponse.FromString(await call.read())
        assert "protobuf" in answer.error_message


async def test_several_streams_do_not_mix(path: DataPath) -> None:
    async def one(number_of: int) -> None:
        async with agrpc.InferenceServerClient(path.grpc) as client:

            async def messages() -> AsyncIterator[dict[str, object]]:
                for n in range(100):
                    value = np.full((1, 4), 1000 * number_of + n, np.float32)
                    x = agrpc.InferInput("x", value.shape, "FP32")
                    x.set_data_from_numpy(value)
                    yield {"model_name": "echo_fp32", "inputs": [x]}

            n = 0
            async for result, error in client.stream_infer(messages()):
                assert error is None
                assert result.as_numpy("y")[0, 0] == 1000 * number_of + n
                n += 1
            assert n == 100

    await asyncio.gather(*(one(n) for n in range(8)))


async def test_an_idle_stream_answers_at_once_when_asked(path: DataPath) -> None:
    async with grpc.aio.insecure_channel(path.grpc) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        for n in range(5):
            await call.write(request("echo_fp32", np.full((1, 1), n)))
            assert number(await call.read()) == n
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_a_cancelled_stream_leaves_the_queue(path: DataPath, gate: Path) -> None:
    """Also one with so many requests under way that the gateway has stopped reading from it."""
    async with grpc.aio.insecure_channel(path.grpc) as stays:
        running = asyncio.ensure_future(service_pb2_grpc.GRPCInferenceServiceStub(stays).ModelInfer(GATE))
        await eventually(lambda: (path.open("gate"), path.queued("gate")) == (1, 0))
        for count in (20, MAX_PENDING + 200):
            channel = grpc.aio.insecure_channel(path.grpc, options=ALONE)
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
            # a stream takes a few more than its bound: what came in one piece with the last one
            sender = asyncio.ensure_future(send(call, count))
            await eventually(lambda count=count: path.queued("gate") >= min(count, MAX_PENDING))  # type: ignore[misc]
            call.cancel()
            await eventually(lambda: path.queued("gate") == 0)
            await asyncio.gather(sender, return_exceptions=True)
            await channel.close()
        path.open_gate()
        await running


async def send(call: grpc.aio.StreamStreamCall, count: int) -> None:
    for _ in range(count):
        await call.write(GATE)


async def test_the_deadline_of_a_stream_empties_its_queue(path: DataPath, gate: Path) -> None:
    async with grpc.aio.insecure_channel(path.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        running = asyncio.ensure_future(stub.ModelInfer(GATE))
        await eventually(lambda: (path.open("gate"), path.queued("gate")) == (1, 0))
        for seconds in (0.5, 2.0, 8.0, 32.0):  # on a busy machine the first may be over before all have come
            call = stub.ModelStreamInfer(timeout=seconds)
            sender = asyncio.ensure_future(send(call, 30))
            await eventually(lambda call=call: path.queued("gate") == 30 or call.done())  # type: ignore[misc]
            came = path.queued("gate") == 30
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.gather(sender, return_exceptions=True)
            await eventually(lambda: path.queued("gate") == 0)
            if came:
                break
        assert came
        path.open_gate()
        await running


async def test_the_gateway_ends_a_stream_at_its_deadline_by_itself(path: DataPath) -> None:
    reader, writer = await asyncio.open_unix_connection(path.config.gateway_path(0))
    writer.write(b"POST /inference.GRPCInferenceService/ModelStreamInfer HTTP/1.1\r\nhost: h\r\ncontent-type: application/grpc\r\n")
    writer.write(b"grpc-timeout: 200m\r\ntransfer-encoding: chunked\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(-1), 60)
    assert b"grpc-status: 4\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")
    writer.close()


async def test_a_thousand_open_streams_and_unary_calls(path: DataPath) -> None:
    async with grpc.aio.insecure_channel(path.grpc, options=ALONE) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelStreamInfer() for _ in range(1000)]

        async def ask(call: grpc.aio.StreamStreamCall, n: int) -> None:
            await call.write(request("echo_fp32", np.full((1, 1), n)))
            assert number(await call.read()) == n

        await asyncio.gather(*(ask(call, n) for n, call in enumerate(calls)))
        for n in range(20):
            answer = await stub.ModelInfer(request("echo_fp32", np.full((1, 1), n)), timeout=60)
            assert answer.raw_output_contents[0] == np.float32(n).tobytes()
        await ask(calls[-1], 77)
        for call in calls:
            call.cancel()
    await eventually(lambda: not any(m.server._host.grpc._streams for m in path.members if m.server._host))
