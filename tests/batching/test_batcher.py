"""The batcher on a real loop. Models that wait do so on events, so that each test decides what is in which batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, current_thread
from time import monotonic
from typing import Any

import numpy as np
import pytest

from serving.batching.batcher import AHEAD_BYTES, Batcher
from serving.batching.stack import Arrays
from serving.errors import Code, DeadlineExceeded, Unavailable
from serving.hosting import BatchPolicy
from serving.tensor import DType, Signature, TensorSpec
from tests.batching.entries import Collector, entry

ECHO = Signature((TensorSpec("x", DType.FP32, (-1,)),), (TensorSpec("y", DType.FP32, (-1,)),), 8)
MODES = pytest.mark.parametrize("execution", ["inline", "thread"])


class Gate:
    """A model that says when it is in a call, and stays there until it is let go."""

    def __init__(self) -> None:
        self.entered = Event()
        self.leave = Event()
        self.batches: list[int] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        self.batches.append(len(inputs["x"]))
        self.entered.set()
        assert self.leave.wait(60)
        return {"y": inputs["x"]}


class Echo:
    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        self.batches.append(len(inputs["x"]))
        return {"y": inputs["x"]}


@contextmanager
def running(predict: Callable[[Arrays], Arrays], *, signature: Signature = ECHO, **policy: Any) -> Iterator[Batcher]:
    loop = asyncio.get_running_loop()

    def wake(batcher: Batcher) -> None:
        if batcher not in waking:
            waking.add(batcher)
            loop.call_soon(step, batcher)

    def step(batcher: Batcher) -> None:
        waking.discard(batcher)
        batcher.step()

    waking: set[Batcher] = set()
    batcher = Batcher("m/1", signature, BatchPolicy(**{"max_batch_size": 8, **policy}), predict, False, loop, wake)
    batcher.start(lambda: None)
    try:
        yield batcher
    finally:
        batcher.stop()


async def until(done: Callable[[], bool]) -> None:
    """Let the loop turn until `done`; at most 10 s."""
    end = monotonic() + 60
    while not done():
        assert monotonic() < end
        await asyncio.sleep(0.001)


def values(owner: Collector) -> dict[int, float]:
    return {key: float(np.frombuffer(data, np.float32)[0]) for key, data in owner.answers.items()}


def filled(owner: Collector, key: int, rows: int = 1, **more: Any) -> Any:
    return entry(key, rows, payload=np.full((rows, 4), key, np.float32).tobytes(), owner=owner, **more)


@MODES
async def test_requests_of_one_turn_share_a_batch_and_each_gets_its_own_rows(execution: str) -> None:
    model, owner = Echo(), Collector()
    with running(model, execution=execution) as batcher:
        batcher.push([filled(owner, 1), filled(owner, 2, 3)], monotonic())
        batcher.push([filled(owner, 3)], monotonic())
        await until(lambda: owner.done == 3)
    assert values(owner) == {1: 1.0, 2: 2.0, 3: 3.0}
    assert model.batches == [5]
    assert owner.rows == {1: 5, 2: 5, 3: 5}
    assert (batcher.open, batcher.counts.answered, batcher.counts.batches, batcher.counts.rows) == (0, 3, 1, 5)


@MODES
async def test_one_bad_request_does_not_fail_its_neighbours(execution: str) -> None:
    def picky(inputs: Arrays) -> Arrays:
        if (inputs["x"] == 2).any():
            raise ValueError("two is not a number I like")
        return {"y": inputs["x"]}

    owner = Collector()
    with running(picky, execution=execution) as batcher:
        batcher.push([filled(owner, n) for n in (1, 2, 3)], monotonic())
        await until(lambda: owner.done == 3)
    assert values(owner) == {1: 1.0, 3: 3.0}
    assert owner.errors == {2: (Code.MODEL_FAILED, "ValueError: two is not a number I like")}
    assert batcher.open == 0


@MODES
async def test_what_a_model_raises_reaches_the_caller_and_the_model_goes_on(execution: str) -> None:
    raises: list[BaseException] = [SystemExit("bye"), DeadlineExceeded("too late for me"), MemoryError()]

    def model(inputs: Arrays) -> Arrays:
        if raises:
            raise raises.pop(0)
        return {"y": inputs["x"]}

    owner = Collector()
    with running(model, execution=execution) as batcher:
        for n in range(4):
            batcher.push([filled(owner, n)], monotonic())
            await until(lambda n=n: owner.done == n + 1)  # type: ignore[misc]
    assert owner.errors == {
        0: (Code.MODEL_FAILED, "SystemExit: bye"),
        1: (Code.DEADLINE_EXCEEDED, "too late for me"),
        2: (Code.MODEL_FAILED, "MemoryError: "),
    }
    assert values(owner) == {3: 3.0}


@MODES
async def test_an_answer_against_the_signature_fails_the_batch(execution: str) -> None:
    owner = Collector()
    with running(lambda inputs: {"y": inputs["x"][:1]}, execution=execution) as batcher:
        batcher.push([filled(owner, n) for n in (1, 2)], monotonic())
        await until(lambda: owner.done == 2)
    assert {code for code, _ in owner.errors.values()} == {Code.MODEL_FAILED}


async def test_while_the_model_runs_requests_gather_and_the_expired_and_cancelled_leave() -> None:
    gate, owner = Gate(), Collector()
    with running(gate) as batcher:
        batcher.push([filled(owner, 0)], monotonic())
        await until(gate.entered.is_set)
        gone = filled(owner, 1)
        batcher.push([gone, filled(owner, 2, timeout_s=0.01), filled(owner, 3, deadline=monotonic() + 0.01)], monotonic())
        batcher.push([filled(owner, 4), filled(owner, 5)], monotonic())
        batcher.cancel(gone)
        await until(lambda: owner.done == 3)
        assert owner.errors == {
            1: (Code.CANCELLED, "cancelled"),
            2: (Code.QUEUE_TIMEOUT, "Request timeout expired"),
            3: (Code.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        }
        gate.leave.set()
        await until(lambda: owner.done == 6)
    assert gate.batches == [1, 2]
    assert (batcher.counts.cancelled, batcher.counts.expired, batcher.counts.answered) == (1, 2, 3)


async def test_a_request_cancelled_while_it_runs_is_answered_cancelled_once() -> None:
    gate, owner = Gate(), Collector()
    with running(gate) as batcher:
        running_one = filled(owner, 1)
        batcher.push([running_one], monotonic())
        await until(gate.entered.is_set)
        batcher.cancel(running_one)
        assert owner.done == 0
        gate.leave.set()
        await until(lambda: owner.done == 1)
    assert owner.errors == {1: (Code.CANCELLED, "cancelled")}


async def test_a_full_queue_refuses_and_goes_on() -> None:
    gate, owner = Gate(), Collector()
    with running(gate, max_queue_requests=2) as batcher:
        batcher.push([filled(owner, 0)], monotonic())
        await until(gate.entered.is_set)
        batcher.push([filled(owner, n) for n in (1, 2, 3)], monotonic())
        assert owner.errors == {3: (Code.QUEUE_FULL, "Exceeds maximum queue size")}
        gate.leave.set()
        await until(lambda: owner.done == 4)
    assert batcher.counts.refused == 1


@MODES
async def test_max_delay_gathers_company(execution: str) -> None:
    model, owner = Echo(), Collector()
    with running(model, execution=execution, max_delay_s=0.6) as batcher:
        started = monotonic()
        batcher.push([filled(owner, 1)], started)
        await asyncio.sleep(0)
        batcher.push([filled(owner, 2)], monotonic())
        await until(lambda: owner.done == 2)
        assert monotonic() - started >= 0.6
    assert model.batches == [2]


@MODES
async def test_a_full_batch_does_not_wait_for_max_delay(execution: str) -> None:
    model, owner = Echo(), Collector()
    with running(model, execution=execution, max_delay_s=600.0) as batcher:
        batcher.push([filled(owner, 3, 8)], monotonic())
        await until(lambda: owner.done == 1)
    assert model.batches == [8]


async def test_a_large_full_batch_is_joined_while_another_runs() -> None:
    gate, owner = Gate(), Collector()
    width = AHEAD_BYTES // 32
    with running(gate) as batcher:
        batcher.push([entry(0, width=width, owner=owner)], monotonic())
        await until(gate.entered.is_set)
        batcher.push([entry(n, width=width, owner=owner) for n in range(1, 12)], monotonic())
        await until(lambda: batcher._ahead is not None)
        assert batcher.queued[0] == 3
        gate.leave.set()
        await until(lambda: owner.done == 12)
    assert gate.batches == [1, 8, 3]
    assert owner.errors == {}


async def test_execution_changes_between_two_batches() -> None:
    names: list[str] = []
    owner = Collector()

    def model(inputs: Arrays) -> Arrays:
        names.append(current_thread().name)
        return {"y": inputs["x"]}

    with running(model) as batcher:
        for n, execution in enumerate(["thread", "inline", "thread", "inline"]):
            batcher.set_policy(BatchPolicy(max_batch_size=8, execution=execution))  # type: ignore[arg-type]
            batcher.push([filled(owner, n)], monotonic())
            await until(lambda n=n: owner.done == n + 1)  # type: ignore[misc]
    assert [name == "model m/1" for name in names] == [True, False, True, False]


HUNG = "model 'm' has not answered for 0.001 s (predict_timeout_s); its replica is replaced"


async def test_a_batch_that_hangs_is_answered_and_what_waits_behind_it_is_not() -> None:
    gate, owner = Gate(), Collector()
    with running(gate, predict_timeout_s=0.001) as batcher:
        batcher.check()
        assert batcher.give_up(monotonic()) == ""
        gone = filled(owner, 1)
        batcher.push([filled(owner, 0), gone], monotonic())
        await until(gate.entered.is_set)
        batcher.cancel(gone)
        batcher.push([filled(owner, 2)], monotonic())
        await until(lambda: batcher.give_up(monotonic()) != "")
        assert batcher.give_up(monotonic()) == HUNG
        assert owner.errors == {0: (Code.MODEL_FAILED, HUNG), 1: (Code.CANCELLED, "cancelled")}
        with pytest.raises(Unavailable, match="predict_timeout_s"):
            batcher.check()
        gate.leave.set()
        await until(lambda: 2 in owner.answers)
        assert owner.done == 3  # the model has come back, and nobody hears of it
        assert batcher.open == 0


async def test_a_batch_within_its_time_is_left_alone() -> None:
    gate, owner = Gate(), Collector()
    with running(gate, predict_timeout_s=3600.0) as batcher:
        batcher.push([filled(owner, 0)], monotonic())
        await until(gate.entered.is_set)
        assert batcher.give_up(monotonic() + 3000.0) == ""
        batcher.check()
        gate.leave.set()
        await until(lambda: owner.done == 1)
    assert list(owner.answers) == [0]


class Clumsy(Collector):
    """An owner that cannot take the answers of some keys."""

    def __init__(self, *bad: int) -> None:
        super().__init__()
        self.bad = bad

    def answer(self, entry: Any, *more: Any) -> None:
        if entry.key in self.bad:
            raise OSError("the connection is in pieces")
        super().answer(entry, *more)

    def refuse(self, entry: Any, *more: Any) -> None:
        if entry.key in self.bad:
            raise OSError("the connection is in pieces")
        super().refuse(entry, *more)


@MODES
async def test_an_owner_that_cannot_take_its_answer_costs_nobody_else_theirs(execution: str) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    owner = Clumsy(1, 11)
    with running(lambda inputs: _refusing(10, inputs), execution=execution) as batcher:
        batcher.push([filled(owner, n) for n in range(4)], monotonic())
        batcher.push([filled(owner, n, rows=1) for n in range(10, 13)], monotonic())
        await until(lambda: owner.done == 5 and len(faults) == 2 and batcher.open == 0)
        batcher.push([filled(owner, 4)], monotonic())
        await until(lambda: owner.done == 6)
    assert sorted(owner.answers) == [0, 2, 3, 4]
    assert sorted(owner.errors) == [10, 12]
    assert [str(f["exception"]) for f in faults] == ["the connection is in pieces"] * 2


def _refusing(least: int, inputs: Arrays) -> Arrays:
    if (inputs["x"] >= least).any():
        raise ValueError("too large")
    return {"y": inputs["x"]}


class Odd:
    """An object whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text in here")


