"""Requests that are answered by somebody else: over REST and gRPC, with errors, and with clients that do not wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.access.identity import Identity
from serving.errors import NotFound, ServingError
from serving.gateway.client_limits import client_name
from serving.gateway.desk import asker
from serving.gateway.errand import errand, grpc_errand, rest_errand
from serving.gateway.head import new_head


class Exchange:
    """Notes what it is told to write."""

    def __init__(self) -> None:
        self.work: Any = None
        self.said: list[Any] = []
        self.told = asyncio.Event()

    def _say(self, *what: Any) -> None:
        self.said.append(what)
        self.told.set()

    def respond(self, status: int, content_type: bytes, body: bytes) -> None:
        self._say(status, content_type, body)

    def fail(self, error: ServingError, close: bool = False) -> None:
        self._say(error.code.name, error.message)

    def bug(self, error: Exception) -> None:
        self._say(error)


class Out:
    """A GrpcOut of one answer."""

    def answer(self, to: Exchange, parts: list[Any]) -> None:
        to._say(b"".join(parts))

    def fail(self, to: Exchange, error: ServingError) -> None:
        to.fail(error)


async def upper(body: bytes) -> bytes:
    await asyncio.sleep(0)
    if body == b"none":
        raise NotFound("none")
    if body == b"bug":
        raise KeyError(body)
    return body.upper()


@pytest.mark.parametrize(
    ("body", "said"), [(b"a", (200, b"application/json", b"A")), (b"", (200, b"", b"")), (b"none", ("NOT_FOUND", "none"))]
)
async def test_rest_answers_when_the_errand_is_done(body: bytes, said: Any) -> None:
    to = Exchange()
    rest_errand(upper).run(to, new_head(), memoryview(body))
    await asyncio.wait_for(to.told.wait(), 60)
    assert to.said == [said]
    assert to.work is None


async def test_grpc_answers_with_its_message() -> None:
    to = Exchange()
    grpc_errand(Out(), lambda head, body: body[5:], upper).run(to, new_head(), b"12345abc")  # type: ignore[arg-type]
    await asyncio.wait_for(to.told.wait(), 60)
    assert to.said == [(b"ABC",)]


async def test_who_asks_goes_along_and_an_address_is_nobody() -> None:
    async def who(_: bytes) -> bytes:
        await asyncio.sleep(0)
        return asker.get().encode()

    for client, named in ((client_name(Identity("Zoë@site", ())), "Zoë@site"), (b"10.0.0.1", ""), (b"", "")):
        rest, rpc, head = Exchange(), Exchange(), new_head()
        head.client = client
        rest_errand(who).run(rest, head, b"")
        grpc_errand(Out(), lambda head, body: body, who).run(rpc, head, b"")  # type: ignore[arg-type]
        await asyncio.wait_for(rest.told.wait(), 60)
        await asyncio.wait_for(rpc.told.wait(), 60)
        assert rest.said[0][2] == rpc.said[0][0] == named.encode()
    assert asker.get() == ""


async def test_a_bug_is_reported() -> None:
    to = Exchange()
    rest_errand(upper).run(to, new_head(), b"bug")
    await asyncio.wait_for(to.told.wait(), 60)
    assert isinstance(to.said[0][0], KeyError)


async def test_a_client_that_goes_away_gets_nothing_and_the_errand_is_run_to_its_end() -> None:
    to, go, ran = Exchange(), asyncio.Event(), asyncio.Event()

    async def work() -> bytes:
        await go.wait()
        ran.set()
        return b"x"

    errand(to, work(), lambda answer: to._say(answer))  # type: ignore[arg-type]
    to.work.cancel()
    go.set()
    await asyncio.wait_for(ran.wait(), 60)
    await asyncio.sleep(0)
    assert to.said == []
