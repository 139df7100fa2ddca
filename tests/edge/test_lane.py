"""Lines and descriptors arrive whole, in order and together, however the bytes are cut."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any

import pytest
import uvloop

from serving.edge.lane import Lane, Message

from .conftest import eventually


class End:
    """One end of a lane and all that it has received."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[Message] = []
        self.sockets: list[list[socket.socket]] = []
        self.closes = 0
        self.lane = Lane(sock, self._receive, self._closed)

    def _receive(self, message: Message, sockets: list[socket.socket]) -> None:
        self.messages.append(message)
        self.sockets.append(sockets)

    def _closed(self) -> None:
        self.closes += 1

    def close(self) -> None:
        self.lane.close()
        for sockets in self.sockets:
            for sock in sockets:
                sock.close()


def pair() -> tuple[End, End]:
    one, other = socket.socketpair()
    return End(one), End(other)


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_descriptors_stay_with_their_messages(factory: Any) -> None:
    async def run() -> None:
        here, there = pair()
        files = [socket.socket() for _ in range(3)]
        inodes = [os.fstat(f.fileno()).st_ino for f in files]
        here.lane.send({"n": 0})
        here.lane.send({"n": 1}, files[:2])
        here.lane.send({"n": 2})
        here.lane.send({"n": 3}, files[2:])
        await eventually(lambda: len(there.messages) == 4)
        assert [m["n"] for m in there.messages] == [0, 1, 2, 3]
        got = [[os.fstat(s.fileno()).st_ino for s in sockets] for sockets in there.sockets]
        assert got == [[], inodes[:2], [], inodes[2:]]
        assert not any(s.get_inheritable() for sockets in there.sockets for s in sockets)
        for end in (here, there):
            end.close()
        for file in files:
            file.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


async def test_a_message_larger_than_the_sockets_buffer_arrives_with_its_descriptors() -> None:
    here, there = pair()
    with socket.socket() as file:
        big = {"report": ["x" * 1000] * 3000}
        here.lane.send(big, [file])
        assert not here.lane.idle
        here.lane.send({"n": 1})
        await eventually(lambda: len(there.messages) == 2)
        assert there.messages == [big, {"n": 1}]
        assert [len(s) for s in there.sockets] == [1, 0]
        assert here.lane.idle
    here.close()
    there.close()


@pytest.mark.parametrize(
    "garbage",
    [b"hello\n", b"[1]\n", b'{"fds":1}\n', b'{"fds":"x"}\n', b'{"fds":-1}\n', b"\xff\xfe\n", b'{"a":1\n'],
)
async def test_garbage_closes_the_lane_and_nothing_else(garbage: bytes) -> None:
    raw, other = socket.socketpair()
    end = End(other)
    raw.sendall(b'{"n":1}\n' + garbage + b'{"n":2}\n')
    await eventually(lambda: end.closes)
    assert end.messages == [{"n": 1}]
    assert end.lane.closed
    raw.close()


async def test_a_line_without_end_is_not_collected_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.edge.lane.MAX_LINE_BYTES", 1000)
    raw, other = socket.socketpair()
    end = End(other)
    raw.sendall(b"x" * 1001)
    await eventually(lambda: end.closes)
    raw.close()


async def test_descriptors_that_no_message_asked_for_are_closed() -> None:
    raw, other = socket.socketpair()
    end = End(other)
    reading, writing = os.pipe()
    socket.send_fds(raw, [b'{"n":1}\n'], [writing])
    os.close(writing)
    await eventually(lambda: end.messages)
    end.lane.close()
    # the pipe's last writer was the copy inside the lane
    assert os.read(reading, 1) == b""
    os.close(reading)
    raw.close()


async def test_the_end_of_the_other_side_is_told_once() -> None:
    here, there = pair()
    here.lane.send({"last": True})
    here.lane.close()
    await eventually(lambda: there.closes)
    there.lane.close()
    there.lane.send({"into": "nothing"})
    assert (there.closes, here.closes, there.messages) == (1, 1, [{"last": True}])
    assert json.dumps(there.messages) == '[{"last": true}]'
