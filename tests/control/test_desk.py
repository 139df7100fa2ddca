"""The desk and its clients: questions over a Unix socket, answers in any order, errors as they were raised."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.control.desk import MAX_WAITING, Desk
from serving.errors import DeadlineExceeded, Internal, NotFound, Unavailable, Unsupported
from serving.gateway.desk import AWAY, DeskClient


@pytest.fixture
def path() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="desk-")
    yield Path(folder) / "desk.sock"
    shutil.rmtree(folder)


class Gate:
    """A handler that waits until it is let go, and counts those inside."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = threading.Semaphore(0)

    def __call__(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self.inside.release()
        assert self.open.wait(60)
        return arguments


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def desk(path: Path, gate: Gate) -> Iterator[Desk]:
    def fail(arguments: dict[str, Any]) -> dict[str, Any]:
        raise NotFound(arguments["text"], retry_after_s=2.5)

    def bug(_: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("what")

    desk = Desk(path, {"echo": lambda arguments: arguments, "fail": fail, "bug": bug, "gate": gate})
    desk.start()
    yield desk
    gate.open.set()
    desk.stop()


def test_only_the_owner_may_ask(desk: Desk, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_an_answer_comes_back(desk: Desk, path: Path) -> None:
    assert await DeskClient(path).ask("echo", text="ä", numbers=[1, 2.5], nothing=None) == {
        "text": "ä",
        "numbers": [1, 2.5],
        "nothing": None,
    }
    desk.healthy()


async def test_errors_arrive_as_they_were_raised(desk: Desk, path: Path) -> None:
    client = DeskClient(path)
    with pytest.raises(NotFound, match="no such thing") as found:
        await client.ask("fail", text="no such thing")
    assert found.value.retry_after_s == 2.5
    with pytest.raises(Unsupported, match="knows no 'dance'"):
        await client.ask("dance")
    with pytest.raises(Internal, match="KeyError"):
        await client.ask("bug")
    assert await client.ask("echo") == {}


async def test_who_waits_does_not_hold_others_up(desk: Desk, path: Path, gate: Gate) -> None:
    client = DeskClient(path)
    slow = asyncio.create_task(client.ask("gate", n=1))
    await asyncio.to_thread(gate.inside.acquire)
    assert await client.ask("echo", n=2) == {"n": 2}
    gate.open.set()
    assert await slow == {"n": 1}


async def test_a_wait_has_its_limit_and_what_was_asked_goes_on(desk: Desk, path: Path, gate: Gate) -> None:
    with pytest.raises(DeadlineExceeded):
        await DeskClient(path).ask("gate", timeout_s=0.05)
    assert gate.inside.acquire(timeout=60)


async def test_more_than_the_desk_can_hold_is_refused(desk: Desk, path: Path, gate: Gate) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    for n in range(MAX_WAITING + 1):
        writer.write(b'{"id":%d,"ask":"gate"}\n' % n)
    refused = json.loads(await reader.readline())
    assert (refused["id"], refused["error"]["code"]) == (MAX_WAITING, "QUEUE_FULL")
    gate.open.set()
    answered = [json.loads(await reader.readline()) for _ in range(MAX_WAITING)]
    assert sorted(a["id"] for a in answered if a["ok"] == {}) == list(range(MAX_WAITING))
    writer.close()


async def test_without_a_controller_a_gateway_says_so(path: Path) -> None:
    with pytest.raises(Unavailable, match=AWAY):
        await DeskClient(path).ask("echo")


async def test_a_controller_that_leaves_ends_the_wait(desk: Desk, path: Path, gate: Gate) -> None:
    asked = asyncio.create_task(DeskClient(path).ask("gate"))
    await asyncio.to_thread(gate.inside.acquire)
    desk.stop()
    with pytest.raises(Unavailable, match=AWAY):
        await asked
    with pytest.raises(Unavailable):
        desk.healthy()


async def test_the_next_controller_takes_the_place_of_a_dead_one(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    desk = Desk(path, {"echo": lambda arguments: arguments})
    desk.start()
    try:
        assert await DeskClient(path).ask("echo", n=1) == {"n": 1}
    finally:
        desk.stop()


def test_a_desk_that_cannot_listen_says_why(path: Path) -> None:
    desk = Desk(path / "no" / "folder", {})
    with pytest.raises(Unavailable, match=r"(?i)directory"):
        desk.start()
    desk.stop()


@pytest.mark.parametrize("line", [b"[]\n", b"nonsense\n", b'{"id":1}\n', b"\xff\n", b'{"ask":"echo"}\n'])
async def test_garbage_is_answered_and_the_line_goes_on(desk: Desk, path: Path, line: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line + b'{"id":9,"ask":"echo"}\n')
    got = sorted([await reader.readline(), await reader.readline()], key=lambda text: b'"ok"' in text)
    assert b'"INVALID_ARGUMENT"' in got[0]
    assert got[1] == b'{"id":9,"ok":{}}\n'
    writer.close()
