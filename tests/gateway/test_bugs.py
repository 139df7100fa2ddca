"""Exceptions that are no ServingError: bugs. Each is reported, costs its own request, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from serving.errors import ServingError
from serving.gateway.head import Action, Head, HeadCache
from serving.gateway.http import HttpConnection
from serving.gateway.offload import offload

from .test_http import Client, FakeHost, post, serving

INTERNAL = (500, b'{"error":"internal error of the gateway"}')


class Reader:
    """A stream that has written the head of its answer."""

    def __init__(self, connection: HttpConnection, fails_in: str) -> None:
        self.connection = connection
        self.fails_in = fails_in
        connection.reader = self
        connection.write_raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def body(self, parts: list[bytes | memoryview]) -> None:
        assert self.fails_in != "body"

    def requests_end(self) -> None:
        assert self.fails_in != "requests_end"

    def writable(self, yes: bool) -> None: ...

    def fail(self, error: ServingError) -> None:
        self.connection.write_raw(b"0\r\nerror: %s\r\n\r\n" % error.message.encode())
        self.connection.finish()


def broken(connection: HttpConnection, head: Head, body: Any) -> None:
    raise ZeroDivisionError("in run")


def later(connection: HttpConnection, head: Head, body: Any) -> None:
    asyncio.get_running_loop().call_soon(connection.answer, None, None)


def in_thread(connection: HttpConnection, head: Head, body: Any) -> None:
    offload(connection, lambda: 1 // 0, lambda result: None)


def after_thread(connection: HttpConnection, head: Head, body: Any) -> None:
    offload(connection, lambda: 1, lambda result: result // 0)


def broken_answer(connection: HttpConnection, call: Any, response: Any) -> None:
    raise ZeroDivisionError("in answer")


def broken_failure(connection: HttpConnection, error: ServingError) -> None:
    raise ZeroDivisionError("in fail")


def run(test: Callable[[Client, Client, list[dict[str, Any]]], Any], host: FakeHost) -> None:
    """Run the test with a client, a neighbour of it, and what the loop's exception handler has got."""

    async def main() -> None:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, fault: faults.append(fault))
        async with serving(host) as connect:
            client, neighbour = await connect(), await connect()
            neighbour.send(b"POST /other HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(50_000))
            await test(client, neighbour, faults)
            neighbour.send(bytes(50_000))
            assert (await neighbour.answer())[0] in (200, 500)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize(
    "action",
    [Action(broken), Action(later, broken_answer), Action(in_thread), Action(after_thread)],
    ids=["run", "answer", "thread", "after the thread"],
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_bug_is_500_and_reported_once(action: Action, pieces: int) -> None:
    host = FakeHost(broken)
    host.heads = HeadCache(lambda head: action)

    async def test(client: Client, neighbour: Client, faults: list[dict[str, Any]]) -> None:
        message = post(b"abcdef")
        client.send(message[:-3] if pieces == 2 else message)
        if pieces == 2:
            await client.writer.drain()
            client.send(message[-3:])
        status, headers, body = await client.answer()
        assert (status, body) == INTERNAL
        assert headers["connection"] == "close"
        assert await client.closed() == b""
        assert [type(f["exception"]) for f in faults] == [ZeroDivisionError]
        assert "POST /x" in faults[0]["message"]

    run(test, host)


@pytest.mark.parametrize("fails_in", ["body", "requests_end"])
def test_a_bug_in_a_stream_ends_it_in_its_own_form(fails_in: str) -> None:
    def open_stream(connection: HttpConnection, head: Head, body: Any) -> None:
        Reader(connection, fails_in)

    host = FakeHost(broken)
    host.heads = HeadCache(lambda head: Action(open_stream, streams=True) if head.path == "/stream" else Action(broken))

    async def test(client: Client, neighbour: Client, faults: list[dict[str, Any]]) -> None:
        client.send(b"POST /stream HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        client.send(b"3\r\nabc\r\n0\r\n\r\n")
        assert await client.closed() == b"0\r\nerror: internal error of the gateway\r\n\r\n"
        assert [type(f["exception"]) for f in faults] == [AssertionError]

    run(test, host)


def test_a_bug_in_the_telling_of_an_error_closes_the_connection() -> None:
    host = FakeHost(broken)
    host.heads = HeadCache(lambda head: Action(broken, fail=broken_failure) if head.path == "/x" else Action(broken))

    async def test(client: Client, neighbour: Client, faults: list[dict[str, Any]]) -> None:
        client.send(post(b"abc"))
        assert await client.closed() == b""
        assert [type(f["exception"]) for f in faults] == [ZeroDivisionError]

    run(test, host)


def test_a_bug_in_the_choice_of_the_action_is_500() -> None:
    def route(head: Head) -> Action:
        if head.path == "/x":
            raise ZeroDivisionError("in route")
        return Action(broken)

    host = FakeHost(broken)
    host.heads = HeadCache(route)

    async def test(client: Client, neighbour: Client, faults: list[dict[str, Any]]) -> None:
        client.send(post(b"abc"))
        status, _, body = await client.answer()
        assert (status, body) == INTERNAL
        assert len(faults) == 1

    run(test, host)
