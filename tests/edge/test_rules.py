"""Every rule of the edge, held by the real HAProxy: each was found by breaking it (serving/README.md, the edge)."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest

from .conftest import Edge, eventually

ECHO, STREAM, HANG, HELD = "/t.T/Echo", "/t.T/Stream", "/t.T/Hang", "/t.T/Held"
BIG = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def alone(edge: Edge) -> grpc.aio.Channel:
    """A channel that shares its connection with no other one of this process."""
    return grpc.aio.insecure_channel(edge.grpc, options=[*BIG, ("grpc.use_local_subchannel_pool", 1)])


async def test_a_thousand_open_streams_do_not_block_a_call_on_the_same_connection(edge: Edge) -> None:
    await edge.start()
    gateway = await edge.gateway()
    await edge.up(1)
    async with alone(edge) as channel:
        hanging = [channel.unary_unary(HANG)(b"") for _ in range(1000)]
        waits = [asyncio.ensure_future(call) for call in hanging]
        await eventually(lambda: gateway.hanging == 1000)
        assert await channel.unary_unary(ECHO)(b"now", timeout=60) == b"now"
        assert gateway.hanging == 1000
        for call in hanging:
            call.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        # each cancel reaches the gateway as end of file
        await eventually(lambda: gateway.hanging == 0)


async def test_a_cancelled_call_is_hung_up_at_the_gateway(edge: Edge) -> None:
    await edge.start()
    gateway = await edge.gateway()
    await edge.up(1)
    async with alone(edge) as channel:
        call = channel.unary_unary(HANG)(b"")
        wait = asyncio.ensure_future(call)
        await eventually(lambda: gateway.hanging)
        call.cancel()
        await eventually(lambda: gateway.hung_up)
        await asyncio.gather(wait, return_exceptions=True)


async def test_messages_of_a_stream_pass_one_by_one_without_delay(edge: Edge) -> None:
    await edge.start()
    await edge.gateway()
    await edge.up(1)
    async with alone(edge) as channel:
        call = channel.stream_stream(STREAM)()
        waits = []
        for number in range(60):
            started = time.monotonic()
            await call.write(b"message %d" % number)
            assert await call.read() == b"message %d" % number
            waits.append(time.monotonic() - started)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK
        assert dict(await call.trailing_metadata())["x-rows"] == "3"
    # Nagle and delayed acknowledgements together would make each of them 40 or 200 ms; the first ones are acknowledged at once
    assert min(waits[20:]) < 0.04


async def test_sixteen_megabytes_pass_both_ways(edge: Edge) -> None:
    await edge.start()
    await edge.gateway()
    await edge.up(1)
    message = bytes(range(256)) * (16 << 12)
    async with alone(edge) as channel:
        assert await channel.unary_unary(ECHO)(message, timeout=60) == message


class Load:
    """Clients that call without pause, each on a connection of its own."""

    def __init__(self, edge: Edge, workers: int = 8) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self.stopping = False
        self.running = [asyncio.create_task(self.work(edge)) for _ in range(workers)]

    async def work(self, edge: Edge) -> None:
        async with alone(edge) as channel:
            call = channel.unary_unary(ECHO)
            while not self.stopping:
                try:
                    await call(b"x" * 100, timeout=60)
                    self.answered += 1
                except grpc.aio.AioRpcError as error:
                    self.failures.append(f"{error.code().name}: {error.details()}")

    async def goes_on(self, more: int = 200) -> None:
        """Return when so many more have been answered."""
        before = self.answered
        await eventually(lambda: self.answered - before >= more)

    async def stop(self) -> None:
        self.stopping = True
        await asyncio.gather(*self.running)


async def test_a_killed_gateway_costs_only_what_was_in_it(edge: Edge) -> None:
    await edge.start()
    victim, _ = await edge.gateway_process("a"), await edge.gateway_process("b")
    await edge.up(2)
    load = Load(edge)
    await load.goes_on()
    victim.kill()
    await load.goes_on()
    await edge.up(1)
    await load.goes_on()
    await load.stop()
    assert len(load.failures) <= 8, load.failures
    assert all(failure.startswith("UNAVAILABLE") for failure in load.failures)


async def test_a_draining_gateway_costs_nothing(edge: Edge) -> None:
    await edge.start()
    leaver, _ = await edge.gateway_process("a"), await edge.gateway_process("b")
    await edge.up(2)
    load = Load(edge)
    await load.goes_on()
    leaver.send_signal(signal.SIGTERM)
    await asyncio.to_thread(leaver.wait, 60)
    await load.goes_on()
    await load.stop()
    assert load.failures == []
    assert leaver.returncode == 0


@pytest.mark.parametrize("reused", [False, True], ids=["new connection", "reused connection"])
async def test_a_call_that_may_have_run_is_never_sent_twice(edge: Edge, reused: bool) -> None:
    """On a reused connection HAProxy answers with REFUSED_STREAM, which invites a client to retry by itself: grpcio does not."""
    await edge.start()
    victim = await edge.gateway_process("a")
    await edge.up(1)
    async with alone(edge) as channel:
        if reused:
            await channel.unary_unary(ECHO)(b"")
        call = asyncio.ensure_future(channel.unary_unary(HANG)(b"once"))
        # the stream is there before the second gateway is
        async with asyncio.timeout(60):
            while " be=grpc " not in await edge.ask("show sess"):
                await asyncio.sleep(0.01)
        other = await edge.gateway("b")
        await edge.up(2)
        victim.kill()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await asyncio.wait_for(call, 60)
        assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await channel.unary_unary(ECHO)(b"next", timeout=60) == b"next"
        assert other.hanging + other.hung_up == 0


async def test_a_call_that_reached_nobody_goes_to_the_next_gateway(edge: Edge) -> None:
    """HAProxy takes all slots for healthy until their first check; a call in that time must find the one that lives."""
    await edge.start(check_every_s=30.0)
    await edge.gateway()
    assert edge.keeper is not None
    haproxy = edge.keeper.status()["haproxy"]["pid"]
    os.kill(haproxy, signal.SIGKILL)
    await eventually(lambda: edge.keeper is not None and edge.keeper.status()["haproxy"]["pid"] not in (None, haproxy))
    async with alone(edge) as channel:
        call = channel.unary_unary(ECHO)
        assert [await call(b"first", timeout=60, wait_for_ready=True) for _ in range(30)] == [b"first"] * 30


async def test_without_a_gateway_a_call_gets_its_status_and_rest_its_json(edge: Edge) -> None:
    await edge.start()
    await edge.up(0)
    async with alone(edge) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_unary(ECHO)(b"", timeout=60)
        assert (failure.value.code(), failure.value.details()) == (grpc.StatusCode.UNAVAILABLE, "no gateway is ready")
        stream = channel.stream_stream(STREAM)()
        assert await stream.code() == grpc.StatusCode.UNAVAILABLE
    async with httpx.AsyncClient() as client:
        answer = await client.post(edge.edge + "/v2/models/m/infer", content=b"{}")
        assert (answer.status_code, answer.json()) == (503, {"error": "no gateway is ready"})
        assert answer.headers["content-type"] == "application/json"


async def test_a_gateway_that_dies_with_a_rest_request_gives_json_too(edge: Edge) -> None:
    await edge.start()
    await edge.gateway_process("a")
    await edge.up(1)
    async with httpx.AsyncClient() as client:
        answer = await client.post(edge.edge + "/t.T/Die", content=b"{}")
    assert answer.status_code == 502
    assert "may have run" in answer.json()["error"]


async def test_rest_is_served_on_the_port_of_grpc_in_both_versions_of_http(edge: Edge) -> None:
    await edge.start()
    await edge.gateway()
    await edge.up(1)
    for version in ("--http1.1", "--http2-prior-knowledge"):
        command = ["curl", "-s", version, "--data", "12345", "-w", "%{http_version}", edge.edge + "/v2"]
        answer = (await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, timeout=5)).stdout.decode()
        body, end = json.JSONDecoder().raw_decode(answer)
        assert body["body_bytes"] == 5
        assert answer[end:] == ("1.1" if version == "--http1.1" else "2")


async def test_the_address_of_the_client_is_told_and_cannot_be_forged(edge: Edge) -> None:
    await edge.start()
    await edge.gateway()
    await edge.up(1)
    async with httpx.AsyncClient() as client:
        forged = [("x-serving-client", "6.6.6.6"), ("X-Serving-Client", "7.7.7.7")]
        assert (await client.post(edge.edge + "/v2", headers=forged)).json()["client"] == ["127.0.0.1"]


async def test_the_doors_between_edge_and_gateway_are_closed_to_clients(edge: Edge) -> None:
    await edge.start()
    await edge.gateway()
    await edge.up(1)
    async with httpx.AsyncClient() as client:
        assert (await client.get(edge.edge + "/edge/health")).status_code == 404


async def test_nothing_is_open_to_others(edge: Edge) -> None:
    await edge.start()
    await edge.gateway()
    assert edge.keeper is not None
    listening = await asyncio.to_thread(subprocess.run, ["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True)
    rows = [line.split() for line in listening.stdout.splitlines() if ":" in line and line.split()[3] == "0A"]
    ours = {edge.config.http_port, edge.config.grpc_port, edge.config.metrics_port}
    hosts = {row[1].split(":")[0] for row in rows if int(row[1].split(":")[1], 16) in ours}
    assert hosts == {"0100007F"}
    assert modes(edge.config.run_dir) == {"edge.sock": 0o600, "haproxy.sock": 0o600, "gateway-0.sock": 0o600, ".": 0o700}


def modes(directory: str) -> dict[str, int]:
    found = {path.name: path.stat().st_mode & 0o777 for path in Path(directory).glob("*.sock")}
    return {**found, ".": Path(directory).stat().st_mode & 0o777}


async def test_running_calls_end_before_the_edge_does(edge: Edge) -> None:
    await edge.start()
    gateway = await edge.gateway()
    await edge.up(1)
    assert edge.keeper is not None
    async with alone(edge) as channel:
        call = asyncio.ensure_future(channel.unary_unary(HELD)(b"late"))
        await eventually(lambda: gateway.held)
        closing = asyncio.create_task(asyncio.to_thread(edge.keeper.close, 600))
        await eventually(lambda: refuses(edge.config.grpc_port))
        assert not closing.done()
        gateway.let_go()
        assert await call == b"late"
        # long before its time is over
        await asyncio.wait_for(closing, 60)


def refuses(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
