"""Admission: how much one gateway holds at a time. Two counters and two bounds; the door is a comparison.

The bounds protect this process's memory, whatever stands in front of it. What one model takes is bounded by the queue
in its replica, what one client takes by limits of its own.
"""

from __future__ import annotations

from serving.errors import Unavailable
from serving.state import GatewayLimits


class Admission:
    """Requests and payload bytes in flight."""

    __slots__ = ("inflight_bytes", "inflight_requests", "max_bytes", "max_requests")

    def __init__(self, limits: GatewayLimits) -> None:
        self.inflight_requests = 0
        self.inflight_bytes = 0
        self.limit(limits)

    def limit(self, limits: GatewayLimits) -> None:
        """Take new bounds. What is in flight stays."""
        self.max_requests = limits.max_inflight_requests
        self.max_bytes = limits.max_inflight_bytes

    def enter(self, payload_bytes: int) -> None:
        """Count a request in. Raises Unavailable when it does not fit.

        A payload larger than `max_bytes` is let in when it is alone: the limit on one body is the protocol's.
        """
        requests = self.inflight_requests
        held = self.inflight_bytes + payload_bytes
        if requests >= self.max_requests or (held > self.max_bytes and requests):
            raise Unavailable("Server has too many requests in flight, try again", retry_after_s=1.0)
        self.inflight_requests = requests + 1
        self.inflight_bytes = held

    def leave(self, payload_bytes: int) -> None:
        """Count a request out, whatever became of it."""
        self.inflight_requests -= 1
        self.inflight_bytes -= payload_bytes

    def __repr__(self) -> str:
        return f"Admission({self.inflight_requests}/{self.max_requests} requests, {self.inflight_bytes}/{self.max_bytes} bytes)"
