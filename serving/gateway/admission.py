"""Admission: how much one gateway holds at a time, and whose it is. The door is two comparisons while the gateway is half empty.

The bounds protect this process's memory, whatever stands in front of it. When more than half of a bound is taken, a version may hold
so many times what is free: nobody who floods takes the room of the others, and what is left falls to whoever holds least. Urgent
requests get further than ordinary ones, patient ones are the first to be refused. A flood alone ends at 8/9 of the bound (patient:
2/3, urgent: 32/33); two floods at 8/17 each. It is the dynamic threshold of shared-memory switches (Choudhury and Hahne 1998).
What one model takes is bounded by the queue in its replica as well, what one client takes by limits of its own (`client_limits.py`).
"""

from __future__ import annotations

from serving.errors import Unavailable
from serving.gateway.load import Load, Loads
from serving.state import GatewayLimits


class Admission:
    """Requests and payload bytes in flight, of all versions."""

    __slots__ = ("_calm_bytes", "_calm_requests", "inflight_bytes", "inflight_requests", "max_bytes", "max_requests")

    def __init__(self, limits: GatewayLimits) -> None:
        self.inflight_requests = 0
        self.inflight_bytes = 0
        self.limit(limits)

    def limit(self, limits: GatewayLimits) -> None:
        """Take new bounds. What is in flight stays."""
        self.max_requests = limits.max_inflight_requests
        self.max_bytes = limits.max_inflight_bytes
        # Below these no share can be used up: the smallest is twice what is free.
        self._calm_requests = self.max_requests // 2
        self._calm_bytes = self.max_bytes // 2

    @property
    def calm(self) -> bool:
        """Whether less than half of each bound is taken."""
        return self.inflight_requests < self._calm_requests and self.inflight_bytes < self._calm_bytes

    def enter(self, loads: Loads, load: Load, payload_bytes: int) -> None:
        """Count a request in, here and at `load`, one of its version's `loads`. Raises Unavailable when it does not fit.

        A payload larger than `max_bytes` is let in when it is alone: the limit on one body is the protocol's.
        """
        requests = self.inflight_requests
        held = self.inflight_bytes + payload_bytes
        if requests >= self._calm_requests or held > self._calm_bytes:
            self._check(loads, load, payload_bytes)
        self.inflight_requests = requests + 1
        self.inflight_bytes = held
        load.requests += 1
        load.nbytes += payload_bytes

    def _check(self, loads: Loads, load: Load, payload_bytes: int) -> None:
        requests = self.inflight_requests
        held = self.inflight_bytes + payload_bytes
        if requests >= self.max_requests or (held > self.max_bytes and requests):
            raise Unavailable("Server has too many requests in flight, try again", retry_after_s=1.0)
        urgent, normal, patient = loads
        own = urgent.requests + normal.requests + patient.requests
        own_bytes = urgent.nbytes + normal.nbytes + patient.nbytes
        if own >= load.share * (self.max_requests - requests) or (own and own_bytes > load.share * (self.max_bytes - held)):
            raise Unavailable("Server has too many requests of this model in flight, try again", retry_after_s=1.0)

    def leave(self, load: Load, payload_bytes: int) -> None:
        """Count a request out, whatever became of it."""
        self.inflight_requests -= 1
        self.inflight_bytes -= payload_bytes
        load.requests -= 1
        load.nbytes -= payload_bytes

    def __repr__(self) -> str:
        return f"Admission({self.inflight_requests}/{self.max_requests} requests, {self.inflight_bytes}/{self.max_bytes} bytes)"
