"""Forms batches of one version. Knows rows, bytes and time stamps; knows no asyncio, no threads and no clock (now is passed in).

Entries wait in buckets (`Kind.bucket`); a batch comes from one bucket, so mixed shapes never meet. The order of all entries is
(priority, arrival); the bucket that holds the first of them goes first, so nobody starves inside a priority level, whatever
their shape. A lower priority does starve while a higher one keeps the model busy: that is what it asks for. When a bound is reached,
a request of higher priority takes the place of the least urgent ones, the last to come first; among equals nobody is displaced.

Cost: push, remove and take are O(1) per entry apart from heaps with one node per bucket and one per entry that can expire.
Entries that leave from the middle stay behind as dead ones until half of their container is dead; then it is rebuilt.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Iterator

from serving.batching.entry import Entry
from serving.errors import Code, DeadlineExceeded, InvalidArgument, QueueFull
from serving.hosting import BatchPolicy

FULL = "Exceeds maximum queue size"
_LEVEL_SHIFT = 48
_SLACK = 64
"""Dead entries that are never worth a rebuild."""


class Batch:
    """Entries of one bucket that run together, in order."""

    __slots__ = ("entries", "nbytes", "rows")

    def __init__(self, entries: list[Entry], rows: int, nbytes: int) -> None:
        self.entries = entries
        self.rows = rows
        self.nbytes = nbytes


class Queue:
    """The queue of one version. Times in seconds on whatever clock `now` comes from."""

    def __init__(self, model: str, policy: BatchPolicy, alone: bool = False) -> None:
        """alone: every request is a batch of its own, however many rows it may have, and waits for no company."""
        self._model = model
        self._alone = alone
        self._buckets: dict[str, _Bucket] = {}
        self._full: dict[str, _Bucket] = {}
        self._heads: list[tuple[int, _Bucket]] = []
        self._arrivals: deque[Entry] = deque()
        self._timers: list[tuple[float, int, Entry]] = []
        self._late: list[Entry] = []
        self._sequence = 0
        self._least_urgent = 0
        """No entry has a higher level; the highest may have gone."""
        self.requests = 0
        self.nbytes = 0
        self._take_policy(policy)

    def set_policy(self, policy: BatchPolicy) -> None:
        """Take over a changed policy. What is queued stays, even where it is over the new bounds or limits."""
        self._take_policy(policy)
        entries = sorted(self._entries(), key=lambda e: e.order & ((1 << _LEVEL_SHIFT) - 1))
        self._arrivals = deque(entries) if self._max_delay_s else deque()
        self._full = {k: b for k, b in self._buckets.items() if b.rows >= self._max_rows}

    def _take_policy(self, policy: BatchPolicy) -> None:
        self._max_rows = policy.max_batch_size or 1
        self._batch_rows = 1 if self._alone else self._max_rows
        self._max_delay_s = 0.0 if self._alone else policy.max_delay_s
        self._max_requests = policy.max_queue_requests
        self._max_bytes = policy.max_queue_bytes
        self._timeout_s = policy.timeout_s

    def push(self, entry: Entry, now: float) -> None:
        """Queue the entry.

        Raises QueueFull at a bound (one request larger than the bound in bytes is taken when nothing else waits),
        InvalidArgument for more rows than a batch may have, DeadlineExceeded where the deadline is already over.
        Whom it displaces `expire` returns with the code QUEUE_FULL.
        """
        kind = entry.kind
        rows = kind.rows
        nbytes = kind.nbytes
        deadline = entry.deadline
        if rows > self._max_rows:
            raise InvalidArgument(f"inference request batch-size must be <= {self._max_rows} for '{self._model}'")
        if deadline and deadline <= now:
            raise DeadlineExceeded("Deadline Exceeded")
        level = entry.level
        if self.requests >= self._max_requests or (self.nbytes + nbytes > self._max_bytes and self.requests):
            self._make_room(level, nbytes)
        self._sequence += 1
        if level > self._least_urgent:
            self._least_urgent = level
        order = entry.order = level << _LEVEL_SHIFT | self._sequence
        entry.arrived = now
        timeout_s = entry.timeout_s or self._timeout_s
        if deadline or timeout_s:
            expires = now + timeout_s if timeout_s else deadline
            entry.code = Code.QUEUE_TIMEOUT
            if deadline and deadline <= expires:
                expires = deadline
                entry.code = Code.DEADLINE_EXCEEDED
            entry.expires = expires
            heapq.heappush(self._timers, (expires, order, entry))
        entry.queued = True
        bucket = self._buckets.get(kind.bucket)
        if bucket is None:
            bucket = self._buckets[kind.bucket] = _Bucket(kind.bucket)
            heapq.heappush(self._heads, (order, bucket))
        elif level < bucket.levels[0]:
            heapq.heappush(self._heads, (order, bucket))
        lane = bucket.lanes.get(level)
        if lane is None:
            lane = bucket.add_lane(level)
        lane.append(entry)
        bucket.requests += 1
        bucket.nbytes += nbytes
        bucket.rows += rows
        if bucket.rows >= self._max_rows:
            self._full[bucket.key] = bucket
        self.requests += 1
        self.nbytes += nbytes
        if self._max_delay_s:
            self._arrivals.append(entry)

    def remove(self, entry: Entry) -> bool:
        """Take the entry out (its caller has gone). False where it is not queued any more."""
        if not entry.queued:
            return False
        entry.queued = False
        bucket = self._buckets[entry.kind.bucket]
        bucket.dead += 1
        self._count_out(bucket, 1, entry.kind.rows, entry.kind.nbytes)
        if bucket.requests and bucket.dead > bucket.requests + _SLACK:
            bucket.rebuild()
        self._trim()
        return True

    def expire(self, now: float) -> list[Entry]:
        """Take out and return the entries whose deadline or time-out is over, and those that were displaced; `entry.code` says which."""
        self._sweep(now)
        late, self._late = self._late, []
        return late

    def take(self, now: float) -> Batch | None:
        """Return the next batch if one is due at `now`, else None.

        Row counts sum to at most max_batch_size; a request is never split; priority first, then arrival. A batch is due
        when it is full, or when the oldest entry of all has waited max_delay_s. Expired entries are never in it: `expire` returns them.
        """
        timers = self._timers
        if timers and timers[0][0] <= now:
            self._sweep(now)
        bucket = self._choose(now)
        return None if bucket is None else self._fill(bucket)

    def full_bytes(self) -> int:
        """Return the payload bytes waiting in the bucket that goes next, if it can fill a batch by itself; else 0."""
        if not self._full:
            return 0
        head = self._head()
        return head.nbytes if head is not None and head.key in self._full else 0

    def due(self, now: float) -> float | None:
        """Return when to look again: `now` if a batch can be taken, else when a delay or an entry's time is over. None: nothing waits."""
        if not self.requests:
            return None
        if self._full or not self._max_delay_s:
            return now
        due = self._oldest().arrived + self._max_delay_s
        timer = self.expires_at()
        return max(now, due if timer is None or timer > due else timer)

    def expires_at(self) -> float | None:
        """Return when the first entry expires, None where none does."""
        timers = self._timers
        while timers and not timers[0][2].queued:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    # ---- which bucket goes next

    def _choose(self, now: float) -> _Bucket | None:
        if not self.requests:
            return None
        head = self._head()
        assert head is not None
        if not self._max_delay_s or head.key in self._full:
            return head
        oldest = self._oldest()
        waited = oldest.arrived + self._max_delay_s <= now
        if waited and oldest.kind.bucket == head.key:
            return head
        if self._full:
            return min(self._full.values(), key=_Bucket.first_order)
        return self._buckets[oldest.kind.bucket] if waited else None

    def _head(self) -> _Bucket | None:
        """Return the bucket with the first entry. Heap nodes may lie too early (their entry has gone), never too late."""
        buckets = self._buckets
        if len(buckets) == 1:
            return next(iter(buckets.values()))
        heads = self._heads
        while heads:
            order, bucket = heads[0]
            if not bucket.requests:
                heapq.heappop(heads)
                continue
            first = bucket.first_order()
            if first == order:
                return bucket
            heapq.heapreplace(heads, (first, bucket))
        return None

    def _oldest(self) -> Entry:
        """Return the entry that has waited longest, of any priority."""
        arrivals = self._arrivals
        while not arrivals[0].queued:
            arrivals.popleft()
        return arrivals[0]

    def _fill(self, bucket: _Bucket) -> Batch:
        entries: list[Entry] = []
        rows = nbytes = 0
        limit = self._batch_rows
        room = True
        for level in tuple(bucket.levels):
            lane = bucket.lanes[level]
            while lane:
                entry = lane[0]
                if not entry.queued:
                    lane.popleft()
                    bucket.dead -= 1
                    continue
                kind = entry.kind
                if rows + kind.rows > limit and entries:
                    room = False
                    break
                lane.popleft()
                entry.queued = False
                entries.append(entry)
                rows += kind.rows
                nbytes += kind.nbytes
                if rows >= limit:
                    room = False
                    break
            if not lane:
                bucket.drop_lane(level)
            if not room:
                break
        self._count_out(bucket, len(entries), rows, nbytes)
        if bucket.requests:
            heapq.heappush(self._heads, (bucket.first_order(), bucket))
        self._trim()
        return Batch(entries, rows, nbytes)

    # ---- room for the urgent

    def _make_room(self, level: int, nbytes: int) -> None:
        """Displace entries of lower priority until one of `nbytes` fits. Raises QueueFull where that is not enough: nobody goes then."""
        if level >= self._least_urgent:
            raise QueueFull(FULL)
        one_is_enough = self.requests == self._max_requests and self.nbytes + nbytes <= self._max_bytes
        if not one_is_enough and not self._could_fit(level, nbytes):
            raise QueueFull(FULL)
        while self.requests >= self._max_requests or (self.nbytes + nbytes > self._max_bytes and self.requests):
            victim = self._last_of_least_urgent(level)
            if victim is None:
                raise QueueFull(FULL)
            self.remove(victim)
            victim.code = Code.QUEUE_FULL
            self._late.append(victim)

    def _could_fit(self, level: int, nbytes: int) -> bool:
        left = left_bytes = 0
        for entry in self._entries():
            if entry.level <= level:
                left += 1
                left_bytes += entry.kind.nbytes
        return left < self._max_requests and (left_bytes + nbytes <= self._max_bytes or not left)

    def _last_of_least_urgent(self, level: int) -> Entry | None:
        """Return the last entry of the lowest priority there is, None where that is not lower than `level`."""
        found: Entry | None = None
        for bucket in self._buckets.values():
            entry = bucket.last()
            if found is None or entry.level > found.level or (entry.level == found.level and entry.order > found.order):
                found = entry
        self._least_urgent = found.level if found is not None else 0
        return found if self._least_urgent > level else None

    # ---- leaving

    def _sweep(self, now: float) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now:
            entry = heapq.heappop(timers)[2]
            if self.remove(entry):
                self._late.append(entry)

    def _count_out(self, bucket: _Bucket, requests: int, rows: int, nbytes: int) -> None:
        bucket.requests -= requests
        bucket.rows -= rows
        bucket.nbytes -= nbytes
        self.requests -= requests
        self.nbytes -= nbytes
        if not bucket.requests:
            del self._buckets[bucket.key]
        if bucket.rows < self._max_rows or not bucket.requests:
            self._full.pop(bucket.key, None)

    def _trim(self) -> None:
        """Forget dead entries where they are more than the living: memory follows what is queued, not what has passed."""
        if len(self._timers) > 2 * self.requests + _SLACK:
            self._timers = [t for t in self._timers if t[2].queued]
            heapq.heapify(self._timers)
        if len(self._arrivals) > 2 * self.requests + _SLACK:
            self._arrivals = deque(e for e in self._arrivals if e.queued)
        if len(self._heads) > 2 * len(self._buckets) + _SLACK:
            self._heads = [(b.first_order(), b) for b in self._buckets.values()]
            heapq.heapify(self._heads)

    def drain(self) -> list[Entry]:
        """Take out and return everything, oldest first (the version stops)."""
        entries = sorted(self._entries(), key=lambda e: e.order)
        for entry in entries:
            self.remove(entry)
        return entries

    def _entries(self) -> Iterator[Entry]:
        for bucket in self._buckets.values():
            for lane in bucket.lanes.values():
                yield from (e for e in lane if e.queued)

    def __repr__(self) -> str:
        return f"Queue({self.requests} requests, {self.nbytes} bytes, {len(self._buckets)} buckets)"


