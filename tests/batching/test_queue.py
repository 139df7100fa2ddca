from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.batching.entry import DEFAULT_PRIORITY, Entry
from serving.batching.queue import Batch, Queue
from serving.errors import Code, DeadlineExceeded, InvalidArgument, QueueFull
from serving.hosting import BatchPolicy
from tests.batching.entries import entry


def _keys(batch: Batch | None) -> list[int]:
    return [] if batch is None else [e.key for e in batch.entries]


def _queue(*entries: Entry, now: float = 0.0, **policy: float) -> Queue:
    queue = Queue("simple", BatchPolicy(**{"max_batch_size": 8, **policy}))  # type: ignore[arg-type]
    for e in entries:
        queue.push(e, now)
    return queue


def test_take_joins_rows_up_to_the_limit_and_never_splits_a_request() -> None:
    queue = _queue(entry(1, 3), entry(2, 3), entry(3, 3), entry(4, 1))
    assert _keys(queue.take(0)) == [1, 2]
    batch = queue.take(0)
    assert batch is not None
    assert (_keys(batch), batch.rows, batch.nbytes) == ([3, 4], 4, 64)
    assert queue.take(0) is None


def test_mixed_shapes_never_meet_and_the_oldest_goes_first() -> None:
    queue = _queue(entry(1, width=4), entry(2, width=5), entry(3, width=4), entry(4, width=5))
    assert [_keys(queue.take(0)) for _ in range(3)] == [[1, 3], [2, 4], []]


@pytest.mark.parametrize(
    ("levels", "order"),
    [
        ([0, 1, 2, 0], [2, 3, 1, 4]),
        ([200, 0, 127, 129], [3, 2, 4, 1]),
        ([DEFAULT_PRIORITY, 0, DEFAULT_PRIORITY], [1, 2, 3]),
    ],
    ids=["1 is first", "0 is the middle", "0 is 128"],
)
def test_priority_goes_before_arrival(levels: list[int], order: list[int]) -> None:
    queue = _queue(*(entry(n, level=level) for n, level in enumerate(levels, 1)))
    assert _keys(queue.take(0)) == order


def test_a_bucket_with_an_urgent_request_goes_before_an_older_one() -> None:
    queue = _queue(entry(1, width=4), entry(2, width=5), entry(3, width=5, level=1))
    assert _keys(queue.take(0)) == [3, 2]


def test_without_a_batch_dimension_each_request_runs_alone() -> None:
    queue = _queue(entry(1), entry(2), max_batch_size=0)
    assert [_keys(queue.take(0)) for _ in range(3)] == [[1], [2], []]


def test_more_rows_than_a_batch_may_have_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"inference request batch-size must be <= 8 for 'simple'"):
        _queue(entry(1, 9))


def test_bounds_by_requests_and_by_bytes() -> None:
    queue = _queue(entry(1), entry(2), max_queue_requests=2)
    with pytest.raises(QueueFull, match="Exceeds maximum queue size"):
        queue.push(entry(3), 0)
    queue = _queue(entry(1), max_queue_bytes=20)
    with pytest.raises(QueueFull, match="Exceeds maximum queue size"):
        queue.push(entry(2), 0)
    queue.take(0)
    queue.push(entry(3, 2), 0)  # larger than the bound, but nothing else waits
    assert queue.nbytes == 32


def test_the_urgent_take_the_places_of_the_least_urgent_that_came_last() -> None:
    queue = _queue(*(entry(n, level=level) for n, level in enumerate([0, 200, 0, 200, 130], 1)), max_queue_requests=5)
    queue.push(entry(6, level=1), 0)
    queue.push(entry(7, level=1), 0)
    assert [(e.key, e.code) for e in queue.expire(0)] == [(4, Code.QUEUE_FULL), (2, Code.QUEUE_FULL)]
    queue.push(entry(8), 0)
    assert [e.key for e in queue.expire(0)] == [5]
    for level in (0, 200):
        with pytest.raises(QueueFull, match="Exceeds maximum queue size"):
            queue.push(entry(9, level=level), 0)
    assert _keys(queue.take(0)) == [6, 7, 1, 3, 8]


def test_nobody_is_displaced_in_vain() -> None:
    queue = _queue(entry(1, 2, level=1), entry(2, 2, level=200), max_queue_bytes=64)
    with pytest.raises(QueueFull):
        queue.push(entry(3, 3, level=1, width=8), 0)
    assert (queue.expire(0), queue.requests) == ([], 2)
    queue.push(entry(4, 2, level=1), 0)
    assert [e.key for e in queue.expire(0)] == [2]


