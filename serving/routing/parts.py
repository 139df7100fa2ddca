"""Parts of the traffic: the 10,000 points, which version has which, and the point of a key.

In both tables each version has exactly its points. They differ in which:

parts_in_turn   one behind the other. Drawn from in steps of GOLDEN, any stretch of requests is shared out as evenly as it can be, and so
                is every second, third .. of them.
keyed_parts     for keys that must keep their version when shares change. The oldest version of the split has what the others leave.
                Each other one has an order of its own in which it takes points, always the same; the newest version takes first.
                So a share that grows adds points and one that shrinks gives some up: where the newest version and the oldest
                trade, no other point moves, and of two versions that is always so. A version in between whose point is taken
                takes its next one; that is about its own share of what moved, and no choice without a memory of the one
                before does without it (Holenstein 2007, correlated sampling). Back to the old shares is back to the old
                versions, on every gateway, also after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b, shake_128
from struct import unpack

POINTS = 10_000
"""All requests; a point is 0.01 %."""
GOLDEN = 0.6180339887498949
"""Of the whole circle: multiples of it fall evenly at all times (Weyl 1916; Knuth 3, 6.4)."""


def parts_in_turn(shares: Mapping[str, int]) -> list[str]:
    """Return the version of each point. Shares have POINTS points in all."""
    return [version for version, points in shares.items() for _ in range(points)]


def keyed_parts(shares: Mapping[str, int]) -> list[str]:
    """Return the version of each point, such that other shares move as few points as may be."""
    oldest, *others = sorted(shares, key=int)
    parts = [oldest] * POINTS
    taken = bytearray(POINTS)
    for version in reversed(others):
        left = shares[version]
        for point in _order(version) if left else ():
            if not taken[point]:
                taken[point] = 1
                parts[point] = version
                left -= 1
                if not left:
                    break
    return parts


@lru_cache(maxsize=256)
def _order(version: str) -> tuple[int, ...]:
    """Return all points in an order that is the version's own. The same on every machine: it decides who gets what."""
    numbers = unpack(f"<{POINTS}Q", shake_128(f"version {version}".encode()).digest(8 * POINTS))
    return tuple(sorted(range(POINTS), key=numbers.__getitem__))


def point_of(salt: bytes, key: bytes) -> int:
    """Return the point of a key. `salt` (the endpoint) has keys fall differently for each model."""
    return int.from_bytes(blake2b(salt + key, digest_size=8).digest(), "little") % POINTS
