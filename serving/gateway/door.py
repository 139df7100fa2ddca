"""The door: refuses what a full queue would refuse, before it is decoded.

A request that is refused must cost less than one that is served, or a flood takes the gateway's time from those that are let in: to read
a megabyte of JSON takes some 10 ms. What cannot be known unread is the urgency, whose classes have queues of their own, so a request
that may say one goes on to `Calls.submit`, which decides with all that it says. So does every request while there is room.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Final

from serving.gateway.call import Served
from serving.gateway.load import NORMAL
from serving.gateway.service import Service
from serving.inference import Buffer

QUOTES = 100
"""A request of numbers has fewer; where there are more, the tensor is one of strings."""
WINDOW_BYTES = 64 * 1024
"""So much of a JSON text is copied to be looked at: 60 µs a megabyte, and no memory that is new to the process."""
_PRIORITY: Final = b'"priority"'


def check_rest(service: Service, served: Served, body: Buffer, header_length: int | None) -> None:
    """Raise QueueFull for the request with this body where it would be refused in any case. header_length: of the JSON in front."""
    load = served.loads[NORMAL]
    if load.requests >= load.cap and not _may_be_urgent(memoryview(body)[:header_length]):
        service.calls.check_full(served, load, monotonic())


def check_large(service: Service, candidates: Sequence[Served], body: Buffer) -> None:
    """The same for JSON of which it is not known yet which of the `candidates` answers it: all of them would have to refuse it."""
    now = monotonic()
    if all(served.loads[NORMAL].capped(now) for served in candidates) and not _may_be_urgent(memoryview(body)):
        service.calls.check_full(candidates[0], candidates[0].loads[NORMAL], now)


def check_grpc(service: Service, served: Served, head: bytes) -> None:
    """The same for a message; head: all of it but raw tensors."""
    load = served.loads[NORMAL]
    if load.requests >= load.cap and b"priority" not in head:
        service.calls.check_full(served, load, monotonic())


def _may_be_urgent(text: memoryview) -> bool:
    """Say whether the JSON has that name, or the string, or a name that is written with escapes."""
    for at in range(0, len(text), WINDOW_BYTES):
        window = bytes(text[at : at + WINDOW_BYTES + len(_PRIORITY) - 1])
        if b"\\" in window or _says_priority(window):
            return True
    return False


def _says_priority(text: bytes) -> bool:
    """Of a megabyte of numbers only the quotes are looked at: 50 µs, not 0.5 ms."""
    at = text.find(b'"')
    for _ in range(QUOTES):
        if at < 0 or text.startswith(_PRIORITY, at):
            return at >= 0
        at = text.find(b'"', at + 1)
    return text.find(_PRIORITY, max(at, 0)) >= 0
