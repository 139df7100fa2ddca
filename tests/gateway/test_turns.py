"""Work in slices: everybody has a turn, and whatever becomes of one piece of work is the matter of its own request."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from serving.errors import InvalidArgument, ServingError
from serving.gateway.turns import CROWD, MAX_JOBS, PAUSE_S, Turns


class Client:
    """A connection, as far as work knows it."""

    def __init__(self) -> None:
        self.work: Any = None
        self.said: list[Any] = []

    def fail(self, error: ServingError, close: bool = False) -> None:
        self.said.append(error.message)

    def bug(self, error: Exception) -> None:
        self.said.append(type(error))

    def done(self, result: Any) -> None:
        assert self.work is None
        self.said.append(result)


def counting(name: str, slices: int, seen: list[str], error: Exception | None = None) -> Generator[None, None, str]:
    for _ in range(slices):
        seen.append(name)
        yield
    if error is not None:
        raise error
    return name


async def until(client: Client) -> None:
    async with asyncio.timeout(60):
        while not client.said:
            await asyncio.sleep(0)


async def test_pieces_of_work_take_turns_with_each_other_and_with_the_loop() -> None:
    turns, seen = Turns(asyncio.get_running_loop()), list[str]()
    first, second = Client(), Client()
    assert turns.begin(first, counting("a", 3, seen), first.done)  # type: ignore[arg-type]
    assert turns.begin(second, counting("b", 2, seen), second.done)  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()

    def beside() -> None:
        seen.append(".")
        if not first.said:
            loop.call_soon(beside)

    loop.call_soon(beside)
    await until(first)
    await until(second)
    assert (first.said, second.said) == (["a"], ["b"])
    assert "".join(seen).replace(".", "") == "ababa"
    assert "ab" not in "".join(seen)


async def test_who_has_gone_costs_nothing_more_and_mistakes_are_his_who_made_them() -> None:
    turns, seen = Turns(asyncio.get_running_loop()), list[str]()
    gone, wrong, broken, fine = (Client() for _ in range(4))

    def refuse(result: str) -> None:
        raise InvalidArgument(f"not {result}")

    turns.begin(gone, counting("gone", 1000, seen), gone.done)  # type: ignore[arg-type]
    turns.begin(wrong, counting("w", 1, seen), refuse)  # type: ignore[arg-type]
    turns.begin(broken, counting("b", 1, seen, ZeroDivisionError()), broken.done)  # type: ignore[arg-type]
    turns.begin(fine, counting("fine", 5, seen), fine.done)  # type: ignore[arg-type]
    gone.work.cancel()
    await until(fine)
    assert (gone.said, wrong.said, broken.said, fine.said) == ([], ["not w"], [ZeroDivisionError], ["fine"])
    assert "gone" not in seen
    assert repr(turns) == "Turns(0 waiting, 0 of them jobs)"


async def test_work_that_is_begun_by_work_has_its_turn() -> None:
    turns, client = Turns(asyncio.get_running_loop()), Client()
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, fault: faults.append(fault))

    def again(result: str) -> None:
        assert turns.begin(client, counting(result + "2", 2, []), client.done)  # type: ignore[arg-type]

    turns.begin(client, counting("a", 2, []), again)  # type: ignore[arg-type]
    await until(client)
    await asyncio.sleep(0)
    assert (client.said, faults) == (["a2"], [])


async def test_there_is_a_bound() -> None:
    turns = Turns(asyncio.get_running_loop())
    clients = [Client() for _ in range(MAX_JOBS)]
    assert all(turns.begin(c, counting("a", 1, []), c.done) for c in clients)  # type: ignore[arg-type]
    assert not turns.begin(Client(), counting("a", 1, []), print)  # type: ignore[arg-type]
    await until(clients[-1])


async def test_a_crowd_leaves_time_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more than CROWD the turns wait; all of them come all the same, in order."""
    loop = asyncio.get_running_loop()
    waits: list[float] = []
    call_later = loop.call_later

    def noted(delay: float, act: Any, *more: Any) -> Any:
        waits.append(delay)
        return call_later(delay, act, *more)

    monkeypatch.setattr(loop, "call_later", noted)
    turns = Turns(loop)
    seen: list[int] = []
    done = asyncio.Event()

    def stepping(number: int) -> Any:
        def step() -> bool:
            seen.append(number)
            if len(seen) == 2 * (CROWD + 2):
                done.set()
            return seen.count(number) < 2

        return step

    for number in range(CROWD + 2):
        turns.join(stepping(number))
    async with asyncio.timeout(60):
        await done.wait()
    assert seen == [*range(CROWD + 2)] * 2
    assert waits.count(PAUSE_S) >= CROWD
    assert repr(turns) == "Turns(0 waiting, 0 of them jobs)"
