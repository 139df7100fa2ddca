"""What is to be done at the end of a turn of the loop: batchers that got requests, then connections that got answers.

One call per turn, after all frames that arrived in it have been read: so requests of all gateways meet in one batch, and all
answers to one gateway leave in one frame and one write.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from typing import Protocol


class Steps(Protocol):
    def step(self) -> None: ...


class Flushes(Protocol):
    def flush(self) -> None: ...


class Turn:
    """Collects work for the end of this turn; everything is done once, in the order of arrival."""

    __slots__ = ("_flushes", "_loop", "_scheduled", "_steps")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._steps: dict[Steps, None] = {}
        self._flushes: dict[Flushes, None] = {}
        self._scheduled = False

    def wake(self, batcher: Steps) -> None:
        """Have `batcher.step()` called at the end of this turn."""
        self._steps[batcher] = None
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def flush(self, connection: Flushes) -> None:
        """Have `connection.flush()` called at the end of this turn, after the steps."""
        self._flushes[connection] = None
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        steps, self._steps = self._steps, {}
        for batcher in steps:
            try:
                batcher.step()
            except Exception as error:
                self._report(batcher, error)
        flushes, self._flushes = self._flushes, {}
        self._scheduled = bool(self._steps)
        if self._scheduled:
            self._loop.call_soon(self._run)
        for connection in flushes:
            try:
                connection.flush()
            except Exception as error:
                self._report(connection, error)

    def _report(self, whose: object, error: Exception) -> None:
        """A bug costs whom it belongs to; the others of this turn, and the turns to come, go on."""
        self._loop.call_exception_handler({"message": f"bug at the end of a turn of {whose!r}", "exception": error})
