"""The streamer on a real loop. Generators that wait do so on events, so that each test decides what is where."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from time import monotonic
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.entry import Answer, Entry
from serving.batching.stack import Arrays
from serving.batching.streams import MAX_UNTAKEN, UNTAKEN_BYTES, Streamer
from serving.errors import Code, Unavailable
from serving.hosting import BatchPolicy
from serving.inference import Buffer
from serving.tensor import DType, Signature, TensorSpec
from tests.batching.entries import Collector, entry

ANY = Signature((TensorSpec("x", DType.FP32, (-1,)),), (TensorSpec("y", DType.INT32, (-1,)),), 8)


class Client(Collector):
    """An owner that keeps all parts, and takes them when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[tuple[int, list[int], dict[str, object]]] = []
        self.ended: dict[int, int] = {}

    def part(self, entry: Entry, answer: Answer, parts: tuple[Buffer, ...]) -> None:
        assert entry.key not in self.ended
        assert entry.key not in self.errors
        values = np.frombuffer(b"".join(parts), np.int32).tolist()
        self.parts.append((entry.key, values[:8], dict(answer.layout.parameters)))

    def over(self, entry: Entry, queue_us: int, compute_us: int) -> None:
        assert entry.key not in self.ended
        self.ended[entry.key] = compute_us


@contextmanager
def running(predict: Callable[..., Any], parametric: bool = False, **policy: Any) -> Iterator[Streamer]:
    loop = asyncio.get_running_loop()

    def wake(streamer: Streamer) -> None:
        loop.call_soon(streamer.step)

    streamer = Streamer("m/1", ANY, BatchPolicy(max_batch_size=8, **policy), predict, False, loop, wake, parametric)
    streamer.start(lambda: None).result(10)
    try:
        yield streamer
    finally:
        streamer.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def row(*values: int) -> dict[str, np.ndarray[Any, Any]]:
    return {"y": np.array([values], np.int32)}


def push(streamer: Streamer, client: Client, *keys: int, **more: Any) -> list[Entry]:
    entries = [entry(key, owner=client, **more) for key in keys]
    streamer.push(entries, asyncio.get_running_loop().time())
    return entries


async def test_answers_come_in_order_with_their_parameters() -> None:
    def count(inputs: Arrays) -> Iterator[Any]:
        assert inputs["x"].shape == (1, 4)
        yield row(1, 2)
        yield row(3), {"word": "w"}
        yield {"y": np.zeros((0, 2), np.int32)}

    client = Client()
    with running(count) as streamer:
        push(streamer, client, 7)
        await until(lambda: client.ended)
    assert client.parts == [(7, [1, 2], {}), (7, [3], {"word": "w"}), (7, [], {})]
    assert (streamer.counts.answered, streamer.open) == (1, 0)


async def test_an_array_may_be_yielded_again() -> None:
    def same(inputs: Arrays) -> Iterator[Any]:
        out = np.zeros((1, 1), np.int32)
        for n in range(20):
            out[:] = n
            yield {"y": out}

    client = Client()
    with running(same) as streamer:
        push(streamer, client, 1)
        await until(lambda: client.ended)
    assert [values for _, values, _ in client.parts] == [[n] for n in range(20)]