@MODES
@pytest.mark.parametrize(
    "answer",
    [None, {1: 2, "z": 3}, {"y": None}, {"y": np.ma.masked_array(np.zeros((1, 4), np.float32))}, {"y": np.array([[Odd()]], object)}],
)
async def test_whatever_a_model_gives_back_each_request_has_its_answer_and_the_model_goes_on(execution: str, answer: Any) -> None:
    text = Signature((TensorSpec("x", DType.FP32, (-1,)),), (TensorSpec("y", DType.BYTES, (-1,)),), 8)
    owner = Collector()
    with running(lambda inputs: answer, execution=execution, signature=text) as batcher:
        for n in range(3):
            batcher.push([filled(owner, n)], monotonic())
            await until(lambda n=n: owner.done == n + 1)  # type: ignore[misc]
    assert {code for code, _ in owner.errors.values()} == {Code.MODEL_FAILED}
    assert batcher.open == 0


class Panic(BaseException):
    """What extensions written in Rust raise."""


@MODES
async def test_a_panic_is_the_requests_error_and_not_the_replicas(execution: str) -> None:
    def model(inputs: Arrays) -> Arrays:
        if (inputs["x"] == 1).any():
            raise Panic("index out of bounds")
        return {"y": inputs["x"]}

    owner = Collector()
    with running(model, execution=execution) as batcher:
        batcher.push([filled(owner, n) for n in range(3)], monotonic())
        await until(lambda: owner.done == 3)
        batcher.check()
    assert sorted(owner.answers) == [0, 2]
    assert owner.errors == {1: (Code.MODEL_FAILED, "Panic: index out of bounds")}


