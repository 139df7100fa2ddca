"""Load: how much is sent, in which shape, for how long, and from how many processes and connections."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.bench.arrivals import Arrivals
from serving.errors import InvalidArgument

PLAIN_SETTINGS = (
    "duration_s",
    "max_requests",
    "warm_up_s",
    "processes",
    "connections",
    "streams",
    "new_connection",
    "timeout_s",
    "check_share",
    "seed",
)
"""The fields of a Load that a scenario and the command line set as they are."""


@dataclass(frozen=True, slots=True)
class Closed:
    """`concurrency` requests are under way all the time: the next is sent when one is answered."""

    concurrency: int

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InvalidArgument(f"concurrency {self.concurrency}, expected at least 1")


@dataclass(frozen=True, slots=True)
class Open:
    """Requests start when `arrivals` say so, whatever the server does. A latency counts from the intended start.

    `max_in_flight` bounds what has been sent and not been answered; what is due beyond it waits in the client, and the waiting counts.
    """

    arrivals: Arrivals
    max_in_flight: int = 1024

    def __post_init__(self) -> None:
        if self.max_in_flight < 1:
            raise InvalidArgument(f"max_in_flight {self.max_in_flight}, expected at least 1")


@dataclass(frozen=True, slots=True)
class Load:
    """One run.

    duration_s      of the measurement, behind warm_up_s; 0: until max_requests are answered
    max_requests    of the measurement; 0: until duration_s is over
    warm_up_s       the same load before the measurement, not counted
    processes       that share all numbers of this class evenly
    connections     at most; 0: as many as the requests in flight need. An open loop opens them when it needs them
    streams         requests at a time on one connection (HTTP/2 only)
    new_connection  a connection per request; its making counts
    timeout_s       for connecting, and for each request from its sending on; its connection (HTTP/1.1) or stream ends then,
                    or up to 0.25 s later
    drain_s         how long the answers under way at the end are waited for; what misses it is an error "not answered"
    check_share     the share of answers in [0, 1] that Request.check gets; an answer equal to the last checked one byte for byte needs
                    no second look and does not take from it
    """

    shape: Closed | Open
    duration_s: float = 10.0
    max_requests: int = 0
    warm_up_s: float = 0.0
    processes: int = 1
    connections: int = 0
    streams: int = 1
    new_connection: bool = False
    timeout_s: float = 20.0
    drain_s: float = 5.0
    check_share: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("duration_s", "warm_up_s", "drain_s", "max_requests", "connections"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InvalidArgument(f"{name} {value}, expected at least 0")
        if not self.duration_s and not self.max_requests:
            raise InvalidArgument("a load without an end: expected duration_s or max_requests above 0")
        if self.processes < 1 or self.streams < 1:
            raise InvalidArgument(f"{self.processes} processes with {self.streams} streams a connection, expected at least 1 of each")
        if not 0 < self.timeout_s < math.inf:
            raise InvalidArgument(f"timeout_s {self.timeout_s}, expected more than 0")
        if not 0 <= self.check_share <= 1:
            raise InvalidArgument(f"check_share {self.check_share}, expected 0 to 1")
        if self.processes > self.in_flight:
            raise InvalidArgument(
                f"{self.processes} processes for {self.in_flight} requests in flight, expected at most one process for each"
            )

    @property
    def in_flight(self) -> int:
        """Requests under way at the same time, at most."""
        return self.shape.concurrency if isinstance(self.shape, Closed) else self.shape.max_in_flight
