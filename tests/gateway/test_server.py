"""A gateway from outside, alone with its model: time limits, hang-ups, half-closed connections, draining with nobody in front."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tritonclient.grpc import service_pb2

from serving.errors import Unavailable
from serving.gateway import server as server_module
from serving.gateway.server import GatewayServer
from serving.gateway.stream import MAX_PENDING
from serving.state import GatewayLimits

from .alone import LoneGateway
from .test_garbage import GRPC, INFER, JSON_BODY, SERVICE, answers, chunked, infer_message, message, post


@pytest.fixture
def gateway() -> Iterator[LoneGateway]:
    gateway = LoneGateway()
    yield gateway
    gateway.close()
    assert gateway.faults == []


async def exchange(gateway: LoneGateway, data: bytes, edge: bool = False, half_close: bool = False) -> bytes:
    """Send it and return all that comes until the gateway closes."""
    reader, writer = await (asyncio.open_unix_connection(gateway.unix) if edge else asyncio.open_connection(*gateway.tcp))
    writer.write(data)
    if half_close:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(-1), 60)
    finally:
        writer.close()


async def test_all_that_was_pipelined_before_a_half_close_is_answered(gateway: LoneGateway) -> None:
    got = list(answers(await exchange(gateway, post(INFER, JSON_BODY) * 5, half_close=True)))
    assert [a.status for a in got] == [200] * 5
    assert "connection" not in got[0].headers
    # what is not a whole request is not waited for
    got = list(answers(await exchange(gateway, post(INFER, JSON_BODY) + post(INFER, JSON_BODY)[:-5], half_close=True)))
    assert [a.status for a in got] == [200]


async def test_streams_are_refused_where_a_client_that_has_gone_cannot_be_seen(gateway: LoneGateway) -> None:
    for method in (f"{SERVICE}ModelStreamInfer", "/grpc.health.v1.Health/Watch"):
        (answer,) = answers(await exchange(gateway, chunked(method, message(b""), 100, GRPC, "Connection: close")))
        assert answer.headers["grpc-status"] == "12"


async def test_limits_hold_also_for_what_comes_in_one_piece(gateway: LoneGateway) -> None:
    gateway.in_loop(lambda: setattr(gateway.host, "limits", replace(GatewayLimits(), max_body_bytes=100, max_header_bytes=3000)))
    for data in (post(INFER, bytes(101)), chunked(INFER, bytes(101), 200), chunked(INFER, bytes(101), 7)):
        (answer,) = answers(await exchange(gateway, data, half_close=True))
        assert answer.status == 413, data
    (answer,) = answers(await exchange(gateway, post(INFER, b"", "X: " + "y" * 3000), half_close=True))
    assert answer.status == 431
    (answer,) = answers(await exchange(gateway, chunked(f"{SERVICE}ModelInfer", bytes(200), 50, GRPC), edge=True))
    assert (answer.status, answer.headers["grpc-status"]) == (200, "8")
    (answer,) = answers(await exchange(gateway, post(f"{SERVICE}ModelInfer", bytes(200), GRPC, "connection: close"), edge=True))
    assert (answer.status, answer.headers["grpc-status"]) == (200, "8")


async def test_a_slow_body_is_408_or_its_like(gateway: LoneGateway) -> None:
    gateway.in_loop(lambda: setattr(gateway.host, "limits", replace(GatewayLimits(), body_timeout_s=0.1, header_timeout_s=0.1)))
    (answer,) = answers(await exchange(gateway, post(INFER, JSON_BODY)[:-1]))
    assert (answer.status, "did not arrive" in answer.body.decode()) == (408, True)
    (answer,) = answers(await exchange(gateway, chunked(INFER, JSON_BODY, 10)[:-1]))
    assert answer.status == 408
    (answer,) = answers(await exchange(gateway, b"POST /"))
    assert answer.status == 408
    (answer,) = answers(await exchange(gateway, chunked(f"{SERVICE}ModelInfer", infer_message(), 10, GRPC)[:-1], edge=True))
    assert answer.headers["grpc-status"] == "4"


STREAM = f"POST {SERVICE}ModelStreamInfer HTTP/1.1\r\nhost: h\r\n{GRPC}\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("after_a_large_body", [False, True])
async def test_a_hang_up_is_noticed_also_while_the_gateway_does_not_read(gateway: LoneGateway, after_a_large_body: bool) -> None:
    """A stream with MAX_PENDING requests under way is not read from, so its end-of-file is not seen either."""
    reader, writer = await asyncio.open_unix_connection(gateway.unix)
    if after_a_large_body:  # it is read by another protocol from then on
        writer.write(post(INFER, JSON_BODY + b" " * 400_000))
        await reader.readuntil(b'"y"')
    answer_now = gateway.in_loop(lambda: hold(gateway))
    writer.write(STREAM)
    for _ in range(MAX_PENDING + 2000):
        writer.write(chunk(infer_message()))
        await asyncio.sleep(0)
    admission = gateway.host.service.calls.admission
    async with asyncio.timeout(60):
        while gateway.in_loop(lambda: admission.inflight_requests) < MAX_PENDING:
            await asyncio.sleep(0.005)
        (connection,) = gateway.host.connections
        assert gateway.in_loop(lambda: (connection._paused, connection._transport.is_reading())) == (True, False)
        writer.transport.abort()
        while gateway.in_loop(lambda: admission.inflight_requests):
            await asyncio.sleep(0.005)
    assert gateway.in_loop(lambda: len(gateway.host.grpc._streams)) == 0
    gateway.in_loop(answer_now)


def hold(gateway: LoneGateway) -> object:
    """Have the model's channel wait; return what lets it answer."""
    (channel,) = gateway.host.service._peers.channels()
    run, channel._run = channel._run, lambda: None
    return run


