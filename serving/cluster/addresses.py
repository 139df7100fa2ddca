"""AddressBook: replicas by version key, from what Serve tells about each application. Knows no Ray.

Serve leaves a replica out while it takes over a new configuration, and it forgets all while its controller restarts. So an address
that is not told any more stays for `grace_s`: a replica that has really gone says DRAIN or closes its socket by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from serving.gateway.peers import PeerAddress

GRACE_S = 5.0


class AddressBook:
    """Not thread-safe. Times are those of one monotonic clock, in seconds."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._known: dict[str, dict[PeerAddress, float]] = {}
        """Per key: address → when to forget it, 0 = it is told."""

    def keep(self, keys: Iterable[str]) -> None:
        """Hold these keys and no others."""
        self._known = {key: self._known.get(key, {}) for key in keys}

    def tell(self, key: str, found: Mapping[str, Mapping[str, Any]], now: float) -> None:
        """Take what Serve says of one key: metadata by replica id."""
        if key not in self._known:
            return
        told = [PeerAddress(name, m["uds"], m["tcp"], m["node"]) for name, m in found.items() if "uds" in m]
        known = self._known[key]
        for address in known:
            if address not in told and not known[address]:
                known[address] = now + self._grace_s
        for address in told:
            known[address] = 0.0

    def peers(self, now: float) -> dict[str, list[PeerAddress]]:
        """Return the addresses of every held key, those forgotten by now left out for good."""
        for known in self._known.values():
            for address in [a for a, until in known.items() if until and until <= now]:
                del known[address]
        return {key: list(known) for key, known in self._known.items()}

    def served(self) -> list[str]:
        """Return the keys that have a replica now."""
        return [key for key, known in self._known.items() if not all(known.values())]
