"""Open gRPC streams: ModelStreamInfer for ordinary models, and the health watch.

An InferStream answers in the order of its requests, one answer each. What goes wrong with one request is an answer too
(`error_message`), and the stream goes on. Bounded: at most `MAX_PENDING` requests of a stream are under way, and a client
that does not read its answers is not read from either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import cast

from serving.errors import Code, ServingError, Unavailable
from serving.gateway.call import Call
from serving.gateway.head import Head
from serving.gateway.http import HttpConnection
from serving.gateway.service import STOPPING, Service
from serving.inference import Buffer, InferResponse
from serving.protocol import messages
from serving.protocol.grpc import GrpcPlan
from serving.protocol.grpc_frame import MessageReader, decompress, encode_status_message, parse_timeout, prefixed
from serving.protocol.grpc_head import GrpcHead
from serving.protocol.messages import Health
from serving.protocol.status import grpc_status

MAX_PENDING = 256
START = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-accept-encoding: identity, deflate, gzip\r\ntransfer-encoding: chunked\r\n"
)


class _Open:
    """What both kinds of stream share: the head, messages as chunks, the end with its trailers."""

    def __init__(self, connection: HttpConnection, streams: set[InferStream | WatchStream]) -> None:
        self.connection = connection
        self._streams = streams
        self.over = False
        connection.write_raw(START + b"\r\n")

    def send(self, parts: list[Buffer]) -> None:
        """Write one message as one chunk."""
        total = sum(len(p) for p in parts)
        self.connection.write_raw(b"".join((b"%x\r\n" % (total + 5), *prefixed(parts), b"\r\n")))

    def end(self, error: ServingError | None = None) -> None:
        """Write the trailers; the stream is over."""
        if self.over:
            return
        self.over = True
        self._leave()
        status, text = (0, b"") if error is None else (grpc_status(error.code), encode_status_message(error.message))
        self.connection.write_raw(b"0\r\ngrpc-status: %d\r\ngrpc-message: %s\r\n\r\n" % (status, text))
        self.connection.finish()

    def _leave(self) -> None:
        """Give back what the stream holds."""


class InferStream(_Open):
    """One ModelStreamInfer call. Is its connection's `reader` and its `work`."""

    def __init__(
        self,
        service: Service,
        split: Callable[[Buffer], GrpcHead],
        connection: HttpConnection,
        head: Head,
        streams: set[InferStream | WatchStream],
    ) -> None:
        super().__init__(connection, streams)
        self._service = service
        self._split = split
        self._max_bytes = service.limits.max_body_bytes
        self._reader = MessageReader(self._max_bytes)
        self._encoding = head.headers.get(b"grpc-encoding", b"").decode("latin-1")
        self._pending: deque[_Slot] = deque()
        self._ended = False
        self._draining = False
        self._writable = True
        self._fails_stream = head.headers.get(b"triton_grpc_error", b"").lower() == b"true"
        self._deadline = monotonic() + parse_timeout(connection.grpc_timeout.decode("latin-1")) if connection.grpc_timeout else 0.0
        connection.reader = self
        connection.work = self
        streams.add(self)

    # The connection's side

    def body(self, parts: list[bytes | memoryview]) -> None:
        """Take what has arrived of the request messages."""
        try:
            for part in parts:
                # The reader hands out views, and a request keeps them: `part` is a view of bytes that nobody reuses.
                for message in self._reader.feed(part):  # type: ignore[arg-type]
                    self._take(decompress(message, self._encoding, self._max_bytes))
        except ServingError as error:
            self._break(error)
        if len(self._pending) >= MAX_PENDING:
            self.connection.pause_reading()

    def requests_end(self) -> None:
        """The client will send no more."""
        self._ended = True
        self._flush()

    def writable(self, yes: bool) -> None:
        self._writable = yes
        self._read_on()

    def cancel(self) -> None:
        """The client has gone: nothing of this stream may cost anything from now on."""
        self.over = True
        self._leave()

    def drain(self) -> None:
        """Answer what has been asked, then end with UNAVAILABLE."""
        self._draining = True
        self._flush()

    # One request

    def _take(self, message: Buffer) -> None:
        slot = _Slot(self)
        self._pending.append(slot)
        try:
            asked = self._split(message)
            served = self._service.resolve(asked.model, asked.version)
            request, plan = served.grpc.decode(asked)
            slot.id = request.id
            request.deadline = self._deadline
            slot.call = self._service.submit(served, request, slot, plan, "grpc")
        except ServingError as error:
            slot.fail(error)
            self._flush()

    def answered(self) -> None:
        self._flush()

    def _flush(self) -> None:
        pending = self._pending
        while pending and not self.over:
            slot = pending[0]
            if slot.parts is None and slot.error is None:
                break
            pending.popleft()
            if slot.error is not None:
                if self._fails_stream:
                    self._break(slot.error)
                    return
                self.send([messages.stream_error(slot.error.message, slot.id)])
            else:
                self.send(slot.parts or [])
        if self.over:
            return
        if not pending and self._ended:
            self.end()
        elif not pending and self._draining:
            self.end(Unavailable(STOPPING))
        else:
            self._read_on()

    def _read_on(self) -> None:
        if self._writable and len(self._pending) < MAX_PENDING:
            self.connection.resume_reading()
        else:
            self.connection.pause_reading()

    def _break(self, error: ServingError) -> None:
        self.end(error)

    def _leave(self) -> None:
        self._streams.discard(self)
        for slot in self._pending:
            if slot.call is not None and slot.parts is None and slot.error is None:
                slot.call.cancel()
        self._pending.clear()


class _Slot:
    """One request of a stream: the owner of its call, and the place of its answer in the order."""

    __slots__ = ("call", "error", "id", "parts", "stream")

    def __init__(self, stream: InferStream) -> None:
        self.stream = stream
        self.call: Call | None = None
        self.id = ""
        self.parts: list[Buffer] | None = None
        self.error: ServingError | None = None

    def answer(self, call: Call, response: InferResponse) -> None:
        if response.code is Code.OK:
            try:
                self.parts = messages.stream_response(call.served.grpc.encode(cast(GrpcPlan, call.plan), response))
            except ServingError as error:
                self.error = error
        else:
            self.error = ServingError(response.message, code=response.code)
        self.stream.answered()

    def fail(self, error: ServingError) -> None:
        self.error = error


class WatchStream(_Open):
    """One health watch: the status now, then each change."""

    def __init__(
        self, connection: HttpConnection, streams: set[InferStream | WatchStream], health: Callable[[str], Health], name: str
    ) -> None:
        super().__init__(connection, streams)
        self._health = health
        self._name = name
        self._last: Health | None = None
        connection.work = self
        streams.add(self)
        self.update()

    def update(self) -> None:
        """Send the status if it is not what was sent last."""
        status = self._health(self._name)
        if status != self._last and not self.over:
            self._last = status
            self.send([messages.health(status)])

    def drain(self) -> None:
        if not self.over:
            self.send([messages.health(Health.NOT_SERVING)])
            self.end(Unavailable(STOPPING))

    def cancel(self) -> None:
        self.over = True
        self._leave()

    def _leave(self) -> None:
        self._streams.discard(self)
