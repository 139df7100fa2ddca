"""A gateway's outside without its inside: claims a slot, speaks HTTP/1.1 on the listeners it is handed, answers calls by their path.

As a process: `python fake_gateway.py RUN_DIR NAME`; SIGTERM drains. In a test: `FakeGateway(...)` on the test's own loop.

    /t.T/Echo      the message comes back, with trailers           /t.T/Stream   each message comes back when it arrives
    /t.T/Hang      never answered; `hanging` counts the open ones  /t.T/Die      the process kills itself with the request in it
    /t.T/Held      answered when `let_go` is called                 REST         {"name", "pid", "client", "body_bytes"}
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys

import httptools
import uvloop

from serving.edge import Adopt, SlotClaim

TRAILERS = b"0\r\ngrpc-status: 0\r\nx-rows: 3\r\n\r\n"
GRPC_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n%btrailer: grpc-status, x-rows\r\n\r\n"


class Connection(asyncio.Protocol):
    def __init__(self, gateway: FakeGateway) -> None:
        self.gateway = gateway
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        # a connection is owed an answer from its first moment: the request may be on its way
        self.busy = True
        self.path = ""
        self.gateway.connections.add(self)
        if self.gateway.closed:
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.gateway.connections.discard(self)
        if self.busy and self.path == "/t.T/Hang":
            self.gateway.hanging -= 1
            self.gateway.hung_up += 1

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.busy, self.headers, self.body_bytes, self.body, self.path = True, [], 0, bytearray(), ""

    def on_url(self, url: bytes) -> None:
        self.path += url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.gateway.requests += 1
        if self.path == "/t.T/Stream":
            self.transport.write(GRPC_HEAD % self.last_words)
        elif self.path == "/t.T/Hang":
            self.gateway.hanging += 1
        elif self.path == "/t.T/Die":
            os.kill(os.getpid(), signal.SIGKILL)

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)
        if self.path == "/t.T/Stream":
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self.body += data

    def on_message_complete(self) -> None:
        if self.path == "/t.T/Hang":
            return
        if self.path == "/t.T/Held":
            self.gateway.held.append(self)
        else:
            self.answer()

    def answer(self) -> None:
        self.busy = False
        if self.path == "/edge/health":
            self.plain(b"503 Draining" if self.gateway.draining else b"200 OK", b"")
        elif self.path == "/t.T/Stream":
            self.transport.write(TRAILERS)
        elif self.path.startswith("/t.T/"):
            self.transport.write(b"%b%x\r\n%b\r\n%b" % (GRPC_HEAD % self.last_words, len(self.body), self.body, TRAILERS))
        else:
            client = [value.decode() for name, value in self.headers if name == b"x-serving-client"]
            seen = {"name": self.gateway.name, "pid": os.getpid(), "client": client, "body_bytes": self.body_bytes}
            self.plain(b"200 OK", json.dumps(seen).encode())
        if self.gateway.draining or (b"connection", b"close") in self.headers:
            self.transport.close()

    def plain(self, status: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
        self.transport.write(head % (status, self.last_words, len(body)) + body)

    @property
    def last_words(self) -> bytes:
        """A connection that is closed after an answer must say so in it, else HAProxy sends the next request into the closing."""
        return b"connection: close\r\n" if self.gateway.draining else b""


class FakeGateway:
    """Serves the listeners of one claim until `drain` or `close`."""

    def __init__(self, run_dir: str, name: str) -> None:
        self.run_dir, self.name = run_dir, name
        self.draining = self.closed = False
        self.requests = self.hanging = self.hung_up = 0
        self.connections: set[Connection] = set()
        self.held: list[Connection] = []
        self.servers: dict[int, socket.socket] = {}
        self.arriving: set[asyncio.Task[object]] = set()
        self.seen: list[str] = []

    async def start(self) -> FakeGateway:
        self.claim = await SlotClaim.claim(self.run_dir, self.name, timeout_s=10)
        for listener in self.claim.listeners:
            self.listen(self.claim.slot, listener)
        self.following = asyncio.create_task(self.follow())
        return self

    def let_go(self) -> None:
        """Answer the calls that are held."""
        while self.held:
            self.held.pop().answer()

    def listen(self, number: int, listener: socket.socket) -> None:
        number = -1 if listener.family == socket.AF_UNIX else number
        self.unlisten(number)
        self.servers[number] = listener
        # not create_server: that of asyncio loses a connection that it accepted in the turn in which it is closed
        asyncio.get_running_loop().add_reader(listener.fileno(), self.accept, listener)

    def unlisten(self, number: int) -> None:
        listener = self.servers.pop(number, None)
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener.fileno())
            listener.close()

    def accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return  # another gateway was faster
        accepted.setblocking(False)
        task = asyncio.create_task(asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(self), accepted))
        self.arriving.add(task)
        task.add_done_callback(self.arriving.discard)

    async def follow(self) -> None:
        async for change in self.claim:
            self.seen.append(f"{type(change).__name__.lower()} {change.number}")
            if isinstance(change, Adopt):
                self.listen(change.number, change.listener)
            else:
                self.unlisten(change.number)

    async def drain(self, checks_s: float = 1.0) -> None:
        """Hand over new connections, fail the health check, answer what is here, leave."""
        self.draining = True
        self.claim.draining()
        for number in [n for n in self.servers if n >= 0]:
            self.unlisten(number)
        # the edge needs one round of checks to stop using the connections it has to us
        await asyncio.sleep(checks_s)
        while self.arriving or any(c.busy for c in self.connections):
            await asyncio.sleep(0.01)
        await self.close()

    async def close(self) -> None:
        self.closed = True
        for number in list(self.servers):
            self.unlisten(number)
        self.claim.close()
        await self.following
        await asyncio.gather(*self.arriving)
        for connection in list(self.connections):
            connection.transport.close()


async def main(run_dir: str, name: str) -> None:
    gateway = await FakeGateway(run_dir, name).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(gateway.claim.slot, flush=True)  # noqa: T201
    await stop.wait()
    await gateway.drain()


if __name__ == "__main__":
    # what the real gateways run on
    uvloop.run(main(*sys.argv[1:]))
