"""Open gRPC streams: ModelStreamInfer, and the health watch.

An InferStream answers in the order of its requests, one answer each; requests to decoupled models run beside these, and each has its own
answers in their order (`several.py`). What goes wrong with one request is an answer too
(`error_message`), and the stream goes on. Bounded: at most about `MAX_PENDING` requests and `MAX_PENDING_BYTES` of a stream are
under way, and a client that does not read its answers is not read from either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

from serving.errors import Code, DeadlineExceeded, NotFound, ServingError, Unavailable, Unsupported
from serving.gateway.call import Call, Served, StreamCall
from serving.gateway.calls import STOPPING
from serving.gateway.client_limits import Client
from serving.gateway.deadlines import DEADLINE
from serving.gateway.grpc_out import GrpcExchange, GrpcOut
from serving.gateway.head import Head
from serving.gateway.ports import Cancellable
from serving.gateway.service import Service
from serving.gateway.several import Several
from serving.gateway.special import submit
from serving.inference import Buffer, InferRequest, InferResponse
from serving.names import version_name
from serving.protocol import messages
from serving.protocol.grpc import GrpcPlan
from serving.protocol.grpc_frame import MessageReader, decompress, parse_timeout
from serving.protocol.grpc_head import GrpcHead
from serving.protocol.messages import Health

MAX_PENDING = 256
MAX_PENDING_BYTES = 64 << 20
DRAIN_S = 1.0
"""How long a stream may go on after its gateway has begun to leave: one that is never without a request under way, or that has had none."""


class Open:
    """What all kinds of stream share: the head, messages, the end with its status.

    Is its connection's `work`, and its `reader` (see `http.BodyReader`).
    """

    def __init__(self, connection: GrpcExchange, out: GrpcOut, streams: set[Any]) -> None:
        self.connection = connection
        self._out = out
        self._streams = streams
        self.over = False
        connection.work = self
        out.begin(connection)

    def send(self, parts: list[Buffer]) -> None:
        """Write one message."""
        self._out.message(self.connection, parts)

    def end(self, error: ServingError | None = None) -> None:
        """Write the status; the stream is over."""
        if self.over:
            return
        self.over = True
        self._leave()
        self._out.end(self.connection, error)

    def cancel(self) -> None:
        """The client has gone: nothing of this stream may cost anything from now on."""
        self.over = True
        self._leave()

    def body(self, parts: list[bytes | memoryview]) -> None:
        """Take what has arrived of the request messages."""

    def requests_end(self) -> None:
        """The client will send no more."""

    def writable(self, yes: bool) -> None:
        """The client reads its answers, or does not."""

    def fail(self, error: ServingError) -> None:
        """End with an error that is not of one request."""
        self.end(error)

    def _leave(self) -> None:
        """Give back what the stream holds."""


class InferStream(Open):
    """One ModelStreamInfer call."""

    def __init__(
        self,
        service: Service,
        split: Callable[[Buffer], GrpcHead],
        connection: GrpcExchange,
        out: GrpcOut,
        head: Head,
        streams: set[Any],
    ) -> None:
        timeout_s = parse_timeout(connection.grpc_timeout.decode("latin-1")) if connection.grpc_timeout else -1.0
        super().__init__(connection, out, streams)
        self._service = service
        self._split = split
        self._max_inflated = service.limits.max_decompressed_bytes
        self._reader = MessageReader(service.limits.max_body_bytes)
        self._forwarded = head.forwarded
        self._encoding = head.headers.get(b"grpc-encoding", b"").decode("latin-1")
        self._visitor = head.visitor
        self._pending: deque[_Slot] = deque()
        self._pending_bytes = 0
        self._several: dict[Several, None] = {}
        """Requests to decoupled models."""
        self._ended = False
        self._used = False
        """Has had a request."""
        self._draining = False
        self._closed = False
        """Takes no more requests: its gateway is leaving."""
        self._writable = True
        self._fails_stream = head.headers.get(b"triton_grpc_error", b"").lower() == b"true"
        self._deadline = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        connection.reader = self
        streams.add(self)
        if timeout_s >= 0:
            self._deadline = monotonic() + timeout_s
            self._after(timeout_s, lambda: self.end(DeadlineExceeded(DEADLINE)))

    def _after(self, delay_s: float, act: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, act))

    # The connection's side

    def body(self, parts: list[bytes | memoryview]) -> None:
        try:
            for part in parts:
                # The reader hands out views, and a request keeps them: `part` is a view of bytes that nobody reuses.
                for message in self._reader.feed(part):  # type: ignore[arg-type]
                    if self.over:
                        return
                    self._take(decompress(message, self._encoding, self._max_inflated))
        except ServingError as error:
            self.end(error)
        if not self.over:
            self._read_on()

    def requests_end(self) -> None:
        try:
            self._reader.finish()
        except ServingError as error:
            self.end(error)
            return
        self._ended = True
        self._flush()

    def writable(self, yes: bool) -> None:
        self._writable = yes
        self._flush()

    def drain(self) -> None:
        """Answer what has been asked, then end with UNAVAILABLE. Also to be called for a stream that opens while its gateway leaves."""
        self._draining = True
        self._after(DRAIN_S, self._take_no_more)
        self._flush()

    def _take_no_more(self) -> None:
        self._closed = True
        self._flush()

    # One request

    def _take(self, message: Buffer) -> None:
        self._used = True
        slot = _Slot(self, len(message))
        self._pending.append(slot)
        self._pending_bytes += slot.nbytes
        try:
            asked = self._split(message)
            slot.id = asked.id
            if self._visitor is not None:
                self._visitor.check(asked.model)
            try:
                served = self._service.versions.resolve(asked.model, asked.version, self.connection, asked)
            except NotFound:
                check_version(asked.version)
                raise
            service = self._service
            client = service.ask(served, self.connection.client) if service.clients is not None else None
            request, plan = served.grpc.decode(asked)
            if self._forwarded:
                service.forwarding.put(request, self._forwarded)
            request.deadline = self._deadline
            if served.decoupled:
                self._submit_several(slot, served, request, plan, client)
            else:
                slot.call = submit(service, served, request, slot, plan, "grpc", client)
        except ServingError as error:
            slot.error = error
            self._flush()

    def _submit_several(self, slot: _Slot, served: Served, request: InferRequest, plan: GrpcPlan, client: Client | None) -> None:
        """Submit a request that may have several answers, and stands in nobody's way. Raises ServingError, with the slot where it was."""
        if plan.special is not None:
            raise Unsupported(f"'{served.model}' is decoupled: its tensors are neither in shared memory nor answered as classes")
        several = Several(self, slot.id, slot.nbytes)
        several.call = cast(StreamCall, self._service.calls.submit(served, request, several, plan, "grpc", client))
        self._pending.pop()
        self._several[several] = None

    def answered_by(self, several: Several) -> None:
        """A request to a decoupled model has something to send."""
        try:
            if self._writable and not self.over and several.send():
                self._several.pop(several, None)
                self._pending_bytes -= several.nbytes
                self._flush()
        except Exception as error:
            self.connection.bug(error)

    def answered(self) -> None:
        """One of the slots has its answer."""
        try:
            self._flush()
        except Exception as error:
            self.connection.bug(error)

    def _flush(self) -> None:
        """Send the answers whose turn it is; end the stream where nothing more is to come."""
        pending = self._pending
        while pending and not self.over and self._writable:
            slot = pending[0]
            if slot.parts is None and slot.error is None:
                break
            pending.popleft()
            self._pending_bytes -= slot.nbytes
            if slot.error is not None:
                self.send_error(slot.error, slot.id)
            else:
                self.send(slot.parts or [])
        for several in list(self._several) if self._several else ():
            if not self.over and self._writable and several.send():
                self._several.pop(several, None)
                self._pending_bytes -= several.nbytes
        if self.over:
            return
        if pending or self._several:
            self._read_on()
        elif self._ended:
            self.end()
        elif self._draining and (self._used or self._closed):
            self.end(Unavailable(STOPPING))
        else:
            self._read_on()

    @property
    def taking(self) -> bool:
        """The client reads its answers."""
        return self._writable

    def send_error(self, error: ServingError, id: str) -> None:
        """Say what went wrong with a request: in its place, or as the end of the stream where the client wants that."""
        if self._fails_stream:
            self.end(error)
        else:
            self.send([messages.stream_error(error.message, id)])

    def _read_on(self) -> None:
        if (
            self._writable
            and not self._closed
            and len(self._pending) + len(self._several) < MAX_PENDING
            and self._pending_bytes < MAX_PENDING_BYTES
        ):
            self.connection.resume_reading()
        else:
            self.connection.pause_reading()

    def _leave(self) -> None:
        self._streams.discard(self)
        for timer in self._timers:
            timer.cancel()
        for slot in self._pending:
            if slot.call is not None and slot.parts is None and slot.error is None:
                slot.call.cancel()
        self._pending.clear()
        for several in self._several:
            several.cancel()
        self._several.clear()


