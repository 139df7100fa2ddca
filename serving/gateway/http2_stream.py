"""Http2Stream: one request on an HTTP/2 connection, from its head to its trailers. The other kind of `grpc_out.GrpcExchange`.

Receives the body: of a unary call into one piece, of a stream on to its reader. What it sends waits here while the client's
windows are full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from serving.errors import DecodeError, Internal, ServingError
from serving.gateway.body import MIN_BODY_RATE, SLACK, body_place, crowded, too_large
from serving.gateway.head import Head
from serving.gateway.http2_frames import Http2Code
from serving.gateway.ports import BodyReader, Cancellable, Host
from serving.inference import Buffer
from serving.protocol.grpc_frame import PREFIX_BYTES
from serving.protocol.status import error_json

PLACED_BYTES = 64 * 1024
"""A message from this size on is put where it will be read (shared memory, where there is some) as it comes; smaller ones are joined."""
WINDOW_BYTES = 4 << 20
"""What a client may send on a stream before it is told to go on."""


class Wire(Protocol):
    """What a stream asks of its connection."""

    host: Host
    address: bytes
    """Of the client, as limits know it."""

    def write_unary(self, stream: Http2Stream, parts: list[Buffer]) -> None: ...

    def write_block(self, stream: Http2Stream, block: bytes, last: bool) -> None: ...

    def refusal(self, status: int, message: bytes, retry_ms: int) -> bytes: ...

    def plain(self, status: int, content_type: bytes) -> bytes: ...

    def response_head(self) -> bytes: ...

    def trailers(self, status: int, message: bytes) -> bytes: ...

    def enqueue(self, stream: Http2Stream, nbytes: int) -> None: ...

    def more(self, stream: int, nbytes: int) -> None: ...

    def reset(self, stream: Http2Stream, code: Http2Code) -> None: ...


class Http2Stream:
    """One request and its answer.

    What most unary calls never need stands in the class, so that making a stream sets six attributes.

    window      bytes that the client lets us send on this stream
    over        answered, reset or cancelled: nothing is to be written any more
    receiving   the client has more to send
    since       when we began to wait: for the body, or for the client to take its answer; 0 = see at the next look
    out         the part of the answer that waits for windows
    tail        the answer is complete behind `out`: its trailers, b"" for good ones
    place       where the message is put together, as soon as its first bytes say that it is large
    """

    streams = True

    work: Cancellable | None = None
    plan: Any = None
    reader: BodyReader | None = None
    over = False
    receiving = True
    since = 0.0
    out: deque[memoryview] | None = None
    tail: bytes | None = None
    wants_writable = False
    place: memoryview | None = None
    _body: bytearray | None = None
    _total = 0
    _arrived = 0
    _owed = 0
    _paused = False

    def __init__(self, wire: Wire, number: int, head: Head, grpc_timeout: bytes, window: int) -> None:
        self.wire = wire
        self.host = wire.host
        self.id = number
        self.head = head
        self.grpc_timeout = grpc_timeout
        self.window = window

    @property
    def client(self) -> bytes:
        """Return the name by which limits know the client."""
        return self.head.client or self.wire.address

    @property
    def address(self) -> bytes:
        """Return the name of the client's address."""
        return self.wire.address

    # The request's way in ------------------------------------------------------------------------------------------

    def start(self, ended: bool) -> None:
        """The head is complete, of a request that takes its body as it comes, or has none."""
        if self.head.action.streams:
            self.run(b"")
        if ended:
            self.body_ended()

    def last(self, data: memoryview) -> None:
        """The last piece of the body."""
        if self.reader is None and not self._arrived and not self.over and self.tail is None:
            self.receiving = False
            self.run(data)
            return
        if data:
            self.body(data)
        self.body_ended()

    def body(self, data: memoryview) -> None:
        """A piece of the body."""
        self._owed += len(data)
        reader = self.reader
        if self._owed > WINDOW_BYTES and not self.over:
            self.wire.reset(self, Http2Code.FLOW_CONTROL_ERROR)
        elif reader is not None:
            try:
                reader.body([data])
            except Exception as error:
                self.bug(error)
        elif not self.over and self.tail is None:
            self._collect(data)
        self._tell_more()

    def room(self, nbytes: int, more: int) -> memoryview | None:
        """Return where the next `nbytes` of a large message belong, and `more` behind them (SLACK at most); None where they do not."""
        at = self._arrived
        if self.place is None or at + nbytes > self._total:
            return None
        return self.place[at : at + nbytes + more]

    def behind(self, nbytes: int, stop: int) -> bytes:
        """Return what has come into the room behind `nbytes`, up to `stop`."""
        assert self.place is not None
        return bytes(self.place[self._arrived + nbytes : self._arrived + stop])

    def grew(self, nbytes: int) -> None:
        """So many bytes of the message have come into their place."""
        self._owed += nbytes
        self._arrived += nbytes
        host = self.host
        host.arriving_bytes += nbytes
        if self._owed > WINDOW_BYTES:
            self.wire.reset(self, Http2Code.FLOW_CONTROL_ERROR)
        elif host.arriving_bytes > host.limits.max_inflight_bytes:
            self._drop_body()
            self.fail(crowded(host.limits))

    def padding(self, nbytes: int) -> None:
        """Bytes that count for the client's window and for nothing else."""
        if self.place is not None and not self.over:
            self.wire.more(self.id, nbytes)
        else:
            self._owed += nbytes

    def body_ended(self) -> None:
        """The client has no more to send."""
        self.receiving = False
        reader = self.reader
        if reader is not None:
            try:
                reader.requests_end()
            except Exception as error:
                self.bug(error)
        elif not self.over and self.tail is None:
            place = self.place
            body: Buffer = place[: self._arrived] if place is not None else bytes(self._body or b"")
            self._drop_body()
            self.run(body)

    def _collect(self, data: memoryview) -> None:
        """Keep a piece; not as a view, or a byte of it would hold all that the network brought with it."""
        host = self.host
        at = self._arrived
        self._arrived = stop = at + len(data)
        host.arriving_bytes += len(data)
        try:
            if host.arriving_bytes > host.limits.max_inflight_bytes:
                raise crowded(host.limits)
            place = self.place
            if place is None:
                place = self._join(data, stop)
                if place is None:
                    return
            if stop > self._total:
                raise DecodeError("a unary call carries one message, and there is more behind it")
            place[at:stop] = data
        except ServingError as error:
            self._drop_body()
            self.fail(error)

    def _join(self, data: memoryview, stop: int) -> memoryview | None:
        """Put a piece to what has come before it; return the place of a body that is large, as soon as its first bytes say so."""
        body = self._body
        if body is None:
            self._body = body = bytearray()
        if not self._total and stop >= PREFIX_BYTES:
            prefix = body + data[:PREFIX_BYTES]
            if prefix[0] > 1:
                raise DecodeError(f"not a gRPC message: flag {prefix[0]}")
            size = int.from_bytes(prefix[1:PREFIX_BYTES], "big")
            limit = self.host.limits.max_body_bytes
            if size > limit:
                raise too_large(size, limit)
            self._total = size + PREFIX_BYTES
            if size >= PLACED_BYTES:
                place = body_place(self.host, self._total + SLACK)
                place[: len(body)] = body
                self.place, self._body = place, None
                self._allow(self._total - stop)
                return place
        if self._total and stop > self._total:
            raise DecodeError("a unary call carries one message, and there is more behind it")
        body += data
        return None

    def _allow(self, nbytes: int) -> None:
        """Let the client send so much, which is the rest of its message, without waiting for us."""
        more = nbytes - (WINDOW_BYTES - self._owed)
        if more > 0:
            self.wire.more(self.id, more)
            self._owed -= more

    def _drop_body(self) -> None:
        if self._arrived:
            self.host.arriving_bytes -= self._arrived
            self._arrived = self._total = 0
            self._body = self.place = None

    def _tell_more(self) -> None:
        """Let the client go on sending, unless the reader has enough for now. All of a large message has been allowed at its beginning."""
        if self._owed > WINDOW_BYTES // 2 and self.receiving and not self._paused and not self.over and self.place is None:
            self.wire.more(self.id, self._owed)
            self._owed = 0

    def run(self, body: Buffer) -> None:
        """The body is whole: have the action look at it. Whoever calls sets `receiving`; a method for both would be one more frame."""
        head = self.head
        try:
            head.action.run(self, head, body)
        except ServingError as error:
            self.fail(error)
        except Exception as error:
            self.bug(error)

    # The action's side ---------------------------------------------------------------------------------------------

    def answer(self, call: Any, response: Any) -> None:
        """The call that the action submitted has its answer."""
        self.work = None
        answer = self.head.action.answer
        assert answer is not None
        try:
            answer(self, call, response)
        except Exception as error:
            self.bug(error)

    def fail(self, error: ServingError, close: bool = False) -> None:
        """Answer with the error; `close` is for connections that cannot go on, which this one always can."""
        if self.over or self.tail is not None:
            return
        if self.reader is not None:
            self.reader.fail(error)
        elif self.head.action.fail is not None:
            self.head.action.fail(self, error)
        else:
            self.write_plain(400, error_json(error.message))

    def bug(self, error: Exception) -> None:
        """Report what should not have happened, and end the request with it: its client must not wait for ever."""
        asyncio.get_running_loop().call_exception_handler({"message": f"bug in the answer to {self.head!r}", "exception": error})
        if self.over:
            return
        work, self.work = self.work, None
        if work is not None and self.reader is None:
            work.cancel()
        try:
            self.fail(Internal("internal error of the gateway"))
        except Exception:
            self.wire.reset(self, Http2Code.INTERNAL_ERROR)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._tell_more()

    # The answer's way out ------------------------------------------------------------------------------------------

    def write_unary(self, parts: list[Buffer]) -> None:
        if not self.over:
            self.wire.write_unary(self, parts)

    def write_head(self) -> None:
        if not self.over:
            self.wire.write_block(self, self.wire.response_head(), False)

    def write_message(self, parts: list[Buffer]) -> None:
        if not self.over:
            if self.out is None:
                self.out = deque()
            self.out.extend([memoryview(p) for p in parts])
            self.wire.enqueue(self, sum(map(len, parts)))

    def write_trailers(self, status: int, message: bytes) -> None:
        if not self.over:
            if self.out:
                self.tail = self.wire.trailers(status, message) if status else b""
            else:
                self.wire.write_block(self, self.wire.trailers(status, message), True)

    def write_refusal(self, status: int, message: bytes, retry_ms: int) -> None:
        if not self.over:
            self.wire.write_block(self, self.wire.refusal(status, message, retry_ms), True)

    def write_plain(self, status: int, text: bytes) -> None:
        """Answer a request that is not gRPC, in JSON."""
        if not self.over:
            self.wire.write_block(self, self.wire.plain(status, b"application/json"), False)
            self.out = deque([memoryview(text)])
            self.tail = b""
            self.wire.enqueue(self, len(text))

    # The connection's side -----------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """The client wants it no more, or has gone."""
        self.over = True
        self._drop_body()
        self.out = None
        work, self.work = self.work, None
        self.reader = None
        if work is not None:
            work.cancel()

    def late(self, now: float) -> bool:
        """True where a unary call's body does not come within its time."""
        if not self.receiving or self.reader is not None or self.over or self.tail is not None:
            return False
        self.since = self.since or now
        return now - self.since > self.host.limits.body_timeout_s + self._arrived / MIN_BODY_RATE

    def unread(self, now: float) -> bool:
        """True where a client has not taken anything of a complete answer for long. Streams wait as long as their clients like."""
        if not self.out or self.tail is None:
            return False
        self.since = self.since or now
        return now - self.since > self.host.limits.body_timeout_s

    def __repr__(self) -> str:
        return f"Http2Stream({self.id}, {self.head!r}{', over' if self.over else ''})"
