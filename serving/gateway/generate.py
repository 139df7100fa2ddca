"""`generate` and `generate_stream`: plain JSON in, and out one JSON object, or server-sent events as the model gives its answers.

An error before the first answer is an ordinary one, with its status; later it is an event, for the status has gone. A stream of events
is held back by a client that does not read it, and cancelled by one that closes: here end-of-file means that, for no client of events
sends half-closed.
"""

from __future__ import annotations

from collections import deque
from typing import cast

from serving.errors import Code, Internal, ServingError, from_code
from serving.gateway.call import Call, Served, StreamCall
from serving.gateway.http_exchange import HttpExchange
from serving.gateway.service import Service
from serving.inference import Buffer, InferResponse
from serving.protocol.generate import ONE_EXPECTED, GeneratePlan
from serving.protocol.status import error_json

_START = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"


def generate(service: Service, connection: HttpExchange, body: Buffer, model: str, version: str) -> None:
    """Answer with one JSON object."""
    served = service.versions.resolve(model, version, connection, body)
    _submit(service, served, connection, body, Single(connection))


def generate_stream(service: Service, connection: HttpExchange, body: Buffer, model: str, version: str) -> None:
    """Answer with an event for each answer of the model."""
    served = service.versions.resolve(model, version, connection, body)
    events = Events(connection)
    events.call = _submit(service, served, connection, body, events)
    connection.work = events
    connection.reader = events


def _submit(service: Service, served: Served, connection: HttpExchange, body: Buffer, owner: Single | Events) -> Call:
    client = service.ask(served, connection.client) if service.clients is not None else None
    request, plan = served.generate.decode(body)
    if connection.head.forwarded:
        service.forwarding.put(request, connection.head.forwarded)
    call = service.calls.submit(served, request, owner, plan, "rest", client)
    connection.work = call
    return call


class Single:
    """Owner of the call of a `generate`, which has to have exactly one answer."""

    __slots__ = ("_body", "_connection")

    def __init__(self, connection: HttpExchange) -> None:
        self._connection = connection
        self._body: bytes | None = None

    def part(self, call: StreamCall, response: InferResponse) -> None:
        """Keep the first answer; a second one is one too many."""
        connection = self._connection
        try:
            if self._body is not None:
                raise Internal(ONE_EXPECTED)
            self._body = _encode(call, response)
        except ServingError as error:
            call.cancel()
            connection.fail(error)
        except Exception as bug:
            connection.bug(bug)
        else:
            call.took(1)

    def answer(self, call: Call, response: InferResponse) -> None:
        """Answer, now that it is known that there is no more."""
        connection = self._connection
        try:
            if response.code is not Code.OK:
                raise from_code(response.code, response.message, response.retry_after_s)
            body = self._body if response.layout is None else _encode(call, response)
            if body is None:
                raise Internal(ONE_EXPECTED)
            connection.respond(200, b"application/json", body)
        except ServingError as error:
            connection.fail(error)
        except Exception as bug:
            connection.bug(bug)


class Events:
    """Owner of the call of a `generate_stream`, and its connection's `work` and `reader`."""

    __slots__ = ("_begun", "_connection", "_over", "_waiting", "_writable", "call")

    def __init__(self, connection: HttpExchange) -> None:
        self.call: Call | None = None
        self._connection = connection
        self._begun = False
        self._over = False
        """There are no more answers."""
        self._waiting: deque[bytes] = deque()
        self._writable = True

    # The call's side

    def part(self, call: StreamCall, response: InferResponse) -> None:
        """Take one of the answers."""
        try:
            self._waiting.append(_encode(call, response))
            self._flush()
        except ServingError as error:
            call.cancel()
            self.fail(error)
        except Exception as bug:
            self._connection.bug(bug)

    def answer(self, call: Call, response: InferResponse) -> None:
        """Take the only answer, or the end of them, or an error instead."""
        try:
            if response.code is not Code.OK:
                raise from_code(response.code, response.message, response.retry_after_s)
            if response.layout is not None:
                self._waiting.append(_encode(call, response))
            self._over = True
            self._flush()
        except ServingError as error:
            self.fail(error)
        except Exception as bug:
            self._connection.bug(bug)

    # The connection's side

    def body(self, parts: list[bytes | memoryview]) -> None:
        """The body has been read before."""

    def requests_end(self) -> None:
        """See `body`."""

    def writable(self, yes: bool) -> None:
        """The client reads its events, or does not."""
        self._writable = yes
        self._flush()

    def cancel(self) -> None:
        """The client has gone."""
        self._over = True
        self._waiting.clear()
        if self.call is not None:
            self.call.cancel()

    def fail(self, error: ServingError) -> None:
        """End with an error: as the whole answer, or as the last event."""
        if self.call is not None:
            self.call.cancel()
        if not self._writable and error.code is Code.DEADLINE_EXCEEDED:
            self._connection.abort()  # it was the client that took too long, and it would not hear us
        elif self._begun or self._waiting:
            self._waiting.append(error_json(error.message))
            self._over = True
            self._flush()
        else:
            self._connection.reader = None
            self._connection.fail(error)

    def _flush(self) -> None:
        """Write the events that the client has room for, and the end."""
        connection = self._connection
        waiting = self._waiting
        if not self._begun and (waiting or self._over):
            self._begin()
        sent = 0
        while waiting and self._writable:
            event = b"data: %s\n\n" % waiting.popleft()
            connection.write_raw(b"%x\r\n%s\r\n" % (len(event), event) if connection.head.chunks else event)
            sent += 1
        if sent and isinstance(self.call, StreamCall):
            self.call.took(sent)
        if self._over and not waiting and connection.reader is self:
            if connection.head.chunks:
                connection.write_raw(b"0\r\n\r\n")
            connection.finish(close=not connection.head.chunks)

    def _begin(self) -> None:
        """Write the head. A client of HTTP/1.0 knows no chunks: its answer ends with the connection."""
        self._begun = True
        connection = self._connection
        chunks = connection.head.chunks
        coding = b"Transfer-Encoding: chunked\r\n" if chunks else b""
        close = b"Connection: close\r\n" if connection.closes() or not chunks else b""
        connection.write_raw(b"%s%s%s\r\n" % (_START, coding, close))


def _encode(call: Call, response: InferResponse) -> bytes:
    return call.served.generate.encode(cast(GeneratePlan, call.plan), response)