class _Slot:
    """One request of a stream: the owner of its call, and the place of its answer in the order."""

    __slots__ = ("call", "error", "id", "nbytes", "parts", "stream")

    def __init__(self, stream: InferStream, nbytes: int) -> None:
        self.stream = stream
        self.nbytes = nbytes
        self.call: Cancellable | None = None
        self.id = ""
        self.parts: list[Buffer] | None = None
        self.error: ServingError | None = None

    def answer(self, call: Call, response: InferResponse) -> None:
        if response.code is Code.OK:
            try:
                self.parts = messages.stream_response(call.served.grpc.encode(call.plan, response))
            except ServingError as error:
                self.error = error
            except Exception as error:
                self.stream.connection.bug(error)
                return
        else:
            self.error = ServingError(response.message, code=response.code)
        self.stream.answered()


class WatchStream(Open):
    """One health watch: the status now, then each change."""

    def __init__(self, connection: GrpcExchange, out: GrpcOut, streams: set[Any], name: str, status: Health) -> None:
        super().__init__(connection, out, streams)
        self.name = name
        self._last: Health | None = None
        connection.reader = self
        streams.add(self)
        self.update(status)

    def update(self, status: Health) -> None:
        """Send the status if it is not what was sent last."""
        if status != self._last and not self.over:
            self._last = status
            self.send([messages.health(status)])

    def drain(self) -> None:
        self.update(Health.NOT_SERVING)
        self.end(Unavailable(STOPPING))

    def _leave(self) -> None:
        self._streams.discard(self)


def check_version(version: str) -> None:
    """Raise InvalidArgument where a version that nobody has is not even a number: clients look for that text."""
    if version:
        version_name(version)


def check_streams(connection: GrpcExchange) -> None:
    """Raise Unsupported for HTTP/1.1 on TCP: there a client that has gone cannot be told from one that only has no more to send."""
    if not connection.streams:
        raise Unsupported("streams are served on the gRPC port")
