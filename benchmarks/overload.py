"""What becomes of a model that is asked for more than it can do, over REST, without Ray: one table.

    .venv/bin/python -m benchmarks.overload [--seconds 4] [--batch-ms 20] [--output benchmarks/results/overload-DATE.json]

A replica (8 rows in `--batch-ms`, a queue of 64) and a gateway run in processes of their own; requests leave at random times at the rate
that the row says, whatever has become of those before. `in time` are answers 200 within the request's time, `goodput` is their rate by
what the model can do. The last row of each block is the normal load again, from the first second after the flood on. How long a refusal
takes is measured by a process of its own with eight threads that ask one request after the other, so that no client waits for itself;
what was let in and was not started within its time-out is not a refusal and stands in a column of its own. With urgent requests about,
an ordinary one may wait in the queue and be displaced: that is a late refusal, and the last row has some.

The first row is the same load on a server that only ever says 503, in some lines: what machine, clients and probe take by themselves.
`stolen` is the share of the processors that the machine's host gave to others meanwhile: at a tenth of them the bare server is as slow.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from statistics import quantiles
from time import perf_counter, sleep
from typing import Any, cast

import psutil
import uvloop

from benchmarks import machine
from serving.gateway.peers import PeerAddress
from serving.gateway.server import GatewayServer
from serving.hosting import BatchPolicy, HostPlan, VersionPlan
from serving.replica.host import ReplicaHost
from serving.routing import Route, RouteTable
from serving.state import GatewayLimits, GatewayState
from serving.tensor import DType, Signature, TensorSpec

ROWS = 8
QUEUE = 64
CONNECTIONS = 300
SIGNATURE = Signature((TensorSpec("x", DType.FP32, (4,)),), (TensorSpec("y", DType.FP32, (4,)),), ROWS)
SOURCE = "import time\nclass Model:\n    def predict(self, inputs):\n        time.sleep({})\n        return {{'y': inputs['x']}}\n"


def replica(directory: str, batch_s: float, pipe: Connection) -> None:
    """Be a replica until the pipe says something."""
    path = Path(directory) / "model.py"
    path.write_text(SOURCE.format(batch_s))
    policy = BatchPolicy(max_batch_size=ROWS, max_queue_requests=QUEUE)
    version = VersionPlan("m", "1", "python", str(path), "Model", signature=SIGNATURE, batching=policy)
    host = ReplicaHost(HostPlan((version,)), "r", directory)
    host.start()
    pipe.send(host.address)
    pipe.recv()
    host.stop()


def gateway(directory: str, address: dict[str, str], pipe: Connection) -> None:
    """Be a gateway until the pipe says something."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = GatewayServer("g", directory)
    server.start([listener])
    server.apply(GatewayState(RouteTable(1, {"m": Route("m", "1", ("1",))}), GatewayLimits()))
    server.set_peers({"m/1": [PeerAddress("r", **address)]})
    pipe.send(port)
    pipe.recv()
    server.stop()


REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n"


class Refusing(asyncio.Protocol):
    """Answers everything with a refusal."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        self._write(REFUSAL)


def bare(pipe: Connection) -> None:
    """Be a server that refuses until the pipe says something."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Refusing, "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)

    uvloop.run(serve())


EXPIRED = b'"Request timeout expired"'
PROBES = 8
PROBE_S = 0.02
"""Pause of each between two requests."""


@dataclass
class Probed:
    """What the probe has seen since it was asked last. bare: refusals without Retry-After."""

    refused_s: list[float] = field(default_factory=list)
    bare: int = 0


def probe(port: int, pipe: Connection) -> None:
    """Ask on some connections, on each one request after the other; for each line that the pipe says, what to ask from then on, say what
    came since. "" is the end.
    """
    asking = Asking(pipe.recv())
    threads = [threading.Thread(target=asking.ask, args=(port,), daemon=True) for _ in range(PROBES)]
    for thread in threads:
        thread.start()
    while asking.body:
        asking.body = pipe.recv()
        pipe.send(asking.seen)
        asking.seen = Probed()
    for thread in threads:
        thread.join(10)


