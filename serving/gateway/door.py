"""The door: refuses what a full queue would refuse, before it is decoded.

A request that is refused must cost less than one that is served, or a flood takes the gateway's time from those that are let in: to read
a megabyte of JSON takes some 10 ms. What cannot be known unread is the urgency, whose classes have queues of their own, so a request
that may say one goes on to `Service.submit`, which decides with all that it says. So does every request while there is room.
"""

from __future__ import annotations

from time import monotonic

from serving.gateway.call import Served
from serving.gateway.load import NORMAL
from serving.gateway.service import Service
from serving.inference import Buffer

QUOTES = 100
"""A request of numbers has fewer; where there are more, the tensor is one of strings."""


def check_rest(service: Service, served: Served, body: Buffer, header_length: int | None) -> None:
    """Raise QueueFull for the request with this body where it would be refused in any case. header_length: of the JSON in front."""
    load = served.loads[NORMAL]
    if load.requests >= load.cap:
        head = bytes(memoryview(body)[:header_length])
        if b"\\" not in head and not _says_priority(head):  # a name may be written with escapes
            service.check_full(served, load, monotonic())


def check_grpc(service: Service, served: Served, head: bytes) -> None:
    """The same for a message; head: all of it but raw tensors."""
    load = served.loads[NORMAL]
    if load.requests >= load.cap and b"priority" not in head:
        service.check_full(served, load, monotonic())


def _says_priority(head: bytes) -> bool:
    """Say whether the JSON has that name, or the string. Of a megabyte of numbers only the quotes are looked at: 50 µs, not 2 ms."""
    at = head.find(b'"')
    for _ in range(QUOTES):
        if at < 0 or head.startswith(b'"priority"', at):
            return at >= 0
        at = head.find(b'"', at + 1)
    return head.find(b'"priority"', max(at, 0)) >= 0
