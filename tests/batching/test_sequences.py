"""Whose turn it is: against a model that runs one request at a time and knows what each of them should see."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.batching.entry import Kind
from serving.batching.sequences import SequenceEntry, Sequences
from serving.errors import Code, QueueFull, SequencesFull, SequenceUnknown
from serving.hosting import BatchPolicy, SequencePolicy
from serving.sequence import Step, sequence_key
from tests.batching.entries import Collector, vector

KIND = Kind(vector(), True)
IDLE_S = 10.0


def entry(id: int | str, *, start: bool = False, end: bool = False, timeout_s: float = 0.0, deadline: float = 0.0) -> SequenceEntry:
    step = Step(sequence_key(id), start, end)
    return SequenceEntry(step, KIND, bytes(KIND.nbytes), Collector(), 0, deadline, timeout_s)


def sequences(live: int = 4, waiting: int = 6) -> Sequences:
    return Sequences("m", SequencePolicy(IDLE_S, live), BatchPolicy(8, max_queue_requests=waiting))


def test_a_start_that_never_ran_takes_those_behind_it_along() -> None:
    """They must not run on the state of the sequence before."""
    s = sequences()
    first, again, behind, new = entry(1, start=True), entry(1, start=True, timeout_s=1.0), entry(1), entry(1, start=True)
    assert s.arrive(first, 0.0)
    for waiting in (again, behind, new):
        assert not s.arrive(waiting, 0.0)
    assert s.expire(1.0) == [again]
    assert again.code == Code.QUEUE_TIMEOUT
    first.ran = True
    first.sequence.state["old"] = True
    assert s.leave(first, 2.0) == (new, [behind])
    assert new.sequence.state == {}


def test_the_last_request_is_gone_and_so_is_a_sequence_whose_start_was_lost() -> None:
    s = sequences()
    first, again = entry(1, start=True), entry(1, start=True)
    s.arrive(first, 0.0)
    s.arrive(again, 0.0)
    assert s.remove(again)
    assert not s.remove(again)
    first.ran = True
    assert s.leave(first, 1.0) == (None, [])
    with pytest.raises(SequenceUnknown, match="must specify the START flag"):
        s.arrive(entry(1), 1.0)
    assert len(s) == 0


def test_forgetting_refuses_those_that_wait_and_lets_the_running_one_end() -> None:
    s = sequences()
    first, behind = entry(1, start=True), entry(1)
    s.arrive(first, 0.0)
    s.arrive(behind, 0.0)
    assert s.forget(sequence_key(1)) == [behind]
    assert s.forget(sequence_key(2)) == []
    first.ran = True
    assert s.leave(first, 1.0) == (None, [])
    assert (len(s), s.waiting, s.nbytes, s.due()) == (0, 0, 0, None)


class Machine(RuleBasedStateMachine):
    """Any clients, any times, a model that fails now and then. `runs` are the requests whose turn it is."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sequences = sequences()
        self.runs: list[SequenceEntry] = []
        self.last: dict[Any, int] = {}
        """By sequence: the number of the request that had its turn last."""
        self.number: dict[SequenceEntry, int] = {}
        self.waiting: list[SequenceEntry] = []

    def turn(self, entry: SequenceEntry) -> None:
        id = entry.step.id
        assert all(other.step.id != id for other in self.runs), "two of one sequence at a time"
        assert self.number[entry] > self.last.get(id, -1), "out of order"
        self.last[id] = self.number[entry]
        seen = entry.sequence
        assert (seen.id, seen.start, seen.end) == (id, entry.step.start, entry.step.end)
        if entry.step.start:
            assert seen.state == {}
        else:
            assert seen.state["start"] == entry.round, "the state of another sequence"
        self.runs.append(entry)

    @rule(id=st.sampled_from([1, 2, "1", "2", 3, 4, 5]), start=st.booleans(), end=st.booleans(), timeout_s=st.sampled_from([0.0, 3.0]))
    def arrive(self, id: Any, start: bool, end: bool, timeout_s: float) -> None:
        new = entry(id, start=start, end=end, timeout_s=timeout_s)
        self.number[new] = len(self.number)
        try:
            if self.sequences.arrive(new, self.now):
                self.turn(new)
            else:
                self.waiting.append(new)
        except SequenceUnknown:
            assert not start
        except SequencesFull:
            assert start
            assert len(self.sequences) == 4
        except QueueFull:
            assert self.sequences.waiting == 6

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 10), ran=st.booleans())
    def leave(self, which: int, ran: bool) -> None:
        over = self.runs.pop(which % len(self.runs))
        over.ran = ran
        if ran and over.step.start:
            over.sequence.state["start"] = over.round
        following, refused = self.sequences.leave(over, self.now)
        for lost in refused:
            assert not lost.step.start
            self.waiting.remove(lost)
        if following is not None:
            self.waiting.remove(following)
            self.turn(following)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 10))
    def cancel(self, which: int) -> None:
        assert self.sequences.remove(self.waiting.pop(which % len(self.waiting)))

    @rule(seconds=st.sampled_from([0.5, 2.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for late in self.sequences.expire(self.now):
            self.waiting.remove(late)
            assert late.arrived + 3.0 <= self.now
        self.sequences.free_idle(self.now)
        due = self.sequences.due()
        assert due is None or due > self.now

    @rule(id=st.sampled_from([1, "1"]))
    def forget(self, id: Any) -> None:
        if any(run.step.id == id for run in self.runs):
            return  # started elsewhere while it runs here: two of one sequence at a time, with states of their own
        for lost in self.sequences.forget(sequence_key(id)):
            self.waiting.remove(lost)

    @invariant()
    def bounded(self) -> None:
        assert len(self.sequences) <= 4
        assert self.sequences.waiting == len(self.waiting) <= 6
        assert self.sequences.nbytes == KIND.nbytes * len(self.waiting)

    def teardown(self) -> None:
        while self.runs:
            self.leave(0, True)
        assert self.waiting == []
        self.sequences.free_idle(self.now + 2 * IDLE_S)
        assert (len(self.sequences), self.sequences.due()) == (0, None)


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