class Asking:
    """What the probe asks, and what it has seen."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.seen = Probed()

    def ask(self, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while body := self.body:
                asked = perf_counter()
                sock.sendall(_request(body))
                answer = b""
                while (end := answer.find(b"\r\n\r\n")) < 0 or len(answer) < end + 4 + _length(answer):
                    answer += sock.recv(65536)
                took_s = perf_counter() - asked
                if answer[9:12] == b"503" and EXPIRED not in answer:
                    self.seen.refused_s.append(took_s)
                    self.seen.bare += b"\r\nretry-after: " not in answer[:end].lower()
                sleep(PROBE_S)


def _body(priority: int, timeout_s: float) -> bytes:
    parameters = b'"parameters":{"priority":%d,"timeout":%d}' % (priority, timeout_s * 1e6)
    return b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}],%s}' % parameters


def _request(body: bytes) -> bytes:
    return b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


@dataclass
class Phase:
    """What the clients of one row have seen."""

    rate: float
    seconds: float
    timeout_s: float = 0.0
    priorities: tuple[int, ...] = (0,)
    codes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """By priority and status; 0 stands for a request that found no free connection."""
    answered_s: list[float] = field(default_factory=list)
    expired: int = 0
    probed: Probed = field(default_factory=Probed)
    stolen: float = 0.0


class Clients:
    """Connections that wait for their next request."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect(self) -> None:
        for _ in range(CONNECTIONS):
            self._free.append(await asyncio.open_connection("127.0.0.1", self._port))

    async def run(self, phase: Phase, dice: random.Random) -> None:
        start = at = perf_counter()
        tasks: set[asyncio.Task[None]] = set()
        while (at := at + dice.expovariate(phase.rate)) < start + phase.seconds:
            if (ahead := at - perf_counter()) > 0:
                await asyncio.sleep(ahead)
            priority = dice.choice(phase.priorities)
            if not self._free:
                phase.codes[priority, 0] += 1
                continue
            task = asyncio.create_task(self._ask(phase, priority, at, *self._free.pop()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(tasks)

    async def _ask(self, phase: Phase, priority: int, due: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_request(_body(priority, phase.timeout_s)))
        head = await reader.readuntil(b"\r\n\r\n")
        answer = await reader.readexactly(_length(head))
        took_s = perf_counter() - due
        status = int(head[9:12])
        phase.codes[priority, status] += 1
        if status == 200:
            phase.answered_s.append(took_s)
        else:
            phase.expired += EXPIRED in answer
        self._free.append((reader, writer))


def percentile(values: list[float], q: int) -> float:
    return quantiles(values, n=100, method="inclusive")[q - 1] * 1e3 if len(values) > 1 else float("nan")


def row(name: str, phase: Phase, capacity: float, processes: list[psutil.Process]) -> list[str]:
    allowed_s = phase.timeout_s or float("inf")
    good = sum(t <= allowed_s + 2 * ROWS / capacity for t in phase.answered_s)
    memory = " + ".join(f"{p.memory_info().rss / 2**20:.0f}" for p in processes)
    return [
        name,
        f"{phase.codes.total() / phase.seconds:.0f}",
        f"{good / phase.seconds:.0f}",
        f"{good / phase.seconds / capacity:.2f}",
        f"{percentile(phase.answered_s, 50):.0f}, {percentile(phase.answered_s, 99):.0f}",
        f"{percentile(phase.probed.refused_s, 50):.1f}, {percentile(phase.probed.refused_s, 99):.1f} ({len(phase.probed.refused_s)})",
        f"{phase.stolen:.0%}",
        str(phase.probed.bare),
        str(phase.expired),
        ", ".join(f"{status}: {n}" for status, n in sorted(by_status(phase).items())),
        memory,
    ]


def by_status(phase: Phase) -> Counter[int]:
    found: Counter[int] = Counter()
    for (_, status), n in phase.codes.items():
        found[status] += n
    return found


class Loader:
    """Clients and probe on one port."""

    def __init__(self, port: int, pipe: Connection) -> None:
        self._clients = Clients(port)
        self._pipe = pipe
        self._dice = random.Random(1)

    async def connect(self) -> None:
        await self._clients.connect()
        self._pipe.send(_body(0, 0.0))

    async def run(self, phase: Phase) -> None:
        self._pipe.send(_body(0, phase.timeout_s))
        await asyncio.to_thread(self._pipe.recv)
        stolen_s = machine.stolen_s()
        await self._clients.run(phase, self._dice)
        phase.stolen = (machine.stolen_s() - stolen_s) / phase.seconds / (os.cpu_count() or 1)
        self._pipe.send(_body(0, phase.timeout_s))
        phase.probed = await asyncio.to_thread(self._pipe.recv)

    def end(self) -> None:
        self._pipe.send(b"")


async def measure_bare(loader: Loader, capacity: float, seconds: float, process: psutil.Process) -> list[str]:
    await loader.connect()
    phase = Phase(6.0 * capacity, seconds)
    await loader.run(phase)
    loader.end()
    return row("6 x, bare server", phase, capacity, [process])


async def measure(loader: Loader, capacity: float, seconds: float, processes: list[psutil.Process]) -> list[list[str]]:
    await loader.connect()
    rows = []

    for title, timeout_s in (("", 0.0), (", timeout 100 ms", 0.1)):
        for times in (0.5, 1.0, 3.0, 6.0, 0.5):
            phase = Phase(times * capacity, seconds if times > 0.5 else 1.0 + seconds / 4, timeout_s)
            await loader.run(phase)
            rows.append(row(f"{times:g} x{title}", phase, capacity, processes))
    phase = Phase(2.7 * capacity, seconds, priorities=(1, 0, 200))
    await loader.run(phase)
    rows.append(row("2.7 x, a third each", phase, capacity, processes))
    for priority, word in ((1, "urgent"), (0, "ordinary"), (200, "patient")):
        of = {status: n for (p, status), n in sorted(phase.codes.items()) if p == priority}
        rows.append(
            [f"  {word}", f"{sum(of.values()) / seconds:.0f}", f"{of.get(200, 0) / seconds:.0f}", "", "", "", "", "", "", str(of)[1:-1], ""]
        )
    loader.end()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--batch-ms", type=float, default=20.0)
    parser.add_argument("--output", type=Path, help="the table as JSON")
    options = parser.parse_args()
    capacity = ROWS / (options.batch_ms / 1e3)
    spawn = multiprocessing.get_context("spawn")

    def probing(port: int) -> Loader:
        ours, theirs = spawn.Pipe()
        prober = spawn.Process(target=probe, args=(port, theirs), daemon=True)
        prober.start()
        return Loader(port, ours)

    def start(target: Callable[..., None], *arguments: object) -> tuple[Any, psutil.Process]:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=target, args=(*arguments, theirs), daemon=True)
        process.start()
        started.append((ours, process))
        return ours.recv(), psutil.Process(process.pid)

    started: list[tuple[Connection, SpawnProcess]] = []
    with tempfile.TemporaryDirectory(prefix="o-") as directory:
        port, process = start(bare)
        rows = [uvloop.run(measure_bare(probing(port), capacity, options.seconds, process))]
        address, behind = start(replica, directory, options.batch_ms / 1e3)
        port, front = start(gateway, directory, address)
        rows += uvloop.run(measure(probing(port), capacity, options.seconds, [front, behind]))
        for pipe, child in reversed(started):
            pipe.send(b"")
            child.join(10)
    header = [
        "load",
        "offered/s",
        "in time/s",
        "goodput",
        "200: p50, p99 ms",
        "refused: p50, p99 ms (count)",
        "stolen",
        "no Retry-After",
        "expired",
        "statuses",
        "MB gateway + replica",
    ]
    if options.output is not None:
        table = [dict(zip(header, cells, strict=True)) for cells in rows]
        machine.keep("overload", {"capacity_rps": capacity, "queue": QUEUE, "rows": table}, options.output, whole=False)
    rows.insert(0, header)
    widths = [max(len(r[i]) for r in rows) for i in range(len(header))]
    for r in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(r, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
