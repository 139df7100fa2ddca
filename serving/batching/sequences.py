"""The live sequences of one version: whose turn it is. Knows ids, flags and time stamps; knows no asyncio, no clock and no model.

At most one request of a sequence is with the queue or the model, the others wait here in the order of their arrival; requests of
different sequences share batches. A request that fails still gives way to the next one. What a request may do follows from what has
*run*: where a START expired or was cancelled before the model saw it, the requests behind it are refused like any without START.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque

from serving.batching.entry import Entry, Kind, Owner
from serving.errors import Code, InvalidArgument, QueueFull, SequencesFull, SequenceUnknown
from serving.hosting import BatchPolicy, SequencePolicy
from serving.inference import Buffer
from serving.sequence import Sequence, Step, not_started, one_row

FULL = "Exceeds maximum queue size"
_SLACK = 64


class SequenceEntry(Entry):
    """One request of a sequence.

    asker      who sent it; its `owner` is the batcher, which has to hear of its end
    live       the sequence, once the request has been let in
    sequence   what the model sees, once it is its turn
    waiting    behind another request of its sequence
    ran        the model was given it
    round      counts the STARTs of its sequence that had come with it
    """

    __slots__ = ("asker", "live", "ran", "round", "sequence", "step", "waiting")

    sequence: Sequence

    def __init__(
        self,
        step: Step,
        kind: Kind,
        payload: Buffer,
        owner: Owner,
        key: int,
        deadline: float = 0.0,
        timeout_s: float = 0.0,
        level: int = 0,
        slot: int = -1,
    ) -> None:
        super().__init__(kind, payload, owner, key, deadline, timeout_s, level, slot)
        self.step = step
        self.asker = owner
        self.live: Live | None = None
        self.waiting = False
        self.ran = False
        self.round = 0


class Live:
    """One sequence that has begun.

    started   as the model knows it: START has gone to it, and END has not
    expects   as the client knows it: the last request that came did not say END
    current   the request whose turn it is
    round     STARTs that have come; `began` is the round of the one whose turn came last
    """

    __slots__ = ("began", "current", "expects", "key", "round", "sequence", "started", "used", "waiting")

    def __init__(self, step: Step) -> None:
        self.key = step.key
        self.sequence = Sequence(step.id)
        self.started = False
        self.expects = False
        self.current: SequenceEntry | None = None
        self.waiting: deque[SequenceEntry] = deque()
        self.used = 0.0
        self.round = self.began = 0


class Sequences:
    """All live sequences of a version in this replica. Times in seconds on whatever clock `now` comes from."""

    def __init__(self, model: str, policy: SequencePolicy, batching: BatchPolicy) -> None:
        self.policy = policy
        self.batching = batching
        self.waiting = 0
        """Requests behind others of their sequence; `nbytes` is their payload."""
        self.nbytes = 0
        self._model = model
        self._live: dict[bytes, Live] = {}
        self._idle: OrderedDict[bytes, Live] = OrderedDict()
        """Those without a request, the one idle for longest first."""
        self._timers: list[tuple[float, int, SequenceEntry]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._live)

    def arrive(self, entry: SequenceEntry, now: float) -> bool:
        """Let a request in. True where it is its turn at once; where False, `leave` of another one will return it.

        Raises SequenceUnknown (no START, and not live), SequencesFull, QueueFull, InvalidArgument (more than one row).
        """
        step = entry.step
        if entry.kind.rows != 1:
            raise InvalidArgument(one_row(self._model))
        live = self._live.get(step.key)
        if not step.start and (live is None or not live.expects):
            raise SequenceUnknown(not_started(self._model, step.id))
        if live is None:
            live = self._begin(step, now)
        elif live.current is not None:
            self._check_room(entry)
        entry.arrived = now
        entry.live = live
        live.expects = not step.end
        live.round += step.start
        entry.round = live.round
        self._idle.pop(step.key, None)
        if live.current is None:
            self._turn(live, entry)
            return True
        self._wait(live, entry, now)
        return False

    def leave(self, entry: SequenceEntry, now: float) -> tuple[SequenceEntry | None, list[SequenceEntry]]:
        """A request is over. Return the next one of its sequence, and those that cannot run any more (SequenceUnknown).

        What leaves `expire`, `remove` and `forget` is over already and may be given here too.
        """
        live = entry.live
        if live is None or live.current is not entry:
            return None, []
        live.current = None
        if entry.step.end or (entry.step.start and not entry.ran):
            live.started = False
        refused: list[SequenceEntry] = []
        while live.waiting:
            following = live.waiting.popleft()
            if not following.waiting:
                continue
            self._count_out(following)
            if following.step.start or (live.started and following.round == live.began):
                self._turn(live, following)
                return following, refused
            refused.append(following)
        self._rest(live, now)
        return None, refused

    def remove(self, entry: SequenceEntry) -> bool:
        """Take out a request that waits (its caller has gone). False where it does not wait here."""
        if not entry.waiting:
            return False
        self._count_out(entry)
        return True

    def expire(self, now: float) -> list[SequenceEntry]:
        """Take out and return the waiting requests whose time is over; `entry.code` says which time."""
        late: list[SequenceEntry] = []
        timers = self._timers
        while timers and timers[0][0] <= now:
            entry = heapq.heappop(timers)[2]
            if self.remove(entry):
                late.append(entry)
        if len(timers) > 2 * self.waiting + _SLACK:
            self._timers = [t for t in timers if t[2].waiting]
            heapq.heapify(self._timers)
        return late

    def free_idle(self, now: float) -> int:
        """Forget the sequences that have been idle for too long; return how many."""
        before = now - self.policy.max_idle_s
        freed = 0
        while self._idle:
            live = next(iter(self._idle.values()))
            if live.used > before:
                break
            self._drop(live)
            freed += 1
        return freed

    def due(self) -> float | None:
        """Return when `expire` or `free_idle` have something to do, None where nothing is to come."""
        while self._timers and not self._timers[0][2].waiting:
            heapq.heappop(self._timers)
        times = [self._timers[0][0]] if self._timers else []
        if self._idle:
            times.append(next(iter(self._idle.values())).used + self.policy.max_idle_s)
        return min(times, default=None)

    def forget(self, key: bytes) -> list[SequenceEntry]:
        """Drop a sequence that has been started elsewhere. Returns its waiting requests, which nobody will run."""
        live = self._live.get(key)
        if live is None:
            return []
        left = [entry for entry in live.waiting if entry.waiting]
        for entry in left:
            self._count_out(entry)
        live.waiting.clear()
        self._drop(live)
        return left

    # ---- one sequence

    def _begin(self, step: Step, now: float) -> Live:
        if len(self._live) >= self.policy.max_sequences and not self.free_idle(now):
            limit = self.policy.max_sequences
            raise SequencesFull(f"model '{self._model}' has {limit} live sequences, which is its limit; end one, or try again later")
        live = self._live[step.key] = Live(step)
        return live

    def _turn(self, live: Live, entry: SequenceEntry) -> None:
        step = entry.step
        sequence = live.sequence
        if step.start:
            sequence.state = {}
            live.started = True
            live.began = entry.round
        sequence.start = step.start
        sequence.end = step.end
        entry.sequence = sequence
        live.current = entry

    def _rest(self, live: Live, now: float) -> None:
        """Nothing of the sequence waits: it is over, or idle from now on."""
        if self._live.get(live.key) is not live:
            return
        if not live.started or not live.expects or live.round != live.began:
            self._drop(live)
        else:
            live.used = now
            self._idle[live.key] = live

    def _drop(self, live: Live) -> None:
        del self._live[live.key]
        self._idle.pop(live.key, None)

    # ---- those that wait

    def _check_room(self, entry: SequenceEntry) -> None:
        batching = self.batching
        if self.waiting >= batching.max_queue_requests or self.nbytes + entry.kind.nbytes > batching.max_queue_bytes:
            raise QueueFull(FULL)

    def _wait(self, live: Live, entry: SequenceEntry, now: float) -> None:
        entry.waiting = True
        live.waiting.append(entry)
        self.waiting += 1
        self.nbytes += entry.kind.nbytes
        timeout_s = entry.timeout_s or self.batching.timeout_s
        expires = now + timeout_s if timeout_s else entry.deadline
        if not expires:
            return
        entry.code = Code.QUEUE_TIMEOUT
        if 0.0 < entry.deadline <= expires:
            expires = entry.deadline
            entry.code = Code.DEADLINE_EXCEEDED
        self._number += 1
        heapq.heappush(self._timers, (expires, self._number, entry))

    def _count_out(self, entry: SequenceEntry) -> None:
        entry.waiting = False
        self.waiting -= 1
        self.nbytes -= entry.kind.nbytes

    def __repr__(self) -> str:
        return f"Sequences({len(self._live)} live, {len(self._idle)} idle, {self.waiting} requests waiting)"