@MODES
async def test_a_batch_that_raised_runs_again_one_by_one_but_not_for_those_who_have_gone(execution: str) -> None:
    owner = Collector()
    seen: list[list[float]] = []
    gone = filled(owner, 1)
    late = filled(owner, 2, deadline=monotonic() + 60)

    def model(inputs: Arrays) -> Arrays:
        seen.append(inputs["x"][:, 0].tolist())
        if len(seen) == 1:
            gone.cancelled = True
            late.deadline = monotonic()
        raise ValueError("never")

    with running(model, execution=execution) as batcher:
        batcher.push([filled(owner, 0), gone, late, filled(owner, 3)], monotonic())
        await until(lambda: owner.done == 4)
        assert seen == [[0, 1, 2, 3], [0], [3]]
        assert {key: code for key, (code, _) in owner.errors.items()} == {
            0: Code.MODEL_FAILED, 1: Code.CANCELLED, 2: Code.DEADLINE_EXCEEDED, 3: Code.MODEL_FAILED,
        }  # fmt: skip
        assert (batcher.counts.batches, batcher.counts.alone, batcher.open) == (2, 2, 0)


@MODES
async def test_where_a_request_may_be_seen_once_only_the_whole_batch_has_the_error(execution: str) -> None:
    owner, seen = Collector(), []

    def model(inputs: Arrays) -> Arrays:
        seen.append(len(inputs["x"]))
        raise ValueError("never")

    with running(model, execution=execution, isolate=False) as batcher:
        batcher.push([filled(owner, n) for n in range(3)], monotonic())
        await until(lambda: owner.done == 3)
    assert seen == [3]
    assert {code for code, _ in owner.errors.values()} == {Code.MODEL_FAILED}


