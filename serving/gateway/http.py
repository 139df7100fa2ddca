"""HttpConnection: one client connection, HTTP/1.1 in and out; one that begins with the preface of HTTP/2 goes to `http2.py`.

Knows bytes and limits; what a request means is its action's matter.

The life of a request: head (found in the cache by its bytes) → body (a view of the bytes received, where they came in one
piece; else received straight into one buffer) → `head.action(connection, head, body)` → the action, or the owner of a call that it
started, answers with `respond…`. One request at a time: what a client pipelines waits in `_rest`.

An action may set `connection.reader` when the head is complete: it then takes the body as it comes (streams).

REST arrives on TCP, where a half-closed connection is legal and still gets its answers. The edge speaks on the Unix socket, where
end-of-file means that the client cancelled.

Where a request is refused before its body has come, the answer goes out, and what still comes is read and dropped for LINGER_S.
An exception that is no ServingError is a bug: it is reported to the loop's exception handler and costs its request alone (500).
"""

from __future__ import annotations

import asyncio
import math
import select
from typing import Any, cast

from serving.access.credential import CHALLENGE
from serving.errors import DeadlineExceeded, DecodeError, Internal, ServingError, TooLarge, Unavailable
from serving.gateway.body import MIN_BODY_RATE, BodySink, Discard, crowded, too_large
from serving.gateway.chunked import MAX_CHUNKS, ChunkedDecoder
from serving.gateway.client_limits import address_name
from serving.gateway.head import MAX_CACHED_HEAD_BYTES, NO_HEAD, Head
from serving.gateway.http2_frames import PREFACE, PREFACE_HEAD
from serving.gateway.ports import BodyReader, Cancellable, Host
from serving.inference import Buffer
from serving.protocol.status import error_json, http_status
from serving.state import GatewayLimits

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SMALL_BYTES = 64 * 1024
"""Bodies up to this size are joined with their head before they are written: one copy is cheaper than a second iovec."""
MAX_PIPELINED_BYTES = 256 * 1024
MAX_EDGE_CHUNKS = 1 << 18
"""The edge makes a chunk of what it has at the moment, some 16 KB: a gigabyte needs more than a client may send."""
LINGER_S = 2.0
FIRST_CHUNKS = 32
"""Chunks that are taken at once of each piece of a body that comes; what has more of them takes turns with its like."""
SLICE_CHUNKS = 256
"""Chunks that are taken in one of these turns: less than half a millisecond."""

_REASONS = {
    200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large", 415: b"Unsupported Media Type", 417: b"Expectation Failed", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 499: b"Client Closed Request", 500: b"Internal Server Error", 501: b"Not Implemented",
    503: b"Service Unavailable", 504: b"Gateway Timeout",
}  # fmt: skip


