"""HttpConnection: one client connection, HTTP/1.1 in and out. Knows bytes and limits; what a request means is its action's matter.

The life of a request: head (found in the cache by its bytes) → body (a view of the bytes received, where they came in one
piece; else received straight into one buffer) → `head.action(connection, head, body)` → the action, or the owner of a call that it
started, answers with `respond…`. One request at a time: what a client pipelines waits in `_rest`.

An action may set `connection.reader` when the head is complete: it then takes the body as it comes (streams).

REST arrives on TCP, where a half-closed connection is legal and still gets its answer. The edge speaks on the Unix socket, where
end-of-file means that the client cancelled.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

from serving.errors import DecodeError, ServingError, TooLarge, Unavailable
from serving.gateway.chunked import ChunkedDecoder
from serving.gateway.head import Head, HeadCache
from serving.inference import Buffer
from serving.protocol.status import error_json, http_status
from serving.state import GatewayLimits

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SMALL_BYTES = 64 * 1024
"""Bodies up to this size are joined with their head before they are written: one copy is cheaper than a second iovec."""
MAX_PIPELINED_BYTES = 256 * 1024

_REASONS = {
    200: b"OK", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout",
    413: b"Content Too Large", 415: b"Unsupported Media Type", 417: b"Expectation Failed", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 499: b"Client Closed Request", 500: b"Internal Server Error", 501: b"Not Implemented",
    503: b"Service Unavailable", 504: b"Gateway Timeout",
}  # fmt: skip


class Cancellable(Protocol):
    """What is under way for a connection: a call, or a stream of them."""

    def cancel(self) -> None:
        """The client has gone: end the work, never answer."""


class BodyReader(Protocol):
    """Takes a chunked body as it comes."""

    def body(self, parts: list[bytes | memoryview]) -> None: ...

    def requests_end(self) -> None: ...

    def writable(self, yes: bool) -> None: ...


class Host(Protocol):
    """What a connection needs of its server."""

    heads: HeadCache
    limits: GatewayLimits
    draining: bool
    connections: set[HttpConnection]

    def note_request(self) -> None:
        """A request was answered although we are draining: the leaving waits for quiet."""

    def now(self) -> float:
        """Seconds, advanced about once a second: good enough for time-outs, free to read."""


class HttpConnection:
    """Plain asyncio protocol (not a subclass: uvloop then lets it change places with `_BodySink`)."""

    __slots__ = (
        "_chunked",
        "_last",
        "_paused",
        "_rest",
        "_sink",
        "_transport",
        "busy",
        "grpc_timeout",
        "head",
        "host",
        "plan",
        "reader",
        "since",
        "trusted",
        "waiting",
        "work",
    )

    def __init__(self, host: Host, trusted: bool) -> None:
        # For the process
        self.host = host
        self.trusted = trusted
        """On the Unix socket, behind the edge: headers that the edge sets may be believed."""
        # For the connection
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._sink: _BodySink | None = None
        self._rest = b""
        self._paused = False
        self._last = False
        # For the request
        self.head: Head | None = None
        self._chunked: ChunkedDecoder | None = None
        self.busy = False
        """A request has been handed to its action and is not answered yet."""
        self.work: Cancellable | None = None
        self.plan: Any = None
        """Whatever the action wants to find again when the answer comes."""
        self.reader: BodyReader | None = None
        self.grpc_timeout = b""
        self.since = host.now()
        self.waiting = "head"

    # asyncio's side ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        host = self.host
        if len(host.connections) >= host.limits.max_connections:
            self.fail(Unavailable(f"this gateway has its {host.limits.max_connections} connections", retry_after_s=1.0), close=True)
            return
        host.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.host.connections.discard(self)
        self._abandon()
        if self._sink is not None:
            self._sink.drop()

    def eof_received(self) -> bool:
        if self.trusted or not self.busy:
            return False
        self._last = True
        return True

    def data_received(self, data: bytes) -> None:
        if self._chunked is not None:
            self._chunk_received(data)
            return
        if self.busy:
            self._rest = self._rest + data if self._rest else data
            if len(self._rest) > MAX_PIPELINED_BYTES:
                self._transport.pause_reading()
                self._paused = True
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        self._parse(data)

    def pause_writing(self) -> None:
        if self.reader is not None:
            self.reader.writable(False)

    def resume_writing(self) -> None:
        if self.reader is not None:
            self.reader.writable(True)

    # Requests in ---------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        if end == 3:
            self._unfinished_head(data)
            return
        block = data[:end]
        if self.trusted:
            # The time-out differs in every call of a gRPC client with a deadline: without it heads repeat.
            cut = block.find(b"\r\ngrpc-timeout: ")
            if cut > 0:
                stop = block.find(b"\r\n", cut + 2)
                self.grpc_timeout = block[cut + 16 : stop]
                block = block[:cut] + block[stop:]
            else:
                self.grpc_timeout = b""
        try:
            head = self.host.heads.get(block)
        except DecodeError as error:
            self.fail(error, close=True)
            return
        self.head = head
        length = head.content_length
        if length >= 0:
            have = len(data) - end
            if have == length:
                self._dispatch(head, memoryview(data)[end:] if length else b"")
            elif have > length:
                self._rest = data[end + length :]
                self._dispatch(head, memoryview(data)[end : end + length])
            else:
                self._receive_body(head, data, end)
        else:
            self._start_chunked(head, data, end)

    def _unfinished_head(self, data: bytes) -> None:
        stripped = data.lstrip(b"\r\n") if data[:1] in (b"\r", b"\n") else data
        limit = self.host.limits.max_header_bytes
        if len(data) > limit:
            self._refuse(431, f"request head exceeds the maximum size of {limit} bytes")
        elif b"\n\n" in data or b"\n\r\n" in data.replace(b"\r\n", b""):
            self.fail(DecodeError("malformed HTTP request: a line must end with CR LF"), close=True)
        else:
            if stripped and not self._rest:
                self.since = self.host.now()
            self._rest = stripped

    def _receive_body(self, head: Head, data: bytes, at: int) -> None:
        """The rest of the body is still to come: receive it straight into its place."""
        length = head.content_length
        limit = self.host.limits.max_body_bytes
        if length > limit:
            self.fail(TooLarge(f"request body of {length} bytes exceeds the maximum allowed size of {limit} bytes"), close=True)
            return
        if head.expect_continue:
            self._transport.write(CONTINUE)
        self.since = self.host.now()
        self.waiting = "body"
        sink = _BodySink(self, head, length)
        sink.take(memoryview(data)[at:])
        self._sink = sink
        self._swap(sink)

    def _body_received(self, head: Head, body: memoryview) -> None:
        self._sink = None
        self._swap(self)
        self._dispatch(head, body)

    def _swap(self, protocol: Any) -> None:
        # uvloop picks the way of reading when reading starts, so a new protocol takes a stop and a start.
        transport = self._transport
        transport.pause_reading()
        transport.set_protocol(protocol)
        transport.resume_reading()

    def _start_chunked(self, head: Head, data: bytes, at: int) -> None:
        # The edge sends small unary calls in one piece: size line, message, end. One look each, no decoder.
        line = data.find(b"\r\n", at, at + 10)
        if line > at and data.endswith(b"\r\n0\r\n\r\n"):
            try:
                size = int(data[at:line], 16)
            except ValueError:
                size = -1
            if size > 0 and line + 2 + size + 7 == len(data) and data[at] not in b"+-_ " and b"_" not in data[at:line]:
                body = memoryview(data)[line + 2 : line + 2 + size]
                self._dispatch(head, body)
                return
        if head.expect_continue:
            self._transport.write(CONTINUE)
        self.since = self.host.now()
        self.waiting = "body"
        streams = head.action.streams
        # A stream has no size of its own: its reader bounds each message and the number of them under way.
        self._chunked = ChunkedDecoder(1 << 62 if streams else self.host.limits.max_body_bytes, 1 << 62 if streams else 65_536)
        if streams:
            self._open_stream(head)
        if at < len(data):
            self._chunk_received(data[at:])

    def _open_stream(self, head: Head) -> None:
        self.busy = True
        head.action.run(self, head, b"")

    def _chunk_received(self, data: bytes) -> None:
        decoder = self._chunked
        assert decoder is not None
        try:
            over = decoder.feed(data)
        except (DecodeError, TooLarge) as error:
            self._chunked = None
            self._abandon()
            self.fail(error, close=True)
            return
        reader = self.reader
        if reader is not None and decoder.parts:
            parts, decoder.parts = decoder.parts, []
            reader.body(parts)
        if not over or self._chunked is None:
            return
        self._chunked = None
        self._rest = decoder.rest
        if reader is not None:
            reader.requests_end()
        elif self.head is not None:
            parts = decoder.parts
            self._dispatch(self.head, parts[0] if len(parts) == 1 else b"".join(parts))

    def _dispatch(self, head: Head, body: Buffer) -> None:
        self.busy = True
        self.waiting = "answer"
        try:
            head.action.run(self, head, body)
            if self.reader is not None:
                self.reader.body([memoryview(body)])
            if self.reader is not None:
                self.reader.requests_end()
        except ServingError as error:
            self.fail(error)

    def answer(self, call: Any, response: Any) -> None:
        """The call that the action submitted has its answer."""
        cast(Any, cast(Head, self.head).action.answer)(self, call, response)

    # Answers out ---------------------------------------------------------------------------------------------------

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"", close: bool = False) -> None:
        """Write one whole answer of a rare kind. `extra` holds whole header lines, each with its CR LF."""
        length = len(body)
        if self.head is not None and self.head.method == b"HEAD":
            body = b""
        close = close or self.closes()
        lines = [
            b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b"Status")),
            b"Content-Type: %s\r\n" % content_type if length else b"",
            b"Content-Length: %d\r\n" % length,
            extra,
            b"Connection: close\r\n\r\n" if close else b"\r\n",
            body,
        ]
        self._transport.write(b"".join(lines))
        self._finish(close)

    def fail(self, error: ServingError, close: bool = False) -> None:
        """Answer with the error in the form of the protocol that the client speaks."""
        if self.head is not None and self.head.action.fail is not None and not close:
            self.head.action.fail(self, error)
            return
        extra = (
            b"Retry-After: %d\r\n" % max(1, round(error.retry_after_s)) if error.retry_after_s or http_status(error.code) == 503 else b""
        )
        self.respond(http_status(error.code), b"application/json", error_json(error.message), extra, close)

    def _refuse(self, status: int, text: str) -> None:
        self.respond(status, b"application/json", error_json(text), close=True)

    def write_answer(self, head: bytes, parts: list[Buffer], total: int, close: bool) -> None:
        """Write a whole answer: `head` says length and `close`, `parts` are about `total` bytes. The hot path of every prediction."""
        if total <= SMALL_BYTES:
            self._transport.write(b"".join((head, *parts)))
        else:
            self._transport.writelines([head, *parts])
        self._finish(close)

    def write_raw(self, data: bytes) -> None:
        """Write part of an answer (streams)."""
        self._transport.write(data)

    def finish(self, close: bool = False) -> None:
        """The answer of a stream is complete."""
        self._finish(close or self.closes())

    def closes(self) -> bool:
        """True when the connection ends with this answer; the answer must then say so."""
        if self.host.draining:
            self.host.note_request()
            return True
        return self._last or self.head is None or not self.head.keep_alive

    def _finish(self, close: bool) -> None:
        self.work = None
        self.plan = None
        self.reader = None
        self.busy = False
        self.waiting = "head"
        self.since = self.host.now()
        if close or self._chunked is not None:
            # With a body still arriving the next head cannot be found: the connection ends with this answer.
            self._chunked = None
            self._last = True
            self._transport.close()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._rest:
            # In a turn of its own, so that a long pipeline neither recurses nor keeps the loop to itself.
            self.busy = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self.busy = False
        if not self._transport.is_closing():
            data, self._rest = self._rest, b""
            self._parse(data)

    def _abandon(self) -> None:
        work, self.work = self.work, None
        self.reader = None
        self._chunked = None
        if work is not None:
            work.cancel()

    # The server's side ---------------------------------------------------------------------------------------------

    def check_time(self, now: float, limits: GatewayLimits) -> None:
        """End the connection if it has kept us waiting for too long (called about once a second)."""
        if self.busy:
            return
        waited = now - self.since
        if self.waiting == "body":
            if waited > limits.body_timeout_s:
                self._drop_sink()
                self._refuse(408, f"the request body did not arrive within {limits.body_timeout_s:g} s")
        elif self._rest:
            if waited > limits.header_timeout_s:
                self._refuse(408, f"the request head did not arrive within {limits.header_timeout_s:g} s")
        elif waited > limits.idle_timeout_s:
            # Also the way out for an answer that its client never reads.
            self._transport.abort()

    def _drop_sink(self) -> None:
        if self._sink is not None:
            self._sink.drop()
            self._sink = None
            self._swap(self)

    def close_if_idle(self) -> bool:
        """Close unless a request is under way or arriving; True when closed."""
        if self.busy or self._rest or self.waiting == "body":
            return False
        self._transport.close()
        return True

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._transport.abort()

    @property
    def unwritten_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def __repr__(self) -> str:
        return f"HttpConnection({self.head!r}, {'busy' if self.busy else self.waiting})"


class _BodySink(asyncio.BufferedProtocol):
    """Receives the rest of one body into one buffer: the kernel writes it where it will be read."""

    def __init__(self, connection: HttpConnection, head: Head, length: int) -> None:
        self._connection = connection
        self._head = head
        self._length = length
        self._at = 0
        self._view = memoryview(bytearray(length))

    def take(self, data: memoryview) -> None:
        self._view[: len(data)] = data
        self._at = len(data)

    def drop(self) -> None:
        self._view = memoryview(b"")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        self._at += nbytes
        if self._at == self._length:
            self._connection._body_received(self._head, self._view)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass
