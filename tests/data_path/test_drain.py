"""Gateways leave and others take their place, and no request fails."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2_grpc

from .load import Load, rest_request
from .rig import DataPath, Member, eventually
from .test_grpc import GATE, request


async def leave(node: DataPath, member: Member) -> None:
    """Drain it. It has far more time than it needs: it leaves when everybody is served, and not when its time is over."""
    await asyncio.wait_for(asyncio.to_thread(member.drain, 600.0), 120)
    node.members.remove(member)
    assert member.faults == []


async def test_gateways_are_replaced_under_load_and_nothing_fails(node: DataPath) -> None:
    a = await asyncio.to_thread(node.gateway, "a")
    b = await asyncio.to_thread(node.gateway, "b")
    load = Load(node).start()
    await eventually(lambda: len(load.done) == 4)
    await load.more()
    await leave(node, a)
    await load.more()
    c = await asyncio.to_thread(node.gateway, "c")
    assert c.claim.slot == a.claim.slot
    await load.more()
    await leave(node, b)
    await load.more()
    await asyncio.to_thread(node.gateway, "d")
    await load.more()
    await load.stop()
    assert load.failed == []
    assert load.ended_streams
    assert {status for _, status in load.ended_streams} == {"UNAVAILABLE"}


async def test_a_successor_comes_first_and_then_the_only_gateway_leaves(node: DataPath) -> None:
    a = await asyncio.to_thread(node.gateway, "a")
    load = Load(node).start()
    await eventually(lambda: len(load.done) == 4)
    await load.more()
    await asyncio.to_thread(node.gateway, "b")
    await leave(node, a)
    await load.more()
    await load.stop()
    assert load.failed == []


async def test_new_rest_connections_wait_while_there_is_no_gateway(node: DataPath) -> None:
    a = await asyncio.to_thread(node.gateway, "a")
    load = Load(node).start(unary=0, streams=0)
    await load.more()
    await leave(node, a)
    await asyncio.to_thread(node.gateway, "b")
    await load.more()
    await load.stop()
    assert load.failed == []


async def test_a_stream_gets_all_its_answers_and_then_the_reason(node: DataPath) -> None:
    a = await asyncio.to_thread(node.gateway, "a")
    node.gate.touch()
    async with grpc.aio.insecure_channel(node.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer()
        for _ in range(20):
            await call.write(GATE)
        idle = stub.ModelStreamInfer()
        await idle.write(request("echo_fp32", np.ones((1, 1))))
        await idle.read()
        unary = asyncio.ensure_future(stub.ModelInfer(GATE))
        await eventually(lambda: node.open("gate") == 21)
        leaving = asyncio.create_task(leave(node, a))
        # an idle stream ends at once, one with requests under way when they are answered
        assert await asyncio.wait_for(idle.code(), 60) is grpc.StatusCode.UNAVAILABLE
        assert not call.done()
        node.open_gate()
        for _ in range(20):
            answer = await asyncio.wait_for(call.read(), 60)
            assert not answer.error_message
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert "Server is stopping" in str(await call.details())
        assert (await unary).raw_output_contents
        await leaving


async def test_readiness_goes_false_while_what_came_before_is_still_answered(node: DataPath) -> None:
    a = await asyncio.to_thread(node.gateway, "a")
    address = node.rest.split(":")
    node.gate.touch()
    held, held_out = await asyncio.open_connection(*address)
    body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,1]}]}'
    held_out.write(b"POST /v2/models/gate/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    probe, probe_out = await asyncio.open_connection(*address)
    ask = b"GET /v2/health/ready HTTP/1.1\r\nHost: h\r\n\r\n"
    probe_out.write(ask)
    assert (await asyncio.wait_for(probe.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200")
    await probe.read(100)
    await eventually(lambda: node.open("gate") == 1)
    leaving = asyncio.create_task(leave(node, a))
    host = a.server._host
    assert host is not None
    await eventually(lambda: host.draining)
    probe_out.write(ask)
    assert (await asyncio.wait_for(probe.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 503")
    node.open_gate()
    assert (await asyncio.wait_for(held.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200 OK")
    await leaving
    held_out.close()
    probe_out.close()


async def test_an_idle_rest_connection_is_kept_a_while_and_a_body_on_its_way_is_waited_for(node: DataPath) -> None:
    a = await asyncio.to_thread(node.gateway, "a")
    address = node.rest.split(":")
    idle, idle_out = await asyncio.open_connection(*address)
    idle_out.write(rest_request(1))
    await idle.readuntil(b"\r\n\r\n")
    half, half_out = await asyncio.open_connection(*address)
    whole = rest_request(2)
    half_out.write(whole[:-10])
    host = a.server._host
    assert host is not None
    await eventually(lambda: any(c.waiting == "body" for c in host.connections))
    leaving = asyncio.create_task(leave(node, a))
    await eventually(lambda: host.draining)
    await asyncio.to_thread(node.gateway, "b")
    idle_out.write(rest_request(3))
    assert b"Connection: close" in await asyncio.wait_for(idle.read(-1), 60)
    assert not leaving.done()
    half_out.write(whole[-10:])
    assert (await asyncio.wait_for(half.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200 OK")
    await leaving
    idle_out.close()
    half_out.close()
