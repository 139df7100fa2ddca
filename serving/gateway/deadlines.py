"""Deadlines: which calls are over at a given time. A timer wheel in two steps; knows no clock and no loop.

A call lies in a set of calls that end in the same tick and leaves it when it is answered, so a client that asks for a
minute with every request leaves nothing behind. Ticks are 4 ms while the end is near; further away calls lie by the
second and are sorted again when their second comes. A call is never called over before its deadline, at most one tick after.
"""

from __future__ import annotations

from heapq import heappop, heappush

from serving.gateway.call import Call

DEADLINE = "Deadline Exceeded"
"""What a client hears whose call was over before its answer came."""
TICKS_PER_S = 256
_NEAR_S = 2


class Deadlines:
    """Open calls by deadline. Times in seconds on time.monotonic()."""

    __slots__ = ("_far", "_heap", "_near")

    def __init__(self) -> None:
        self._near: dict[int, set[Call]] = {}
        self._far: dict[int, set[Call]] = {}
        self._heap: list[int] = []
        """Ticks at which something is to be done: the keys of `_near`, and those of `_far` in ticks."""

    def add(self, call: Call, deadline: float, now: float) -> bool:
        """Put the call in. Returns true when it is now due before all others: a timer has to be set anew."""
        if deadline - now > _NEAR_S:
            second = int(deadline)
            bucket = self._far.get(second)
            if bucket is None:
                # Sorted again a second early, so that near ticks are all in the future then.
                bucket = self._far[second] = set()
                return self._push(call, bucket, (second - 1) * TICKS_PER_S)
        else:
            tick = int(deadline * TICKS_PER_S) + 1
            bucket = self._near.get(tick)
            if bucket is None:
                bucket = self._near[tick] = set()
                return self._push(call, bucket, tick)
        bucket.add(call)
        call.bucket = bucket
        return False

    def _push(self, call: Call, bucket: set[Call], tick: int) -> bool:
        bucket.add(call)
        call.bucket = bucket
        heap = self._heap
        heappush(heap, tick)
        return heap[0] == tick

    def next(self) -> float:
        """Return the time at which `due` has something to do; 0.0 when nothing is in here."""
        return self._heap[0] / TICKS_PER_S if self._heap else 0.0

    def due(self, now: float) -> list[Call]:
        """Return the calls whose deadline is over, and forget them."""
        over: list[Call] = []
        heap = self._heap
        tick_now = int(now * TICKS_PER_S)
        while heap and heap[0] <= tick_now:
            tick = heappop(heap)
            bucket = self._near.pop(tick, None)
            if bucket is not None:
                over.extend(bucket)
            if not tick % TICKS_PER_S:
                for call in self._far.pop(tick // TICKS_PER_S + 1, ()):
                    deadline = call.request.deadline
                    if deadline <= now:
                        over.append(call)
                    else:
                        self.add(call, deadline, now)
        for call in over:
            call.bucket = None
        return over

    def __len__(self) -> int:
        return sum(map(len, self._near.values())) + sum(map(len, self._far.values()))

    def __repr__(self) -> str:
        return f"Deadlines({len(self)} calls, next at {self.next():.3f})"
