"""ClientLimits: what one client may ask: so many requests a second, so many under way. Pure: times are passed in.

A client is who it has shown to be (`gate.py`), else what the declared header says, and where that is not there, its address.
The engine's limits (`limits.client_*`) hold for each gateway. Who has a quota (of an API key, of a token's role) has that in place of
them, from all gateways together: it is counted in a `QuotaTable` that they share. The rate is a token bucket, kept as
the one time at which it will be full again (the GCRA of ATM networks); an idle client costs 200 bytes, and of more than `max_clients`
the one that has not come for longest is forgotten: its bucket is full then.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address

from serving.access.identity import Identity, Quota
from serving.access.settings import AccessRules
from serving.errors import TooManyRequests
from serving.gateway.quota_table import QuotaTable, key_of
from serving.state import GatewayLimits

MAX_NAME_BYTES = 64
"""Longer names are known by their hash: what a client sends does not decide how much is kept."""


Limit = tuple[float, float, int]
"""Seconds for each request, seconds that may be saved up, requests under way; 0 = no limit."""
MAX_LEARNED = 65_536
"""Quotas of tokens that are kept in mind; of more, the one that came first is forgotten until its token is looked at again."""
LOOK_AGAIN_S = 1.0


class Client:
    """One client: its requests under way, and when its bucket is full again."""

    __slots__ = ("_full_at", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self._full_at = 0.0

    def look(self, now: float, counts: bool) -> None:
        """A request of it is to be judged. counts: whether it matters how many are under way."""

    def under_way(self, most: int, now: float) -> int:
        """Return how many of its requests are under way, exactly where that is `most` or more."""
        return self.requests

    def full_at(self, now: float) -> float:
        """Return when its bucket will be full, now where it is."""
        self._full_at = max(self._full_at, now)
        return self._full_at

    def charge(self, cost_s: float) -> None:
        """Count a request that is let in; `full_at` has been asked."""
        self._full_at += cost_s

    def enter(self) -> None:
        """A request of it has been taken in."""
        self.requests += 1

    def leave(self) -> None:
        """It has ended."""
        self.requests -= 1


class SharedClient(Client):
    """One that all gateways count together, or this one alone where the table has no room for it."""

    __slots__ = ("_counts", "_entry", "_key", "_look_at", "_table")

    def __init__(self, table: QuotaTable, name: bytes) -> None:
        super().__init__()
        self._table = table
        self._key = key_of(name)
        self._look_at = 0.0
        self._entry = -1
        """Its place in the table, -1 where that has no room."""
        self._counts = False

    def look(self, now: float, counts: bool) -> None:
        """Its entry is looked for again each second, so that gateways which made two for one name agree on the first."""
        self._counts = counts
        if now >= self._look_at or (self._entry >= 0 and not self._table.holds(self._entry, self._key)):
            self._look_at = now + LOOK_AGAIN_S
            found = self._table.find(self._key, now)
            if found != self._entry:
                if self._entry >= 0 and self._table.holds(self._entry, self._key):
                    self._table.note(self._entry, 0)
                self._entry = found
                self._note()

    def under_way(self, most: int, now: float) -> int:
        if self._entry < 0:
            return self.requests
        found = self._table.under_way(self._entry)
        return found if found < most else self._table.under_way_alive(self._entry, now)

    def full_at(self, now: float) -> float:
        return super().full_at(now) if self._entry < 0 else self._table.full_at(self._entry, now)

    def charge(self, cost_s: float) -> None:
        if self._entry < 0:
            super().charge(cost_s)
        else:
            self._table.charge(self._entry, cost_s)

    def enter(self) -> None:
        self.requests += 1
        if self._counts:
            self._note()

    def leave(self) -> None:
        self.requests -= 1
        if self._counts:
            self._note()

    def _note(self) -> None:
        if self._entry >= 0:
            self._table.note(self._entry, self.requests)


def client_name(identity: Identity) -> bytes:
    """Return the name by which limits know somebody; no address and no value of a header looks like it."""
    return b"\0" + identity.name.encode()


def identity_of(name: bytes) -> str:
    """Return who it is that has this name (`client_name`), "" where that is an address or the value of a header."""
    return name[1:].decode() if name[:1] == b"\0" else ""


def _limit(rate: float, burst: int, inflight: int) -> Limit:
    each_s = 1.0 / rate if rate else 0.0
    return each_s, (max(1.0, burst or rate) - 1.0) * each_s, inflight


def _limit_of(quota: Quota) -> Limit:
    return _limit(quota.requests_per_s, quota.burst, quota.inflight_requests)


class ClientLimits:
    """All clients of a gateway."""

    def __init__(self, limits: GatewayLimits, rules: AccessRules | None = None) -> None:
        self._clients: dict[bytes, Client] = {}
        """The one that came last is last."""
        self._rules: AccessRules | None = None
        self._quotas: dict[bytes, Limit] = {}
        self._learned: dict[bytes, Limit] = {}
        self.table: QuotaTable | None = None
        """Where quotas are counted with the other gateways; None: for this one alone."""
        self.limit(limits, rules)

    def limit(self, limits: GatewayLimits, rules: AccessRules | None = None) -> None:
        """Take new limits, and from the rules of access the quotas. Clients keep what they have used."""
        self._all = _limit(limits.client_requests_per_s, limits.client_burst, limits.client_inflight_requests)
        self._max_clients = limits.max_clients
        if rules != self._rules:
            self._rules = rules
            self._learned.clear()
            keys = [] if rules is None else [(key.identity, key.identity.quota or rules.quota) for key in rules.keys]
            self._quotas = {client_name(identity): _limit_of(quota) for identity, quota in keys if quota}

    def learn(self, identity: Identity) -> None:
        """Note the quota of somebody that a token has named; those of keys are known."""
        name = client_name(identity)
        if identity.quota and name not in self._quotas:
            if len(self._learned) >= MAX_LEARNED:
                del self._learned[next(iter(self._learned))]
            self._learned[name] = _limit_of(identity.quota)

    @property
    def on(self) -> bool:
        """Whether anything is limited."""
        return bool(self._all[0] or self._all[2]) or self.has_quotas

    @property
    def has_quotas(self) -> bool:
        return self._rules is not None and self._rules.limits

    def ask(self, name: bytes, now: float) -> Client:
        """Return the client, whose request may come in; who takes it in says so by `Client.enter`, and by `leave` when it has ended.

        Raises TooManyRequests, which says when a retry makes sense.
        """
        quota = self._quotas.get(name) or self._learned.get(name)
        each_s, spare_s, most = quota or self._all
        client = self._client(name, quota is not None)
        client.look(now, most > 0)
        if most and (under_way := client.under_way(most, now)) >= most:
            raise TooManyRequests(f"this client has {under_way} requests under way, of at most {most}", retry_after_s=1.0)
        if each_s:
            too_soon_s = client.full_at(now) - now - spare_s
            # Sums of times are exact to 0.1 µs or so.
            if too_soon_s > 1e-6:
                raise TooManyRequests(f"this client may send {1 / each_s:g} requests a second", retry_after_s=too_soon_s)
            client.charge(each_s)
        return client

    def _client(self, name: bytes, limited: bool) -> Client:
        if len(name) > MAX_NAME_BYTES:
            name = blake2b(name, digest_size=16).digest()
        clients = self._clients
        client = clients.pop(name, None)
        if limited and self.table is not None and not isinstance(client, SharedClient):
            client = SharedClient(self.table, name)
        elif client is None:
            client = Client()
        if name not in clients and len(clients) >= self._max_clients:
            del clients[next(iter(clients))]
        clients[name] = client
        return client

    def __len__(self) -> int:
        return len(self._clients)

    def __repr__(self) -> str:
        return f"ClientLimits({len(self._clients)} clients)"


@lru_cache(maxsize=4096)
def address_name(address: str) -> bytes:
    """Return the name of the client at this address. Of IPv6 the network of 64 bits, which is what one client has at least."""
    try:
        ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return address.encode("latin-1", "replace")
    if isinstance(ip, IPv4Address):
        return str(ip).encode()
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped).encode()
    return ip.packed[:8]
