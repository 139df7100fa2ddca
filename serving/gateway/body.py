"""Receives bodies straight into their place, or into none. Protocols that stand in for a connection while a body is on its way.

uvloop hands a `BufferedProtocol` to recv(2) itself, so a large body is written once, by the kernel, where it will be read.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import numpy as np

from serving.errors import TooLarge, Unavailable
from serving.gateway.head import MAX_CACHED_HEAD_BYTES
from serving.state import GatewayLimits

SCRATCH_BYTES = 64 * 1024
ALIGNED = 64
"""Tensors of a body begin at a multiple of this in shared memory: what is not aligned would be copied before a model sees it."""
SLACK = 64
"""Room behind a body: a read that does not fill its buffer spares the next one, which would find nothing."""
MIN_BODY_RATE = 64 * 1024
"""Bytes a second. A body gets `body_timeout_s`, and more time as long as it comes at this rate."""


class Lender(Protocol):
    """Who has memory that replicas of this node can read."""

    def body_buffer(self, nbytes: int) -> memoryview | None: ...


def body_place(lender: Lender, nbytes: int, what: str = "a body") -> memoryview:
    """Return where so much is put together: shared memory where there is some. Raises Unavailable where there is no memory for `what`."""
    return lender.body_buffer(nbytes) or _memory(nbytes, what)


def _memory(nbytes: int, what: str = "a body") -> memoryview:
    try:
        # Not a bytearray, which is filled with zeros: who only announces a gigabyte would cost one.
        return np.empty(nbytes, np.uint8).data
    except MemoryError:
        raise Unavailable(f"there is no memory for {what} of {nbytes} bytes", retry_after_s=1.0) from None


def too_large(nbytes: int, limit: int) -> TooLarge:
    return TooLarge(f"request body of {nbytes} bytes exceeds the maximum allowed size of {limit} bytes")


def crowded(limits: GatewayLimits) -> Unavailable:
    """What a client hears whose body is one too many."""
    return Unavailable(f"bodies of more than {limits.max_inflight_bytes} bytes in all are on their way to this gateway", retry_after_s=1.0)


_NOTHING = memoryview(b"")


class Receiver(Protocol):
    """The connection whose place is taken."""

    __slots__ = ()

    @property
    def idle(self) -> bool:
        """Whether it waits for a request, and has nothing of it yet."""

    def body_begins(self, prefix: bytes) -> tuple[int, int]:
        """Take over the head of a request that begins with these bytes; return where its body begins and how long it is.

        (0, 0) for a request that takes a closer look.
        """

    def body_grows(self, nbytes: int) -> bool:
        """So many bytes more have come; False where there is no room for them: the sink has been dropped then."""

    def body_arrived(self, body: memoryview, rest: bytes) -> None:
        """The body is whole; `rest` came behind it."""

    def take_over(self, data: bytes) -> None:
        """Be the protocol again; `data` has come."""

    def connection_lost(self, exc: Exception | None) -> None: ...

    def eof_received(self) -> bool | None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class _StandIn(asyncio.BufferedProtocol):
    """What both have in common: the connection hears of its loss."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.connection_lost(exc)


class BodySink(_StandIn):
    """Receives the rest of one body straight into its place; then stays for the next request of the connection.

    That one is likely to look the same, so room for all of it is offered to the socket when it comes: head and body then arrive
    in shared memory with one or two calls, without a copy in this process. Whatever else comes goes to the connection.

    lead    bytes of the body before its tensors, which are to be aligned
    """

    _scratch = memoryview(bytearray(SCRATCH_BYTES))

    def __init__(self, receiver: Receiver, lender: Lender, nbytes: int, lead: int) -> None:
        """Make room for a body. Raises Unavailable where there is no memory."""
        super().__init__(receiver)
        self._lender = lender
        self._lead = lead
        self._next_bytes = 0
        """Of the whole request that is expected; 0: none is, for there is no shared memory for its like."""
        pad = -lead % ALIGNED
        place = lender.body_buffer(pad + nbytes + SLACK)
        self._shared = place is not None
        self._view = place[pad:] if place is not None else _memory(nbytes + SLACK)
        self._at = 0
        self._start = 0
        self._end = nbytes
        """Where the body ends in `_view`; 0 while no body is on its way."""

    def take(self, data: memoryview) -> None:
        """Put what has come together with the head in front."""
        self._view[: len(data)] = data
        self._at = len(data)

    def expect(self, head_bytes: int, body_bytes: int) -> None:
        """The requests of this connection have been of these sizes."""
        if self._shared:
            self._lead += head_bytes
            self._next_bytes = head_bytes + body_bytes

    def drop(self) -> None:
        """Let the memory go; expect nothing any more."""
        self._view = _NOTHING
        self._end = self._next_bytes = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._end:
            return self._view[self._at :]
        if not self._view and self._next_bytes and self._receiver.idle:
            pad = -self._lead % ALIGNED
            place = self._lender.body_buffer(pad + self._next_bytes + SLACK)
            if place is not None:
                self._view = place[pad:]
        return self._view or self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        if self._end:
            self._at += nbytes
            if self._receiver.body_grows(nbytes) and self._at >= self._end:
                self._arrived()
        elif self._view:
            self._begin(nbytes)
        else:
            self._receiver.take_over(bytes(self._scratch[:nbytes]))

    def _begin(self, nbytes: int) -> None:
        view = self._view
        start, length = self._receiver.body_begins(bytes(view[: min(nbytes, MAX_CACHED_HEAD_BYTES)]))
        end = start + length
        if not start or end > len(view):
            self._view = _NOTHING
            self._receiver.take_over(bytes(view[:nbytes]))
            return
        self._start, self._at, self._end = start, nbytes, end
        if nbytes >= end:
            self._arrived()
        else:
            self._receiver.body_grows(nbytes - start)

    def _arrived(self) -> None:
        view, end = self._view, self._end
        self._view = _NOTHING  # from here on the views of the body say how long its memory lives
        self._end = 0
        self._receiver.body_arrived(view[self._start : end], bytes(view[end : self._at]))

    def eof_received(self) -> bool | None:
        return self._receiver.eof_received()

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()


class Discard(_StandIn):
    """Reads what nobody wants until the client closes.

    A socket that is closed with bytes unread resets the connection, and the client may lose the answer that was on its way to it.
    """

    _scratch = memoryview(bytearray(SCRATCH_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        pass
