"""Calls: the predictions that one gateway has under way, from being let in to the one answer. Knows no protocol and no route.

The life of a call
1. `submit` lets it in (bounds, draining, an answer that can be expected in time), picks the replica with the least in flight, and sends it.
2. The answer comes back from the channel and goes to the call's owner: exactly once. Whatever comes later is dropped.
   - A decoupled model gives any number of answers before: `owner.part`. The gateway's bound is then on the time between two of
     them, and the call is not sent again after the first.
   - Its deadline or the gateway's own bound is over first: DEADLINE_EXCEEDED from here, CANCEL to the replica.
   - The owner has gone: `call.cancel()`, CANCEL to the replica, no answer.
   - The replica is lost: the call goes once to another one, waiting up to RETRY_WAIT_S for one to appear;
     never where the route says `at_most_once`. A call that had not left yet moves without counting as sent.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable
from time import monotonic
from typing import cast

from serving.errors import Code, DeadlineExceeded, QueueFull, QueueTimeout, ServingError, Unavailable
from serving.gateway.admission import Admission
from serving.gateway.call import Call, Channel, Owner, Pool, Served, StreamCall, StreamOwner
from serving.gateway.client_limits import Client
from serving.gateway.deadlines import DEADLINE, Deadlines
from serving.gateway.load import QUEUED_US, RANKS, Load
from serving.gateway.relocation import Relocation
from serving.gateway.tally import DURATION_BOUNDS
from serving.gateway.versions import not_ready
from serving.inference import InferRequest, InferResponse
from serving.state import GatewayLimits

RETRY_WAIT_S = 2.0

STOPPING = "Server is stopping, scheduler for model has stopped accepting new inference requests"
QUEUE_FULL = "Exceeds maximum queue size"
TIMEOUT = "Request timeout expired"


class Calls:
    """All calls of one gateway. `pool` returns the replicas of a version key. Lives in the loop's thread."""

    def __init__(
        self,
        limits: GatewayLimits,
        loop: asyncio.AbstractEventLoop,
        pool: Callable[[str], Pool | None],
        retry_wait_s: float = RETRY_WAIT_S,
    ) -> None:
        self.admission = Admission(limits)
        self.draining = False
        """New ones are refused."""
        self._loop = loop
        self._timeout_s = limits.request_timeout_s
        self.relocation = Relocation(loop, pool, self._fail, retry_wait_s)
        self._deadlines = Deadlines()
        self._timer: asyncio.TimerHandle | None = None
        """For the next deadline."""
        self._idle: asyncio.Event | None = None

    def limit(self, limits: GatewayLimits) -> None:
        """Take new bounds. What is under way stays."""
        self.admission.limit(limits)
        self._timeout_s = limits.request_timeout_s

    # The way in ----------------------------------------------------------------------------------------------------

    def submit(
        self, served: Served, request: InferRequest, owner: Owner, plan: object, protocol: str, client: Client | None = None
    ) -> Call:
        """Send the request on its way. `owner.answer` is called later, once, never from here.

        Raises Unavailable (draining, bounds, no replica), DeadlineExceeded, QueueFull: the queues of the replicas or the ways to them
        are full, or the answer would come after the deadline. QueueTimeout: it would start after its time-out.
        """
        channel = served.pool.pick()
        payload_bytes = request.layout.payload_bytes
        now = monotonic()
        deadline = request.deadline
        loads = served.loads
        load = loads[RANKS[request.priority]]
        if self.draining or channel is None or (deadline and deadline <= now):
            raise self._refusal(served, deadline)
        if load.requests >= load.cap or (load.seen and (deadline or request.timeout_us)):
            self._check_queue(served, load, request, now)
        try:
            self.admission.enter(loads, load, payload_bytes)
        except ServingError:
            served.tally.reject("overload")
            raise
        cell = served.tally[protocol]
        cell.started += 1
        call = served.call(served, request, owner, plan, cell, payload_bytes, now, self, load, channel, client)
        if client is not None:
            client.enter()
        if deadline:
            self._watch(call, deadline, now)
        channel.send(call)
        if served.mirror is not None:
            served.mirror.take(served, request)
        return call

    def check_full(self, served: Served, load: Load, now: float) -> None:
        """Raise QueueFull where the replicas have no room for one more of this load. While draining that is for `submit` to say."""
        if load.capped(now) and not self.draining:
            served.tally.reject("queue_full")
            raise QueueFull(QUEUE_FULL, retry_after_s=1.0)

    def _check_queue(self, served: Served, load: Load, request: InferRequest, now: float) -> None:
        """Raise QueueFull for a request that would not be served, or in vain; QueueTimeout where its time-out says so."""
        self.check_full(served, load, now)
        answer_s, start_s = load.forecast(now)
        deadline = request.deadline
        overdue_s = start_s - request.timeout_us * 1e-6 if request.timeout_us else 0.0
        late_s = max(answer_s - (deadline - now) if deadline else 0.0, overdue_s)
        if late_s > 0.0:
            if late_s == overdue_s:
                served.tally.reject("late")
                raise QueueTimeout(f"{TIMEOUT}: the request would start {late_s * 1e3:.1f} ms late", retry_after_s=late_s)
            served.tally.reject("late")
            raise QueueFull(f"{QUEUE_FULL}: the request would be {late_s * 1e3:.1f} ms late", retry_after_s=late_s)

    def _refusal(self, served: Served, deadline: float) -> ServingError:
        """Return why a request is not taken, and count it."""
        if self.draining:
            served.tally.reject("draining")
            return Unavailable(STOPPING, retry_after_s=1.0)
        if deadline and deadline <= monotonic():
            served.tally.reject("deadline")
            return DeadlineExceeded(DEADLINE)
        if served.ready:
            served.tally.reject("congested")
            return QueueFull(QUEUE_FULL, retry_after_s=1.0)
        served.tally.reject("not_ready")
        return not_ready(served.model, served.version)

    # The way out ---------------------------------------------------------------------------------------------------

    def deliver(self, call: Call, response: InferResponse, now: float) -> None:
        """Give a call its answer (`call.Deliver`). The channel has forgotten it already."""
        if call.lane is not None:
            settled = call.lane.answered(call, response)
            if settled is None:
                return
            response = settled
        call.open = False
        call.channel = None
        payload_bytes = call.payload_bytes
        # As `Cell.count` and `_forget`, written out: benchmarks/micro/channel.py.
        duration_s = now - call.started
        cell = call.cell
        if response.code:
            cell.count_failure(response, duration_s)
            telling = True
        else:
            cell.durations[bisect_left(DURATION_BOUNDS, duration_s)] += 1
            cell.duration_s += duration_s
            queue_us = response.queue_us
            cell.queue_us += queue_us
            telling = queue_us > QUEUED_US
            compute_us = response.compute_us
            cell.compute_us += compute_us
            share = cell.share if response.batch_rows == cell.size else cell.other(response.batch_rows)
            rows = call.request.layout.rows
            share.rows += rows
            share.row_us += rows * compute_us
            cell.last = now
        bucket = call.bucket
        if bucket is not None:
            bucket.discard(call)
            call.bucket = None
        admission = self.admission
        admission.inflight_requests -= 1
        admission.inflight_bytes -= payload_bytes
        load = call.load
        load.requests -= 1
        load.nbytes -= payload_bytes
        if telling or load.seen:
            self._learn(call, response, now)
        if call.client is not None:
            call.client.leave()
        if self._idle is not None and not admission.inflight_requests:
            self._idle.set()
        try:
            call.owner.answer(call, response)
        except Exception as e:
            # An owner's bug must not close the connection that its neighbours share.
            self._loop.call_exception_handler({"message": f"owner of {call!r} failed to take its answer", "exception": e})

    def _learn(self, call: Call, response: InferResponse, now: float) -> None:
        """Take from an answer what it says about the queue that the next request will meet."""
        load = call.load
        if not response.code:
            queue_us = response.queue_us
            compute_us = response.compute_us
            if queue_us <= QUEUED_US or (queue_us <= compute_us and not (load.seen and call.ahead)):
                load.seen = 0.0
                return
            compute_s = compute_us * 1e-6
            rows = call.request.layout.rows / max(1, response.batch_rows) / max(1, len(call.served.pool))
            load.waited(call.ahead, now - call.started, queue_us * 1e-6, compute_s * rows, now)
        elif response.code is Code.QUEUE_FULL:
            load.full(now)

    def part(self, call: StreamCall, response: InferResponse, now: float) -> None:
        """Give a call one of several answers (`call.Home`)."""
        call.note(now)
        try:
            cast(StreamOwner, call.owner).part(call, response)
        except Exception as e:
            self._loop.call_exception_handler({"message": f"owner of {call!r} failed to take one of its answers", "exception": e})

    def cancelled(self, call: Call) -> None:
        """End a call whose owner has gone (`Call.cancel`)."""
        call.open = False
        self._take_back(call)
        call.cell.cancelled()
        self._forget(call)
        if call.lane is not None:
            call.lane.left(call)

    def _forget(self, call: Call) -> None:
        bucket = call.bucket
        if bucket is not None:
            bucket.discard(call)
            call.bucket = None
        admission = self.admission
        admission.leave(call.load, call.payload_bytes)
        if call.client is not None:
            call.client.leave()
        if self._idle is not None and not admission.inflight_requests:
            self._idle.set()

    def _fail(self, call: Call, error: ServingError) -> None:
        served = call.served
        self.deliver(
            call,
            InferResponse(served.model, served.version, None, b"", error.code, error.message, retry_after_s=error.retry_after_s),
            monotonic(),
        )

    # Deadlines -----------------------------------------------------------------------------------------------------

    def _watch(self, call: Call, deadline: float, now: float) -> None:
        """Have the call end at its deadline. One beyond the gateway's bound is left to `end_overdue`."""
        if deadline - now < self._timeout_s and self._deadlines.add(call, deadline, now):
            self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._deadlines.next()
        if due:
            self._timer = self._loop.call_later(max(0.0, due - now), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = monotonic()
        for call in self._deadlines.due(now):
            self._overdue(call)
        self._set_timer(now)

    def _overdue(self, call: Call) -> None:
        if call.open:  # else ended by the owner of another call that was due with it
            self._take_back(call)
            self._fail(call, DeadlineExceeded(DEADLINE))

    def _take_back(self, call: Call) -> None:
        if call.channel is not None:
            call.channel.cancel(call)
        else:
            self.relocation.forget(call)

    def end_overdue(self, channels: Iterable[Channel], now: float) -> None:
        """End what has taken longer than the gateway allows, or has not been heard of for as long."""
        before = now - self._timeout_s
        for channel in channels:
            for call in channel.calls():
                if call.heard <= before:
                    self._overdue(call)

    # The end -------------------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new calls and wait for those under way. Returns whether all were answered in time."""
        self.draining = True
        if self.admission.inflight_requests:
            self._idle = asyncio.Event()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()
            except TimeoutError:
                return False
        return True

    def close(self, channels: Iterable[Channel]) -> None:
        """Answer what is under way on these channels, or waits for one, with Unavailable, from here."""
        self.draining = True
        if self._timer is not None:
            self._timer.cancel()
        for call in [*self.relocation.close(), *(call for channel in channels for call in channel.calls())]:
            if call.open:
                self._take_back(call)
                self._fail(call, Unavailable(STOPPING, retry_after_s=1.0))

    def __repr__(self) -> str:
        return f"Calls({'draining, ' if self.draining else ''}{self.admission!r})"
