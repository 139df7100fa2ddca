"""Microseconds per request over HTTP/1.1 in a gateway, without sockets: `python -m benchmarks.micro.http1 [--json]`.

A client's bytes go into `HttpConnection`, its action answers at once, the answer's bytes come out at a transport that only counts.
So a figure is all that HTTP/1.1 costs: head, body, what follows an answer. The best of several rounds, so that a busy machine shows
less; the first line is a reference to scale figures of another machine by.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import timeit
from typing import Any, cast

from benchmarks.micro import http2
from serving.gateway.head import Action, Head, HeadCache
from serving.gateway.http import HttpConnection

REQUESTS, ROUNDS = 2000, 25
SMALL, LARGE = 300, 20_000
ANSWER = bytes(120)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 120\r\n\r\n"
ASKED = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: wrk\r\nContent-Type: application/json\r\n"
CALLED = (
    b"POST /inference.GRPCInferenceService/ModelInfer HTTP/1.1\r\nhost: 127.0.0.1:8001\r\nte: trailers\r\n"
    b"content-type: application/grpc\r\nuser-agent: grpc-python/1.81.1\r\ngrpc-timeout: 999m\r\n"
)


class Sink(http2.Sink):
    """A transport that takes everything."""

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading

    def set_protocol(self, protocol: Any) -> None: ...


class Host(http2.Host):
    """What a connection needs of its server."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HeadCache(lambda head: Action(answer_at_once))


def answer_at_once(connection: HttpConnection, head: Head, body: Any) -> None:
    parts: list[Any] = [ANSWER]
    connection.write_answer(HEAD, parts, len(ANSWER), connection.closes())


def sized(nbytes: int) -> bytes:
    return b"%sContent-Length: %d\r\n\r\n" % (ASKED, nbytes) + bytes(nbytes)


def chunked(nbytes: int, chunks: int = 1) -> bytes:
    pieces = [b"%x\r\n" % (nbytes // chunks) + bytes(nbytes // chunks) + b"\r\n"] * chunks
    return CALLED + b"transfer-encoding: chunked\r\n\r\n" + b"".join(pieces) + b"0\r\n\r\n"


def microseconds(reads: list[bytes], trusted: bool) -> float:
    """Return the best time for one request that comes with these reads."""
    connection = HttpConnection(cast(Any, Host()), trusted)
    connection.connection_made(cast(asyncio.Transport, Sink()))
    received = connection.data_received

    def run() -> None:
        for _ in range(REQUESTS):
            for piece in reads:
                received(piece)

    run()
    best = 1e9
    gc.collect()
    gc.disable()
    for _ in range(ROUNDS):
        best = min(best, timeit.timeit(run, number=1))
    gc.enable()
    assert not connection.busy
    assert connection.host.arriving_bytes == 0
    return best / REQUESTS * 1e6


def measure() -> dict[str, float]:
    small, two = sized(SMALL), chunked(LARGE, 2)
    return {
        "a small request in one read": microseconds([small], False),
        "a small request, its head cut in two": microseconds([small[:20], small[20:]], False),
        "a gRPC call in one chunk, behind the edge": microseconds([chunked(SMALL)], True),
        "a gRPC call of 20 KB in two chunks and reads": microseconds([two[: LARGE // 2], two[LARGE // 2 :]], True),
    }


def main() -> None:
    reference = min(timeit.repeat("for i in range(10000): str(i)", number=1, repeat=30)) / 10000 * 1e6
    figures = {"reference: str(i)": reference, **measure()}
    if "--json" in sys.argv:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:<48}{figure:9.3f} us")


if __name__ == "__main__":
    main()
