"""A client of HTTP/2 as bytes, and everything around `Http2Connection` that is not it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from hpack import Decoder, Encoder

from serving.errors import ServingError
from serving.gateway import http2_frames as h2
from serving.gateway.grpc_out import OverHttp2
from serving.gateway.head import Action, Head
from serving.gateway.http2 import Http2Connection
from serving.gateway.http2_head import Http2Heads
from serving.protocol.grpc_frame import MessageReader
from serving.state import GatewayLimits

OUT = OverHttp2()
FIELDS = [
    (":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "a"),
    ("te", "trailers"), ("content-type", "application/grpc"),
]  # fmt: skip


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames(data: bytes) -> list[Frame]:
    """Cut into whole frames; fails where it is none."""
    found = []
    at = 0
    while at < len(data):
        high, low, kind, flags, stream = h2.FRAME.unpack_from(data, at)
        stop = at + h2.FRAME_BYTES + (high << 16 | low)
        assert stop <= len(data), "half a frame"
        found.append(Frame(kind, flags, stream, bytes(data[at + h2.FRAME_BYTES : stop])))
        at = stop
    return found


class Transport:
    """Keeps what is written. `high` as in asyncio; `take()` is the client that reads."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.all = bytearray()
        self.unread = 0
        self.stalled = False
        self.eof = self.aborted = self.reading_paused = False
        self._high = 1 << 60
        self._paused = False

    def set_write_buffer_limits(self, high: int) -> None:
        self._high = high

    def write(self, data: Any) -> None:
        assert not self.eof, "written behind the end"
        self.all += data
        if self.stalled:
            self.unread += len(data)
            if self.unread > self._high and not self._paused:
                self._paused = True
                self.protocol.pause_writing()

    def writelines(self, pieces: list[Any]) -> None:
        for piece in pieces:
            assert not self.eof
            self.all += piece
            self.unread += len(piece) if self.stalled else 0
        self.write(b"")

    def take(self) -> None:
        """The client reads all that there is."""
        self.unread = 0
        if self._paused:
            self._paused = False
            self.protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self.unread

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return ("127.0.0.1", 5) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        assert not self.reading_paused
        self.reading_paused = True

    def resume_reading(self) -> None:
        assert self.reading_paused
        self.reading_paused = False

    def set_protocol(self, protocol: Any) -> None:
        assert self.reading_paused, "uvloop picks the way of reading when reading starts"
        self.protocol = protocol

    def receive(self, data: bytes, most: int = 1 << 18) -> None:
        """What the client has sent comes in: as bytes, or into the buffers of a protocol that has such."""
        while data:
            if hasattr(self.protocol, "get_buffer"):
                room = self.protocol.get_buffer(-1)
                size = min(len(room), most)
                piece, data = data[:size], data[size:]
                room[: len(piece)] = piece
                self.protocol.buffer_updated(len(piece))
            else:
                piece, data = data[:most], data[most:]
                self.protocol.data_received(piece)

    def write_eof(self) -> None:
        assert not self.eof, "ended twice"
        self.eof = True

    def abort(self) -> None:
        self.aborted = True


class Turns:
    """Turns that come at once. `count` says how many."""

    def __init__(self) -> None:
        self.count = 0

    def join(self, work: Callable[[], bool]) -> None:
        self.count += 1
        while work():
            self.count += 1


class Host:
    def __init__(self, limits: GatewayLimits | None = None) -> None:
        self.limits = limits or GatewayLimits()
        self.draining = False
        self.connections: set[Any] = set()
        self.arriving_bytes = 0
        self.turns = Turns()
        self.time = 1.0
        self.answered = 0

    def now(self) -> float:
        return self.time

    def body_buffer(self, nbytes: int) -> None:
        return None

    def note_request(self) -> None:
        self.answered += 1


class Work:
    """A call under way."""

    def __init__(self, host: FakeGateway, stream: Any, body: bytes) -> None:
        self._gateway, self.stream, self.body = host, stream, body
        host.works.append(self)

    def cancel(self) -> None:
        self._gateway.works.remove(self)
        self._gateway.cancelled += 1

    def done(self) -> None:
        self._gateway.works.remove(self)
        self.stream.answer(None, self.body)


class Stream:
    """A stream that gives back each message, as `stream.InferStream` does it."""

    def __init__(self, connection: Any, gateway: FakeGateway) -> None:
        self.connection = connection
        self._gateway = gateway
        self._reader = MessageReader(1 << 20)
        self.writable_now = True
        self.over = False
        self._kept: list[bytes] = []
        self._ended = False
        connection.work = connection.reader = self
        OUT.begin(connection)
        gateway.streams.append(self)

    def body(self, parts: list[Any]) -> None:
        try:
            for part in parts:
                self._kept += [bytes(message.data) for message in self._reader.feed(part)]
        except ServingError as error:
            self.fail(error)
        self._flush()

    def requests_end(self) -> None:
        self._ended = True
        self._flush()

    def writable(self, yes: bool) -> None:
        self.writable_now = yes
        self._flush()

    def _flush(self) -> None:
        while self._kept and self.writable_now and not self.over:
            OUT.message(self.connection, [self._kept.pop(0)])
        if self.writable_now and not self.over:
            self.connection.resume_reading()
        else:
            self.connection.pause_reading()
        if self._ended and not self._kept:
            self._end(None)

    def fail(self, error: ServingError) -> None:
        self._end(error)

    def _end(self, error: ServingError | None) -> None:
        if not self.over:
            self.over = True
            self._gateway.streams.remove(self)
            OUT.end(self.connection, error)

    def cancel(self) -> None:
        if not self.over:
            self.over = True
            self._gateway.streams.remove(self)
            self._gateway.cancelled += 1