async def test_neighbours_of_a_bad_request_do_not_wait_for_each_other() -> None:
    gate, owner = Gate(), Collector()

    def model(inputs: Arrays) -> Arrays:
        if len(inputs["x"]) > 1:
            raise MemoryError("too many at once")
        return gate(inputs) if (inputs["x"] == 1).any() else {"y": inputs["x"]}

    with running(model) as batcher:
        batcher.push([filled(owner, n) for n in range(3)], monotonic())
        await until(gate.entered.is_set)
        await until(lambda: owner.done == 1)
        gate.leave.set()
        await until(lambda: owner.done == 3)
    assert values(owner) == {0: 0.0, 1: 1.0, 2: 2.0}


@MODES
async def test_nan_is_passed_on_and_counted(execution: str) -> None:
    owner = Collector()
    with running(lambda inputs: {"y": np.log(np.where(inputs["x"] == 2, np.nan, inputs["x"] + 1))}, execution=execution) as batcher:
        batcher.push([filled(owner, n) for n in range(4)], monotonic())
        await until(lambda: owner.done == 4)
        assert batcher.counts.nan_rows == 1
    assert np.isnan(values(owner)[2])
    assert not owner.errors


async def test_a_joiner_that_fails_leaves_the_batch_to_the_worker() -> None:
    """A batch of AHEAD_BYTES whose payload cannot be joined: its neighbours get their answers, and the next batch too."""
    gate, owner = Gate(), Collector()
    width = AHEAD_BYTES // 4 // 8 + 1

    def large(key: int, payload: Any = None) -> Any:
        return entry(key, 1, width, payload=payload if payload is not None else bytes(width * 4), owner=owner)

    broken = memoryview(bytearray(width * 4))
    with running(gate) as batcher:
        batcher.push([large(0)], monotonic())
        await until(gate.entered.is_set)
        batcher.push([large(n) for n in range(1, 8)] + [large(8, broken)], monotonic())
        broken.release()  # what a mapping does that went away: reading it raises ValueError
        await until(lambda: batcher.queued[0] == 0)
        gate.leave.set()
        await until(lambda: owner.done == 9)
        batcher.push([large(9)], monotonic())
        await until(lambda: owner.done == 10)
        batcher.check()
    assert sorted(owner.answers) == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    assert owner.errors[8][0] == Code.MODEL_FAILED


