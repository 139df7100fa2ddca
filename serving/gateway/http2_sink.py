"""FrameSink: receives large DATA frames straight into the place of their message. Stands in for its connection while there are such.

uvloop hands a `BufferedProtocol` to recv(2) itself: the kernel writes a large tensor where it will be read (shared memory, where there is
some), and nobody copies it. With the rest of a frame the head of the next one is asked for, so that frames cost no read of their own.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

SCRATCH_BYTES = 16 * 1024
"""What comes between two large frames: heads, the first bytes of a message, small calls. It is copied."""


class Receiver(Protocol):
    """The connection whose place is taken."""

    @property
    def expects_large(self) -> bool:
        """A message is on its way that has its place."""

    def room(self) -> memoryview | None: ...

    def placed(self, nbytes: int) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def take_over(self) -> None:
        """Be the protocol again."""

    def connection_lost(self, exc: Exception | None) -> None: ...

    def eof_received(self) -> bool | None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class FrameSink(asyncio.BufferedProtocol):
    """Stays between two large messages of a connection, and gives way to it when something else comes."""

    _scratch = memoryview(bytearray(SCRATCH_BYTES))

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._placing = False
        """The last buffer was the message's place."""

    def get_buffer(self, sizehint: int) -> memoryview:
        room = self._receiver.room()
        self._placing = room is not None
        return self._scratch if room is None else room

    def buffer_updated(self, nbytes: int) -> None:
        receiver = self._receiver
        if self._placing:
            receiver.placed(nbytes)
            return
        receiver.data_received(bytes(self._scratch[:nbytes]))
        if not receiver.expects_large:
            receiver.take_over()

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._receiver.eof_received()

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()
