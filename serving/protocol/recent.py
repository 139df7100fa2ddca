"""Recent: a bounded cache whose hit costs one dict look-up."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps roughly the keys used last, within `entries` and `max_bytes` for each of two generations.

    A true LRU moves the entry at each hit (0.1 µs more). Here a full `young` becomes old and an empty one follows;
    a key that is found old is taken over. So what is in use survives a flood of keys that come once.
    The hot path reads `young.get` itself and calls `find` only when that has nothing.
    """

    __slots__ = ("_entries", "_max_bytes", "_old", "_young_bytes", "young")

    def __init__(self, entries: int = 256, max_bytes: int = 1 << 20) -> None:
        self._entries = entries
        self._max_bytes = max_bytes
        self._young_bytes = 0
        self._old: dict[K, tuple[V, int]] = {}
        self.young: dict[K, tuple[V, int]] = {}

    def find(self, key: K) -> V | None:
        """Return the value kept for the key, or None."""
        found = self.young.get(key)
        if found is not None:
            return found[0]
        found = self._old.pop(key, None)
        if found is None:
            return None
        self.keep(key, *found)
        return found[0]

    def keep(self, key: K, value: V, nbytes: int = 0) -> None:
        """Keep the pair. `nbytes` is what it weighs; a pair above a quarter of the bound is not kept."""
        if nbytes * 4 > self._max_bytes:
            return
        if len(self.young) >= self._entries or self._young_bytes + nbytes > self._max_bytes:
            self._old = self.young
            self.young = {}
            self._young_bytes = 0
        self.young[key] = (value, nbytes)
        self._young_bytes += nbytes

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def __repr__(self) -> str:
        return f"Recent({len(self.young)} young, {len(self._old)} old)"
