"""Decoupled models over gRPC: any number of answers, in their order, to clients that read, do not read, or go away."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.grpc.aio as agrpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .rig import DataPath, eventually
from .test_grpc import request

FINAL = "triton_final_response"
EMPTY = "triton_enable_empty_final_response"


def ask(n: int, *, model: str = "count", id: str = "", **parameters: object) -> service_pb2.ModelInferRequest:
    """Return a request for `n` answers."""
    message = service_pb2.ModelInferRequest(model_name=model, id=id)
    message.inputs.add(name="n", datatype="INT32", shape=[1, 1])
    message.raw_input_contents.append(np.int32(n).tobytes())
    for key, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(message.parameters[key], kind, value)
    return message


def told(answer: service_pb2.ModelStreamInferResponse) -> tuple[str, list[int], int, bool, str]:
    """Return id, values, parameter `left`, whether it is the last, and the error."""
    inner = answer.infer_response
    values = np.frombuffer(b"".join(inner.raw_output_contents), np.int32).tolist()
    left = inner.parameters["left"].int64_param if "left" in inner.parameters else -1
    return inner.id, values, left, inner.parameters[FINAL].bool_param, answer.error_message


def note(path: DataPath, name: str) -> str:
    """Return what became of the generator of that name; "" while it runs."""
    file = path.gate.parent / name
    return file.read_text() if file.exists() else ""


def at(path: DataPath, name: str) -> int:
    """Return the number of the answer at which the generator of that name is, -1 before the first."""
    text = note(path, f"{name}.at")
    return int(text) if text else -1


@pytest.fixture
async def infer(path: DataPath) -> AsyncIterator[grpc.aio.StreamStreamMultiCallable]:
    async with grpc.aio.insecure_channel(path.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer


async def test_n_answers_then_nothing(infer: grpc.aio.StreamStreamMultiCallable) -> None:
    for n in (0, 1, 5, 500):
        got = [told(answer) async for answer in infer(iter([ask(n, id="a")]))]
        assert got == [("a", [i], n - i - 1, False, "") for i in range(n)]


async def test_an_empty_last_answer_for_those_who_ask(infer: grpc.aio.StreamStreamMultiCallable) -> None:
    for n in (0, 3):
        got = [answer async for answer in infer(iter([ask(n, id="a", **{EMPTY: True})]))]
        assert [told(answer)[1:4] for answer in got] == [*(([i], n - i - 1, False) for i in range(n)), ([], -1, True)]
        last = got[-1].infer_response
        assert (last.model_name, last.model_version, last.id) == ("count", "1", "a")


def test_the_callback_client(path: DataPath) -> None:
    answers: queue.Queue[tuple[tgrpc.InferResult, tgrpc.InferenceServerException | None]] = queue.Queue()
    with tgrpc.InferenceServerClient(path.grpc) as client:
        assert client.get_model_config("count").config.model_transaction_policy.decoupled
        client.start_stream(lambda result, error: answers.put((result, error)))
        for name, n in (("a", 3), ("b", 0), ("c", 2)):
            given = tgrpc.InferInput("n", [1, 1], "INT32")
            given.set_data_from_numpy(np.array([[n]], np.int32))
            client.async_stream_infer("count", [given], request_id=name, enable_empty_final_response=True, parameters={"width": 2})
        seen: dict[str, list[int]] = {"a": [], "b": [], "c": []}
        finals = 0
        while finals < 3:
            result, error = answers.get(timeout=60)
            assert error is None
            response = result.get_response()
            if response.parameters[FINAL].bool_param:
                finals += 1
            else:
                assert result.as_numpy("i").shape == (1, 2)
                seen[response.id].append(int(result.as_numpy("i")[0, 1]))
        assert seen == {"a": [0, 1, 2], "b": [], "c": [0, 1]}
        client.stop_stream()


async def test_the_aio_client(path: DataPath) -> None:
    given = agrpc.InferInput("n", [1, 1], "INT32")
    given.set_data_from_numpy(np.array([[4]], np.int32))

    async def requests() -> AsyncIterator[dict[str, object]]:
        yield {"model_name": "count", "inputs": [given]}

    async with agrpc.InferenceServerClient(path.grpc) as client:
        got = [(int(result.as_numpy("i")[0, 0]), error) async for result, error in client.stream_infer(requests())]
    assert got == [(i, None) for i in range(4)]


async def test_an_error_comes_behind_the_answers_and_the_stream_goes_on(infer: grpc.aio.StreamStreamMultiCallable) -> None:
    call = infer()
    await call.write(ask(2, id="bad", **{"raise": True}))
    got = [told(await call.read()) for _ in range(3)]
    assert got == [("bad", [0], 1, False, ""), ("bad", [1], 0, False, ""), ("bad", [], -1, True, "ValueError: counted too far")]
    await call.write(ask(1, id="good"))
    assert told(await call.read()) == ("good", [0], 0, False, "")
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


def test_an_error_as_status_ends_the_stream(path: DataPath) -> None:
    with grpc.insecure_channel(path.grpc) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
        call = infer(iter([ask(2, **{"raise": True})]), metadata=[("triton_grpc_error", "true")])
        assert [told(next(call))[1] for _ in range(2)] == [[0], [1]]
        with pytest.raises(grpc.RpcError, match="counted too far") as failure:
            next(call)
        assert failure.value.code() is grpc.StatusCode.INTERNAL


async def test_what_an_iterator_may_be(infer: grpc.aio.StreamStreamMultiCallable) -> None:
    async def all_of(n: int) -> list[tuple[list[int], str]]:
        return [told(answer)[1::3] async for answer in infer(iter([ask(n, model="rows")]))]  # type: ignore[misc]

    assert await all_of(13) == []
    assert await all_of(2) == [([2, 2], "")]
    assert await all_of(3) == [([3, 3, 3], "")] * 2
    ((_, error),) = await all_of(14)
    assert error == "model 'rows' returned a int, expected a dict of numpy arrays by name, or an iterator of such"
    ((_, error),) = await all_of(15)
    assert "expected a numpy array" in error


async def test_requests_run_beside_each_other_and_beside_ordinary_ones(path: DataPath, infer: grpc.aio.StreamStreamMultiCallable) -> None:
    path.gate.touch()
    call = infer()
    for n in range(30):
        await call.write(ask(2, id=str(n), gate=True))
    first = {told(await call.read())[0] for _ in range(30)}
    assert first == {str(n) for n in range(30)}
    await call.write(request("echo_fp32", np.full((1, 1), 7), id="plain"))
    answer = (await call.read()).infer_response
    assert (answer.id, answer.parameters[FINAL].bool_param) == ("plain", True)
    path.open_gate()
    await call.done_writing()
    rest = [told(await call.read()) for _ in range(30)]
    assert await call.read() is grpc.aio.EOF
    assert sorted(rest) == sorted((str(n), [1], 0, False, "") for n in range(30))


@pytest.mark.parametrize("how", ["cancel", "close", "deadline"])
async def test_a_client_that_goes_closes_the_generator(path: DataPath, how: str) -> None:
    """While it stands at its `yield`: here there is no room for its answers."""
    name = f"{how}-{path.config.edge}"
    channel = grpc.aio.insecure_channel(path.grpc, options=[("grpc.use_local_subchannel_pool", 1)])
    infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
    call = infer(timeout=1.0 if how == "deadline" else None)
    await call.write(ask(1_000_000, name=name, width=20_000))
    assert told(await call.read())[2] == 999_999
    if how == "cancel":
        call.cancel()
    elif how == "close":
        await channel.close()
    await eventually(lambda: note(path, name) == "closed")
    await eventually(lambda: path.open("count") == 0)
    assert 0 <= at(path, name) < 999_999
    await channel.close()


async def test_a_client_that_goes_frees_those_that_wait(path: DataPath) -> None:
    path.gate.touch()
    async with grpc.aio.insecure_channel(path.grpc) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        for n in range(6):
            await call.write(ask(2, model="few", id=str(n), gate=True))
            if n < 2:
                assert told(await call.read()) == (str(n), [0], 1, False, "")
        assert told(await call.read())[3:] == (True, "Exceeds maximum queue size")
        assert (path.open("few"), path.queued("few")) == (5, 3)
        call.cancel()
        await eventually(lambda: path.queued("few") == 0)
        path.open_gate()
        await eventually(lambda: path.open("few") == 0)


async def test_a_client_that_does_not_read_holds_the_model_back(path: DataPath) -> None:
    """And no other client of it."""
    name = f"slow-{path.config.edge}"
    async with grpc.aio.insecure_channel(path.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as slow:
        call = service_pb2_grpc.GRPCInferenceServiceStub(slow).ModelStreamInfer()
        await call.write(ask(1000, name=name, width=20_000))
        await eventually(lambda: at(path, name) >= 10)
        async with grpc.aio.insecure_channel(path.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as quick:
            infer = service_pb2_grpc.GRPCInferenceServiceStub(quick).ModelStreamInfer
            for _ in range(5):
                got = [told(answer)[2] async for answer in infer(iter([ask(200)]))]
                assert got == list(range(199, -1, -1))
        assert at(path, name) < 500  # 80 KB each: what windows, sockets and buffers take on the way
        await call.done_writing()
        assert [told(await call.read())[2] for _ in range(1000)] == list(range(999, -1, -1))
        assert await call.read() is grpc.aio.EOF
    assert note(path, name) == "finished"


def test_unary_calls_are_refused(path: DataPath) -> None:
    with grpc.insecure_channel(path.grpc) as channel, pytest.raises(grpc.RpcError) as failure:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(ask(1))
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert failure.value.details() == "ModelInfer RPC doesn't support models with decoupled transaction policy"
