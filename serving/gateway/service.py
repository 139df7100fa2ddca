"""Service: from a request to its answer. Knows versions, peers, deadlines and bounds; knows no protocol.

The life of a call
1. `resolve` finds the version that answers; the protocol side decodes with that version's codec.
2. `submit` lets it in (bounds, draining, an answer that can be expected in time), picks the replica with the least in flight, and sends it.
3. The answer comes back from the channel and goes to the call's owner: exactly once. Whatever comes later is dropped.
   - A decoupled model gives any number of answers before: `owner.part`. The gateway's bound is then on the time between two of
     them, and the call is not sent again after the first.
   - Its deadline or the gateway's own bound is over first: DEADLINE_EXCEEDED from here, CANCEL to the replica.
   - The owner has gone: `call.cancel()`, CANCEL to the replica, no answer.
   - The replica is lost: the call goes once to another one, waiting up to RETRY_WAIT_S for one to appear;
     never where the route says `at_most_once`. A call that had not left yet moves without counting as sent.

All of it runs on the gateway's one loop. Nothing here may be called from another thread.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import cast

from serving.access.identity import Identity
from serving.access.settings import AccessRules
from serving.errors import Code, DeadlineExceeded, QueueFull, QueueTimeout, ServingError, TooManyRequests, Unavailable
from serving.gateway.admission import Admission
from serving.gateway.call import Call, Channel, Owner, Served, StreamCall, StreamOwner
from serving.gateway.chooser import Asker, Said
from serving.gateway.client_limits import Client, ClientLimits
from serving.gateway.deadlines import DEADLINE, Deadlines
from serving.gateway.forwarding import Forwarding
from serving.gateway.load import QUEUED_US, RANKS, Load
from serving.gateway.peers import TICK_S, PeerAddress, Peers
from serving.gateway.quota_table import LANES, QuotaTable
from serving.gateway.regions import Regions
from serving.gateway.relocation import Relocation
from serving.gateway.sharing import SharedMemory
from serving.gateway.tally import DURATION_BOUNDS, Tally
from serving.gateway.traffic import Traffic
from serving.inference import InferRequest, InferResponse
from serving.routing import Route, RouteTable, choose
from serving.state import GatewayLimits, GatewayState
from serving.wishes import Wishes

log = logging.getLogger(__name__)

RETRY_WAIT_S = 2.0
ARENA_BYTES = 1 << 28
"""Memory shared with the replicas of this node, for large requests; pages cost memory once they are written."""

STOPPING = "Server is stopping, scheduler for model has stopped accepting new inference requests"
QUEUE_FULL = "Exceeds maximum queue size"
TIMEOUT = "Request timeout expired"


class Service:
    """See the architecture notes, "Inside the gateway". Made inside the running loop."""

    def __init__(
        self,
        tally: Tally,
        limits: GatewayLimits,
        loop: asyncio.AbstractEventLoop,
        name: str = "gateway",
        node: str = "",
        retry_wait_s: float = RETRY_WAIT_S,
        arena_bytes: int = ARENA_BYTES,
    ) -> None:
        self.tally = tally
        self.limits = limits
        self.server_name = GatewayState().server_name
        self.admission = Admission(limits)
        self.wishes = Wishes()
        """What clients have asked of the whole engine."""
        self.forwarding = Forwarding()
        self.regions = Regions()
        self.clients: ClientLimits | None = None
        """Limits of each client, where there are any."""
        self.access: AccessRules | None = None
        self._quotas_at: tuple[Path, int] | None = None
        self._loop = loop
        self._memory = SharedMemory.create(arena_bytes)
        self._peers = Peers(loop, self, self.deliver, tally, name, node, self._memory)
        self._relocation = Relocation(loop, self._peers.pool, self._fail, retry_wait_s)
        self._revision = -1
        self._routes = RouteTable()
        self._traffic = Traffic(self, loop)
        self._resolved: dict[tuple[str, str], Served] = {}
        """(model, version as asked) of everything that can be answered."""
        self._deadlines = Deadlines()
        self._deadline_timer: asyncio.TimerHandle | None = None
        self.leaving = False
        """Not ready any more, while what still comes is served."""
        self._draining = False
        self._idle: asyncio.Event | None = None
        self._timer = loop.call_later(TICK_S, self._every_tick)

    # What the gateway is told.

    def apply(self, state: GatewayState) -> int:
        """Take routes and limits, unless they are older than what is known. Returns the revision in force."""
        if state.revision >= self._revision:
            self._revision = state.revision
            self._routes = state.routes
            self.limits = state.limits
            self.server_name = state.server_name
            self.admission.limit(state.limits)
            self.access = state.access
            self._limit_clients(state.limits)
            self._peers.limit(state.limits)
            self.wishes = state.wishes
            if state.forward_headers != self.forwarding.pattern:
                self.forwarding = Forwarding(state.forward_headers)
            self.regions.apply(state.client_shm, state.wishes.regions)
            self._resolve_all()
        return self._revision

    def _limit_clients(self, limits: GatewayLimits) -> None:
        clients = self.clients or ClientLimits(limits)
        clients.limit(limits, self.access)
        if clients.has_quotas and clients.table is None and self._quotas_at is not None:
            try:
                clients.table = QuotaTable(*self._quotas_at, monotonic())
            except OSError as error:
                log.warning("quotas hold for each gateway alone: %s", error)
        self.clients = clients if clients.on else None

    def count_quotas_in(self, file: Path, lane: int) -> None:
        """Count what callers with quotas ask together with the other gateways that do so in this file, each in a lane of its own."""
        self._quotas_at = (file, lane) if lane < LANES else None
        self._limit_clients(self.limits)

    def met(self, identity: Identity) -> None:
        """Take note of somebody who has shown who they are."""
        if self.clients is not None:
            self.clients.learn(identity)

    def set_peers(self, published: Mapping[str, Iterable[PeerAddress]]) -> None:
        """Take the replicas of all versions, by key."""
        self._peers.publish(published)

    def attach(self, channel: Channel) -> None:
        """Take a channel that is already there, for all its versions (tests, micro-benchmarks)."""
        self._peers.attach(channel)

    # The way of a call.

    def resolve(self, model: str, version: str, asker: Asker | None = None, said: Said = b"") -> Served:
        """Return the version that answers; "" as the version asks for the route's own, which may depend on who asks, and with what.

        Raises NotFound where no route has it, Unavailable while no replica has said HELLO.
        """
        served = self._resolved.get((model, version))
        if served is None:
            if not version and (served := self._traffic.pick(model, asker, said)) is not None:
                return served
            chosen = choose(self._routes, model, version)
            self.tally.version(model, chosen).reject("not_ready")
            raise _not_ready(model, chosen)
        return served

    def candidates(self, model: str, version: str) -> list[Served]:
        """Return the versions of which one answers a request that nobody has read yet. Raises as `resolve` does."""
        found = self._traffic.candidates(model) if not version else []
        return found or [self.resolve(model, version)]

    def ask(self, served: Served, name: bytes) -> Client | None:
        """Return the client whose next request this is, for `submit`. Before the request is decoded: a refusal is to be cheap.

        Raises TooManyRequests where it has used up its limits. Callers may leave it out while `clients` is None.
        """
        if self.clients is None:
            return None
        try:
            return self.clients.ask(name, monotonic())
        except TooManyRequests:
            served.tally.reject("client")
            raise

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
        if self._draining or channel is None or (deadline and deadline <= now):
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

    def body_buffer(self, nbytes: int) -> memoryview | None:
        """Return bytes to receive a large body into: tensors in it reach a replica of this node without a copy.

        None where it is not worth it (small), or there is no room: use a bytearray then. The memory is free again when
        the last view of it has gone; nothing has to be called.
        """
        return self._memory.buffer(nbytes) if self._memory is not None else None

    def cancelled(self, call: Call) -> None:
        """End a call whose owner has gone (`Call.cancel`)."""
        call.open = False
        self._take_back(call)
        call.cell.cancelled()
        self._forget(call)
        if call.lane is not None:
            call.lane.left(call)

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

    def part(self, call: StreamCall, response: InferResponse, now: float) -> None:
        """Give a call one of several answers (`call.Home`)."""
        call.note(now)
        try:
            cast(StreamOwner, call.owner).part(call, response)
        except Exception as e:
            self._loop.call_exception_handler({"message": f"owner of {call!r} failed to take one of its answers", "exception": e})

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

    def check_full(self, served: Served, load: Load, now: float) -> None:
        """Raise QueueFull where the replicas have no room for one more of this load. While draining that is for `submit` to say."""
        if load.capped(now) and not self._draining:
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
        if self._draining:
            served.tally.reject("draining")
            return Unavailable(STOPPING, retry_after_s=1.0)
        if deadline and deadline <= monotonic():
            served.tally.reject("deadline")
            return DeadlineExceeded(DEADLINE)
        if served.ready:
            served.tally.reject("congested")
            return QueueFull(QUEUE_FULL, retry_after_s=1.0)
        served.tally.reject("not_ready")
        return _not_ready(served.model, served.version)

    def _fail(self, call: Call, error: ServingError) -> None:
        served = call.served
        self.deliver(
            call,
            InferResponse(served.model, served.version, None, b"", error.code, error.message, retry_after_s=error.retry_after_s),
            monotonic(),
        )

    # Deadlines.

    def _watch(self, call: Call, deadline: float, now: float) -> None:
        """Have the call end at its deadline. One beyond the gateway's bound is left to `tick`."""
        if deadline - now < self.limits.request_timeout_s and self._deadlines.add(call, deadline, now):
            self._set_deadline_timer(now)

    def _set_deadline_timer(self, now: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        due = self._deadlines.next()
        if due:
            self._deadline_timer = self._loop.call_later(max(0.0, due - now), self._expire)

    def _expire(self) -> None:
        self._deadline_timer = None
        now = monotonic()
        for call in self._deadlines.due(now):
            self._overdue(call)
        self._set_deadline_timer(now)

    def _overdue(self, call: Call) -> None:
        if call.open:  # else ended by the owner of another call that was due with it
            self._take_back(call)
            self._fail(call, DeadlineExceeded(DEADLINE))

    def _take_back(self, call: Call) -> None:
        if call.channel is not None:
            call.channel.cancel(call)
        else:
            self._relocation.forget(call)

    def _every_tick(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._every_tick)
        self.tick()

    def tick(self) -> None:
        """Ping the replicas; end what has taken longer than the gateway allows. Runs by itself every TICK_S."""
        self._peers.tick()
        if self.clients is not None and self.clients.table is not None:
            self.clients.table.beat(monotonic())
        before = monotonic() - self.limits.request_timeout_s
        for channel in self._peers.channels():
            for call in channel.calls():
                if call.heard <= before:
                    self._overdue(call)

    # Replicas come and go (`peers.PeersOwner`).

    def peer_lost(self, sent: list[Call], unsent: list[Call]) -> None:
        """Move calls to other replicas, or answer them."""
        self._relocation.lost(sent, unsent, monotonic())

    def pools_changed(self, keys: Iterable[str]) -> None:
        """Look up versions anew, and send the calls that waited for a replica."""
        self._resolve_all()
        self._relocation.retry()

    def _resolve_all(self) -> None:
        """Prepare `resolve`: every route under "" and under each of its versions."""
        served = self._peers.served
        resolved: dict[tuple[str, str], Served] = {}
        for route in self._routes.routes.values():
            for version in {*route.versions, route.stable}:
                found = served.get(f"{route.endpoint}/{version}")
                if found is not None:
                    found.at_most_once = route.at_most_once
                    resolved[route.endpoint, version] = found
                    if version == route.stable and not route.traffic.chooses:
                        resolved[route.endpoint, ""] = found
        self._resolved = resolved
        self._traffic.settle(self._routes.routes.values(), served)

    # The whole.

    def models(self) -> list[tuple[Route, dict[str, Served | None]]]:
        """Return all routes, each with its versions; None for a version that no replica has described."""
        return [(r, {v: self._resolved.get((r.endpoint, v)) for v in r.versions}) for r in self._routes.routes.values()]

    @property
    def ready(self) -> bool:
        """Whether every version of every route has a replica, and requests are taken."""
        return (
            not self.leaving
            and not self._draining
            and all(s is not None and s.ready for _, versions in self.models() for s in versions.values())
        )

    def ready_versions(self, model: str) -> list[str]:
        """Return the versions of a route that have a replica now."""
        route = self._routes.routes.get(model)
        found = [self._resolved.get((model, v)) for v in route.versions] if route is not None else []
        return [s.version for s in found if s is not None and s.ready]

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for those in flight. Returns whether all were answered in time."""
        self._draining = True
        if self.admission.inflight_requests:
            self._idle = asyncio.Event()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()
            except TimeoutError:
                return False
        return True

    def close(self) -> None:
        """Give up all connections. Calls still in flight are answered with Unavailable, from here."""
        self._draining = True
        self._timer.cancel()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        for call in [*self._relocation.close(), *(call for channel in self._peers.channels() for call in channel.calls())]:
            if call.open:
                self._take_back(call)
                self._fail(call, Unavailable(STOPPING, retry_after_s=1.0))
        self._peers.close("gateway is stopping")
        self.regions.close()
        if self._memory is not None:
            self._memory.arena.close()
            self._memory = None

    def __repr__(self) -> str:
        state = "draining, " if self._draining else ""
        return f"Service({state}revision {self._revision}, {self._peers!r}, {self.admission!r})"


def _not_ready(model: str, version: str) -> Unavailable:
    return Unavailable(f"Request for unknown model: '{model}' version {version} is not at ready state", retry_after_s=1.0)
