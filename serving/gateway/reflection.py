"""Reflection as an open stream: one answer for each question, no faster than the client takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from serving.errors import ServingError, Unavailable
from serving.gateway.calls import STOPPING
from serving.gateway.grpc_out import GrpcExchange, GrpcOut
from serving.gateway.head import Action, Head
from serving.gateway.stream import Open, check_streams
from serving.inference import Buffer
from serving.protocol import reflection
from serving.protocol.grpc_frame import MessageReader, decompress

MAX_QUESTION_BYTES: Final = 16 * 1024
_RESPOND: Final[Mapping[str, Callable[[Buffer], bytes]]] = {
    f"/{service}/ServerReflectionInfo": reflection.responder(version) for version, service in reflection.REFLECTION.items()
}


def actions(out: GrpcOut, streams: set[Any]) -> dict[str, Action]:
    """Return the actions by path. streams: the open ones of this face, which end when it drains."""

    def opening(respond: Callable[[Buffer], bytes]) -> Action:
        def start(connection: GrpcExchange, head: Head, body: Buffer) -> None:
            check_streams(connection)
            stream = ReflectionStream(connection, out, head, streams, respond)
            if connection.host.draining:
                stream.drain()

        return Action(start, None, out.fail, streams=True)

    return {path: opening(respond) for path, respond in _RESPOND.items()}


class ReflectionStream(Open):
    """One ServerReflectionInfo call."""

    def __init__(
        self, connection: GrpcExchange, out: GrpcOut, head: Head, streams: set[Any], respond: Callable[[Buffer], bytes]
    ) -> None:  # fmt: skip
        super().__init__(connection, out, streams)
        self._respond = respond
        self._encoding = head.headers.get(b"grpc-encoding", b"").decode("latin-1")
        self._reader = MessageReader(MAX_QUESTION_BYTES)
        self._asked: deque[Buffer] = deque()
        """At most what one read brings: no more is read while there are any."""
        self._writable = True
        self._ended = False
        connection.reader = self
        streams.add(self)

    def body(self, parts: list[bytes | memoryview]) -> None:
        try:
            for part in parts:
                for message in self._reader.feed(bytes(part)):
                    self._asked.append(decompress(message, self._encoding, MAX_QUESTION_BYTES))
        except ServingError as error:
            self.end(error)
        self._answer()

    def requests_end(self) -> None:
        self._ended = True
        self._answer()

    def writable(self, yes: bool) -> None:
        self._writable = yes
        self._answer()

    def drain(self) -> None:
        """End: what was asked may be asked again elsewhere."""
        self.end(Unavailable(STOPPING))

    def _answer(self) -> None:
        try:
            while self._asked and self._writable and not self.over:
                self.send([self._respond(self._asked.popleft())])
        except ServingError as error:
            self.end(error)
        if self.over:
            return
        if self._asked:
            self.connection.pause_reading()
        elif self._ended:
            self.end()
        else:
            self.connection.resume_reading()

    def _leave(self) -> None:
        self._streams.discard(self)
        self._asked.clear()
