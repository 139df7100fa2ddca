"""Peers: connections to all published replicas, and for each version the pool that calls are picked from.

Where replicas are is published by others (`publish`); whether they are there is seen here. A connection is kept as long as
its address is published: lost ones are made again with a growing delay. An address that is taken back finishes what it
has in flight, then its connection is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from serving.gateway.call import Call, Channel, Deliver, Description, Pool, Served, says_decoupled
from serving.gateway.channel import DRAINED, SocketChannel
from serving.gateway.layouts import LayoutCache
from serving.gateway.sequences import Lanes
from serving.gateway.sharing import SharedMemory
from serving.gateway.tally import Tally
from serving.state import GatewayLimits

TICK_S = 1.0
CONNECT_TIMEOUT_S = 2.0
FIRST_DELAY_S = 0.05
LAST_DELAY_S = 2.0

log = logging.getLogger("serving.gateway")


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a replica listens. `uds` is a path on the machine `node`, `tcp` is "host:port"; either may be empty."""

    replica_id: str
    uds: str = ""
    tcp: str = ""
    node: str = ""


class PeerPool:
    """Usable channels of one version. Picks the one with the least in flight."""

    __slots__ = ("_channels", "_turn")

    def __init__(self) -> None:
        self._channels: list[Channel] = []
        self._turn = 0

    def pick(self) -> Channel | None:
        """Return the channel for the next call; None when there is none or all of them are congested.

        Equals take turns. A channel whose socket is congested is taken only when all are, and while it has room.
        """
        channels = self._channels
        if len(channels) == 1:
            channel = channels[0]
            return channel if not channel.paused or channel.room() else None
        if not channels:
            return None
        turn = self._turn + 1
        if turn >= len(channels):
            turn = 0
        self._turn = turn
        best = channels[turn]
        if best.paused:
            return self._pick_among_paused()
        least = best.inflight
        for channel in channels:
            if channel.inflight < least and not channel.paused:
                best = channel
                least = channel.inflight
        return best

    def _pick_among_paused(self) -> Channel | None:
        free = [c for c in self._channels if not c.paused] or [c for c in self._channels if c.room()]
        return min(free, key=lambda c: c.inflight) if free else None

    @property
    def channels(self) -> list[Channel]:
        return self._channels

    def ready(self) -> bool:
        return bool(self._channels)

    def add(self, channel: Channel) -> None:
        if channel not in self._channels:
            self._channels.append(channel)

    def remove(self, channel: Channel) -> None:
        if channel in self._channels:
            self._channels.remove(channel)

    def __len__(self) -> int:
        return len(self._channels)

    def __repr__(self) -> str:
        return f"PeerPool({', '.join(map(repr, self._channels))})"


class PeersOwner(Protocol):
    """The service, as far as peers know it."""

    def pools_changed(self, keys: Iterable[str]) -> None:
        """Versions of these keys have another pool, or are described anew."""

    def peer_lost(self, sent: list[Call], unsent: list[Call]) -> None:
        """A connection broke with these calls in it."""


