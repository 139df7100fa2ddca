"""FakeReplica: a replica that speaks frames on a Unix socket and does what the test tells it to."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import uvloop

from serving.errors import Code, DecodeError
from serving.gateway.peers import PeerAddress
from serving.inference import Layout, TensorLayout
from serving.tensor import DType, Signature, TensorSpec
from serving.wire import frame
from serving.wire.frame import FrameReader

SIGNATURE = Signature((TensorSpec("x", DType.FP32, (4,)),), (TensorSpec("y", DType.FP32, (4,)),), 8)
ANSWER = Layout((TensorLayout.fixed("y", DType.FP32, (1, 4)),))
_numbers = itertools.count()


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on the loop that a gateway runs on."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        uvloop.run(test(*args, **kwargs))

    return run


@dataclass
class Seen:
    """One request as the replica got it."""

    key: int
    model: str
    layout: Layout
    payload: bytes
    budget_us: int
    attempt: int
    priority: int
    timeout_us: int
    connection: Connection

    def answer(self, payload: bytes | None = None, *, queue_us: int = 7, compute_us: int = 11, rows: int = 1) -> None:
        """Answer OK: by default what came in."""
        self.connection.respond([(self.key, payload if payload is not None else self.payload, Code.OK)], queue_us, compute_us, rows)

    def part(self, payload: bytes, flags: int = frame.FLAG_MORE) -> None:
        """Give one of several answers."""
        self.connection.respond([(self.key, payload, Code.OK)], flags=flags)

    def over(self) -> None:
        """Say that there are no more answers."""
        self.connection.respond([(self.key, b"", Code.OK)], flags=frame.FLAG_EMPTY)

    def fail(self, code: Code, message: str) -> None:
        self.connection.respond([(self.key, message.encode(), code)])


class Connection(asyncio.Protocol):
    """One gateway's connection."""

    def __init__(self, replica: FakeReplica) -> None:
        self.replica = replica
        self.transport: asyncio.Transport
        self._reader = FrameReader()
        self.layouts: dict[int, tuple[str, Layout]] = {}
        self._defined: dict[Layout, int] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.replica.connections.append(self)
        if self.replica.silent:
            return
        self.hello()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.replica.connections:
            self.replica.connections.remove(self)

    def hello(self) -> None:
        versions = [
            {
                "model": k.split("/")[0],
                "version": k.split("/")[1],
                "signature": SIGNATURE.to_json(),
                "platform": self.replica.platform,
                "details": self.replica.details,
            }
            for k in self.replica.keys
        ]
        hello = {"protocol": frame.PROTOCOL, "replica": self.replica.id, "versions": versions}
        self.transport.write(frame.encode_json(frame.HELLO, json.dumps(hello).encode()))

    def data_received(self, data: bytes) -> None:
        replica = self.replica
        if replica.silent:
            return
        for f in self._reader.feed(data):
            replica.frames.append(f.kind)
            if f.kind == frame.HELLO:
                replica.hellos.append(json.loads(bytes(f.payload)))
                replica.changed()
            elif f.kind == frame.PING:
                replica.pings += 1
                self.transport.write(frame.encode_json(frame.PONG))
            elif f.kind == frame.DEFINE:
                value = json.loads(bytes(f.payload))
                self.layouts[frame.KEY.unpack(f.table)[0]] = (value["m"], Layout.from_json(value))
            elif f.kind == frame.CANCEL:
                replica.cancelled += [k for (k,) in frame.KEY.iter_unpack(f.table)]
                replica.changed()
            elif f.kind == frame.TAKEN:
                replica.taken += list(frame.TAKE.iter_unpack(f.table))
                replica.changed()
            elif f.kind == frame.REQUESTS:
                self._requests(f)
            else:
                raise DecodeError(f"frame of kind {f.kind}")

    def _requests(self, f: frame.Frame) -> None:
        at = 0
        for key, layout_id, budget_us, nbytes, priority, flags, attempt, timeout_us in frame.REQUEST.iter_unpack(f.table):
            model, layout = self.layouts[layout_id]
            assert flags == 0
            assert layout.payload_bytes == nbytes
            payload = bytes(f.payload[at : at + nbytes])
            at += nbytes
            seen = Seen(key, model, layout, payload, budget_us, attempt, priority, timeout_us, self)
            self.replica.seen.append(seen)
            if self.replica.on_request is not None:
                self.replica.on_request(seen)
        assert at == len(f.payload)
        self.replica.changed()

    def respond(
        self, answers: list[tuple[int, bytes, Code]], queue_us: int = 7, compute_us: int = 11, rows: int = 1, flags: int = 0
    ) -> None:
        table = b""
        for key, payload, code in answers:
            layout_id = 0 if code else self.define(len(payload))
            retry_ms = 1500 if code == Code.QUEUE_FULL else 0
            table += frame.RESPONSE.pack(key, layout_id, len(payload), queue_us, compute_us, rows, code, flags, retry_ms)
        payload = b"".join(p for _, p, _ in answers)
        self.transport.write(frame.encode(frame.RESPONSES, len(answers), table, len(payload)) + payload)

    def define(self, nbytes: int) -> int:
        layout = Layout((TensorLayout("y", DType.UINT8, (nbytes,), nbytes),))
        found = self._defined.get(layout)
        if found is None:
            found = self._defined[layout] = len(self._defined)
            self.transport.write(frame.encode_define(found, json.dumps(layout.to_json()).encode()))
        return found


class FakeReplica:
    """Listens on a Unix socket of its own. `on_request` is called for each request; without it nothing is answered."""

    def __init__(self, keys: tuple[str, ...] = ("mlp/1",), on_request: Callable[[Seen], None] | None = None, name: str = "") -> None:
        self.id = name or f"replica-{next(_numbers)}"
        self.keys = keys
        self.on_request = on_request
        self.platform = "torch"
        self.silent = False
        self.seen: list[Seen] = []
        self.cancelled: list[int] = []
        self.taken: list[tuple[int, int]] = []
        self.details: dict[str, Any] = {}
        self.frames: list[int] = []
        self.pings = 0
        self.hellos: list[Any] = []
        self.connections: list[Connection] = []
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._dir = tempfile.TemporaryDirectory()
        self.path = f"{self._dir.name}/r.sock"

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(self.id, self.path)

    async def __aenter__(self) -> FakeReplica:
        await self.listen()
        return self

    async def listen(self) -> None:
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: Connection(self), self.path)

    async def listen_tcp(self) -> str:
        """Listen on a free TCP port instead; returns "host:port"."""
        if self._server is not None:
            self._server.close()
        self._server = await asyncio.get_running_loop().create_server(lambda: Connection(self), "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self.kill()
        self._dir.cleanup()

    def kill(self) -> None:
        """Be gone, as after SIGKILL: no more listening, all connections closed."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for c in list(self.connections):
            c.transport.abort()
        self.connections.clear()

    def drain(self) -> None:
        for c in self.connections:
            c.transport.write(frame.encode_json(frame.DRAIN))

    def changed(self) -> None:
        self._changed.set()

    async def wait(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait until something arrived that makes the condition true."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()
