"""What a connection asks of those around it: its server, the reader of a stream, the work that is under way for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from serving.errors import ServingError
from serving.gateway.head import HeadCache
from serving.state import GatewayLimits


class Cancellable(Protocol):
    """What is under way for a connection: a call, or a stream of them."""

    def cancel(self) -> None:
        """The client has gone: end the work, never answer."""


class BodyReader(Protocol):
    """Takes a chunked body as it comes."""

    def body(self, parts: list[bytes | memoryview]) -> None: ...

    def requests_end(self) -> None: ...

    def writable(self, yes: bool) -> None: ...

    def fail(self, error: ServingError) -> None:
        """End the answer, which has begun, with this error."""


class Slices(Protocol):
    """Takes work that would keep others waiting (`turns.Turns`)."""

    def join(self, step: Callable[[], bool]) -> None:
        """Have `step` called, a slice of work each time, until it returns False."""


class Exchange(Protocol):
    """One request as its action sees it, on whatever kind of connection; the same object is the owner of the request's call."""

    work: Cancellable | None

    def fail(self, error: ServingError, close: bool = False) -> None:
        """Answer with the error."""

    def bug(self, error: Exception) -> None:
        """Report what should not have happened, and end the request with it."""


class Host(Protocol):
    """What a connection needs of its server."""

    heads: HeadCache
    limits: GatewayLimits
    draining: bool
    connections: set[Any]
    arriving_bytes: int
    """What has come of all bodies that are not complete; at most `limits.max_inflight_bytes`."""

    edge_told: bool
    """The edge has asked after our health and heard that we leave."""

    @property
    def turns(self) -> Slices:
        """For what takes far more time than its bytes tell."""

    def body_buffer(self, nbytes: int) -> memoryview | None:
        """Return shared memory for a large body, None where there is none."""

    def become_http2(self, transport: asyncio.Transport) -> Any:
        """Return the protocol that takes a connection over whose client speaks HTTP/2."""

    def note_request(self) -> None:
        """A request was answered although we are draining: the leaving waits for quiet."""

    def now(self) -> float:
        """Seconds, advanced about once a second: good enough for time-outs, free to read."""
