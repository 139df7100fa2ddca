"""HttpConnection from outside: real sockets, an action that echoes, and clients that misbehave."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from serving.errors import NotFound
from serving.gateway.chunked_body import SLICE_CHUNKS
from serving.gateway.head import Action, Head, HeadCache
from serving.gateway.http import HttpConnection
from serving.gateway.turns import Turns
from serving.state import GatewayLimits

from .http2_fakes import Turns as AtOnce


class FakeHost:
    """The server's side of a connection, with a clock that the test moves."""

    def __init__(self, run: Callable[[HttpConnection, Head, Any], None], limits: GatewayLimits | None = None) -> None:
        self.limits = limits or GatewayLimits()
        self.draining = False
        self.connections: set[HttpConnection] = set()
        self.heads = HeadCache(lambda head: Action(run))
        self.arriving_bytes = 0
        self.turns: Any = AtOnce()
        self.edge_told = False
        self.time = 0.0
        self.noted = 0

    def now(self) -> float:
        return self.time

    def body_buffer(self, nbytes: int) -> memoryview | None:
        return None

    def note_request(self) -> None:
        self.noted += 1


def echo(connection: HttpConnection, head: Head, body: Any) -> None:
    connection.respond(200, b"application/octet-stream", bytes(body) or head.path.encode())


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 60)).decode()
        lines = head.split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:] if line)}
        body = await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), 60)
        return int(lines[0].split()[1]), headers, body

    async def closed(self) -> bytes:
        """Wait for the server to close; return what came before."""
        try:
            return await asyncio.wait_for(self.reader.read(-1), 60)
        except ConnectionError:
            return b""


@asynccontextmanager
async def serving(host: FakeHost, path: Path | None = None) -> AsyncIterator[Callable[[], Any]]:
    loop = asyncio.get_running_loop()
    writers: list[asyncio.StreamWriter] = []
    if path is None:
        server = await loop.create_server(lambda: HttpConnection(host, False), "127.0.0.1", 0)  # type: ignore[arg-type, return-value]
        port = server.sockets[0].getsockname()[1]
    else:
        server = await loop.create_unix_server(lambda: HttpConnection(host, True), str(path))  # type: ignore[arg-type, return-value]

    async def connect() -> Client:
        pair = await (asyncio.open_unix_connection(str(path)) if path else asyncio.open_connection("127.0.0.1", port))
        writers.append(pair[1])
        return Client(*pair)

    try:
        yield connect
    finally:
        for writer in writers:
            writer.close()
        server.close()
        for connection in list(host.connections):
            connection.abort()
        await server.wait_closed()


def on_uvloop(test: Callable[..., Any]) -> Callable[..., None]:
    def run(**kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(test(**kwargs), 60))

    run.__name__ = test.__name__
    if "tmp_path" in test.__code__.co_varnames[: test.__code__.co_argcount]:

        def with_path(tmp_path: Path) -> None:
            run(tmp_path=tmp_path)

        with_path.__name__ = test.__name__
        return with_path
    return run