class _Bucket:
    """Entries that may share a batch: one FIFO per priority level in use. Counts are of living entries."""

    __slots__ = ("dead", "key", "lanes", "levels", "nbytes", "requests", "rows")

    def __init__(self, key: str) -> None:
        self.key = key
        self.lanes: dict[int, deque[Entry]] = {}
        self.levels: list[int] = []
        self.requests = 0
        self.rows = 0
        self.nbytes = 0
        self.dead = 0

    def add_lane(self, level: int) -> deque[Entry]:
        lane = self.lanes[level] = deque()
        insort(self.levels, level)
        return lane

    def drop_lane(self, level: int) -> None:
        del self.lanes[level]
        self.levels.remove(level)

    def first_order(self) -> int:
        """Return the order of the first living entry; there must be one."""
        while True:
            level = self.levels[0]
            lane = self.lanes[level]
            while lane:
                if lane[0].queued:
                    return lane[0].order
                lane.popleft()
                self.dead -= 1
            self.drop_lane(level)

    def last(self) -> Entry:
        """Return the last living entry of the lowest priority in here; there must be one."""
        while True:
            level = self.levels[-1]
            lane = self.lanes[level]
            while lane:
                if lane[-1].queued:
                    return lane[-1]
                lane.pop()
                self.dead -= 1
            self.drop_lane(level)

    def rebuild(self) -> None:
        for level in tuple(self.levels):
            lane = deque(e for e in self.lanes[level] if e.queued)
            if lane:
                self.lanes[level] = lane
            else:
                self.drop_lane(level)
        self.dead = 0
