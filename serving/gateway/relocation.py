"""Relocation: calls whose replica is lost go to another one, or wait for one to appear. See `calls.py`, "The life of a call"."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from serving.errors import DeadlineExceeded, ReplicaLost, ServingError
from serving.gateway.call import Call, Pool
from serving.gateway.deadlines import DEADLINE
from serving.inference import SequenceRequest
from serving.sequence import lost

MAX_WAITING = 4096
"""Calls of lost replicas that may wait for another one, of all versions together."""


class Relocation:
    """Of one gateway. `pool` returns the replicas of a version key; `fail` ends a call; `wait_s`: for another replica."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pool: Callable[[str], Pool | None], fail: Callable[[Call, ServingError], None], wait_s: float
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._fail = fail
        self._wait_s = wait_s
        self._waiting: dict[Call, None] = {}
        """Oldest first."""
        self._closed = False

    def lost(self, sent: list[Call], unsent: list[Call], now: float) -> None:
        """Move the calls of a lost replica, or answer them. Those that had been sent may have run: they move once, or never."""
        waiting: list[Call] = []
        for call in sent:
            if not call.open:
                continue
            if call.lane is not None or call.attempt or call.served.at_most_once or call.parts:
                self._fail(call, _replica_lost(call))
            elif 0.0 < call.request.deadline <= now:
                self._fail(call, DeadlineExceeded(DEADLINE))
            else:
                call.attempt = 1
                self._move(call, waiting)
        for call in unsent:
            if call.open and call.lane is not None:
                self._fail(call, _replica_lost(call))
            elif call.open:
                self._move(call, waiting)
        if waiting:
            self._loop.call_later(self._wait_s, self._give_up, waiting)

    def _move(self, call: Call, waiting: list[Call]) -> None:
        """Send the call elsewhere; where there is nowhere, have it wait."""
        if self._send(call):
            return
        if len(self._waiting) < MAX_WAITING and not self._closed:
            self._waiting[call] = None
            waiting.append(call)
        else:
            self._fail(call, _replica_lost(call))

    def _send(self, call: Call) -> bool:
        pool = self._pool(call.served.key)
        channel = pool.pick() if pool is not None else None
        if channel is None:
            return False
        call.channel = channel
        channel.send(call)
        return True

    def _give_up(self, calls: list[Call]) -> None:
        for call in calls:
            if call in self._waiting:
                del self._waiting[call]
                self._fail(call, _replica_lost(call))

    def retry(self) -> None:
        """Send the calls that wait, where there are replicas now."""
        for call in list(self._waiting):
            if self._send(call):
                del self._waiting[call]

    def forget(self, call: Call) -> None:
        """The call ends otherwise."""
        self._waiting.pop(call, None)

    def close(self) -> list[Call]:
        """Return the calls that wait; no more will."""
        self._closed = True
        return list(self._waiting)

    def __repr__(self) -> str:
        return f"Relocation({len(self._waiting)} waiting)"


def _replica_lost(call: Call) -> ReplicaLost:
    served = call.served
    if call.lane is not None:
        return ReplicaLost(lost(served.model, cast(SequenceRequest, call.request).step.id), retry_after_s=1.0)
    return ReplicaLost(f"The replica of model '{served.model}' version {served.version} was lost with the request in it", retry_after_s=1.0)
