"""Several: one request of a gRPC stream to a decoupled model. Owner of its call, keeper of the answers that the client has not room for."""

from __future__ import annotations

from collections import deque
from typing import Protocol, cast

from serving.errors import Code, ServingError
from serving.gateway.call import Call, StreamCall
from serving.gateway.ports import Exchange
from serving.inference import Buffer, InferResponse
from serving.protocol import messages
from serving.protocol.grpc import GrpcPlan


class Outlet(Protocol):
    """The stream, as far as one of its requests knows it."""

    over: bool

    @property
    def connection(self) -> Exchange: ...

    @property
    def taking(self) -> bool:
        """The client reads its answers."""

    def send(self, parts: list[Buffer]) -> None: ...

    def send_error(self, error: ServingError, id: str) -> None: ...

    def answered_by(self, several: Several) -> None: ...


class Several:
    """At most as many answers wait here as the replica sends ahead (`batching/streams.py`)."""

    __slots__ = ("_end", "_error", "_outlet", "_waiting", "call", "id", "nbytes")

    def __init__(self, outlet: Outlet, id: str, nbytes: int) -> None:
        self.call: StreamCall | None = None
        self.id = id
        self.nbytes = nbytes
        self._outlet = outlet
        self._waiting: deque[list[Buffer]] = deque()
        self._error: ServingError | None = None
        self._end: list[Buffer] | None = None
        """What to say when there are no more answers, which may be nothing; None while there are."""

    def part(self, call: StreamCall, response: InferResponse) -> None:
        """Take one of the answers."""
        try:
            message = call.served.grpc.encode(cast(GrpcPlan, call.plan), response)
        except ServingError as error:
            call.cancel()
            self._finish([], error)
            return
        self._waiting.append(messages.stream_response(message, final=False))
        self._outlet.answered_by(self)

    def answer(self, call: Call, response: InferResponse) -> None:
        """Take the end of the answers, or an error instead."""
        if response.code is not Code.OK:
            self._finish([], ServingError(response.message, code=response.code))
        elif cast(GrpcPlan, call.plan).answer.empty_final:
            self._finish([messages.stream_end(response.model, response.version, self.id)], None)
        else:
            self._finish([], None)

    def _finish(self, end: list[Buffer], error: ServingError | None) -> None:
        self._end = end
        self._error = error
        self._outlet.answered_by(self)

    def send(self) -> bool:
        """Send what the client has room for. Returns whether that was the last of it."""
        outlet = self._outlet
        waiting = self._waiting
        sent = 0
        while waiting and outlet.taking and not outlet.over:
            outlet.send(waiting.popleft())
            sent += 1
        if self._end is None:
            if sent and self.call is not None:
                self.call.took(sent)
            return False
        if waiting or not outlet.taking or outlet.over:
            return False
        if self._error is not None:
            outlet.send_error(self._error, self.id)
        elif self._end:
            outlet.send(self._end)
        return True

    def cancel(self) -> None:
        """The client has gone."""
        self._waiting.clear()
        if self.call is not None:
            self.call.cancel()

    def __repr__(self) -> str:
        return f"Several({self.call!r}, {len(self._waiting)} answers waiting{', ended' if self._end is not None else ''})"
