"""SlowLane: work that takes far more time than its bytes tell, a slice of one connection in each turn of the loop.

Ten thousands of chunks of one byte are a body that HTTP allows. Whoever sends such bodies, and however many do so, the others
wait for one slice a turn.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable


class SlowLane:
    """Lives in the loop's thread. As long as the connections that have joined, which join once each."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], bool]] = deque()

    def join(self, slice_of_work: Callable[[], bool]) -> None:
        """Have it called once in a while, until it returns False."""
        self._waiting.append(slice_of_work)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        waiting = self._waiting
        if waiting[0]():
            waiting.rotate(-1)
        else:
            waiting.popleft()
        if waiting:
            self._loop.call_soon(self._turn)

    def __repr__(self) -> str:
        return f"SlowLane({len(self._waiting)} waiting)"
