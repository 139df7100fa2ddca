"""Lanes: which replica has which sequence, and the way of its requests there, in order.

Gateways share no memory, so none of them owns that knowledge; the replica that keeps a sequence's state does. What a gateway has is
    - the slot table: 1,024 slots, each with the replicas in an order that follows from their names alone (rendezvous hashing), the same
      in every gateway; an id belongs to a slot. A replica that comes takes over its share of the slots, and no others change;
    - a memory of the sequences that came this way, and where they were found.
START goes to the first replica of the slot that has room, and all other replicas are told to forget the sequence before the answer leaves:
so at most one replica knows a sequence, whatever any gateway believed. Another request goes where the sequence was last, else along the
slot's order; a replica that does not have it says so, without running anything, and the next one is asked. So live sequences stay where
they are when replicas come, and every gateway finds them.

The requests of one sequence leave in order: those behind a START, or behind one that is being asked around, wait for its answer here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from time import monotonic
from typing import Protocol, cast
from zlib import crc32

from serving.errors import Code, ServingError, Unavailable
from serving.gateway.call import Call, Channel, Deliver, Description
from serving.inference import InferResponse, SequenceRequest
from serving.sequence import Step, lost

SLOTS = 1024
MAX_LANES = 65_536
"""Idle sequences whose place is remembered; one that is not is asked for along its slot."""
MAX_SEEN = 4096
SETTLE_S = 2.0
"""A replica gets no new sequences for so long, where there are others: by then all gateways know it."""


def slot_of(key: bytes) -> int:
    """Return the slot of a sequence."""
    return crc32(key) % SLOTS


def order_of(slot: int, replicas: list[str]) -> list[str]:
    """Return the replicas in the order in which the slot prefers them: the same everywhere."""
    return sorted(replicas, key=lambda replica: (blake2b(f"{slot} {replica}".encode(), digest_size=8).digest(), replica))


class ReplicaPool(Protocol):
    """The replicas of one version."""

    @property
    def channels(self) -> list[Channel]: ...

    def ready(self) -> bool: ...


class Lane:
    """What this gateway knows of one sequence (`call.Way`).

    home      the replica that has it, as far as is known
    sure      it has taken a request of the sequence; else the next one goes alone
    lost      the last home has gone, with the sequence in it
    sent      calls at home, unanswered
    back      calls that home did not know, in order; they go on when `sent` is empty
    waiting   calls that have not left, in order
    tried     by call: the replicas that have been asked in vain
    untold    replicas that have not said yet that they have forgotten it, in a list that belongs to one START
    held      the answer to that START, until they have
    """

    __slots__ = ("back", "ended", "held", "home", "key", "lanes", "lost", "sent", "sure", "tried", "untold", "waiting")

    def __init__(self, key: bytes, lanes: Lanes) -> None:
        self.key = key
        self.lanes = lanes
        self.home: Channel | None = None
        self.sure = False
        self.lost = False
        self.ended = False
        self.sent: dict[Call, None] = {}
        self.back: list[Call] = []
        self.waiting: deque[Call] = deque()
        self.tried: dict[Call, set[Channel]] = {}
        self.untold: list[Channel] = []
        self.held: tuple[Call, InferResponse] | None = None

    @property
    def busy(self) -> bool:
        return bool(self.sent or self.back or self.waiting or self.held)

    def answered(self, call: Call, response: InferResponse) -> InferResponse | None:
        return self.lanes.answered(self, call, response)

    def left(self, call: Call) -> None:
        self.lanes.left(self, call)

    def __repr__(self) -> str:
        return f"Lane({self.key!r}, {'sure' if self.sure else 'not sure'}, {len(self.sent)} sent, {len(self.waiting)} waiting)"


class Lanes:
    """The sequences of one version: a pool to the service, and the one channel that it picks. Made inside the loop."""

    inflight = 0
    paused = False
    usable = True
    replica = ""
    since = 0.0

    def __init__(
        self, loop: asyncio.AbstractEventLoop, description: Description, pool: ReplicaPool, deliver: Deliver, max_lanes: int = MAX_LANES
    ) -> None:
        self.versions = {description.key: description}
        self._loop = loop
        self._model = description.model
        self._key = description.key
        self._pool = pool
        self._deliver = deliver
        self._max_lanes = max_lanes
        self._lanes: dict[bytes, Lane] = {}
        self._channels: list[Channel] = []
        self._table: dict[int, list[Channel]] = {}
        self._seen: dict[str, None] = {}
        """Names of replicas that have been here."""

    # As a pool.

    def pick(self) -> Channel | None:
        return self if self._pool.ready() else None

    def ready(self) -> bool:
        return self._pool.ready()

    def __len__(self) -> int:
        return len(self._pool.channels)

    # As a channel.

    def send(self, call: Call) -> None:
        key = _step(call).key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key, self)
            if len(self._lanes) > self._max_lanes:
                self._forget_idle()
        call.lane = lane
        call.channel = self
        lane.waiting.append(call)
        self._let(lane)

    def cancel(self, call: Call) -> None:
        """Forget a call that waits here; `left` or `answered` follows."""
        call.channel = None

    def room(self) -> bool:
        return True

    def calls(self) -> list[Call]:
        """Return the calls that wait here."""
        waiting: list[Call] = []
        for lane in self._lanes.values():
            waiting += [*lane.waiting, *lane.back, *([lane.held[0]] if lane.held else [])]
        return [call for call in waiting if call.channel is self]

    def tick(self) -> None:
        pass

    def retire(self) -> None:
        pass

    def close(self, reason: str) -> None:
        pass

    def took(self, call: Call, answers: int) -> None:
        pass

    def forget(self, key: str, sequence: bytes, done: Callable[[], None]) -> None:
        done()

    # The way of a call.

    def _let(self, lane: Lane) -> None:
        """Send what may leave now. Answers nobody: this may run inside `submit`."""
        waiting = lane.waiting
        while waiting and lane.held is None:
            call = waiting[0]
            if call.channel is not self:  # has been cancelled
                waiting.popleft()
                continue
            step = _step(call)
            if lane.sent and (step.start or not lane.sure):
                return
            home = self._next(lane, call)
            if lane.sent and home is not lane.home:
                return
            waiting.popleft()
            if home is None:
                self._loop.call_soon(self._give_up, lane, call)
                continue
            if step.start or home is not lane.home:
                lane.home = home
                lane.sure = False
            lane.ended = step.end
            lane.sent[call] = None
            call.channel = home
            if step.start:
                self._tell_others(lane, home)
            home.send(call)

    def _next(self, lane: Lane, call: Call) -> Channel | None:
        """Return the replica to ask next, None where all have been asked."""
        order = self._order(slot_of(lane.key))
        tried = lane.tried.get(call, ())
        if _step(call).start:
            settled = monotonic() - SETTLE_S
            left = [c for c in order if c not in tried]
            return next((c for c in left if c.since <= settled), left[0] if left else None)
        home = lane.home
        if home is not None and home not in order:
            lane.home = home = None
            lane.sure = False
            lane.lost = True
        if home is not None and home not in tried:
            return home
        return next((c for c in order if c not in tried), None)

    def _order(self, slot: int) -> list[Channel]:
        channels = self._pool.channels
        if channels != self._channels:
            self._replicas_changed(channels)
        order = self._table.get(slot)
        if order is None:
            by_name = {channel.replica: channel for channel in channels}
            order = self._table[slot] = [by_name[name] for name in order_of(slot, list(by_name))]
        return order

    def _replicas_changed(self, channels: list[Channel]) -> None:
        """Have a replica that was away, and missed what it should forget, forget what is elsewhere by now."""
        for channel in channels:
            if channel not in self._channels and channel.replica in self._seen:
                for lane in self._lanes.values():
                    if lane.home is not None and lane.home is not channel:
                        channel.forget(self._key, lane.key, _nothing)
            self._seen[channel.replica] = None
        while len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        self._channels = list(channels)
        self._table.clear()

    def _tell_others(self, lane: Lane, home: Channel) -> None:
        untold = lane.untold = [channel for channel in self._order(slot_of(lane.key)) if channel is not home]
        for channel in list(untold):
            channel.forget(self._key, lane.key, partial(self._forgotten, lane, untold, channel))

    def _forgotten(self, lane: Lane, untold: list[Channel], channel: Channel) -> None:
        untold.remove(channel)
        if not untold and lane.untold is untold and lane.held is not None:
            call, response = lane.held
            lane.held = None
            if call.channel is self:
                self._deliver(call, response, monotonic())

    def answered(self, lane: Lane, call: Call, response: InferResponse) -> InferResponse | None:
        """Take the answer to a call. Return what its owner is to get, None where the call goes on."""
        step = _step(call)
        code = response.code
        if call not in lane.sent:  # waited here when its time was over, or its answer did
            self._settle(lane)
            return response
        del lane.sent[call]
        home = lane.home
        if code is Code.REPLICA_LOST:
            lane.sure = False
            lane.lost = True
            lane.home = None
            if step.start and not call.attempt and not call.served.at_most_once and self._next(lane, call) is not None:
                call.attempt = 1
                self._send_on(lane, call)
                return None
        elif home is not None and (code is Code.SEQUENCE_UNKNOWN or code is Code.SEQUENCES_FULL):
            lane.sure = False
            lane.tried.setdefault(call, set()).add(home)
            if self._next(lane, call) is not None:
                self._send_on(lane, call)
                return None
            lane.ended = True
            if lane.lost and code is Code.SEQUENCE_UNKNOWN:
                response = _failure(call, Unavailable(lost(self._model, step.id)))
        else:
            lane.sure = True
            lane.lost = False
            if step.start and not code and lane.untold:
                lane.held = (call, response)
                call.channel = self
                return None
        lane.tried.pop(call, None)
        self._settle(lane)
        return response

    def left(self, lane: Lane, call: Call) -> None:
        """The owner of a call has gone."""
        lane.sent.pop(call, None)
        lane.tried.pop(call, None)
        self._settle(lane)

    def _send_on(self, lane: Lane, call: Call) -> None:
        call.channel = self
        lane.back.append(call)
        self._settle(lane)

    def _settle(self, lane: Lane) -> None:
        """Let the next calls of the sequence go; forget it where it is over."""
        if lane.held is not None and lane.held[0].channel is not self:
            lane.held = None
        if lane.back and not lane.sent:
            lane.waiting.extendleft(reversed(lane.back))
            lane.back.clear()
        self._let(lane)
        if lane.busy:
            return
        lane.tried.clear()
        if self._lanes.pop(lane.key, None) is not None and not lane.ended:
            self._lanes[lane.key] = lane  # at the end: the oldest go first

    def _give_up(self, lane: Lane, call: Call) -> None:
        if call.channel is self:
            self._deliver(call, _failure(call, Unavailable(lost(self._model, _step(call).id), retry_after_s=1.0)), monotonic())

    def _forget_idle(self) -> None:
        for n, lane in enumerate(self._lanes.values()):
            if not lane.busy:
                del self._lanes[lane.key]
                return
            if n == 16:
                return

    def __repr__(self) -> str:
        return f"Lanes({self._key}, {len(self._lanes)} sequences, {len(self)} replicas)"


def _step(call: Call) -> Step:
    return cast(SequenceRequest, call.request).step


def _nothing() -> None:
    return None


def _failure(call: Call, error: ServingError) -> InferResponse:
    served = call.served
    return InferResponse(served.model, served.version, None, b"", error.code, error.message, retry_after_s=error.retry_after_s)
