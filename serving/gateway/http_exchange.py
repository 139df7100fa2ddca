"""HttpExchange: one request over HTTP/1.1 as its action sees it: what was asked, by whom, and the ways to answer.

Also the owner of the call that the action starts. A connection has one request at a time, so it is its own exchange and no request
costs an object (`http.HttpConnection`); over HTTP/2 an `Http2Stream` is what this is.

An exception that is no ServingError is a bug: it is reported to the loop's exception handler and costs its request alone (500).
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from typing import Any, cast

from serving.access.credential import CHALLENGE
from serving.errors import Internal, ServingError
from serving.gateway.client_connection import ClientConnection
from serving.gateway.client_limits import address_name
from serving.gateway.head import NO_HEAD, Head
from serving.gateway.ports import BodyReader, Cancellable, Host
from serving.inference import Buffer
from serving.protocol.status import error_json, http_status

SMALL_BYTES = 64 * 1024
"""Bodies up to this size are joined with their head before they are written: one copy is cheaper than a second iovec."""

_REASONS = {
    200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large", 415: b"Unsupported Media Type", 417: b"Expectation Failed", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 499: b"Client Closed Request", 500: b"Internal Server Error", 501: b"Not Implemented",
    503: b"Service Unavailable", 504: b"Gateway Timeout",
}  # fmt: skip


class HttpExchange(ClientConnection, ABC):
    """What comes before a request and behind its answer is its heirs' matter."""

    __slots__ = (
        "_address",
        "_last",
        "_transport",
        "_unread",
        "busy",
        "grpc_timeout",
        "head",
        "host",
        "plan",
        "reader",
        "trusted",
        "work",
    )

    def __init__(self, host: Host, trusted: bool) -> None:
        self.host = host
        self.trusted = trusted
        """On the Unix socket, behind the edge: headers that the edge sets may be believed."""
        self._transport = cast(asyncio.Transport, None)
        self._address = b""
        self._last = False
        """The connection ends with the next answer."""
        self._unread = False
        """The client may still be sending what was refused."""
        self.head: Head = NO_HEAD
        self.busy = False
        """A request has been handed to its action and is not answered yet."""
        self.work: Cancellable | None = None
        self.plan: Any = None
        """Whatever the action wants to find again when the answer comes."""
        self.reader: BodyReader | None = None
        self.grpc_timeout = b""

    # Who asks ------------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> bool:
        """True where end-of-file means that the client has gone: only then streams can be served."""
        return self.trusted

    @property
    def client(self) -> bytes:
        """Who asks, for limits per client: what the declared header says, else the address (behind the edge the one that it tells)."""
        return self.head.client or self.address

    @property
    def address(self) -> bytes:
        """Return the name of the client's address."""
        if self.trusted:
            return address_name(self.head.headers.get(b"x-serving-client", b"").decode("latin-1"))
        if not self._address:
            peer = self._transport.get_extra_info("peername")
            self._address = address_name(str(peer[0])) if peer else b"?"
        return self._address

    # The call's side -----------------------------------------------------------------------------------------------

    def answer(self, call: Any, response: Any) -> None:
        """The call that the action submitted has its answer."""
        answer = self.head.action.answer
        assert answer is not None
        try:
            answer(self, call, response)
        except Exception as error:
            self.bug(error)

    # The action's side ---------------------------------------------------------------------------------------------

    @abstractmethod
    def closes(self) -> bool:
        """True when the connection ends with this answer; the answer must then say so."""

    @abstractmethod
    def _answered(self, close: bool) -> None:
        """The answer has been written: go on with the next request, or end the connection."""

    def write_answer(self, head: bytes, parts: list[Buffer], total: int, close: bool) -> None:
        """Write a whole answer: `head` says length and `close`, `parts` are about `total` bytes. The hot path of every prediction."""
        if total <= SMALL_BYTES:
            self._transport.write(b"".join((head, *parts)))
        else:
            self._transport.writelines([head, *parts])
        self._answered(close)

    def write_raw(self, data: bytes) -> None:
        """Write part of an answer (streams)."""
        self._transport.write(data)

    def finish(self, close: bool = False) -> None:
        """The answer of a stream is complete."""
        self._answered(close or self.closes())

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"", close: bool = False) -> None:
        """Write one whole answer of a rare kind. `extra` holds whole header lines, each with its CR LF."""
        length = len(body)
        if self.head.method == b"HEAD":
            body = b""
        close = close or self.closes()
        lines = [
            b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b"Status")),
            b"Content-Type: %s\r\n" % content_type if length else b"",
            b"Content-Length: %d\r\n" % length,
            extra,
            b"Connection: close\r\n\r\n" if close else b"\r\n",
            body,
        ]
        self._transport.write(b"".join(lines))
        self._answered(close)

    def fail(self, error: ServingError, close: bool = False) -> None:
        """Answer with the error in the form of the protocol that the client speaks.

        close: the rest of the request cannot be read or is not wanted, so the connection ends with this answer.
        """
        if close:
            self._last = self._unread = True
        if self.reader is not None:
            self.reader.fail(error)
        elif self.head.action.fail is not None:
            self.head.action.fail(self, error)
        else:
            status = http_status(error.code)
            extra = b"Retry-After: %d\r\n" % max(1, math.ceil(error.retry_after_s)) if error.retry_after_s or status == 503 else b""
            if status == 401:
                extra += CHALLENGE
            self.respond(status, b"application/json", error_json(error.message), extra)

    def _refuse(self, status: int, text: str) -> None:
        """Answer what is no request that an action could fail; its rest is not wanted."""
        self._last = self._unread = True
        self.respond(status, b"application/json", error_json(text))

    def bug(self, error: Exception) -> None:
        """Report what should not have happened, and end the request with it: its client must not wait for ever."""
        asyncio.get_running_loop().call_exception_handler({"message": f"bug in the answer to {self.head!r}", "exception": error})
        if self.head is NO_HEAD or self.busy:
            work, self.work = self.work, None
            if work is not None and self.reader is None:
                work.cancel()
            try:
                self.fail(Internal("internal error of the gateway"), close=True)
            except Exception:
                self._transport.abort()
