"""A bare echo on httptools and uvloop: the least that a Python HTTP server can do with a body.

As a script it is the server itself: `httptools_echo.py PORT`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import httptools
import uvloop

from benchmarks.peers.port import answers_ok, free_ports
from benchmarks.process import Running, start

NAME = "httptools"
_ENV = {"MALLOC_TOP_PAD_": str(64 << 20)}
"""glibc gives the end of the heap back as soon as it is free, and takes it again for the next body: with bodies of 600 KB 300 page faults
and three times the CPU for each request, or none of them, as the addresses happen to fall. Room at the end makes it always none."""


def launch(scratch: Path) -> Running:
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "benchmarks.peers.httptools_echo", str(port)]
    http = f"127.0.0.1:{port}"
    home = Path(__file__).parents[2]
    return start(NAME, argv, scratch / "log", env=_ENV, cwd=home, http=http, ready=lambda running: answers_ok(running.http, "/"))


class Echo(asyncio.Protocol):
    """Keeps the parts of a body and writes them back as one."""

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override]  # uvloop gives a transport that writes
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.parts: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        body = b"".join(self.parts)
        self.parts.clear()
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = await loop.create_server(Echo, "127.0.0.1", port)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
