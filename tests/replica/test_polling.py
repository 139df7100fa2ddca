"""Polling: looks only after lone requests that come back soon, never for longer than its bound, never against others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.replica import polling
from serving.replica.polling import CONFIDENT, LONE_REQUESTS, LONGEST_S, STOLEN_S, Polling

SOON_S = LONGEST_S / 2


class Machine:
    """A loop whose callbacks run when told to, and a clock that moves when told to, and at every yield."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.yield_s = 0.0
        self.due: list[Callable[[], None]] = []
        monkeypatch.setattr(polling, "sched_yield", self._yielded)
        self.polling = Polling(self, lambda: self.now)  # type: ignore[arg-type]

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def _yielded(self) -> None:
        self.now += self.yield_s

    def turn(self) -> bool:
        """One turn of the loop, 1 µs long; whether it would not have slept."""
        due, self.due = self.due, []
        self.now += 1e-6
        for callback in due:
            callback()
        return bool(self.due)

    def serve(self, gap_s: float, requests: int = 1) -> None:
        self.now += gap_s
        self.polling.arrived(self.now, requests)
        while self.turn():
            pass
        self.polling.rest()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def confident(machine: Machine) -> Machine:
    machine.serve(1.0)
    for _ in range(CONFIDENT):
        machine.serve(SOON_S)
    assert machine.due
    return machine


def test_sleeps_until_requests_have_come_back_soon_several_times(machine: Machine) -> None:
    machine.serve(1.0)
    for _ in range(CONFIDENT - 1):
        assert not machine.due
        machine.serve(SOON_S)
    assert not machine.due
    machine.serve(SOON_S)
    assert machine.due


def test_looks_no_longer_than_its_bound(machine: Machine) -> None:
    began = confident(machine).now
    while machine.turn():
        assert machine.now - began < LONGEST_S + STOLEN_S
    assert machine.now - began >= LONGEST_S


def test_one_late_request_ends_it(machine: Machine) -> None:
    confident(machine).serve(LONGEST_S * 2)
    assert not machine.due


def test_not_behind_a_batch_of_many(machine: Machine) -> None:
    confident(machine).serve(SOON_S, LONE_REQUESTS + 1)
    assert not machine.due


def test_gives_way_when_another_process_takes_the_processor(machine: Machine) -> None:
    confident(machine)
    machine.yield_s = STOLEN_S * 2
    assert not machine.turn()
    machine.serve(0.0)
    assert not machine.due  # and has to gain confidence again


def test_a_request_ends_the_looking(machine: Machine) -> None:
    confident(machine)
    assert machine.turn()
    machine.polling.arrived(machine.now, 1)
    assert not machine.turn()


@given(st.lists(st.tuples(st.floats(0, LONGEST_S * 3), st.integers(1, 4), st.floats(0, STOLEN_S * 2)), max_size=60))
def test_there_is_never_more_than_one_look_and_it_always_ends(steps: list[tuple[float, int, float]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        machine = Machine(monkeypatch)
        for gap_s, requests, yield_s in steps:
            machine.yield_s = yield_s
            machine.serve(gap_s, requests)
            assert len(machine.due) <= 1
        looks = 0
        while machine.turn():
            looks += 1
            assert looks < 1000