def test_a_request_larger_than_the_bound_displaces_only_those_of_lower_priority() -> None:
    queue = _queue(entry(1, level=200), entry(2, level=201), max_queue_bytes=32)
    queue.push(entry(3, 8), 0)
    assert ([e.key for e in queue.expire(0)], queue.nbytes) == ([2, 1], 128)


def test_bounds_that_have_shrunk_hold_for_the_urgent_too() -> None:
    queue = _queue(*(entry(n, level=200) for n in range(1, 6)))
    queue.set_policy(BatchPolicy(max_batch_size=8, max_queue_requests=2))
    queue.push(entry(6, level=1), 0)
    assert ([e.key for e in queue.expire(0)], queue.requests) == ([5, 4, 3, 2], 2)


def test_a_delay_holds_a_batch_back_until_it_is_full_or_the_oldest_has_waited() -> None:
    queue = _queue(entry(1, 4), max_delay_s=2.0)
    assert (queue.take(1.9), queue.due(1.0)) == (None, 2.0)
    assert _keys(queue.take(2.0)) == [1]
    queue.push(entry(2, 4), 10.0)
    queue.push(entry(3, 4), 10.5)
    assert queue.due(10.5) == 10.5
    assert _keys(queue.take(10.5)) == [2, 3]


def test_a_full_bucket_does_not_wait_for_another_that_is_older() -> None:
    queue = _queue(entry(1, 1, 5), max_delay_s=2.0)
    queue.push(entry(2, 8, 4), 1.0)
    assert _keys(queue.take(1.0)) == [2]
    assert queue.take(1.0) is None
    assert _keys(queue.take(2.0)) == [1]


@pytest.mark.parametrize(
    ("deadline", "timeout_s", "policy_s", "at", "code"),
    [
        (5.0, 0.0, 0.0, 5.0, Code.DEADLINE_EXCEEDED),
        (0.0, 3.0, 0.0, 3.0, Code.QUEUE_TIMEOUT),
        (0.0, 0.0, 4.0, 4.0, Code.QUEUE_TIMEOUT),
        (0.0, 2.0, 4.0, 2.0, Code.QUEUE_TIMEOUT),
        (5.0, 2.0, 0.0, 2.0, Code.QUEUE_TIMEOUT),
        (1.0, 2.0, 0.0, 1.0, Code.DEADLINE_EXCEEDED),
    ],
)
def test_an_entry_leaves_when_its_time_is_over(deadline: float, timeout_s: float, policy_s: float, at: float, code: Code) -> None:
    queue = _queue(entry(1, deadline=deadline, timeout_s=timeout_s), timeout_s=policy_s)
    assert queue.expires_at() == at
    assert queue.expire(at - 0.1) == []
    late = queue.expire(at)
    assert [(e.key, e.code) for e in late] == [(1, code)]
    assert (queue.requests, queue.nbytes, queue.take(at)) == (0, 0, None)


def test_what_take_finds_expired_is_returned_by_expire_and_never_in_a_batch() -> None:
    queue = _queue(entry(1, deadline=1.0), entry(2))
    assert _keys(queue.take(1.0)) == [2]
    assert [e.key for e in queue.expire(1.0)] == [1]


def test_a_deadline_that_is_over_on_arrival_is_refused() -> None:
    with pytest.raises(DeadlineExceeded, match="Deadline Exceeded"):
        _queue(entry(1, deadline=2.0), now=2.0)


def test_memory_follows_what_is_queued_and_not_what_has_passed() -> None:
    queue = _queue(entry(0, deadline=1e9, width=7), max_delay_s=1e9, max_batch_size=1000)
    for n in range(20_000):
        gone = entry(n, deadline=1e9, width=4 + n % 3)
        queue.push(gone, 0)
        assert queue.remove(gone)
    assert repr(queue) == "Queue(1 requests, 28 bytes, 1 buckets)"
    held = (
        len(queue._timers)
        + len(queue._arrivals)
        + len(queue._heads)
        + sum(len(x) for b in queue._buckets.values() for x in b.lanes.values())
    )
    assert held < 1000


def test_a_changed_policy_holds_for_what_is_queued() -> None:
    queue = _queue(*(entry(n) for n in range(6)))
    queue.set_policy(BatchPolicy(max_batch_size=2, max_delay_s=5.0))
    assert len(_keys(queue.take(0))) == 2
    queue.set_policy(BatchPolicy(max_batch_size=8, max_delay_s=5.0))
    assert queue.take(4.9) is None
    assert _keys(queue.take(5.0)) == [2, 3, 4, 5]


