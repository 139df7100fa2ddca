"""Http2Stream: one request on an HTTP/2 connection, from its head to its trailers. The other kind of `grpc_out.GrpcExchange`.

Receives the body: of a unary call into one piece, of a stream on to its reader. What it sends waits here while the client's
windows are full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol, cast

import numpy as np

from serving.errors import DecodeError, Internal, ServingError, TooLarge, Unavailable
from serving.gateway.head import Head
from serving.gateway.ports import BodyReader, Cancellable, Host
from serving.inference import Buffer
from serving.protocol.grpc_frame import PREFIX_BYTES

PLACED_BYTES = 64 * 1024
"""A message from this size on is put where it will be read (shared memory, where there is some) as it comes; smaller ones are joined."""
MAX_PARTS = 65_536
WINDOW_BYTES = 4 << 20
"""What a client may send on a stream before it is told to go on."""


class Wire(Protocol):
    """What a stream asks of its connection."""

    host: Host

    def write_unary(self, stream: Http2Stream, parts: list[Buffer]) -> None: ...

    def write_block(self, stream: Http2Stream, block: bytes, last: bool) -> None: ...

    def refusal(self, status: int, message: bytes, retry_ms: int) -> bytes: ...

    def plain(self, status: int, content_type: bytes) -> bytes: ...

    def response_head(self) -> bytes: ...

    def trailers(self, status: int, message: bytes) -> bytes: ...

    def pump(self, stream: Http2Stream) -> None: ...

    def more(self, stream: int, nbytes: int) -> None: ...

    def reset_internal(self, stream: Http2Stream) -> None: ...


class Http2Stream:
    """One request and its answer."""

    __slots__ = (
        "_arrived",
        "_at",
        "_owed",
        "_parts",
        "_paused",
        "_place",
        "grpc_timeout",
        "head",
        "host",
        "id",
        "out",
        "over",
        "plan",
        "reader",
        "receiving",
        "since",
        "tail",
        "wants_writable",
        "window",
        "wire",
        "work",
    )

    streams = True

    def __init__(self, wire: Wire, number: int, head: Head, grpc_timeout: bytes, window: int) -> None:
        self.wire = wire
        self.host = wire.host
        self.id = number
        self.head = head
        self.grpc_timeout = grpc_timeout
        self.work: Cancellable | None = None
        self.plan: Any = None
        self.reader: BodyReader | None = None
        self.window = window
        """Bytes that the client lets us send on this stream."""
        self.over = False
        """Answered, reset or cancelled: nothing is to be written any more."""
        self.receiving = True
        """The client has more to send."""
        # The body that comes.
        self.since = 0.0
        self._parts: list[bytes | memoryview] = []
        self._place: memoryview | None = None
        self._at = 0
        self._arrived = 0
        self._owed = 0
        self._paused = False
        # The answer that waits.
        self.out: deque[memoryview] = deque()
        self.tail: bytes | None = None
        self.wants_writable = False

    # The request's way in ------------------------------------------------------------------------------------------

    def start(self, ended: bool) -> None:
        """The head is complete."""
        self.since = self.host.now()
        if self.head.action.streams:
            self._run(b"")
            if ended:
                self.body_ended()
        elif ended:
            self.body_ended()

    def whole(self, body: memoryview) -> None:
        """The body has come in one piece, right behind the head."""
        self.receiving = False
        self._run(body)

    def body(self, data: memoryview) -> None:
        """A piece of the body."""
        self._owed += len(data)
        reader = self.reader
        if reader is not None:
            try:
                reader.body([data])
            except Exception as error:
                self.bug(error)
        elif not self.over:
            self._collect(data)
        self._tell_more()

    def body_ended(self) -> None:
        """The client has no more to send."""
        self.receiving = False
        reader = self.reader
        if reader is not None:
            try:
                reader.requests_end()
            except Exception as error:
                self.bug(error)
        elif not self.over:
            place, parts = self._place, self._parts
            body: Buffer = place[: self._at] if place is not None else parts[0] if len(parts) == 1 else b"".join(parts)
            self._drop_body()
            self._run(body)

    def _collect(self, data: memoryview) -> None:
        host = self.host
        size = len(data)
        self._arrived += size
        host.arriving_bytes += size
        try:
            if host.arriving_bytes > host.limits.max_inflight_bytes:
                limit = host.limits.max_inflight_bytes
                raise Unavailable(f"bodies of more than {limit} bytes in all are on their way to this gateway", retry_after_s=1.0)
            if not self._arrived - size:
                self._expect(data)
            place = self._place
            if place is None:
                self._parts.append(data)
                if self._arrived > host.limits.max_body_bytes + PREFIX_BYTES or len(self._parts) > MAX_PARTS:
                    raise TooLarge(f"request body exceeds the maximum allowed size of {host.limits.max_body_bytes} bytes")
            else:
                stop = self._at + size
                if stop > len(place):
                    raise DecodeError("a unary call carries one message, and there is more behind it")
                place[self._at : stop] = data
                self._at = stop
        except ServingError as error:
            self._drop_body()
            self.fail(error)

    def _expect(self, data: memoryview) -> None:
        """The first piece of a message says how long it is."""
        if len(data) < PREFIX_BYTES:
            return
        size = int.from_bytes(data[1:PREFIX_BYTES], "big")
        limit = self.host.limits.max_body_bytes
        if size > limit:
            raise TooLarge(f"request body of {size} bytes exceeds the maximum allowed size of {limit} bytes")
        if size >= PLACED_BYTES:
            total = size + PREFIX_BYTES
            try:
                self._place = self.host.body_buffer(total) or np.empty(total, np.uint8).data
            except MemoryError:
                raise Unavailable(f"there is no memory for a body of {total} bytes", retry_after_s=1.0) from None

    def _drop_body(self) -> None:
        self.host.arriving_bytes -= self._arrived
        self._arrived = self._at = 0
        self._parts = []
        self._place = None

    def _tell_more(self) -> None:
        """Let the client go on sending, unless the reader has enough for now."""
        if self._owed > WINDOW_BYTES // 2 and self.receiving and not self._paused and not self.over:
            self.wire.more(self.id, self._owed)
            self._owed = 0

    def _run(self, body: Buffer) -> None:
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
        try:
            cast(Any, self.head.action.answer)(self, call, response)
        except Exception as error:
            self.bug(error)

    def fail(self, error: ServingError, close: bool = False) -> None:
        """Answer with the error; `close` is for connections that cannot go on, which this one always can."""
        if self.over:
            return
        if self.reader is not None:
            self.reader.fail(error)
        elif self.head.action.fail is not None:
            self.head.action.fail(self, error)
        else:
            self.write_plain(400, error.message.encode())

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
            self.wire.reset_internal(self)

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
            self.out.extend([memoryview(p) for p in parts])
            self.wire.pump(self)

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
        """Answer a request that is not gRPC."""
        if not self.over:
            self.wire.write_block(self, self.wire.plain(status, b"text/plain"), False)
            self.out.append(memoryview(text))
            self.tail = b""
            self.wire.pump(self)

    # The connection's side -----------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """The client wants it no more, or has gone."""
        self.over = True
        self._drop_body()
        self.out.clear()
        work, self.work = self.work, None
        self.reader = None
        if work is not None:
            work.cancel()

    def late(self, now: float) -> bool:
        """True where a unary call's body does not come within its time."""
        if not self.receiving or self.reader is not None or self.over:
            return False
        return now - self.since > self.host.limits.body_timeout_s + self._arrived / (64 * 1024)

    def __repr__(self) -> str:
        return f"Http2Stream({self.id}, {self.head!r}{', over' if self.over else ''})"