@pytest.mark.parametrize(("width", "ahead"), [(1, MAX_UNTAKEN), (UNTAKEN_BYTES // 8, 2), (UNTAKEN_BYTES // 4 + 1, 1)])
async def test_a_client_that_takes_nothing_gets_no_more_than_the_window(width: int, ahead: int) -> None:
    asked: list[int] = []
    closed = Event()

    def endless(inputs: Arrays) -> Iterator[Any]:
        try:
            while True:
                asked.append(1)
                yield {"y": np.zeros((1, width), np.int32)}
        finally:
            closed.set()

    client = Client()
    with running(endless) as streamer:
        (one,) = push(streamer, client, 1)
        await until(lambda: len(client.parts) == ahead)
        assert len(asked) == ahead
        streamer.taken(one, 1)
        await until(lambda: len(client.parts) == ahead + 1)
        assert len(asked) == ahead + 1
        streamer.cancel(one)
        await until(lambda: client.errors)
        assert closed.is_set()
    assert client.errors == {1: (Code.CANCELLED, "cancelled")}
    assert (streamer.counts.cancelled, streamer.open) == (1, 0)


async def test_so_many_run_at_once_and_the_others_wait() -> None:
    leave = Event()

    def wait(inputs: Arrays) -> Iterator[Any]:
        yield row(1)
        assert leave.wait(60)
        yield row(2)

    client = Client()
    with running(wait, max_streams=3, max_queue_requests=2) as streamer:
        push(streamer, client, 1, 2)
        await until(lambda: len(client.parts) == 2)
        push(streamer, client, 3)
        await until(lambda: len(client.parts) == 3)
        _, waits, _ = push(streamer, client, 4, 5, 6)
        await until(lambda: client.errors)
        assert client.errors[6][0] is Code.QUEUE_FULL
        assert streamer.queued[0] == 2
        streamer.cancel(waits)
        assert client.errors[5] == (Code.CANCELLED, "cancelled")
        leave.set()
        await until(lambda: len(client.ended) == 4)
        assert {key for key, _, _ in client.parts} == {1, 2, 3, 4}


async def test_a_model_may_be_asked_for_more_at_once_later_on() -> None:
    leave = Event()

    def wait(inputs: Arrays) -> Iterator[Any]:
        yield row(1)
        assert leave.wait(60)

    client = Client()
    with running(wait, max_streams=1) as streamer:
        push(streamer, client, 1, 2)
        await until(lambda: len(client.parts) == 1)
        streamer.set_policy(BatchPolicy(max_batch_size=8, max_streams=2))
        await until(lambda: len(client.parts) == 2)
        streamer.set_policy(BatchPolicy(max_batch_size=8, max_streams=1))
        leave.set()
        await until(lambda: len(client.ended) == 2)
        push(streamer, client, 3)
        await until(lambda: len(client.ended) == 3)


async def test_the_time_in_the_queue_is_bounded() -> None:
    leave = Event()

    def wait(inputs: Arrays) -> Iterator[Any]:
        assert leave.wait(60)
        yield row(1)

    client = Client()
    with running(wait, max_streams=1) as streamer:
        push(streamer, client, 1)
        await until(lambda: streamer.queued[0] == 0)
        push(streamer, client, 2, timeout_s=0.01)
        await until(lambda: client.errors)
        assert client.errors == {2: (Code.QUEUE_TIMEOUT, "Request timeout expired")}
        leave.set()
        await until(lambda: client.ended)


@pytest.mark.parametrize(
    ("give", "says"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: 5, "returned a int"),
        (lambda: iter([5]), "returned a int, expected a dict"),
        (lambda: iter([{"z": np.zeros(1)}]), "did not return output 'y'"),
        (lambda: iter([{"y": np.zeros((1, 1), np.float64)}]), "has type float64"),
        (lambda: iter([(row(1), 3)]), "parameters of type int"),
        (lambda: (row(1), {"a": []}), "parameter 'a'"),
        (lambda: (_ for _ in [exit(3)]), "SystemExit: 3"),
    ],
)
async def test_what_a_model_does_wrong_is_an_error_of_its_request(give: Callable[[], Any], says: str) -> None:
    client = Client()
    with running(lambda inputs: give()) as streamer:
        push(streamer, client, 1, 2)
        await until(lambda: len(client.errors) == 2)
        assert all(code is Code.MODEL_FAILED and says in text for code, text in client.errors.values())
        assert streamer.counts.failed == 2


async def test_one_answer_none_and_no_generator() -> None:
    client = Client()
    replies = iter([None, row(1), (row(2), {"p": 1}), [row(3), row(4)]])
    with running(lambda inputs: next(replies), max_streams=1) as streamer:
        push(streamer, client, 1, 2, 3, 4)
        await until(lambda: len(client.ended) == 4)
    assert [values for _, values, _ in client.parts] == [[1], [2], [3], [4]]


async def test_parameters_reach_the_generator() -> None:
    def tell(inputs: Arrays, parameters: dict[str, object]) -> Iterator[Any]:
        yield row(1), {"count": len(parameters)}

    client = Client()
    with running(tell, parametric=True) as streamer:
        push(streamer, client, 1)
        await until(lambda: client.ended)
    assert client.parts == [(1, [1], {"count": 0})]


async def test_a_generator_that_will_not_close_is_over_all_the_same() -> None:
    def stubborn(inputs: Arrays) -> Iterator[Any]:
        while True:
            try:
                yield row(1)
            except GeneratorExit:
                yield row(2)

    client = Client()
    with running(stubborn) as streamer:
        (one,) = push(streamer, client, 1)
        await until(lambda: client.parts)
        streamer.cancel(one)
        await until(lambda: client.errors)
        assert client.errors[1][0] is Code.CANCELLED


async def test_a_model_is_stuck_when_all_its_streams_are() -> None:
    leave = Event()
    inside = Event()

    def wait(inputs: Arrays) -> Iterator[Any]:
        inside.set()
        assert leave.wait(60)
        yield row(1)

    client = Client()
    with running(wait, max_streams=2, predict_timeout_s=3600.0) as streamer:
        later = monotonic() + 7200.0
        push(streamer, client, 1)
        await until(inside.is_set)
        assert streamer.give_up(later) == ""
        push(streamer, client, 2)
        await until(lambda: streamer.queued[0] == 0 and sum(r.since > 0 for r in streamer._runs.values()) == 2)
        assert streamer.give_up(monotonic()) == ""
        streamer.check()
        streamer.set_policy(BatchPolicy(max_batch_size=8, max_streams=2, predict_timeout_s=0.0))
        with pytest.raises(Unavailable, match="predict_timeout_s"):
            streamer.check()
        assert "model 'm' has not answered" in streamer.give_up(later) == streamer.give_up(later)
        assert {key: code for key, (code, _) in client.errors.items()} == {1: Code.MODEL_FAILED, 2: Code.MODEL_FAILED}
        leave.set()
        await until(lambda: not streamer._runs)
        streamer.check()
        assert not client.parts
        assert streamer.open == 0


async def test_a_warm_up_that_fails_says_so() -> None:
    streamer = Streamer("m/1", ANY, BatchPolicy(max_batch_size=8), lambda inputs: None, False, asyncio.get_running_loop(), lambda s: None)
    with pytest.raises(Exception, match="cold"):
        streamer.start(lambda: (_ for _ in ()).throw(ValueError("cold"))).result(10)
    streamer.stop()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12), st.integers(1, 4))
def test_every_request_ends_once_whatever_is_taken_and_cancelled(plan: list[tuple[int, bool]], streams: int) -> None:
    async def run() -> None:
        client = Client()
        counts = iter([n for n, _ in plan])

        def some(inputs: Arrays) -> Iterator[Any]:
            for n in range(next(counts)):
                yield row(n)

        with running(some, max_streams=streams) as streamer:
            entries = push(streamer, client, *range(len(plan)))
            for one, (_, cancelled) in zip(entries, plan, strict=True):
                streamer.taken(one, 3)
                if cancelled:
                    await asyncio.sleep(0)
                    streamer.cancel(one)
            await until(lambda: len(client.ended) + len(client.errors) == len(plan))
            await until(lambda: not streamer._runs)
            assert streamer.open == 0
            assert streamer.queued == (0, 0)
        assert all(code is Code.CANCELLED and plan[key][1] for key, (code, _) in client.errors.items())

    asyncio.run(run())