class Peers:
    """All connections of one gateway. `served` has the versions that a replica has described, by key. Made inside the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: PeersOwner,
        deliver: Deliver,
        tally: Tally,
        name: str,
        node: str,
        memory: SharedMemory | None = None,
    ) -> None:
        self.served: dict[str, Served] = {}
        self._loop = loop
        self._owner = owner
        self._deliver = deliver
        self._tally = tally
        self._name = name
        self._node = node
        self._memory = memory
        self._links: dict[PeerAddress, Link] = {}
        self._pools: dict[str, PeerPool] = {}
        self._lanes: dict[str, Lanes] = {}
        """Of the versions that keep sequences."""
        self._responses = LayoutCache()
        self._max_json_bytes = GatewayLimits().max_json_bytes
        self._keys: dict[Channel, set[str]] = {}
        """Live channels, with the keys they may serve; those of addresses taken back have none."""

    def publish(self, published: Mapping[str, Iterable[PeerAddress]]) -> None:
        """Take what is published now, by key. What is no longer in it is given up."""
        wanted: dict[PeerAddress, set[str]] = {}
        for key, addresses in published.items():
            self._pools.setdefault(key, PeerPool())
            for address in addresses:
                wanted.setdefault(address, set()).add(key)
        for address in self._links.keys() - wanted.keys():
            self._links.pop(address).give_up()
        for address, keys in wanted.items():
            link = self._links.get(address)
            if link is None:
                self._links[address] = Link(self, address, keys)
            else:
                link.publish(keys)
        for key in self._pools.keys() - published.keys():
            if not self._pools[key].ready():
                del self._pools[key]
                self.served.pop(key, None)
                self._lanes.pop(key, None)
        self._owner.pools_changed(self._pools.keys())

    def limit(self, limits: GatewayLimits) -> None:
        """Take the bounds that codecs keep: versions are described anew where they change."""
        if limits.max_json_bytes != self._max_json_bytes:
            self._max_json_bytes = limits.max_json_bytes
            for key, served in self.served.items():
                description = Description(served.model, served.version, served.signature, served.platform, served.details)
                self.served[key] = Served(description, served.pool, served.tally, limits.max_json_bytes)

    def attach(self, channel: Channel) -> None:
        """Take a channel that is already there (`LocalChannel`) for all its versions."""
        self.enter(channel, set(channel.versions))
        self._owner.pools_changed(channel.versions)

    def channels(self) -> list[Channel]:
        """Return all live channels, those that are being given up included, and the lanes, in which calls may wait."""
        return [*self._keys, *self._lanes.values()]

    def tick(self) -> None:
        """Let every channel look after its replica. To be called every TICK_S."""
        for channel in list(self._keys):
            channel.tick()

    def close(self, reason: str) -> None:
        """Give up everything at once. Calls in flight go back to the owner."""
        for link in self._links.values():
            link.task.cancel()
        self._links.clear()
        for channel in list(self._keys):
            channel.close(reason)

    def pool(self, key: str) -> PeerPool | None:
        """Return the pool of a version that is published or attached."""
        return self._pools.get(key)

    # What links and channels tell.

    async def connect(self, link: Link) -> SocketChannel:
        """Return a connection to the link's address, on which nothing has been said yet. Raises OSError, ValueError."""
        address = link.address

        local = bool(address.uds) and (address.node == self._node or not address.tcp)

        def channel() -> SocketChannel:
            memory = self._memory if local else None
            return SocketChannel(self._loop, link, self._deliver, self._responses, self._name, memory)

        if local:
            return (await self._loop.create_unix_connection(channel, address.uds))[1]
        host, _, port = address.tcp.rpartition(":")
        return (await self._loop.create_connection(channel, host, int(port)))[1]

    def connected(self, channel: Channel, keys: set[str]) -> None:
        self._keys[channel] = keys

    def enter(self, channel: Channel, keys: set[str]) -> None:
        """Put the channel into the pools of those `keys` that it has, and out of all others."""
        touched = self._leave(channel) | keys
        self._keys[channel] = keys
        if channel.usable:
            for key in keys & channel.versions.keys():
                pool = self._pools.setdefault(key, PeerPool())
                pool.add(channel)
                self._describe(key, channel.versions[key], pool)
            if missing := keys - channel.versions.keys():
                log.warning("replica is published for %s and does not have it", ", ".join(sorted(missing)))
        self._owner.pools_changed(touched)

    def leave(self, channel: Channel) -> None:
        """Take the channel out of all pools; its calls in flight go on."""
        self._owner.pools_changed(self._leave(channel))

    def lost(self, channel: Channel, sent: list[Call], unsent: list[Call], reason: str) -> None:
        """Forget the channel and hand its calls to the owner."""
        keys = self._leave(channel)
        self._keys.pop(channel, None)
        if sent or unsent:
            log.warning("%d calls in flight to a replica that is lost: %s", len(sent) + len(unsent), reason)
            self._owner.peer_lost(sent, unsent)
        self._owner.pools_changed(keys)

    def _leave(self, channel: Channel) -> set[str]:
        keys = self._keys.get(channel, set())
        for key in keys:
            pool = self._pools.get(key)
            if pool is not None:
                pool.remove(channel)
        return keys

    def _describe(self, key: str, description: Description, pool: PeerPool) -> None:
        served = self.served.get(key)
        way = self._way(key, description, pool)
        said = (description.signature, description.platform, says_decoupled(description), way)
        if served is None or (served.signature, served.platform, served.decoupled, served.pool) != said:
            tally = self._tally.version(description.model, description.version)
            self.served[key] = Served(description, way, tally, self._max_json_bytes)
        else:
            served.details = description.details

    def _way(self, key: str, description: Description, pool: PeerPool) -> Pool:
        """Return what calls of the version are picked from: the pool, or the lanes of its sequences."""
        if not description.details.get("sequence"):
            return pool
        lanes = self._lanes.get(key)
        if lanes is None:
            lanes = self._lanes[key] = Lanes(self._loop, description, pool, self._deliver)
        return lanes

    def __repr__(self) -> str:
        return f"Peers({len(self._links)} addresses, {len(self._keys)} connections, {len(self.served)} versions)"


class Link:
    """One published address, and the task that keeps it connected. Owner of its channel (`call.ChannelOwner`)."""

    __slots__ = ("_channel", "_keys", "_peers", "address", "task")

    def __init__(self, peers: Peers, address: PeerAddress, keys: set[str]) -> None:
        self.address = address
        self._peers = peers
        self._keys = keys
        self._channel: Channel | None = None
        self.task: asyncio.Task[None] = asyncio.ensure_future(self._keep())

    def publish(self, keys: set[str]) -> None:
        """Take the keys that the address is published for now."""
        changed = keys != self._keys
        self._keys = keys
        if changed and self._channel is not None:
            self._peers.enter(self._channel, keys)

    def give_up(self) -> None:
        """End the task; close the connection when its last call has been answered."""
        self.task.cancel()
        if self._channel is not None:
            self._channel.retire()

    async def _keep(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    channel = await self._peers.connect(self)
            except (OSError, ValueError) as e:  # TimeoutError is an OSError
                log.debug("replica %s cannot be reached: %r", self.address.replica_id, e)
            else:
                reason = await asyncio.shield(channel.closed)
                log.info("replica %s: %s", self.address.replica_id, reason)
                if channel.versions:
                    delay_s = LAST_DELAY_S if reason == DRAINED else FIRST_DELAY_S
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LAST_DELAY_S)

    def connected(self, channel: Channel) -> None:
        self._channel = channel
        self._peers.connected(channel, self._keys)

    def ready(self, channel: Channel) -> None:
        self._peers.enter(channel, self._keys)

    def draining(self, channel: Channel) -> None:
        self._peers.leave(channel)

    def lost(self, channel: Channel, sent: list[Call], unsent: list[Call], reason: str) -> None:
        self._channel = None
        self._peers.lost(channel, sent, unsent, reason)

    def __repr__(self) -> str:
        return f"Link({self.address.replica_id}, {self._channel or 'not connected'})"
