"""Fake servers for the load tester: HTTP/1.1 and gRPC over HTTP/2, in a thread, with answers, delays and misbehaviour as told.

`times_ns` holds what the server itself measured for each answer, from the whole request read to the answer written: tests compare the
client's figures with these, not with the delay that was asked for, so that a slow machine changes both.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hpack import Decoder, Encoder

from serving.bench import http2_frames as h2
from serving.bench.request import grpc_body


@dataclass
class Answer:
    """What to answer. `raw` replaces the whole answer by these bytes; `close` ends the connection behind it; `silent`: no answer at all."""

    body: bytes = b"ok"
    delay_s: float = 0.0
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    chunked: bool = False
    raw: bytes | None = None
    pieces: int = 1
    close: bool = False
    silent: bool = False
    grpc_status: str = "0"
    grpc_message: str = ""
    reset: h2.ErrorCode | None = None
    goaway: h2.ErrorCode | None = None
    trailers_only: bool = False
    padding: int = 0
    frame_bytes: int = 16000
    before: bytes = b""


@dataclass
class Asked:
    """A request as the server saw it; `number` counts from 0 over all connections."""

    number: int
    path: str
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[[Asked], Answer]


@dataclass
class FakeServer:
    """`with FakeServer(behave) as server:` listens on server.address, a Unix socket where `path` is given. `protocol`: "http1" or "h2"."""

    behave: Behaviour = lambda asked: Answer()
    protocol: str = "http1"
    tls: ssl.SSLContext | None = None
    settings: dict[h2.Setting, int] = field(default_factory=dict)
    stateful: bool = False
    greeting: bytes = b""
    give_windows: bool = True
    times_ns: list[int] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    path: str = ""
    address: str = ""
    pings: int = 0
    resets: list[int] = field(default_factory=list)

    def __enter__(self) -> FakeServer:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._up = threading.Event()
        self._open: set[asyncio.Transport] = set()
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    def stall(self, seconds: float) -> None:
        """Block everything, accepting too, from now on. May be called from `behave`: it runs behind that request."""
        self.loop.call_soon_threadsafe(time.sleep, seconds)

    def shutdown_listener(self) -> None:
        self.loop.call_soon_threadsafe(self._stop_accepting)

    def _stop_accepting(self) -> None:
        """Close the listener one turn later: asyncio loses a connection that it accepted in the turn in which its server is closed."""
        for listener in self._listener.sockets:
            self.loop.remove_reader(listener.fileno())
        self.loop.call_soon(self._listener.close)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        made = Http1 if self.protocol == "http1" else Http2
        if self.path:
            listening = self.loop.create_unix_server(lambda: made(self), self.path, backlog=4096)
            self._listener = self.loop.run_until_complete(listening)
            self.address = f"unix:{self.path}"
        else:
            listening = self.loop.create_server(lambda: made(self), "127.0.0.1", 0, ssl=self.tls, backlog=4096)
            self._listener = self.loop.run_until_complete(listening)
            self.address = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        self._up.set()
        try:
            self.loop.run_forever()
        finally:
            self.loop.call_soon(self._stop_accepting)
            self.loop.run_until_complete(self._end())
            self.loop.close()

    async def _end(self) -> None:
        """Close every connection, also one that is being accepted at this moment."""
        quiet = 0
        for _ in range(200):
            # over TLS nobody but the loop knows a transport before its handshake has ended
            for transport in [*self._open, *self.loop._transports.values()]:  # type: ignore[attr-defined]
                transport.abort()
            await asyncio.sleep(0)
            arriving = asyncio.all_tasks() - {asyncio.current_task()}
            # a transport is closed turns after its last task has ended
            quiet = 0 if self._open or arriving else quiet + 1
            if quiet == 10:
                return
        for task in arriving:  # a handshake that nobody goes on with
            task.cancel()
        await asyncio.gather(*arriving, return_exceptions=True)
        for _ in range(10):
            await asyncio.sleep(0)

    def ask(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        asked = Asked(len(self.asked), path, headers, body)
        self.asked.append(asked)
        return self.behave(asked)


class _Speaker(asyncio.Protocol):
    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.buffer = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server._open.add(transport)
        self.server.connections += 1
        if self.server.greeting:
            transport.write(self.server.greeting)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server._open.discard(self.transport)

    def later(self, answer: Answer, write: Callable[[], None]) -> None:
        began = time.monotonic_ns()

        def finish() -> None:
            if not self.transport.is_closing():
                write()
            self.server.times_ns.append(time.monotonic_ns() - began)

        if answer.silent:
            return
        if answer.delay_s:
            self.server.loop.call_later(answer.delay_s, finish)
        else:
            finish()

    def write_pieces(self, data: bytes, pieces: int) -> None:
        size = -(-len(data) // pieces)
        for number in range(pieces):
            piece = data[number * size : (number + 1) * size]
            if number:
                self.server.loop.call_later(0.002 * number, self.transport.write, piece)
            else:
                self.transport.write(piece)


class Http1(_Speaker):
    def __init__(self, server: FakeServer) -> None:
        super().__init__(server)
        self.parts: list[bytes] = []
        self.missing = 0

    def data_received(self, data: bytes) -> None:
        if self.missing > len(data):  # of a large body: joined once
            self.missing -= len(data)
            self.parts.append(data)
            return
        self.buffer = b"".join((*self.parts, data))
        self.parts.clear()
        self.missing = 0
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            begin = end + 4
            length = int(headers.get("content-length", "0"))
            if len(self.buffer) < begin + length:
                self.missing = begin + length - len(self.buffer)
                break
            body, self.buffer = self.buffer[begin : begin + length], self.buffer[begin + length :]
            answer = self.server.ask(first.split(" ")[1], headers, body)
            self.later(answer, lambda answer=answer: self._answer(answer))  # type: ignore[misc]
        self.parts = [self.buffer]

    def _answer(self, answer: Answer) -> None:
        self.write_pieces(http1_bytes(answer) if answer.raw is None else answer.raw, answer.pieces)
        if answer.close:
            self.server.loop.call_later(0.002 * answer.pieces, self.transport.close)


def http1_bytes(answer: Answer) -> bytes:
    headers = list(answer.headers)
    body = answer.body
    if answer.chunked:
        headers.append(("Transfer-Encoding", "chunked"))
        half = len(body) // 2
        chunks = [piece for piece in (body[:half], body[half:]) if piece]
        body = b"".join(b"%x;x=y\r\n%b\r\n" % (len(piece), piece) for piece in chunks) + b"0\r\nTrailer: t\r\n\r\n"
    elif ("Content-Length", "") not in headers:
        headers.append(("Content-Length", str(len(body))))
    else:
        headers.remove(("Content-Length", ""))
    if answer.close:
        headers.append(("Connection", "close"))
    lines = [f"HTTP/1.1 {answer.status} Reason", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Http2(_Speaker):
    def __init__(self, server: FakeServer) -> None:
        super().__init__(server)
        self.decoder = Decoder()
        self.encoder = Encoder()
        self.encoder.header_table_size = 4096 if server.stateful else 0
        self.requests: dict[int, tuple[dict[str, str], bytearray]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        settings = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in self.server.settings.items())
        if not self.server.greeting:
            self.transport.write(h2.frame(h2.Frame.SETTINGS, settings))
            self.transport.write(h2.frame(h2.Frame.PING, b"12345678"))
        self.greeted = False

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.greeted:
            if len(self.buffer) < 24:
                return
            assert self.buffer.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            self.buffer = self.buffer[24:]
            self.greeted = True
        while len(self.buffer) >= 9 and len(self.buffer) >= 9 + int.from_bytes(self.buffer[:3], "big"):
            length = int.from_bytes(self.buffer[:3], "big")
            assert length <= 16384, "a frame larger than allowed"
            kind, flags, stream = self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big")
            payload, self.buffer = self.buffer[9 : 9 + length], self.buffer[9 + length :]
            self._frame(kind, flags, stream, payload)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == h2.Frame.HEADERS:
            headers = {str(name): str(value) for name, value in self.decoder.decode(payload)}
            self.requests[stream] = headers, bytearray()
        elif kind == h2.Frame.DATA:
            if self.server.give_windows and payload:
                self.transport.write(
                    h2.window_update(h2.NO_STREAM, len(payload)) + h2.window_update(stream.to_bytes(4, "big"), len(payload))
                )
            if stream in self.requests:
                self.requests[stream][1].extend(payload)
                if flags & h2.END_STREAM:
                    headers, body = self.requests.pop(stream)
                    answer = self.server.ask(headers[":path"], headers, bytes(body))
                    self.later(answer, lambda: self._answer(answer, stream))
        elif kind == h2.Frame.SETTINGS and not flags & h2.ACK:
            self.transport.write(h2.SETTINGS_ACK)
        elif kind == h2.Frame.PING and flags & h2.ACK:
            self.server.pings += payload == b"12345678"
        elif kind == h2.Frame.RST_STREAM:
            self.server.resets.append(int.from_bytes(payload, "big"))

    def _answer(self, answer: Answer, stream: int) -> None:
        if answer.reset is not None:
            out = h2.rst_stream(stream.to_bytes(4, "big"), answer.reset)
        elif answer.goaway is not None:
            last = stream if answer.goaway is h2.ErrorCode.NO_ERROR else max(0, stream - 2)
            out = h2.frame(h2.Frame.GOAWAY, last.to_bytes(4, "big") + answer.goaway.to_bytes(4, "big") + b"going")
            if answer.goaway is h2.ErrorCode.NO_ERROR:
                out += self._frames(answer, stream)
        else:
            out = answer.before + (self._frames(answer, stream) if answer.raw is None else answer.raw)
        self.write_pieces(out, answer.pieces)
        if answer.close:
            self.server.loop.call_later(0.002 * answer.pieces, self.transport.close)

    def _frames(self, answer: Answer, stream: int) -> bytes:
        key = stream.to_bytes(4, "big")
        trailers = [("grpc-status", answer.grpc_status), ("grpc-message", answer.grpc_message)]
        head = [(":status", str(answer.status)), ("content-type", "application/grpc"), *answer.headers]
        if answer.trailers_only:
            block = self.encoder.encode([*head, *trailers])
            return h2.frame(h2.Frame.HEADERS, block, h2.END_HEADERS | h2.END_STREAM, key)
        block = self.encoder.encode(head)
        out = [h2.frame(h2.Frame.HEADERS, block[:3], 0, key), h2.frame(h2.Frame.CONTINUATION, block[3:], h2.END_HEADERS, key)]
        message = grpc_body(answer.body)
        for at in range(0, len(message), answer.frame_bytes):
            piece = message[at : at + answer.frame_bytes]
            if answer.padding:
                out.append(h2.frame(h2.Frame.DATA, bytes((answer.padding,)) + piece + bytes(answer.padding), h2.PADDED, key))
            else:
                out.append(h2.frame(h2.Frame.DATA, piece, 0, key))
        out.append(h2.frame(h2.Frame.HEADERS, self.encoder.encode(trailers), h2.END_HEADERS | h2.END_STREAM, key))
        return b"".join(out)
