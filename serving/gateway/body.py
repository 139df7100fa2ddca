"""Receives bodies straight into their place, or into none. Protocols that stand in for a connection while a body is on its way.

uvloop hands a `BufferedProtocol` to recv(2) itself, so a large body is written once, by the kernel, where it will be read.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import numpy as np

from serving.errors import TooLarge, Unavailable
from serving.state import GatewayLimits

SCRATCH_BYTES = 64 * 1024
MIN_BODY_RATE = 64 * 1024
"""Bytes a second. A body gets `body_timeout_s`, and more time as long as it comes at this rate."""


class Lender(Protocol):
    """Who has memory that replicas of this node can read."""

    def body_buffer(self, nbytes: int) -> memoryview | None: ...


def body_place(lender: Lender, nbytes: int, what: str = "a body") -> memoryview:
    """Return where so much is put together: shared memory where there is some. Raises Unavailable where there is no memory for `what`."""
    try:
        # Not a bytearray, which is filled with zeros: who only announces a gigabyte would cost one.
        return lender.body_buffer(nbytes) or np.empty(nbytes, np.uint8).data
    except MemoryError:
        raise Unavailable(f"there is no memory for {what} of {nbytes} bytes", retry_after_s=1.0) from None


def too_large(nbytes: int, limit: int) -> TooLarge:
    return TooLarge(f"request body of {nbytes} bytes exceeds the maximum allowed size of {limit} bytes")


def crowded(limits: GatewayLimits) -> Unavailable:
    """What a client hears whose body is one too many."""
    return Unavailable(f"bodies of more than {limits.max_inflight_bytes} bytes in all are on their way to this gateway", retry_after_s=1.0)


class Receiver(Protocol):
    """The connection whose place is taken."""

    def body_grows(self, nbytes: int) -> bool:
        """So many bytes more have come; False where there is no room for them: the sink has been dropped then."""

    def body_arrived(self, body: memoryview) -> None:
        """The body is whole."""

    def connection_lost(self, exc: Exception | None) -> None: ...


class _StandIn(asyncio.BufferedProtocol):
    """What both have in common: end-of-file closes (the default), and the connection hears of its loss."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.connection_lost(exc)


class BodySink(_StandIn):
    """Receives the rest of one body into `place`, which is as long as the body."""

    def __init__(self, receiver: Receiver, place: memoryview) -> None:
        super().__init__(receiver)
        self._length = len(place)
        self._at = 0
        self._view = place

    def take(self, data: memoryview) -> None:
        """Put what has come together with the head in front."""
        self._view[: len(data)] = data
        self._at = len(data)

    def drop(self) -> None:
        """Let the memory go."""
        self._view = memoryview(b"")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        self._at += nbytes
        if self._receiver.body_grows(nbytes) and self._at == self._length:
            self._receiver.body_arrived(self._view)


class Discard(_StandIn):
    """Reads what nobody wants until the client closes.

    A socket that is closed with bytes unread resets the connection, and the client may lose the answer that was on its way to it.
    """

    _scratch = memoryview(bytearray(SCRATCH_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        pass
