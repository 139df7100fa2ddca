"""Busy polling: a replica that has just answered a lone request looks for the next one for a moment before it sleeps.

A client that sends its next request when it has the answer is back within some 100 µs. A process that went to sleep meanwhile pays
for the wake-up, and then runs on cold caches: the same small model takes 200 instead of 120 µs. Looking without sleeping costs no
more CPU than that. It is only done where it pays: after lone requests (a full batch has other work behind it, and the gateway needs
the processor), while requests do come back that soon, and as long as nobody else waits for this processor.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from os import sched_yield
from time import monotonic

LONGEST_S = 0.0005
LONE_REQUESTS = 2
"""More requests than this in one frame are a load that keeps the replica awake by itself."""
STOLEN_S = 0.0001
"""A look takes 3 µs. One that takes so long had to wait for somebody who needs the processor."""
CONFIDENT = 4
"""Requests in a row that came soon enough, before it is worth looking for the next."""


class Polling:
    """When to look instead of sleep. The loop's own poll does the looking: a callback that is always due keeps it from sleeping."""

    __slots__ = ("_clock", "_confidence", "_last_look", "_lone", "_looking", "_loop", "_rested", "_until")

    def __init__(self, loop: AbstractEventLoop, clock: Callable[[], float] = monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._confidence = 0
        self._lone = False
        self._rested = 0.0
        self._until = 0.0
        self._last_look = 0.0
        self._looking = False

    def arrived(self, now: float, requests: int) -> None:
        """Take note of a frame of requests."""
        self._until = 0.0
        self._lone = requests <= LONE_REQUESTS
        if now - self._rested <= LONGEST_S:
            if self._confidence < CONFIDENT:
                self._confidence += 1
        else:
            self._confidence = 0

    def rest(self) -> None:
        """Call when all that came has been answered: look for the next request, where it is likely to come soon."""
        now = self._rested = self._last_look = self._clock()
        if self._lone and self._confidence >= CONFIDENT:
            self._until = now + LONGEST_S
            if not self._looking:
                self._looking = True
                self._loop.call_soon(self._look)

    def _look(self) -> None:
        now = self._clock()
        if now >= self._until or now - self._last_look > STOLEN_S:
            self._looking = False
            return
        sched_yield()
        self._last_look = self._clock()
        if self._last_look - now > STOLEN_S:
            self._confidence = 0
            self._looking = False
            return
        self._loop.call_soon(self._look)

    def __repr__(self) -> str:
        return f"Polling({'looking' if self._looking else 'asleep'}, confidence {self._confidence})"
