"""HTTP/2 straight into a gateway, with real clients."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2_grpc

from .rig import DataPath, eventually
from .test_grpc import GATE, request

ALONE = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]


async def test_a_thousand_calls_wait_on_one_connection(node: DataPath) -> None:
    a = await asyncio.to_thread(node.gateway, "a")
    node.gate.touch()
    async with grpc.aio.insecure_channel(node.grpc, ALONE) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [asyncio.ensure_future(stub.ModelInfer(GATE)) for _ in range(1000)]
        await eventually(lambda: node.open("gate") == 1000)
        host = a.server._host
        assert host is not None
        assert [len(c.streams) for c in host.connections] == [1000]
        for call in calls[::2]:
            call.cancel()
        await eventually(lambda: node.open("gate") <= 500 + 64)  # what runs already runs to its end
        node.open_gate()
        answers = await asyncio.wait_for(asyncio.gather(*calls[1::2]), 60)
        assert all(answer.raw_output_contents for answer in answers)


async def test_a_gateway_that_leaves_answers_all_that_was_sent_to_it(node: DataPath) -> None:
    """Each call that fails is a call that was lost.

    Retries are left on: a call that has chosen its connection when the GOAWAY comes in cannot leave any more, and gRPC chooses again
    for it (https://github.com/grpc/grpc/issues/19969). What has left the client is not sent twice: no retry policy allows it.
    """
    a = await asyncio.to_thread(node.gateway, "a")
    stop = False
    failed: list[str] = []
    done = 0

    async def client(number: int) -> None:
        nonlocal done
        async with grpc.aio.insecure_channel(node.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not stop:
                value = np.full((1, 4), number, np.float32)
                try:
                    answer = await stub.ModelInfer(request("echo_fp32", value), wait_for_ready=True, timeout=60)
                    assert answer.raw_output_contents[0] == value.tobytes()
                    done += 1
                except grpc.aio.AioRpcError as error:
                    failed.append(f"{error.code()}: {error.details()}")

    clients = [asyncio.ensure_future(client(n)) for n in range(8) for _ in range(4)]
    for name in ("b", "c", "d"):
        seen = done
        await eventually(lambda seen=seen: done > seen + 200)
        successor = await asyncio.to_thread(node.gateway, name)
        await asyncio.to_thread(a.drain)
        node.members.remove(a)
        assert a.faults == []
        a = successor
    seen = done
    await eventually(lambda: done > seen + 200)
    stop = True
    await asyncio.gather(*clients)
    assert failed == []


@pytest.mark.parametrize("window", [65_535, 1 << 20])
async def test_large_messages_both_ways_through_small_windows(node: DataPath, window: int) -> None:
    await asyncio.to_thread(node.gateway, "a")
    options = [*ALONE, ("grpc.http2.lookahead_bytes", window), ("grpc.http2.bdp_probe", 0), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(node.grpc, options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def one(number: int) -> None:
            value = np.full((1, 1_000_000 + number), number, np.float32)
            answer = await stub.ModelInfer(request("echo_fp32", value), timeout=60)
            assert answer.raw_output_contents[0] == value.tobytes()

        await asyncio.gather(*(one(n) for n in range(8)))


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
async def test_another_implementation_of_http2(node: DataPath, tmp_path: Path) -> None:
    await asyncio.to_thread(node.gateway, "a")
    message = request("echo_fp32", np.ones((1, 4), np.float32)).SerializeToString()
    body = tmp_path / "body"
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    command = [
        "h2load", "-n", "5000", "-c", "4", "-m", "100", "-w", "16", "-W", "16", "-d", str(body), "--header-table-size=0",
        "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://{node.grpc}/inference.GRPCInferenceService/ModelInfer",
    ]  # fmt: skip
    for more in ([], ["--encoder-header-table-size=0"]):
        told = await asyncio.to_thread(subprocess.run, [*command[:-1], *more, command[-1]], capture_output=True, text=True, timeout=60)
        assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in told.stdout, told.stdout + told.stderr
