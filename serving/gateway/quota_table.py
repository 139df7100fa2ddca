"""QuotaTable: what callers with quotas have used, counted by all gateways of an engine together, in memory that they share.

A file in /dev/shm, mapped by each gateway; nobody hands out shares, so nobody has to be alive for it, and a caller gets its whole quota
through whichever gateways its connections end at. By caller (an entry) there is

    base                 a time that all gateways may write
    charged[lane]        seconds that requests have cost so far; each gateway writes its own lane, and they only ever grow
    under way[lane]      requests under way; likewise its own

`base + sum(charged)` is the time at which the caller's token bucket is full again (the GCRA of ATM networks). Where that has passed, base
is moved up to now. No locks: every cell that counts has one writer, and 8 aligned bytes are written at once.

How exact: gateways that look at the same moment may let in one request each where one had room, and are charged for all of them, so
over any longer time the rate is the quota. Only `base` can be written late, by a gateway that the system has stopped between a look and
its write, and only while the bucket was full: that forgets what the others let in meanwhile. A gateway that dies leaves its requests
under way behind; they count until its lane has been silent for DEAD_S, or has a new holder.
"""

from __future__ import annotations

import mmap
import os
import stat
from hashlib import blake2b
from pathlib import Path
from struct import Struct

LANES = 32
"""Gateways that count together; those in later slots of the edge count for themselves."""
ENTRIES = 16_384
PROBES = 16
"""Places where an entry may lie. Where all are of callers that have something open, one more is counted by each gateway alone."""
DEAD_S = 5.0
_HEAD = 4096
_BYTES = _HEAD + ENTRIES * (8 + 8 + 8 * LANES + 4 * LANES)

_TIMES = [Struct(f"{lanes}d").unpack_from for lanes in range(LANES + 1)]
_COUNTS = [Struct(f"{lanes}i").unpack_from for lanes in range(LANES + 1)]
"""Read the cells of an entry at once, by how many lanes there are."""


class QuotaTable:
    """One gateway's view. lane: its slot at the edge, below LANES. Times are of the monotonic clock, which a machine's processes share."""

    def __init__(self, file: Path, lane: int, now: float) -> None:
        """Open the file, or make it. Raises OSError where there is no room for it, or it is not ours."""
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                raise OSError(f"{file} is not a file of this user")
            # all of it at once: a page that is not there when it is written would end the process
            os.posix_fallocate(descriptor, 0, _BYTES)
            view = memoryview(mmap.mmap(descriptor, _BYTES))
        finally:
            os.close(descriptor)
        self._lane = lane
        cuts = [0, 8, _HEAD]
        for size in (8, 8, 8 * LANES, 4 * LANES):
            cuts.append(cuts[-1] + ENTRIES * size)
        self._lanes = view[0:8].cast("q")
        self._beats = view[8 : 8 + 8 * LANES].cast("d")
        self._keys = view[cuts[2] : cuts[3]].cast("Q")
        self._bases = view[cuts[3] : cuts[4]].cast("d")
        self._charged_bytes = view[cuts[4] : cuts[5]]
        self._charged = self._charged_bytes.cast("d")
        self._under_way_bytes = view[cuts[5] : cuts[6]]
        self._under_way = self._under_way_bytes.cast("i")
        for at in range(lane, ENTRIES * LANES, LANES):
            if self._under_way[at]:  # of a gateway that had this lane and has died
                self._under_way[at] = 0
        self.beat(now)
        self._lanes[0] = max(self._lanes[0], lane + 1)

    def beat(self, now: float) -> None:
        """Say that this gateway lives; at least every second."""
        self._beats[self._lane] = now

    def find(self, key: int, now: float) -> int:
        """Return the entry of a caller, a new one where it has none; -1 where there is no room."""
        free = -1
        for at in range(key, key + PROBES):
            entry = at % ENTRIES
            held = self._keys[entry]
            if held == key:
                return entry
            if free < 0 and (not held or (self.full_at(entry, now) <= now and not self.under_way(entry))):
                free = entry  # who has a full bucket and nothing under way is like one that never came
        if free >= 0:
            self._keys[free] = key
        return free

    def holds(self, entry: int, key: int) -> bool:
        """Whether the entry is still this caller's."""
        return self._keys[entry] == key

    def full_at(self, entry: int, now: float) -> float:
        """Return when the caller's bucket will be full, now where it is."""
        charged: float = sum(_TIMES[self._lanes[0]](self._charged_bytes, entry * (8 * LANES)))
        full_at: float = self._bases[entry] + charged
        if full_at < now:
            self._bases[entry] = now - charged
            return now
        return full_at

    def charge(self, entry: int, cost_s: float) -> None:
        """Count a request that this gateway lets in."""
        self._charged[entry * LANES + self._lane] += cost_s

    def under_way(self, entry: int) -> int:
        """Return the caller's requests under way, of all gateways."""
        return sum(_COUNTS[self._lanes[0]](self._under_way_bytes, entry * (4 * LANES)))

    def under_way_alive(self, entry: int, now: float) -> int:
        """The same, without those of gateways that have died; dearer."""
        first = entry * LANES
        for lane in range(self._lanes[0]):
            if self._under_way[first + lane] and self._beats[lane] < now - DEAD_S:
                self._under_way[first + lane] = 0
        return self.under_way(entry)

    def note(self, entry: int, under_way: int) -> None:
        """Say how many requests of the caller this gateway has under way."""
        self._under_way[entry * LANES + self._lane] = under_way

    def __repr__(self) -> str:
        return f"QuotaTable(lane {self._lane} of {self._lanes[0]})"


def key_of(name: bytes) -> int:
    """Return the number that a caller is known by in the table; never 0."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big") or 1