class HttpConnection:
    """Plain asyncio protocol (not a subclass: uvloop then lets it change places with `BodySink`)."""

    __slots__ = (
        "_address",
        "_arrived",
        "_begun",
        "_chunked",
        "_eof",
        "_find_head",
        "_last",
        "_paused",
        "_rest",
        "_sink",
        "_slow",
        "_transport",
        "_unread",
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
        self._find_head = host.heads.find
        # For the connection
        self._address = b""
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._rest = b""
        self._paused = False
        self._begun = False
        """A request came before the head that is not whole yet."""
        self._eof = False
        """The client sends no more (TCP); what it has sent is answered."""
        self._last = False
        """The connection ends with the next answer."""
        self._unread = False
        """The client may still be sending what was refused."""
        # For the request
        self.head: Head = NO_HEAD
        self._sink: BodySink | None = None
        self._chunked: ChunkedDecoder | None = None
        self._arrived = 0
        self._slow = False
        """The body takes its turns; nothing more is read meanwhile."""
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
            self._last = True
            self.fail(Unavailable(f"this gateway has its {host.limits.max_connections} connections", retry_after_s=1.0))
            return
        host.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.host.connections.discard(self)
        self._abandon()

    def eof_received(self) -> bool:
        if self.trusted or not self.busy or self.reader is not None:  # nobody reads a stream half-closed
            return False
        self._eof = True
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
        head = self._find_head(block)
        if head is None:
            if block == PREFACE_HEAD and self._is_http2(data):
                return
            head = self._read_head(block)
            if head is None:
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

    def _is_http2(self, data: bytes) -> bool:
        """Look for the preface of HTTP/2 where a connection begins; hand the connection on where it is there."""
        if self.trusted or self._begun or self.head is not NO_HEAD or not PREFACE.startswith(data[: len(PREFACE)]):
            return False
        if len(data) < len(PREFACE):
            self._rest = data
        else:
            successor = self.host.become_http2(self._transport)
            self.host.connections.discard(self)
            self._swap(successor)
            successor.data_received(data[len(PREFACE) :])
        return True

    def _read_head(self, block: bytes) -> Head | None:
        """Return the meaning of a head that was not seen before; None where it is refused."""
        self.head = NO_HEAD
        limits = self.host.limits
        if len(block) > MAX_CACHED_HEAD_BYTES and len(block) > limits.max_header_bytes:
            self._refuse(431, f"request head exceeds the maximum size of {limits.max_header_bytes} bytes")
            return None
        try:
            return self.host.heads.read(block)
        except DecodeError as error:
            self.fail(error, close=True)
        except Exception as error:
            self.bug(error)
        return None

    def _unfinished_head(self, data: bytes) -> None:
        stripped = data.lstrip(b"\r\n") if data[:1] in (b"\r", b"\n") else data
        if self.head is not NO_HEAD:
            self._begun = True
            self.head = NO_HEAD
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
        if head.action.refuses:
            self._dispatch(head, b"")
            return
        limit = self.host.limits.max_body_bytes
        if length > limit:
            self.fail(too_large(length, limit), close=True)
            return
        if head.expect_continue:
            self._transport.write(CONTINUE)
        self.since = self.host.now()
        self.waiting = "body"
        try:
            sink = BodySink(self, self.host, length, head.inference_header_length or 0)
        except Unavailable as error:
            self.fail(error, close=True)
            return
        sink.take(memoryview(data)[at:])
        if not self.trusted:  # the edge's connections carry requests of all kinds
            sink.expect(at, length)
        self._sink = sink
        self._swap(sink)

    @property
    def idle(self) -> bool:
        """True while nothing of the next request has come."""
        return not self.busy and not self._rest and self._chunked is None and self.waiting == "head"

    def body_begins(self, prefix: bytes) -> tuple[int, int]:
        """Take over the head of a request that goes straight into shared memory (`body.Receiver`)."""
        start = prefix.find(b"\r\n\r\n") + 4
        head = self._find_head(prefix[:start]) if start > 3 else None
        if head is None or head.content_length <= 0 or head.expect_continue or head.action.refuses:
            return 0, 0
        self.head = head
        self.since = self.host.now()
        self.waiting = "body"
        return start, head.content_length

    def body_grows(self, nbytes: int) -> bool:
        """Count bytes of a body in; False where there is no room for them: the request has been refused then."""
        host = self.host
        self._arrived += nbytes
        host.arriving_bytes += nbytes
        if host.arriving_bytes <= host.limits.max_inflight_bytes:
            return True
        self._drop_body()
        self.fail(crowded(host.limits), close=True)
        return False

    def body_arrived(self, body: memoryview, rest: bytes) -> None:
        """The sink has all of the body. It stays the protocol: the next request is likely to be of the same kind."""
        self.host.arriving_bytes -= self._arrived
        self._arrived = 0
        self._rest = rest
        self._dispatch(self.head, body)

    def take_over(self, data: bytes) -> None:
        """Something else has come than the sink was made for."""
        self._sink = None
        self._swap(self)
        self.data_received(data)

    def _drop_body(self) -> None:
        """Forget the body that is on its way."""
        self.host.arriving_bytes -= self._arrived
        self._arrived = 0
        self._chunked = None
        if self._sink is not None:
            self._sink.drop()
            self._sink = None
            self._swap(self)

    def _swap(self, protocol: Any) -> None:
        # uvloop picks the way of reading when reading starts, so a new protocol takes a stop and a start.
        transport = self._transport
        transport.pause_reading()
        transport.set_protocol(protocol)
        if not self._paused:
            transport.resume_reading()

    def _start_chunked(self, head: Head, data: bytes, at: int) -> None:
        # The edge sends small unary calls in one piece: size line, message, end. One look each, no decoder.
        line = data.find(b"\r\n", at, at + 10)
        streams = head.action.streams
        if line > at and data.endswith(b"\r\n0\r\n\r\n") and not streams:
            digits = data[at:line]
            try:
                # int() takes more than HTTP does: signs, spaces, underscores, 0x
                size = int(digits, 16) if digits.isalnum() and digits[0] != 48 else -1
            except ValueError:
                size = -1
            if line + 2 + size + 7 == len(data) and 0 < size <= self.host.limits.max_body_bytes:
                self._dispatch(head, memoryview(data)[line + 2 : line + 2 + size])
                return
        if head.expect_continue:
            self._transport.write(CONTINUE)
        self.since = self.host.now()
        self.waiting = "body"
        if streams:
            # A stream has no size of its own: its reader bounds each message and the number of them under way.
            self._chunked = ChunkedDecoder(1 << 62, 1 << 62)
            self._dispatch(head, b"")
            if self._chunked is None:
                return
        else:
            self._chunked = ChunkedDecoder(self.host.limits.max_body_bytes, MAX_EDGE_CHUNKS if self.trusted else MAX_CHUNKS)
        if at < len(data):
            self._chunk_received(data[at:])

    def _chunk_received(self, data: bytes) -> None:
        if self.reader is None and not self.body_grows(len(data)):
            return
        if self._take_chunks(data, FIRST_CHUNKS) and not self._slow:
            self._slow = True
            self._transport.pause_reading()
            self.host.turns.join(self._take_more)

    def _take_more(self) -> bool:
        """Go on where a slice of the body ended (`Turns`)."""
        if self._chunked is not None and self._take_chunks(b"", SLICE_CHUNKS):
            return True
        self._slow = False
        if not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()
        return False

    def _take_chunks(self, data: bytes, most: int) -> bool:
        """Take so many of the chunks that have come; True where there are more."""
        decoder = cast(ChunkedDecoder, self._chunked)
        reader = self.reader
        try:
            over = decoder.feed(data, most)
        except (DecodeError, TooLarge) as error:
            self._drop_body()
            self.fail(error, close=True)
            return False
        if reader is not None:
            parts, decoder.parts = decoder.parts, []
            self._feed(reader, parts, over, decoder.rest)
        elif over:
            self._rest = decoder.rest
            self._drop_body()
            parts = decoder.parts
            self._dispatch(self.head, parts[0] if len(parts) == 1 else b"".join(parts))
        return decoder.more and self._chunked is decoder

    def _feed(self, reader: BodyReader, parts: list[bytes | memoryview], over: bool, rest: bytes) -> None:
        try:
            if parts:
                reader.body(parts)
            if over and self.reader is reader:
                self._chunked = None
                self._rest = rest
                reader.requests_end()
        except Exception as error:
            self.bug(error)

    def _dispatch(self, head: Head, body: Buffer) -> None:
        self.busy = True
        self.waiting = "answer"
        try:
            head.action.run(self, head, body)
        except ServingError as error:
            self.fail(error)
        except Exception as error:
            self.bug(error)
        reader = self.reader
        if reader is not None and self._chunked is None:
            # a stream whose requests have all come in one piece
            self._feed(reader, [memoryview(body)], True, self._rest)

    def answer(self, call: Any, response: Any) -> None:
        """The call that the action submitted has its answer."""
        answer = self.head.action.answer
        assert answer is not None
        try:
            answer(self, call, response)
        except Exception as error:
            self.bug(error)

    def bug(self, error: Exception) -> None:
        """Report what should not have happened, and end the request with it: its client must not wait for ever."""
        asyncio.get_running_loop().call_exception_handler({"message": f"bug in the answer to {self.head!r}", "exception": error})
        if self.head is NO_HEAD or self.busy:
            work, self.work = self.work, None
            if work is not None and self.reader is None:
                work.cancel()
            try:
                self.fail(Internal("internal error of the gateway"), close=True)
            except Exception:
                self._transport.abort()

    # Answers out ---------------------------------------------------------------------------------------------------

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"", close: bool = False) -> None:
        """Write one whole answer of a rare kind. `extra` holds whole header lines, each with its CR LF."""
        length = len(body)
        if self.head.method == b"HEAD":
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
        """Answer with the error in the form of the protocol that the client speaks.

        close: the rest of the request cannot be read or is not wanted, so the connection ends with this answer.
        """
        if close:
            self._last = self._unread = True
        if self.reader is not None:
            self.reader.fail(error)
        elif self.head.action.fail is not None:
            self.head.action.fail(self, error)
        else:
            status = http_status(error.code)
            extra = b"Retry-After: %d\r\n" % max(1, math.ceil(error.retry_after_s)) if error.retry_after_s or status == 503 else b""
            if status == 401:
                extra += CHALLENGE
            self.respond(status, b"application/json", error_json(error.message), extra)

    def _refuse(self, status: int, text: str) -> None:
        self._last = self._unread = True
        self.respond(status, b"application/json", error_json(text))

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
            return not self._rest
        return self._last or not self.head.keep_alive or (self._eof and not self._rest)

    def _finish(self, close: bool) -> None:
        self.work = None
        self.plan = None
        self.reader = None
        self.busy = False
        self.waiting = "head"
        self.since = self.host.now()
        if close or self._chunked is not None:
            # With a body still arriving the next head cannot be found: the connection ends with this answer.
            self._end()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._rest:
            # In a turn of its own, so that a long pipeline neither recurses nor keeps the loop to itself.
            self.busy = True
            asyncio.get_running_loop().call_soon(self._next)

    def _end(self) -> None:
        self._last = True
        self._rest = b""
        transport = self._transport
        if (self._chunked is None and not self._unread) or self._eof or transport.is_closing():
            self._chunked = None
            transport.close()
            return
        self._chunked = None
        self.waiting = "linger"
        self._paused = False
        transport.write_eof()
        self._swap(Discard(self))

    def _next(self) -> None:
        self.busy = False
        if not self._transport.is_closing():
            data, self._rest = self._rest, b""
            self._parse(data)
            if self._eof and not self.busy:
                self._transport.close()

    def _abandon(self) -> None:
        work, self.work = self.work, None
        self.reader = None
        self._chunked = None
        self._sink = None
        self.host.arriving_bytes -= self._arrived
        self._arrived = 0
        if work is not None:
            work.cancel()

    # The server's side ---------------------------------------------------------------------------------------------

    def check_time(self, now: float, limits: GatewayLimits) -> None:
        """End the connection if it has kept us waiting for too long (called about once a second)."""
        if self.busy:
            if self._paused and self._gone():
                self._transport.abort()
            return
        waited = now - self.since
        if self.waiting == "linger":
            if waited > (limits.idle_timeout_s if self.unwritten_bytes else LINGER_S):
                self._transport.abort()
        elif self.waiting == "body":
            if waited > limits.body_timeout_s + self._arrived / MIN_BODY_RATE:
                self._drop_body()
                self._too_late(f"the request body did not arrive within {waited:.0f} s")
        elif self._rest:
            if waited > limits.header_timeout_s:
                self._refuse(408, f"the request head did not arrive within {limits.header_timeout_s:g} s")
        elif waited > limits.idle_timeout_s:
            # Also the way out for an answer that its client never reads.
            self._transport.abort()

    def _too_late(self, text: str) -> None:
        if self.head.action.fail is None:
            self._refuse(408, text)
        else:
            self.fail(DeadlineExceeded(text), close=True)

    def _gone(self) -> bool:
        """Say whether the client has closed, which nobody tells while reading is paused."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP if self.trusted else 0)
        return bool(poll.poll(0))

    @property
    def streams(self) -> bool:
        """True where end-of-file means that the client has gone: only then streams can be served."""
        return self.trusted

    @property
    def client(self) -> bytes:
        """Who asks, for limits per client: what the declared header says, else the address (behind the edge the one that it tells)."""
        return self.head.client or self.address

    @property
    def address(self) -> bytes:
        """Return the name of the client's address."""
        if self.trusted:
            return address_name(self.head.headers.get(b"x-serving-client", b"").decode("latin-1"))
        if not self._address:
            peer = self._transport.get_extra_info("peername")
            self._address = address_name(str(peer[0])) if peer else b"?"
        return self._address

    @property
    def engaged(self) -> bool:
        """True while there is something of this connection to read, to answer or to write."""
        return self.busy or bool(self._rest) or self.waiting == "body" or self.unwritten_bytes > 0

    def close_if_idle(self) -> bool:
        """Close unless a request is under way or arriving; True when closed."""
        if self.busy or self._rest or self.waiting == "body":
            return False
        self._transport.close()
        return True

    def fileno(self) -> int:
        """Return the descriptor of the socket, -1 once it is closing."""
        return -1 if self._transport.is_closing() else int(self._transport.get_extra_info("socket").fileno())

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._transport.abort()

    @property
    def unwritten_bytes(self) -> int:
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            if not self._slow:
                self._transport.resume_reading()

    def __repr__(self) -> str:
        return f"HttpConnection({self.head!r}, {'busy' if self.busy else self.waiting})"