async def test_a_client_that_does_not_read_its_stream_is_not_read_from(gateway: LoneGateway) -> None:
    reader, writer = await asyncio.open_unix_connection(gateway.unix, limit=1000)
    writer.write(STREAM)
    piece = chunk(big_message(100_000))
    sent = 0
    try:
        async with asyncio.timeout(0.5):
            while True:
                writer.write(piece)
                await writer.drain()
                sent += 1
    except TimeoutError:
        pass
    # what is on its way is in two socket buffers, the gateway's write buffer and at most a few messages behind it
    assert sent < 60
    assert gateway.in_loop(lambda: max(c.unwritten_bytes for c in gateway.host.connections)) < 4_000_000
    got = 0
    writer.write(b"0\r\n\r\n")
    while part := await asyncio.wait_for(reader.read(1 << 20), 60):
        got += len(part)
        if part.endswith(b"grpc-status: 0\r\n\r\n"):
            break
    assert got > sent * 100_000
    writer.close()


def big_message(nbytes: int) -> bytes:
    request = service_pb2.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[1, nbytes // 4])
    request.raw_input_contents.append(bytes(nbytes))
    return message(request.SerializeToString())


async def test_compressed_data_whose_client_has_gone_is_dropped(gateway: LoneGateway) -> None:
    """Large data is (de)compressed in a thread; when it is done there may be nobody to tell."""
    body = gzip.compress(
        json.dumps({"inputs": [{"name": "x", "shape": [1, 200_000], "datatype": "FP32", "data": [0.123] * 200_000}]}).encode(), 0
    )
    data = post(INFER, body, "Content-Encoding: gzip", "Accept-Encoding: gzip", "Connection: close")
    for _ in range(5):
        sock = socket.create_connection(gateway.tcp)
        sock.sendall(data)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    (answer,) = answers(await exchange(gateway, data))
    assert json.loads(gzip.decompress(answer.body))["outputs"][0]["data"][:2] == [0.123, 0.123] or answer.status == 200
    async with asyncio.timeout(60):
        while gateway.in_loop(lambda: len(gateway.host.connections)):
            await asyncio.sleep(0.005)


async def test_draining_with_nobody_in_front(gateway: LoneGateway) -> None:
    """No edge that asks, idle clients: it takes the time that idle connections are left open, and the next request is answered."""
    reader, writer = await asyncio.open_connection(*gateway.tcp)
    writer.write(post(INFER, JSON_BODY))
    await reader.readuntil(b"\r\n\r\n")
    leaving = threading.Thread(target=gateway.server.drain, args=(600.0,))
    leaving.start()
    while not gateway.host.draining:
        await asyncio.sleep(0.001)
    writer.write(post(INFER, JSON_BODY))
    rest = await asyncio.wait_for(reader.read(-1), 60)
    assert b"Connection: close" in rest
    # long before its time is over
    await asyncio.to_thread(leaving.join, 60)
    assert not leaving.is_alive()
    writer.close()
    # a listener that comes too late is closed, not served
    late = socket.create_server(("127.0.0.1", 0))
    assert gateway.server.listen(late) == 0
    assert late.fileno() == -1


def test_what_came_during_a_stall_is_answered_before_the_gateway_leaves(gateway: LoneGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that did not run for a while finds its timers due and requests unread; it must not close over them."""
    for limit in ("LINGER_S", "QUIET_S", "EDGE_ASKS_S"):
        monkeypatch.setattr(server_module, limit, 0.05)
    with socket.create_connection(gateway.tcp, 60) as client:
        client.sendall(post(INFER, JSON_BODY))
        assert b"200 OK" in client.recv(1 << 16)
        stalled, sent = threading.Event(), threading.Event()
        loop = gateway.server._loop
        ours, theirs = socket.socketpair()

        def stall() -> None:
            """Stand still until a request has come, and for longer than the gateway waits: within the reading, so timers are next."""
            loop.remove_reader(ours)
            stalled.set()
            assert sent.wait(60)
            over = time.monotonic() + 0.2
            while time.monotonic() < over:
                pass

        gateway.in_loop(lambda: loop.add_reader(ours, stall))
        leaving = threading.Thread(target=gateway.server.drain, args=(600.0,))
        leaving.start()
        while not gateway.host.draining:
            os.sched_yield()
        theirs.send(b"now")
        assert stalled.wait(60)
        client.sendall(post(INFER, JSON_BODY))
        sent.set()
        answer = client.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in answer
        leaving.join(60)
        assert not leaving.is_alive()
        ours.close()
        theirs.close()


def test_a_gateway_that_has_stopped_says_so() -> None:
    gateway = LoneGateway()
    gateway.server.healthy()
    gateway.close()
    with pytest.raises(Unavailable, match="has stopped"):
        gateway.server.report()
    gateway.server.stop()


def test_reports_count_what_was_answered(gateway: LoneGateway) -> None:
    asyncio.run(exchange(gateway, post(INFER, JSON_BODY, "Connection: close")))
    asyncio.run(exchange(gateway, post(f"{SERVICE}ModelInfer", infer_message(), GRPC, "connection: close"), edge=True))
    counted = {labels["protocol"]: n for name, _, labels, n in gateway.server.report() if name == "serving_requests_total"}
    assert counted == {"rest": 1, "grpc": 1}


def test_a_gateway_that_has_stopped_closes_what_it_is_handed() -> None:
    server = GatewayServer("gone", "/nowhere")
    server.start([])
    server.stop()
    listener = socket.create_server(("127.0.0.1", 0))
    assert server.listen(listener) == 0
    assert listener.fileno() == -1


@pytest.mark.parametrize(
    ("says", "nbytes", "encoding"),
    [
        ("grpc-encoding: gzip\r\ngrpc-accept-encoding: identity, deflate, gzip", 4096, "gzip"),
        ("grpc-encoding: deflate\r\ngrpc-accept-encoding: deflate", 100_000, "deflate"),
        ("grpc-encoding: gzip\r\ngrpc-accept-encoding: identity, deflate, gzip", 400, None),
        ("grpc-encoding: gzip\r\ngrpc-accept-encoding: identity", 4096, None),
        ("grpc-accept-encoding: gzip", 4096, None),
        ("grpc-encoding: br\r\ngrpc-accept-encoding: br", 4096, None),
    ],
)
async def test_a_grpc_answer_is_compressed_as_its_request(gateway: LoneGateway, says: str, nbytes: int, encoding: str | None) -> None:
    request = post(f"{SERVICE}ModelInfer", big_message(nbytes), f"{GRPC}\r\n{says}", "connection: close")
    (answer,) = answers(await exchange(gateway, request, edge=True))
    assert answer.trailers["grpc-status"] == "0"
    assert answer.headers.get("grpc-encoding") == encoding
    flag, size = answer.body[0], len(answer.body) - 5
    assert flag == (1 if encoding else 0)
    assert (size < nbytes // 4) == (encoding is not None)
