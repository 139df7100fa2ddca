"""Service: what a gateway is told, and whom it knows: routes, limits, clients, replicas. Knows no protocol.

The way of a request: `versions` finds the version that answers; the protocol side decodes with that version's codec; `calls` sends it
to a replica and brings the answer back.

All of it runs on the gateway's one loop. Nothing here may be called from another thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic

from serving.access.identity import Identity
from serving.access.settings import AccessRules
from serving.errors import TooManyRequests
from serving.gateway.call import Call, Channel, Pool, Served
from serving.gateway.calls import RETRY_WAIT_S, Calls
from serving.gateway.client_limits import Client, ClientLimits
from serving.gateway.forwarding import Forwarding
from serving.gateway.peers import TICK_S, PeerAddress, Peers
from serving.gateway.quota_table import LANES, QuotaTable
from serving.gateway.regions import Regions
from serving.gateway.sharing import SharedMemory
from serving.gateway.tally import Tally
from serving.gateway.traffic import Traffic
from serving.gateway.versions import Versions
from serving.routing import RouteTable
from serving.state import GatewayLimits, GatewayState
from serving.wishes import Wishes

log = logging.getLogger(__name__)

ARENA_BYTES = 1 << 28
"""Memory shared with the replicas of this node, for large requests; pages cost memory once they are written."""


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
        self.calls = Calls(limits, loop, self._pool, retry_wait_s)
        self.versions = Versions(tally, Traffic(self.calls, loop))
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
        self._peers = Peers(loop, self, self.calls.deliver, tally, name, node, self._memory)
        self._revision = -1
        self._routes = RouteTable()
        self.leaving = False
        """Not ready any more, while what still comes is served."""
        self._timer = loop.call_later(TICK_S, self._every_tick)

    # What the gateway is told.

    def apply(self, state: GatewayState) -> int:
        """Take routes and limits, unless they are older than what is known. Returns the revision in force."""
        if state.revision >= self._revision:
            self._revision = state.revision
            self._routes = state.routes
            self.limits = state.limits
            self.server_name = state.server_name
            self.calls.limit(state.limits)
            self.access = state.access
            self._limit_clients(state.limits)
            self._peers.limit(state.limits)
            self.wishes = state.wishes
            if state.forward_headers != self.forwarding.pattern:
                self.forwarding = Forwarding(state.forward_headers)
            self.regions.apply(state.client_shm, state.wishes.regions)
            self._settle()
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

    # What requests need beside versions and calls.

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

    def body_buffer(self, nbytes: int) -> memoryview | None:
        """Return bytes to receive a large body into: tensors in it reach a replica of this node without a copy.

        None where it is not worth it (small), or there is no room: use a bytearray then. The memory is free again when
        the last view of it has gone; nothing has to be called.
        """
        return self._memory.buffer(nbytes) if self._memory is not None else None

    def _every_tick(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._every_tick)
        self.tick()

    def tick(self) -> None:
        """Ping the replicas; end what has taken longer than the gateway allows. Runs by itself every TICK_S."""
        self._peers.tick()
        if self.clients is not None and self.clients.table is not None:
            self.clients.table.beat(monotonic())
        self.calls.end_overdue(self._peers.channels(), monotonic())

    # Replicas come and go (`peers.PeersOwner`).

    def peer_lost(self, sent: list[Call], unsent: list[Call]) -> None:
        """Move calls to other replicas, or answer them."""
        self.calls.relocation.lost(sent, unsent, monotonic())

    def pools_changed(self, keys: Iterable[str]) -> None:
        """Look up versions anew, and send the calls that waited for a replica."""
        self._settle()
        self.calls.relocation.retry()

    def _settle(self) -> None:
        self.versions.settle(self._routes, self._peers.served)

    def _pool(self, key: str) -> Pool | None:
        return self._peers.pool(key)

    # The whole.

    @property
    def ready(self) -> bool:
        """Whether every version of every route has a replica, and requests are taken."""
        return not self.leaving and not self.calls.draining and self.versions.ready

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for those in flight. Returns whether all were answered in time."""
        return await self.calls.drain(timeout_s)

    def close(self) -> None:
        """Give up all connections. Calls still in flight are answered with Unavailable, from here."""
        self._timer.cancel()
        self.calls.close(self._peers.channels())
        self._peers.close("gateway is stopping")
        self.regions.close()
        if self._memory is not None:
            self._memory.arena.close()
            self._memory = None

    def __repr__(self) -> str:
        return f"Service(revision {self._revision}, {self._peers!r}, {self.calls!r})"
