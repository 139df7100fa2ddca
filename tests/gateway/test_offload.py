"""Work in a thread: it is bounded, its result or error reaches the request, and a client that has gone costs no more."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from serving.errors import DecodeError, ServingError, Unavailable
from serving.gateway import offload as module
from serving.gateway.offload import MAX_WAITING, offload


class Exchange:
    """The connection: keeps what it is told."""

    work: Any = None

    def __init__(self) -> None:
        self.failures: list[ServingError] = []
        self.bugs: list[Exception] = []

    def fail(self, error: ServingError) -> None:
        self.failures.append(error)

    def bug(self, error: Exception) -> None:
        self.bugs.append(error)


async def turns(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_result_error_and_bug_reach_the_request() -> None:
    good, bad, broken = Exchange(), Exchange(), Exchange()
    got: list[int] = []

    def refuse() -> int:
        raise DecodeError("no")

    offload(good, lambda: 7, got.append)  # type: ignore[arg-type]
    offload(bad, refuse, got.append)  # type: ignore[arg-type]
    offload(broken, lambda: 1 // 0, got.append)  # type: ignore[arg-type]
    await turns(lambda: got and bad.failures and broken.bugs)
    assert got == [7]
    assert bad.failures[0].message == "no"
    assert isinstance(broken.bugs[0], ZeroDivisionError)
    assert good.work is None


async def test_too_much_is_refused_and_who_has_gone_is_not_worked_for() -> None:
    hold, ran = threading.Event(), []
    exchanges = [Exchange() for _ in range(MAX_WAITING)]
    try:
        for number, exchange in enumerate(exchanges):
            offload(exchange, lambda n=number: (hold.wait(60), ran.append(n)), lambda _: None)  # type: ignore[arg-type, misc]
        with pytest.raises(Unavailable, match="too many bodies"):
            offload(Exchange(), lambda: 1, lambda _: None)  # type: ignore[arg-type]
        threads = module._threads._max_workers
        for exchange in exchanges[threads:]:
            exchange.work.cancel()
        await turns(lambda: module._under_way <= threads)
        offload(late := Exchange(), lambda: ran.append(-1), lambda _: None)  # type: ignore[arg-type]
    finally:
        hold.set()
    await turns(lambda: late.work is None)
    assert sorted(ran) == [-1, *range(threads)]
    assert module._under_way == 0
