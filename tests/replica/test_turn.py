"""Turn: what is due is done once, in order, and one that fails takes nobody with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.replica.turn import Turn


class Loop:
    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []
        self.faults: list[dict[str, Any]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def call_exception_handler(self, fault: dict[str, Any]) -> None:
        self.faults.append(fault)

    def turn(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


class Worker:
    """Notes what is called; fails where it is told to."""

    def __init__(self, name: str, log: list[str], fails: bool = False) -> None:
        self.name, self.log, self.fails = name, log, fails

    def step(self) -> None:
        self.log.append(f"{self.name} steps")
        if self.fails:
            raise ValueError(self.name)

    def flush(self) -> None:
        self.log.append(f"{self.name} flushes")
        if self.fails:
            raise ValueError(self.name)


def test_steps_come_first_each_once_and_the_loop_is_asked_once() -> None:
    loop, log = Loop(), []
    turn = Turn(loop)  # type: ignore[arg-type]  # all that it uses of a loop
    a, b = Worker("a", log), Worker("b", log)
    turn.flush(b)
    turn.wake(a)
    turn.wake(a)
    turn.wake(b)
    assert len(loop.due) == 1
    loop.turn()
    assert log == ["a steps", "b steps", "b flushes"]
    assert not loop.due


def test_one_that_fails_takes_neither_the_others_nor_later_turns_with_it() -> None:
    loop, log = Loop(), []
    turn = Turn(loop)  # type: ignore[arg-type]
    bad, good = Worker("bad", log, fails=True), Worker("good", log)
    for _ in range(2):
        for worker in (bad, good):
            turn.wake(worker)
            turn.flush(worker)
        loop.turn()
    assert log == ["bad steps", "good steps", "bad flushes", "good flushes"] * 2
    assert [str(fault["exception"]) for fault in loop.faults] == ["bad"] * 4