class FakeGateway:
    """A connection, its server and its transport.

    /echo answers at once, /wait when the test says so, /stream answers each message, /plain is no gRPC.
    """

    def __init__(self, limits: GatewayLimits | None = None, draining: bool = False) -> None:
        self.host = Host(limits)
        self.host.draining = draining
        self.works: list[Work] = []
        self.streams: list[Stream] = []
        self.cancelled = 0
        self.transport = Transport()
        self.seen: list[Head] = []
        self.heads = Http2Heads(self._route)
        self.connection = Http2Connection(cast(Any, self.host), self.heads, cast(asyncio.Transport, self.transport))
        self.transport.protocol = self.connection

    def _route(self, head: Head) -> Action:
        if head.path == "/stream":
            return Action(lambda stream, head, body: Stream(stream, self), None, OUT.fail, streams=True)
        if head.path == "/plain":
            return Action(lambda stream, head, body: stream.write_plain(415, b"no gRPC"))
        return Action(self._wait if head.path == "/wait" else self._echo, lambda stream, call, body: OUT.answer(stream, [body]), OUT.fail)

    def _echo(self, stream: Any, head: Head, body: Any) -> None:
        self.seen.append(head)
        found = list(MessageReader().feed(bytes(body)))
        OUT.answer(stream, [found[0].data if found else b""])

    def _wait(self, stream: Any, head: Head, body: Any) -> None:
        stream.work = Work(self, stream, bytes(body)[5:])

    def feed(self, data: bytes, most: int = 1 << 18) -> None:
        self.transport.receive(data, most)

    def answers(self) -> Answers:
        return Answers(bytes(self.transport.all))

    def tick(self, seconds: float) -> None:
        self.host.time += seconds
        self.connection.check_time(self.host.time, self.host.limits)

    def held(self) -> tuple[int, ...]:
        """What is held of any kind; all 0 when nothing is under way."""
        connection = self.connection
        return len(connection.streams), len(connection._out.blocked), len(self.works), len(self.streams), self.host.arriving_bytes


class Client:
    """Writes frames; header blocks by hpack."""

    def __init__(self, huffman: bool = True) -> None:
        self.encoder = Encoder()
        self._huffman = huffman

    def hello(self, window: int = 1 << 24, **more: int) -> bytes:
        values = {h2.INITIAL_WINDOW_SIZE: window} | {getattr(h2, name): value for name, value in more.items()}
        return h2.settings(values) + h2.window_update(0, 1 << 28)

    def head(self, number: int, path: str = "/echo", flags: int = h2.END_HEADERS, extra: Any = ()) -> bytes:
        return h2.frame(h2.HEADERS, flags, number, self.block(path, extra))

    def block(self, path: str = "/echo", extra: Any = ()) -> bytes:
        fields = [(n, path if n == ":path" else v) for n, v in FIELDS]
        return cast(bytes, self.encoder.encode([*fields, *extra], huffman=self._huffman))

    def call(self, number: int, body: bytes, path: str = "/echo", extra: Any = ()) -> bytes:
        return self.head(number, path, extra=extra) + data(number, message(body))


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def data(number: int, body: bytes, ends: bool = True) -> bytes:
    return h2.frame(h2.DATA, h2.END_STREAM if ends else 0, number, body)


class Answers:
    """What came out, as hpack reads it: heads, bodies and trailers by stream. Fails for frames out of order."""

    def __init__(self, written: bytes, table_bytes: int = 4096) -> None:
        decoder = Decoder()
        decoder.max_allowed_table_size = table_bytes
        self.heads: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.trailers: dict[int, dict[str, str]] = {}
        self.resets: dict[int, int] = {}
        self.goaways: list[tuple[int, int]] = []
        self.frames = frames(written)
        for frame in self.frames:
            number = frame.stream
            if frame.kind == h2.HEADERS:
                assert frame.flags & h2.END_HEADERS
                assert number not in self.trailers, "frames behind the end"
                assert number not in self.resets
                fields = dict(decoder.decode(frame.payload))
                if number not in self.heads:
                    assert ":status" in fields
                    self.heads[number], self.bodies[number] = fields, b""
                    if frame.flags & h2.END_STREAM:
                        self.trailers[number] = fields
                else:
                    assert frame.flags & h2.END_STREAM
                    assert ":status" not in fields
                    self.trailers[number] = fields
            elif frame.kind == h2.DATA:
                assert number in self.heads
                assert number not in self.trailers
                assert number not in self.resets
                self.bodies[number] += frame.payload
            elif frame.kind == h2.RST_STREAM:
                assert number not in self.resets
                self.resets[number] = int.from_bytes(frame.payload, "big")
            elif frame.kind == h2.GOAWAY:
                self.goaways.append(h2.U32_PAIR.unpack_from(frame.payload))

    def status(self, number: int) -> str:
        return self.trailers[number]["grpc-status"]
