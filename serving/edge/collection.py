"""Collection: has every process report now, so that what is read is as fresh as the question.

One round at a time: who asks while one is under way gets the next, because some reports of this one may be older than the question.
A process that does not answer within ROUND_S is counted with its last report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serving.edge.lane import Lane
from serving.errors import Unavailable

ROUND_S = 1.0
MAX_ASKERS = 4096

Done = Callable[[], None]


class Collection:
    """Asks the processes that have joined. Belongs to the keeper's loop."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._number = 0
        self._awaited: set[str] = set()
        self._askers: list[Done] = []
        self._later: list[Done] = []
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, done: Done) -> None:
        """Call `done` when all have reported. Raises Unavailable where too many ask."""
        if len(self._later) >= MAX_ASKERS:
            raise Unavailable("too many ask for statistics at once, try again", retry_after_s=1.0)
        self._later.append(done)
        if self._timer is None:
            self._begin()

    def reported(self, connection: str, lane: Lane, number: int) -> None:
        """Note a report; the first one joins. `number` of the round that it answers, 0 = it came by itself."""
        self._lanes[connection] = lane
        if number == self._number:
            self._no_longer_awaits(connection)

    def leave(self, connection: str) -> None:
        """The process has gone."""
        self._lanes.pop(connection, None)
        self._no_longer_awaits(connection)

    def close(self) -> None:
        """Answer nobody any more."""
        self._askers.clear()
        self._later.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        self._askers, self._later = self._later, []
        self._number += 1
        self._awaited = set(self._lanes)
        self._timer = asyncio.get_running_loop().call_later(ROUND_S if self._awaited else 0.0, self._end)
        for lane in self._lanes.values():
            lane.send({"want": self._number})

    def _no_longer_awaits(self, connection: str) -> None:
        if connection in self._awaited:
            self._awaited.discard(connection)
            if not self._awaited:
                self._end()

    def _end(self) -> None:
        self._awaited.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        askers, self._askers = self._askers, []
        for done in askers:
            done()
        if self._later and self._timer is None:
            self._begin()
