"""HttpConnection: one client connection over HTTP/1.1, from its first request to its end; one that begins with the preface of
HTTP/2 goes to `http2.py`.

The life of a request: bytes, head, body (`http_reader.py`) → `head.action.run(connection, head, body)` → the action, or the owner of a
call that it started, answers (`http_exchange.py`) → the next request, or the end. Knows bytes and limits; what a request means is its
action's matter.

One request at a time: what a client pipelines waits in `_rest`.

REST arrives on TCP, where a half-closed connection is legal and still gets its answers. The edge speaks on the Unix socket, where
end-of-file means that the client cancelled.

Where a request is refused before its body has come, the answer goes out, and what still comes is read and dropped for LINGER_S.
"""

from __future__ import annotations

import asyncio
import select
from typing import Any, cast

from serving.errors import DeadlineExceeded, Unavailable
from serving.gateway.body import MIN_BODY_RATE, Discard
from serving.gateway.http_reader import HttpReader
from serving.gateway.ports import Host
from serving.state import GatewayLimits

MAX_PIPELINED_BYTES = 256 * 1024
LINGER_S = 2.0


class HttpConnection(HttpReader):
    """Plain asyncio protocol (not a subclass: uvloop then lets it change places with `BodySink`)."""

    __slots__ = ("_eof", "_paused")

    def __init__(self, host: Host, trusted: bool) -> None:
        super().__init__(host, trusted)
        self._eof = False
        """The client sends no more (TCP); what it has sent is answered."""
        self._paused = False
        """The socket is not read, because of what waits in `_rest` or of a stream whose client is to wait."""

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
        if self.chunked is not None:
            self.chunked.take(data)
            return
        if self.busy:
            self._rest = self._rest + data if self._rest else data
            if len(self._rest) > MAX_PIPELINED_BYTES:
                self._paused = True
                self._transport.pause_reading()
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

    def take_over(self, data: bytes) -> None:
        """Something else has come than the sink was made for."""
        self._sink = None
        self._swap(self)
        self.data_received(data)

    # Whether the socket is read ------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Let the client wait; for a stream that has enough for now."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if self.chunked is None or not self.chunked.waits:
                self.go_on()

    def hold(self) -> None:
        self._transport.pause_reading()

    def go_on(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def _swap(self, protocol: Any) -> None:
        # uvloop picks the way of reading when reading starts, so a new protocol takes a stop and a start.
        transport = self._transport
        transport.pause_reading()
        transport.set_protocol(protocol)
        if not self._paused:
            transport.resume_reading()

    # Behind an answer ----------------------------------------------------------------------------------------------

    def closes(self) -> bool:
        if self.host.draining:
            self.host.note_request()
            return not self._rest
        return self._last or not self.head.keep_alive or (self._eof and not self._rest)

    def _answered(self, close: bool) -> None:
        self.work = None
        self.plan = None
        self.reader = None
        self.busy = False
        self.waiting = "head"
        self.since = self.host.now()
        if close or self.chunked is not None:
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

    def _next(self) -> None:
        self.busy = False
        if not self._transport.is_closing():
            data, self._rest = self._rest, b""
            self._parse(data)
            if self._eof and not self.busy:
                self._transport.close()

    def _end(self) -> None:
        self._last = True
        self._rest = b""
        transport = self._transport
        if (self.chunked is None and not self._unread) or self._eof or transport.is_closing():
            self.chunked = None
            transport.close()
            return
        self.chunked = None
        self.waiting = "linger"
        self._paused = False
        transport.write_eof()
        self._swap(Discard(self))

    def _abandon(self) -> None:
        work, self.work = self.work, None
        self.reader = None
        self.chunked = None
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
    def engaged(self) -> bool:
        """True while there is something of this connection to read, to answer or to write."""
        return self.busy or bool(self._rest) or self.waiting == "body" or self.unwritten_bytes > 0

    def close_if_idle(self) -> bool:
        """Close unless a request is under way or arriving; True when closed."""
        if self.busy or self._rest or self.waiting == "body":
            return False
        self._transport.close()
        return True

    def __repr__(self) -> str:
        return f"HttpConnection({self.head!r}, {'busy' if self.busy else self.waiting})"
