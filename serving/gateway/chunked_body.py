"""ChunkedBody: a body in chunks while it is on its way: kept until it is whole, or handed on to the reader of a stream as it comes.

What has many chunks in one piece takes turns with its like, for they take far more time than their bytes tell; meanwhile its socket is
not read.
"""

from __future__ import annotations

from typing import Any, Protocol

from serving.errors import DecodeError, ServingError, TooLarge
from serving.gateway.chunked import ChunkedDecoder
from serving.gateway.ports import BodyReader, Host
from serving.inference import Buffer

FIRST_CHUNKS = 32
"""Chunks that are taken at once of each piece of a body that comes; what has more of them takes turns with its like."""
SLICE_CHUNKS = 256
"""Chunks that are taken in one of these turns: less than half a millisecond."""


class ChunkReceiver(Protocol):
    """The connection that the body belongs to."""

    host: Host
    reader: BodyReader | None
    """Of a stream, which takes the body as it comes."""
    chunked: Any
    """The body on its way; another one or None once this one is not wanted any more."""

    def body_grows(self, nbytes: int) -> bool:
        """So many bytes more have come; False where there is no room for them: the request has been refused then."""

    def body_arrived(self, body: Buffer, rest: bytes) -> None:
        """The body is whole; `rest` came behind it."""

    def body_broken(self, error: ServingError) -> None:
        """No more of it can be read."""

    def feed(self, reader: BodyReader, parts: list[bytes | memoryview], over: bool, rest: bytes) -> None:
        """Hand a stream what has come of it; `over`: that was the end, and `rest` came behind it."""

    def hold(self) -> None:
        """Do not read before `go_on`."""

    def go_on(self) -> None:
        """Read again, unless something else stands against it."""


class ChunkedBody:
    """One body. `waits`: it has its next turn to come."""

    __slots__ = ("_decoder", "_receiver", "waits")

    def __init__(self, receiver: ChunkReceiver, max_bytes: int, max_chunks: int) -> None:
        self.waits = False
        self._receiver = receiver
        self._decoder = ChunkedDecoder(max_bytes, max_chunks)

    def take(self, data: bytes) -> None:
        """Take what has come of it."""
        receiver = self._receiver
        if receiver.reader is None and not receiver.body_grows(len(data)):
            return
        if self._take(data, FIRST_CHUNKS) and not self.waits:
            self.waits = True
            receiver.hold()
            receiver.host.turns.join(self._take_more)

    def _take_more(self) -> bool:
        """Go on where a slice of the body ended (`Turns`)."""
        receiver = self._receiver
        if receiver.chunked is self and self._take(b"", SLICE_CHUNKS):
            return True
        self.waits = False
        receiver.go_on()
        return False

    def _take(self, data: bytes, most: int) -> bool:
        """Take so many of the chunks that have come; True where there are more."""
        receiver = self._receiver
        decoder = self._decoder
        reader = receiver.reader
        try:
            over = decoder.feed(data, most)
        except (DecodeError, TooLarge) as error:
            receiver.body_broken(error)
            return False
        if reader is not None:
            parts, decoder.parts = decoder.parts, []
            receiver.feed(reader, parts, over, decoder.rest)
        elif over:
            parts = decoder.parts
            receiver.body_arrived(parts[0] if len(parts) == 1 else b"".join(parts), decoder.rest)
        return decoder.more and receiver.chunked is self

    def __repr__(self) -> str:
        return f"ChunkedBody({self._decoder!r}{', waits' if self.waits else ''})"
