"""Microseconds per unary gRPC call over HTTP/2 in a gateway, without sockets: `python -m benchmarks.micro.http2 [--json]`.

A client's bytes go into `Http2Connection`, its action answers at once, the answer's bytes come out at a transport that only counts.
So a figure is all that HTTP/2 costs: frames, header blocks, the stream, windows, the answer's frames. The best of several rounds, so
that a busy machine shows less; the first line is a reference to scale figures of another machine by.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import timeit
from collections.abc import Iterator
from typing import Any, cast

from hpack import Encoder

from serving.gateway import http2_frames as h2
from serving.gateway.head import Action, Head
from serving.gateway.http2 import Http2Connection
from serving.gateway.http2_head import Http2Heads
from serving.protocol.grpc_frame import whole_message
from serving.state import GatewayLimits

CALLS, ROUNDS = 2000, 15
SMALL, LARGE = 300, 200_000
ANSWER = bytes(120)
FIELDS = [
    (":method", "POST"), (":scheme", "http"), (":path", "/inference.GRPCInferenceService/ModelInfer"), (":authority", "127.0.0.1:8001"),
    ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "grpc-python/1.81.1 grpc-c/50.0.0 (linux; chttp2)"),
    ("grpc-accept-encoding", "identity, deflate, gzip"),
]  # fmt: skip


class Sink:
    """A transport that takes everything."""

    def __init__(self) -> None:
        self.nbytes = 0

    def write(self, data: bytes) -> None:
        self.nbytes += len(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self.nbytes += sum(map(len, pieces))

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> None: ...

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        raise AssertionError("the connection was given up")

    write_eof = close


class Host:
    """What a connection needs of its server."""

    def __init__(self) -> None:
        self.limits = GatewayLimits()
        self.draining = False
        self.connections: set[Any] = set()
        self.arriving_bytes = 0

    def now(self) -> float:
        return 0.0

    def body_buffer(self, nbytes: int) -> None:
        return None

    def note_request(self) -> None: ...


def answer_at_once(stream: Any, head: Head, body: Any) -> None:
    whole = whole_message(body)
    assert whole is not None
    stream.write_unary([ANSWER, whole.data[:8]])


class Client:
    """Writes calls. `numbers` go on from where they were: a stream's number is used once."""

    def __init__(self) -> None:
        self.encoder = Encoder()
        self.numbers = iter(range(1, 1 << 31, 2))
        self.connection = Http2Connection(
            cast(Any, Host()), Http2Heads(lambda head: Action(answer_at_once)), cast(asyncio.Transport, Sink())
        )
        self.connection.data_received(h2.settings({h2.INITIAL_WINDOW_SIZE: 1 << 24}) + h2.window_update(0, (1 << 31) - 1 - 65_535))
        for call in self.calls(2):
            self.connection.data_received(call)

    def calls(self, count: int, nbytes: int = SMALL, timeouts: bool = False, cut: int = 16_384) -> Iterator[bytes]:
        message = b"\0" + nbytes.to_bytes(4, "big") + bytes(nbytes)
        pieces = [message[at : at + cut] for at in range(0, len(message), cut)]
        for at in range(count):
            number = next(self.numbers)
            fields = [*FIELDS, ("grpc-timeout", f"{1000 - at % 10}m")] if timeouts else FIELDS
            block = self.encoder.encode(fields, huffman=True)
            data = [h2.frame(h2.DATA, 0, number, piece) for piece in pieces[:-1]]
            yield b"".join(
                (h2.frame(h2.HEADERS, h2.END_HEADERS, number, block), *data, h2.frame(h2.DATA, h2.END_STREAM, number, pieces[-1]))
            )


def joined(pieces: list[bytes], many: int) -> list[bytes]:
    return [b"".join(pieces[at : at + many]) for at in range(0, len(pieces), many)]


def split(pieces: list[bytes], size: int) -> list[bytes]:
    data = b"".join(pieces)
    return [data[at : at + size] for at in range(0, len(data), size)]


def microseconds(reads: Any, calls: int = CALLS) -> float:
    """Return the best time per call; `reads(client)` gives the reads of one round of `calls` calls."""
    best = 1e9
    for _ in range(ROUNDS):
        client = Client()
        data = reads(client)
        received = client.connection.data_received
        gc.collect()
        gc.disable()

        def run(data: list[bytes] = data, received: Any = received) -> None:
            for piece in data:
                received(piece)

        best = min(best, timeit.timeit(run, number=1))
        gc.enable()
        assert not client.connection.streams
    return best / calls * 1e6


def head_and_body(client: Client) -> list[bytes]:
    out = []
    for call in client.calls(CALLS):
        cut = len(call) - SMALL - 5 - h2.FRAME_BYTES
        out += [call[:cut], call[cut:]]
    return out


def measure() -> dict[str, float]:
    return {
        "empty call": min(timeit.repeat(lambda: None, number=100_000, repeat=5)) * 10,
        "a call in a read": microseconds(lambda c: list(c.calls(CALLS))),
        "16 calls in a read": microseconds(lambda c: joined(list(c.calls(CALLS)), 16)),
        "head and body in a read each": microseconds(head_and_body),
        "reads of 1000 bytes, wherever that cuts": microseconds(lambda c: split(list(c.calls(CALLS)), 1000)),
        "a call in a read, ten time-outs": microseconds(lambda c: list(c.calls(CALLS, timeouts=True))),
        "200 kB in frames of 16 KB, reads of 64 KB": microseconds(lambda c: split(list(c.calls(50, LARGE)), 1 << 16), 50),
    }


def main() -> None:
    figures = measure()
    if "--json" in sys.argv:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:<44} {figure:8.2f} µs")


if __name__ == "__main__":
    main()
