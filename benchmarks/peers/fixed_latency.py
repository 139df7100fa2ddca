"""A server that answers every prediction after the same time, whatever else it does: what generators are compared on.

As a script it is the server itself: `fixed_latency.py HTTP_PORT GRPC_PORT LATENCY_MS`. REST on uvloop and httptools, gRPC on grpcio.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import grpc
import httptools
import uvloop

from benchmarks.peers.port import answers_ok, free_ports
from benchmarks.process import Running, start
from serving.bench.request import GRPC_INFER

NAME = "fixed latency"
ANSWER = b"a" * 200


def launch(scratch: Path, latency_ms: float) -> Running:
    http_port, grpc_port = free_ports(2)
    argv = [sys.executable, "-m", "benchmarks.peers.fixed_latency", str(http_port), str(grpc_port), str(latency_ms)]
    http, grpc_address = f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}"
    cwd = Path(__file__).parents[2]
    return start(NAME, argv, scratch / "log", cwd=cwd, http=http, grpc=grpc_address, ready=lambda running: answers_ok(running.http, "/"))


class Late(asyncio.Protocol):
    """Answers each request `latency_s` after its last byte has come."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override]  # uvloop gives a transport that writes
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._loop.call_later(self._latency_s, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER)


async def _serve(http_port: int, grpc_port: int, latency_s: float) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await asyncio.sleep(latency_s)
        return ANSWER

    _, service, method = GRPC_INFER.split("/")
    calls = grpc.aio.server()
    handlers = {method: grpc.unary_unary_rpc_method_handler(answer)}
    calls.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    calls.add_insecure_port(f"127.0.0.1:{grpc_port}")
    await calls.start()
    server = await asyncio.get_running_loop().create_server(lambda: Late(latency_s), "127.0.0.1", http_port)
    await stopped.wait()
    server.close()
    await calls.stop(0)


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
