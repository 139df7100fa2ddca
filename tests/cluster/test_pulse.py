"""A pulse counts turns without an answer, whatever became of the question."""

from __future__ import annotations

import threading

from serving.cluster.pulse import Pulse
from serving.errors import Unavailable

LONG_S = 60.0


class Somebody:
    """Is asked, and answers when it is let."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.refuses = False
        self.pulse = Pulse("somebody", self.ask)
        self.pulse.start()

    def ask(self) -> None:
        self.asked.release()
        self.let.acquire()
        if self.refuses:
            raise Unavailable("not now")

    def turn(self, *, answered: bool) -> int:
        """Take a turn in which a question is asked; return what it counts."""
        counted = self.pulse.turn()
        assert self.asked.acquire(timeout=LONG_S)
        if answered:
            self.let.release()
            assert self.pulse.wait(LONG_S)
        return counted


def test_who_answers_is_never_silent() -> None:
    somebody = Somebody()
    assert [somebody.turn(answered=True) for _ in range(5)] == [0, 0, 0, 0, 0]


def test_a_question_that_is_not_answered_is_not_asked_again_and_every_turn_counts() -> None:
    somebody = Somebody()
    assert somebody.turn(answered=False) == 0
    assert [somebody.pulse.turn() for _ in range(4)] == [1, 2, 3, 4]
    assert not somebody.asked.acquire(blocking=False)
    somebody.let.release()
    assert somebody.pulse.wait(LONG_S)
    assert somebody.turn(answered=True) == 0


def test_a_refusal_is_no_answer_and_the_next_turn_asks_again() -> None:
    somebody = Somebody()
    somebody.refuses = True
    assert [somebody.turn(answered=True) for _ in range(3)] == [0, 1, 2]
    somebody.pulse.forgive()
    assert somebody.turn(answered=True) == 0