def post(body: bytes, *lines: str) -> bytes:
    return "\r\n".join(("POST /x HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *lines, "", "")).encode() + body


@on_uvloop
async def test_a_body_in_any_number_of_pieces_arrives_whole() -> None:
    async with serving(FakeHost(echo)) as connect:
        client = await connect()
        for size in (0, 1, 100, 70_000, 3_000_000):
            body = bytes(i % 251 for i in range(size)) if size < 100_000 else bytes(1000) * (size // 1000)
            message = post(body)
            cut = message.index(b"\r\n\r\n") + 4
            for piece in (message[:5], message[5:cut], message[cut : cut + 10], message[cut + 10 :]):
                client.send(piece)
                await client.writer.drain()
                await asyncio.sleep(0)
            status, _, got = await client.answer()
            assert (status, got) == (200, body or b"/x")


@on_uvloop
async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving(FakeHost(echo)) as connect:
        client = await connect()
        client.send(b"".join(post(b"%d" % i) for i in range(500)))
        assert [(await client.answer())[2] for _ in range(500)] == [b"%d" % i for i in range(500)]


@on_uvloop
async def test_pipelined_requests_wait_while_one_is_under_way() -> None:
    waiting: list[HttpConnection] = []
    async with serving(FakeHost(lambda c, h, b: waiting.append(c))) as connect:
        client = await connect()
        client.send(post(b"a") + post(b"b"))
        while not waiting:
            await asyncio.sleep(0.001)
        client.send(post(b"c"))
        for n in range(3):
            while len(waiting) <= n:
                await asyncio.sleep(0.001)
            assert len(waiting) == n + 1
            waiting[n].respond(200, b"text/plain", b"%d" % n)
            assert (await client.answer())[2] == b"%d" % n


@on_uvloop
async def test_chunked_bodies_arrive_in_one_piece_or_many() -> None:
    head = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(FakeHost(echo)) as connect:
        client = await connect()
        client.send(head + b"5\r\nhello\r\n0\r\n\r\n")
        assert (await client.answer())[2] == b"hello"
        client.send(head + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n" + post(b"next"))
        assert (await client.answer())[2] == b"hello world"
        assert (await client.answer())[2] == b"next"
        for byte in head + b"3\r\nabc\r\n0\r\n\r\n":
            client.send(bytes([byte]))
            await client.writer.drain()
        assert (await client.answer())[2] == b"abc"


@on_uvloop
async def test_garbage_gets_an_error_and_the_end_of_its_connection_only() -> None:
    async with serving(FakeHost(echo)) as connect:
        neighbour = await connect()
        for garbage in (b"\x00\xff" * 40 + b"\r\n\r\n", b"GET / HTTP/1.1\nHost: h\n\n", b"POST /x HTTP/1.1\r\nContent-Length: 1x\r\n\r\n"):
            client = await connect()
            client.send(garbage)
            status, headers, body = await client.answer()
            assert status == 400
            assert b'"error"' in body
            assert headers["connection"] == "close"
            assert await client.closed() == b""
            neighbour.send(post(b"fine"))
            assert (await neighbour.answer())[2] == b"fine"


@on_uvloop
async def test_sizes_are_bounded_before_they_are_received() -> None:
    limits = replace(GatewayLimits(), max_body_bytes=1000, max_header_bytes=500)
    host = FakeHost(echo, limits)
    async with serving(host) as connect:
        client = await connect()
        client.send(b"POST /x HTTP/1.1\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.answer())[0] == 413
        client = await connect()
        client.send(b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n")
        assert (await client.answer())[0] == 413
        client = await connect()
        client.send(b"GET / HTTP/1.1\r\nX: " + b"y" * 600)
        assert (await client.answer())[0] == 431
        host.limits = replace(limits, max_connections=len(host.connections) + 3)
        kept = [await connect() for _ in range(3)]
        for k in kept:
            k.send(post(b"hello"))
            assert (await k.answer())[0] == 200
        client = await connect()
        assert (await client.answer())[0] == 503


@on_uvloop
async def test_expect_continue_is_answered_before_the_body() -> None:
    async with serving(FakeHost(echo)) as connect:
        client = await connect()
        client.send(b"POST /x HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        assert (await client.answer())[2] == b"abc"


@on_uvloop
async def test_who_keeps_us_waiting_is_told_so_and_leaves() -> None:
    host = FakeHost(echo)
    limits = host.limits
    async with serving(host) as connect:
        half_head, half_body, idle = await connect(), await connect(), await connect()
        half_head.send(b"POST /x HTT")
        half_body.send(b"POST /x HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
        idle.send(post(b"x"))
        await idle.answer()

        def unfinished() -> int:
            return sum(1 for c in host.connections if c.waiting == "body" or c._rest)

        while unfinished() < 2:
            await asyncio.sleep(0.001)
        host.time = max(limits.header_timeout_s, limits.body_timeout_s) + 1
        for connection in list(host.connections):
            connection.check_time(host.time, limits)
        assert (await half_head.answer())[0] == 408
        assert (await half_body.answer())[0] == 408
        assert len([c for c in host.connections if not c.busy]) >= 1
        host.time += limits.idle_timeout_s + 1
        for connection in list(host.connections):
            connection.check_time(host.time, limits)
        assert await idle.closed() == b""


@on_uvloop
async def test_end_of_file_cancels_on_the_unix_socket_and_not_on_tcp(tmp_path: Path) -> None:
    class Work:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    started: list[tuple[HttpConnection, Work]] = []

    def start(connection: HttpConnection, head: Head, body: Any) -> None:
        work = Work()
        connection.work = work
        started.append((connection, work))

    host = FakeHost(start)
    async with serving(host) as tcp, serving(host, tmp_path / "s") as unix:
        client = await tcp()
        client.send(post(b"a"))
        client.writer.write_eof()
        while not started:
            await asyncio.sleep(0.001)
        started[0][0].respond(200, b"text/plain", b"still answered")
        assert (await client.answer())[2] == b"still answered"
        assert await client.closed() == b""
        assert not started[0][1].cancelled
        client = await unix()
        client.send(post(b"b"))
        while len(started) < 2:
            await asyncio.sleep(0.001)
        client.writer.write_eof()
        while not started[1][1].cancelled:
            await asyncio.sleep(0.001)


@on_uvloop
async def test_an_error_of_an_action_is_json_and_leaves_the_connection_open() -> None:
    def missing(connection: HttpConnection, head: Head, body: Any) -> None:
        raise NotFound("no such thing")

    async with serving(FakeHost(missing)) as connect:
        client = await connect()
        for _ in range(2):
            client.send(post(b"a"))
            status, headers, body = await client.answer()
            assert (status, body) == (404, b'{"error":"no such thing"}')
            assert "connection" not in headers


@on_uvloop
async def test_a_draining_server_answers_and_then_closes() -> None:
    host = FakeHost(echo)
    async with serving(host) as connect:
        client = await connect()
        client.send(post(b"a"))
        await client.answer()
        host.draining = True
        client.send(post(b"b"))
        _, headers, body = await client.answer()
        assert (body, headers["connection"]) == (b"b", "close")
        assert await client.closed() == b""
        assert host.noted > 0


@on_uvloop
async def test_head_gets_the_headers_of_get_without_the_body() -> None:
    async with serving(FakeHost(echo)) as connect:
        client = await connect()
        client.send(b"HEAD /abc HTTP/1.1\r\nHost: h\r\n\r\nGET /abc HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        whole = await client.closed()
        assert whole.count(b"Content-Length: 4") == 2
        assert whole.endswith(b"\r\n\r\n/abc")
        assert whole.count(b"/abc") == 1


def test_a_client_that_resets_in_the_middle_hurts_nobody() -> None:
    async def run() -> None:
        host = FakeHost(echo)
        async with serving(host) as connect:
            for _ in range(20):
                client = await connect()
                client.send(b"POST /x HTTP/1.1\r\nContent-Length: 100000\r\n\r\nabc")
                await client.writer.drain()
                raw = client.writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                client.writer.transport.abort()
            neighbour = await connect()
            neighbour.send(post(b"fine"))
            assert (await neighbour.answer())[2] == b"fine"
            while len(host.connections) > 1:
                await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(run(), 60))


@on_uvloop
async def test_bodies_of_tiny_chunks_take_turns_with_others() -> None:
    """Four bodies of many slices come in one piece each; a request that comes after the first slice is answered before any of them."""
    order: list[bytes] = []
    first_slice = asyncio.Event()

    def run(connection: HttpConnection, head: Head, body: Any) -> None:
        order.append(head.path.encode())
        echo(connection, head, body)

    host = FakeHost(run)
    host.turns = _Seen(Turns(asyncio.get_running_loop()), first_slice)
    async with serving(host) as connect:
        plain = await connect()
        tiny = [await connect() for _ in range(4)]
        chunks = b"1\r\nx\r\n" * (40 * SLICE_CHUNKS) + b"0\r\n\r\n"
        for number, client in enumerate(tiny):
            client.send(b"POST /tiny%d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % number + chunks)
        await first_slice.wait()
        plain.send(b"GET /plain HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await plain.answer())[2] == b"/plain"
        for client in tiny:
            assert (await client.answer())[2] == b"x" * 40 * SLICE_CHUNKS
        assert order[0] == b"/plain"
        # and they are read from again
        for client in tiny:
            client.send(b"GET /again HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await client.answer())[2] == b"/again"
        assert host.arriving_bytes == 0


@on_uvloop
async def test_who_hangs_up_takes_no_more_turns() -> None:
    host = FakeHost(echo)
    begun = asyncio.Event()
    host.turns = _Seen(Turns(asyncio.get_running_loop()), begun)
    async with serving(host) as connect:
        client = await connect()
        client.send(b"POST /tiny HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * (40 * SLICE_CHUNKS))
        await begun.wait()
        for connection in list(host.connections):
            connection.abort()
        other = await connect()
        other.send(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await other.answer())[2] == b"/other"
        assert host.arriving_bytes == 0
        assert repr(host.turns) == "Turns(0 waiting, 0 of them jobs)"


class _Seen:
    """Turns; says when the first has joined."""

    def __init__(self, turns: Turns, joined: asyncio.Event) -> None:
        self._turns = turns
        self._joined = joined

    def join(self, work: Callable[[], bool]) -> None:
        self._joined.set()
        self._turns.join(work)

    def __repr__(self) -> str:
        return repr(self._turns)