def _over(kept: list[Entry], made: Entry) -> bool:
    return len(kept) >= 12 or (bool(kept) and sum(e.kind.nbytes for e in kept) + made.kind.nbytes > 400)


class QueueMachine(RuleBasedStateMachine):
    """The queue against a list that is searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.next = 0
        self.policy = BatchPolicy(max_batch_size=4, max_queue_requests=12, max_queue_bytes=400)
        self.queue = Queue("m", self.policy)
        self.naive: list[Entry] = []
        self.late: list[int] = []

    def _sweep(self) -> None:
        gone = [e for e in self.naive if e.expires and e.expires <= self.now]
        self.late += [e.key for e in gone]
        self.naive = [e for e in self.naive if e not in gone]

    def _expected(self) -> list[int]:
        if not self.naive:
            return []
        limit, delay = self.policy.max_batch_size, self.policy.max_delay_s
        ranked = sorted(self.naive, key=lambda e: (e.level, e.key))
        buckets: dict[str, list[Entry]] = {}
        for e in ranked:
            buckets.setdefault(e.kind.bucket, []).append(e)
        full = [b for b in buckets.values() if sum(e.kind.rows for e in b) >= limit]
        oldest = min(self.naive, key=lambda e: e.key)
        waited = oldest.arrived + delay <= self.now
        head = buckets[ranked[0].kind.bucket]
        if not delay or head in full or (waited and oldest in head):
            chosen = head
        elif full:
            chosen = min(full, key=lambda b: (b[0].level, b[0].key))
        elif waited:
            chosen = buckets[oldest.kind.bucket]
        else:
            return []
        rows = 0
        keys = []
        for e in chosen:
            if rows + e.kind.rows > limit:
                break
            rows += e.kind.rows
            keys.append(e.key)
        return keys

    @rule(
        rows=st.integers(1, 4),
        width=st.integers(1, 3),
        level=st.sampled_from([0, 0, 0, 1, 2, 200]),
        life=st.sampled_from([0.0, 0.0, 0.5, 3.0]),
        timeout_s=st.sampled_from([0.0, 0.0, 1.0]),
    )
    def push(self, rows: int, width: int, level: int, life: float, timeout_s: float) -> None:
        self.next += 1
        made = entry(self.next, rows, width, level=level, deadline=self.now + life if life else 0.0, timeout_s=timeout_s)
        kept = sorted(self.naive, key=lambda e: (e.level, e.key))
        displaced = []
        while _over(kept, made) and kept and kept[-1].level > made.level:
            displaced.append(kept.pop())
        try:
            self.queue.push(made, self.now)
        except QueueFull:
            assert _over(kept, made)
        except InvalidArgument:
            assert rows > self.policy.max_batch_size
        else:
            assert not _over(kept, made)
            assert all(not e.queued and e.code is Code.QUEUE_FULL for e in displaced)
            self.late += [e.key for e in displaced]
            self.naive = [e for e in self.naive if e not in displaced] + [made]

    @rule()
    def take(self) -> None:
        self._sweep()
        expected = self._expected()
        assert _keys(self.queue.take(self.now)) == expected
        self.naive = [e for e in self.naive if e.key not in expected]

    @rule()
    def expire(self) -> None:
        self._sweep()
        assert sorted(e.key for e in self.queue.expire(self.now)) == sorted(self.late)
        self.late = []

    @precondition(lambda self: self.naive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.naive))
        assert self.queue.remove(gone)
        assert not self.queue.remove(gone)
        self.naive.remove(gone)

    @rule(step=st.sampled_from([0.1, 0.6, 2.0]))
    def wait(self, step: float) -> None:
        self.now += step
        self.expire()

    @rule(rows=st.integers(1, 6), delay=st.sampled_from([0.0, 0.0, 1.0]))
    def change(self, rows: int, delay: float) -> None:
        if any(e.kind.rows > rows for e in self.naive):
            return
        self.policy = BatchPolicy(max_batch_size=rows, max_delay_s=delay, max_queue_requests=12, max_queue_bytes=400)
        self.queue.set_policy(self.policy)

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.requests == len(self.naive)
        assert self.queue.nbytes == sum(e.kind.nbytes for e in self.naive)
        expiring = [e.expires for e in self.naive if e.expires]
        assert self.queue.expires_at() == (min(expiring) if expiring else None)

    @invariant()
    def due_is_when_take_gives_something(self) -> None:
        due = self.queue.due(self.now)
        if self._expected():
            assert due == self.now
        else:
            assert due is None or due > self.now


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