async def test_many_threads_worth_of_large_requests_each_get_one_answer() -> None:
    """Joining ahead, cancelling, failing and changing the policy, all at once: every request has exactly one outcome."""
    owner, dice = Collector(), np.random.default_rng(1)
    width = AHEAD_BYTES // 4 // 8 + 1

    def model(inputs: Arrays) -> Arrays:
        if (inputs["x"][:, 0] % 7 == 3).any():
            raise ValueError("a seven")
        return {"y": inputs["x"][:, :1]}

    with running(model) as batcher:
        sent = 0
        for turn in range(150):
            batch = []
            for _ in range(int(dice.integers(1, 14))):
                wide = width if dice.random() < 0.7 else 4
                batch.append(entry(sent, 1, wide, payload=np.full(wide, sent, np.float32).tobytes(), owner=owner))
                sent += 1
            batcher.push(batch, monotonic())
            for one in batch:
                if dice.random() < 0.1:
                    batcher.cancel(one)
            if turn % 10 == 5:
                batcher.set_policy(BatchPolicy(max_batch_size=8, max_delay_s=float(dice.choice([0.0, 0.001])), max_queue_requests=4096))
            if turn % 25 == 20:
                batcher.set_policy(BatchPolicy(max_batch_size=8, execution="inline" if turn % 50 == 20 else "thread"))
            await asyncio.sleep(0)
        await until(lambda: owner.done == sent)
        await until(lambda: batcher.open == 0)
    assert all(values(owner)[key] == key for key in owner.answers)
    assert {key for key, (code, _) in owner.errors.items() if code != Code.CANCELLED} == {
        key for key in owner.errors if key % 7 == 3 and owner.errors[key][0] != Code.CANCELLED
    }
