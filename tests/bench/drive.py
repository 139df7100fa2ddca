"""Runs one session of the generator in this process: what a process that sends does, without starting one."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Sequence

from serving.bench.counting import Counting
from serving.bench.dial import Address, Tls
from serving.bench.load import Closed, Load
from serving.bench.reactor import Reactor
from serving.bench.recording import Recording
from serving.bench.request import GRPC_INFER, Check, Request, grpc_body
from serving.bench.session import Order, Session, Wire
from serving.bench.tape import Kind, TapeReader, TapeWriter


def request(protocol: str = "rest", body: bytes = b"question", name: str = "r", check: Check | None = None, weight: float = 1.0) -> Request:
    if protocol == "grpc":
        return Request(name, GRPC_INFER, (("x-test", "1"),), grpc_body(body), weight, check)
    return Request(name, "/v2/models/m/infer", (("x-test", "1"),), body, weight, check)


def few(count: int, concurrency: int = 1, **options: object) -> Load:
    """A closed loop of so many requests."""
    return Load(Closed(concurrency), duration_s=0, max_requests=count, **options)  # type: ignore[arg-type]


def drive(
    address: str,
    protocol: Wire,
    requests: Sequence[Request],
    load: Load,
    tls: Tls | None = None,
    meanwhile: Callable[[Reactor, Session], None] | None = None,
) -> Recording:
    reading, writing = os.pipe()
    pieces: list[bytes] = []

    def read() -> None:
        while data := os.read(reading, 1 << 20):
            pieces.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    reactor = Reactor()
    try:
        session = Session(Order(Address.parse(address), tls, protocol, tuple(requests), load, 0, 1), TapeWriter(writing), reactor)
        session.prepare()
        reactor.at(time.monotonic_ns() + 30_000_000, session.begin)
        if meanwhile is not None:
            meanwhile(reactor, session)
        reactor.run()
    finally:
        os.close(writing)
        reader.join()
        os.close(reading)
        session.close()
        reactor.close()
    counting = Counting(requests, 1)
    for record in TapeReader().feed(b"".join(pieces)):
        counting.take(0, record, pickle.loads(record.payload) if record.kind > Kind.LATE else None)
    counting.fold(time.monotonic())
    return counting.recording()
