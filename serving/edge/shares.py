"""Shares: who holds which slot and who accepts on which listeners. Pure; the sockets are somebody else's.

Listener N of a port has its home in slot N. The kernel spreads new connections evenly over all listeners, held or not, so each
must have somebody who accepts on it and, for an even load, each gateway the same number of them:

    a gateway that holds slot N and takes traffic accepts on listener N, always
    all other listeners are shared out, so that no two gateways differ by more than one; as few as possible move
    a gateway that drains accepts on none; while nobody takes traffic the listeners wait, their queues with them
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Move(NamedTuple):
    """`new` must accept on this listener from now on, and `old` no longer. Either may be None."""

    listener: int
    old: str | None
    new: str


class Shares:
    """Slots and listeners of one node. Members are named by any unique string."""

    def __init__(self, slots: int) -> None:
        self._holders: list[str | None] = [None] * slots
        self._acceptors: list[str | None] = [None] * slots
        self._draining: set[str] = set()

    @property
    def holders(self) -> list[str | None]:
        return list(self._holders)

    @property
    def acceptors(self) -> list[str | None]:
        return list(self._acceptors)

    def slot_of(self, member: str) -> int | None:
        """Return the slot that `member` holds, None if it holds none."""
        return self._holders.index(member) if member in self._holders else None

    def is_draining(self, member: str) -> bool:
        return member in self._draining

    def claim(self, member: str, closed: Iterable[int] = ()) -> int | None:
        """Give `member` the first free slot that is not in `closed`; None when there is none."""
        refused = set(closed)
        for slot, holder in enumerate(self._holders):
            if holder is None and slot not in refused:
                self._holders[slot] = member
                return slot
        return None

    def reclaim(self, member: str, slot: int, listeners: Iterable[int]) -> list[tuple[int, str]] | None:
        """Take note that `member` already holds `slot` and accepts on `listeners`.

        Returns (listener, who must let it go) where two accept on one; None when the slot is another's.
        """
        if not 0 <= slot < len(self._holders) or self._holders[slot] is not None:
            return None
        self._holders[slot] = member
        losers = []
        for listener in listeners:
            other = self._acceptors[listener]
            if other is None or listener == slot:
                self._acceptors[listener] = member
                if other is not None:
                    losers.append((listener, other))
            else:
                losers.append((listener, member))
        return losers

    def drain(self, member: str) -> None:
        """`member` takes no new traffic; it keeps its slot until it leaves."""
        self._draining.add(member)

    def leave(self, member: str) -> int | None:
        """Forget `member`; return the slot that is free now."""
        self._draining.discard(member)
        self._acceptors = [None if a == member else a for a in self._acceptors]
        slot = self.slot_of(member)
        if slot is not None:
            self._holders[slot] = None
        return slot

    def settle(self) -> list[Move]:
        """Return the moves that make the shares even, and take them as done."""
        homes = {m: n for n, m in enumerate(self._holders) if m is not None and m not in self._draining}
        if not homes:
            return []
        before = list(self._acceptors)
        now = [a if a in homes else None for a in before]
        for member, slot in homes.items():
            now[slot] = member
        counts = {member: now.count(member) for member in homes}
        for listener, acceptor in enumerate(now):
            if acceptor is None:
                now[listener] = _least(counts)
                counts[_least(counts)] += 1
        while counts[most := max(counts, key=counts.__getitem__)] - counts[least := _least(counts)] > 1:
            # the most loaded one has at least two, so at least one that is not its home
            moved = next(n for n, a in enumerate(now) if a == most and n != homes[most])
            now[moved] = least
            counts[most] -= 1
            counts[least] += 1
        self._acceptors = now
        return [Move(n, old, new) for n, (old, new) in enumerate(zip(before, now, strict=True)) if new is not None and old != new]


def _least(counts: dict[str, int]) -> str:
    return min(counts, key=counts.__getitem__)
