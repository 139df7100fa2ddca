"""Receives bodies straight into their place, or into none. Protocols that stand in for a connection while a body is on its way.

uvloop hands a `BufferedProtocol` to recv(2) itself, so a large body is written once, by the kernel, where it will be read.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import numpy as np

SCRATCH_BYTES = 64 * 1024


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
    """Receives the rest of one body of known length, into `place` (shared memory) where there is one."""

    def __init__(self, receiver: Receiver, length: int, place: memoryview | None) -> None:
        super().__init__(receiver)
        self._length = length
        self._at = 0
        # Not a bytearray, which is filled with zeros: who only announces a gigabyte would cost one.
        self._view = np.empty(length, np.uint8).data if place is None else place

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
