from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.deadlines import TICKS_PER_S, Deadlines


class Timed:
    """What the wheel knows of a call."""

    def __init__(self, deadline: float) -> None:
        self.request = SimpleNamespace(deadline=deadline)
        self.bucket: Any = None


def test_a_call_is_due_at_its_deadline_and_not_before() -> None:
    wheel = Deadlines()
    call = Timed(100.5)
    assert wheel.add(call, 100.5, 100.0)  # type: ignore[arg-type]
    assert wheel.due(100.499) == []
    assert 100.5 < wheel.next() <= 100.5 + 1 / TICKS_PER_S
    assert wheel.due(wheel.next()) == [call]
    assert wheel.next() == 0.0


def test_a_call_that_left_its_bucket_is_never_due() -> None:
    wheel = Deadlines()
    for deadline in (100.5, 130.0):
        call = Timed(deadline)
        wheel.add(call, deadline, 100.0)  # type: ignore[arg-type]
        call.bucket.discard(call)
    assert len(wheel) == 0
    assert wheel.due(200.0) == []


def test_minutes_of_answered_calls_leave_only_one_bucket_a_second() -> None:
    wheel = Deadlines()
    for i in range(10_000):
        now = 100 + i / 1000
        call = Timed(now + 60)
        wheel.add(call, now + 60, now)  # type: ignore[arg-type]
        call.bucket.discard(call)
    assert len(wheel._heap) <= 12


@given(st.lists(st.tuples(st.floats(0.0005, 20), st.floats(0, 3), st.booleans()), max_size=40))
def test_every_call_is_due_once_never_early_at_most_a_tick_late(steps: list[tuple[float, float, bool]]) -> None:
    wheel = Deadlines()
    now = 1000.0
    waiting: set[Any] = set()

    def advance(until: float) -> None:
        nonlocal now
        while (due := wheel.next()) and due <= until:
            now = max(now, due)
            for call in wheel.due(now):
                waiting.remove(call)
                assert call.request.deadline <= now <= call.request.deadline + 1 / TICKS_PER_S + 1e-9
                assert call.bucket is None
        now = until

    for after, pause, leaves in steps:
        call: Any = Timed(now + after)
        waiting.add(call)
        first = wheel.add(call, now + after, now)
        assert wheel.next() >= now or not first
        if leaves:
            call.bucket.discard(call)
            waiting.remove(call)
        advance(now + pause)
    advance(now + 30)
    assert not waiting
    assert len(wheel) == 0
