"""ClientLimits: what one client may ask of one gateway: so many requests a second, so many under way. Pure: times are passed in.

A client is who it has shown to be (`gate.py`), else what the declared header says, and where that is not there, its address.
An API key may have limits of its own. The rate is a token bucket, kept as
the one time at which it will be full again (the GCRA of ATM networks); an idle client costs 200 bytes, and of more than `max_clients`
the one that has not come for longest is forgotten: its bucket is full then.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address

from serving.access.identity import Identity
from serving.access.settings import AccessRules
from serving.errors import TooManyRequests
from serving.state import GatewayLimits

MAX_NAME_BYTES = 64
"""Longer names are known by their hash: what a client sends does not decide how much is kept."""


Quota = tuple[float, float, int]
"""Seconds for each request, seconds that may be saved up, requests under way; 0 = no limit."""
_NO_QUOTAS: Mapping[bytes, Quota] = {}


class Client:
    """One client: its requests under way, and when its bucket is full again."""

    __slots__ = ("full_at", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.full_at = 0.0


def client_name(identity: Identity) -> bytes:
    """Return the name by which limits know somebody; no address and no value of a header looks like it."""
    return b"\0" + identity.name.encode()


def identity_of(name: bytes) -> str:
    """Return who it is that has this name (`client_name`), "" where that is an address or the value of a header."""
    return name[1:].decode() if name[:1] == b"\0" else ""


def quotas_of(rules: AccessRules | None) -> dict[bytes, Quota]:
    """Return the limits of the keys that have some, by client."""
    keys = rules.keys if rules is not None else ()
    limited = [key.identity for key in keys if key.requests_per_s or key.inflight_requests]
    return {client_name(i): _quota(i.requests_per_s, i.burst, i.inflight_requests) for i in limited}


def _quota(rate: float, burst: int, inflight: int) -> Quota:
    each_s = 1.0 / rate if rate else 0.0
    return each_s, (max(1.0, burst or rate) - 1.0) * each_s, inflight


class ClientLimits:
    """All clients of a gateway."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._clients: dict[bytes, Client] = {}
        """The one that came last is last."""
        self.limit(limits)

    def limit(self, limits: GatewayLimits, quotas: Mapping[bytes, Quota] = _NO_QUOTAS) -> None:
        """Take new limits; `quotas` of some clients in place of these. Clients keep what they have used."""
        self._all = _quota(limits.client_requests_per_s, limits.client_burst, limits.client_inflight_requests)
        self._quotas = quotas
        self._max_clients = limits.max_clients

    @property
    def on(self) -> bool:
        """Whether anything is limited."""
        return bool(self._all[0] or self._all[2] or self._quotas)

    def ask(self, name: bytes, now: float) -> Client:
        """Return the client, whose request may come in; who takes it in counts `Client.requests` up, and down when it has ended.

        Raises TooManyRequests, which says when a retry makes sense.
        """
        each_s, spare_s, most = self._quotas.get(name, self._all)
        if len(name) > MAX_NAME_BYTES:
            name = blake2b(name, digest_size=16).digest()
        clients = self._clients
        client = clients.pop(name, None)
        if client is None:
            client = Client()
            if len(clients) >= self._max_clients:
                del clients[next(iter(clients))]
        clients[name] = client
        if most and client.requests >= most:
            raise TooManyRequests(f"this client has {client.requests} requests under way, of at most {most}", retry_after_s=1.0)
        if each_s:
            full_at = max(client.full_at, now)
            too_soon_s = full_at - now - spare_s
            # Sums of times are exact to 0.1 µs or so.
            if too_soon_s > 1e-6:
                raise TooManyRequests(f"this client may send {1 / each_s:g} requests a second", retry_after_s=too_soon_s)
            client.full_at = full_at + each_s
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
