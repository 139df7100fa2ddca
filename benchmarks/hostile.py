"""Hostile clients: what each attack gets back, what it costs in memory, and what a well-behaved client beside it notices. One table.

    scripts/hostile [--seconds 6] [--only zip]

Each attack comes 40 times a second from a process of its own (some hold connections open) while `serving bench` sends 100 predictions a
second over REST and 100 over gRPC; the first and the last row are the same clients without an attack. Exit code 1: an answer that
blames us, a client that failed, or a gateway that died.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import math
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from hpack import Encoder

from benchmarks.chaos import GATEWAY, SERVING, Site, told
from benchmarks.peers import engine
from benchmarks.process import Running
from serving.gateway import http2_frames as h2

CONFIG = Path(__file__).parents[1] / "configs" / "chaos.yaml"
PER_S = 40
WAIT_S = 3.0
"""How long an attacker looks for an answer."""
INFER = b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: h\r\n"
GOOD = b'{"inputs":[{"name":"x","shape":[1,64],"datatype":"FP32","data":[' + b"1," * 63 + b"1]}]}"
MIB = 1 << 20

Address = tuple[str, int]


class Attacker:
    """One attacker: sends bytes, notes what comes back."""

    def __init__(self, rest: Address, grpc: Address) -> None:
        self.rest = rest
        self.grpc = grpc
        self.seen: Counter[str] = Counter()

    async def throw(self, address: Address, *pieces: bytes, pause_s: float = 0.0) -> None:
        """Send and note the first line of the answer, a GOAWAY or a reset of HTTP/2, or that it was closed."""
        reader, writer = await asyncio.open_connection(*address)
        try:
            for piece in pieces:
                writer.write(piece)
                await asyncio.wait_for(writer.drain(), WAIT_S)
                if pause_s:
                    await asyncio.sleep(pause_s)
            self.seen[_verdict(await asyncio.wait_for(self._all(reader), WAIT_S))] += 1
        except TimeoutError:
            self.seen["waits"] += 1
        except OSError:
            self.seen["closed"] += 1
        finally:
            writer.close()

    async def _all(self, reader: asyncio.StreamReader) -> bytes:
        """Return the answer up to its first word that says how it ends. Looks at each frame once: the attackers share the cores."""
        got = b""
        at = 0
        while more := await reader.read(1 << 16):
            got += more
            if got.startswith(b"HTTP/1.1"):
                break
            kinds, at = _kinds(got, at)
            if h2.GOAWAY in kinds or h2.RST_STREAM in kinds:
                break
        return got

    async def infer(self, body: bytes, *lines: bytes) -> None:
        head = INFER + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: %d\r\n\r\n" % len(body)
        await self.throw(self.rest, head + body)


Act = Callable[[Attacker], Awaitable[None]]


def _kinds(data: bytes, at: int = 0) -> tuple[set[int], int]:
    """Return the kinds of frames from `at` on, and where the first begins whose head is not there yet."""
    kinds = set()
    while at + h2.FRAME_BYTES <= len(data):
        high, low, kind, _, _ = h2.FRAME.unpack_from(data, at)
        kinds.add(kind)
        at += h2.FRAME_BYTES + (high << 16 | low)
    return kinds, at


def _verdict(got: bytes) -> str:
    if not got:
        return "closed"
    if got.startswith(b"HTTP/1.1"):
        return got.split(b" ", 2)[1].decode()
    kinds, _ = _kinds(got)
    return "GOAWAY" if h2.GOAWAY in kinds else "reset" if h2.RST_STREAM in kinds else "HTTP/2 answer"


def _block(path: str, *more: tuple[str, str]) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "h"), ("te", "trailers")]
    return bytes(Encoder().encode([*fields, ("content-type", "application/grpc"), *more]))


BLOCK = _block("/inference.GRPCInferenceService/ModelInfer")
OPENING = h2.PREFACE + h2.settings({})


async def nothing(a: Attacker) -> None:
    """No attack: what the neighbour gets in peace."""


async def smuggling(a: Attacker) -> None:
    await a.infer(b"0\r\n\r\nGET /v2 HTTP/1.1\r\n\r\n", b"Transfer-Encoding: chunked")


async def two_lengths(a: Attacker) -> None:
    await a.infer(GOOD, b"Content-Length: 3")


async def bare_lf(a: Attacker) -> None:
    await a.throw(a.rest, b"POST /v2/models/mlp/infer HTTP/1.1\nHost: h\nContent-Length: 3\n\n{}\n")


async def many_headers(a: Attacker) -> None:
    await a.infer(GOOD, *(b"x-%d: 1" % number for number in range(10_000)))


async def endless_header(a: Attacker) -> None:
    await a.throw(a.rest, INFER + b"x-long: " + b"a" * MIB)


async def pipeline(a: Attacker) -> None:
    one = INFER + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD
    await a.throw(a.rest, one * 200)


async def chunk_bomb(a: Attacker) -> None:
    await a.throw(a.rest, INFER + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 70_000)


ZIPPED = gzip.compress(b" " * (200 * MIB), 9)


async def zip_bomb(a: Attacker) -> None:
    await a.infer(ZIPPED, b"Content-Encoding: gzip")


async def deep_json(a: Attacker) -> None:
    await a.infer(b"[" * 250_000)


async def deep_data(a: Attacker) -> None:
    await a.infer(b'{"inputs":[{"name":"x","shape":[1,64],"datatype":"FP32","data":' + b"[" * 500 + b"]" * 500 + b"}]}")


async def huge_shape(a: Attacker) -> None:
    await a.infer(b'{"inputs":[{"name":"x","shape":[4294967296,4294967296],"datatype":"FP32","data":[1]}]}')


async def size_lie(a: Attacker) -> None:
    await a.infer(b"{}", b"Inference-Header-Content-Length: 99999999999")


async def half_body(a: Attacker) -> None:
    """Announces 900 MB and sends 1 KB; holds the connection until the attack is over."""
    await a.throw(a.rest, INFER + b"Content-Length: 943718400\r\n\r\n" + b"x" * 1024)


async def slow_head(a: Attacker) -> None:
    await a.throw(a.rest, *(b"%c" % byte for byte in INFER[:12]), pause_s=0.2)


async def connections(a: Attacker) -> None:
    await a.throw(a.rest, b"")


async def rapid_reset(a: Attacker) -> None:
    frames = [h2.frame(h2.HEADERS, h2.END_HEADERS, 2 * n + 1, BLOCK) + h2.rst_stream(2 * n + 1, h2.Http2Code.CANCEL) for n in range(6000)]
    await a.throw(a.grpc, OPENING + b"".join(frames))


async def continuation_flood(a: Attacker) -> None:
    await a.throw(a.grpc, OPENING + h2.frame(h2.HEADERS, 0, 1, BLOCK) + h2.frame(h2.CONTINUATION, 0, 1, b"") * 20_000)


async def header_bomb(a: Attacker) -> None:
    """One large field in the table, then named four thousand times."""
    field = h2.literal(b"x", b"a" * 3900, 0x40)
    await a.throw(a.grpc, OPENING + h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, field + b"\xbe" * 4000))


async def ping_flood(a: Attacker) -> None:
    await a.throw(a.grpc, OPENING + h2.frame(h2.PING, 0, 0, bytes(8)) * 20_000)


async def settings_flood(a: Attacker) -> None:
    await a.throw(a.grpc, OPENING + h2.settings({h2.INITIAL_WINDOW_SIZE: 1}) * 20_000)


async def message_lie(a: Attacker) -> None:
    body = b"\0\xff\xff\xff\xff" + b"x" * 100
    await a.throw(a.grpc, OPENING + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, BLOCK) + h2.frame(h2.DATA, 0, 1, body))


async def windows_shut(a: Attacker) -> None:
    """Asks, and lets nothing be sent."""
    shut = h2.PREFACE + h2.settings({h2.INITIAL_WINDOW_SIZE: 0})
    path = _block("/inference.GRPCInferenceService/ServerMetadata")
    asked = [h2.frame(h2.HEADERS, h2.END_HEADERS, n, path) + h2.frame(h2.DATA, h2.END_STREAM, n, bytes(5)) for n in range(1, 400, 2)]
    await a.throw(a.grpc, shut + b"".join(asked))


ATTACKS: tuple[Act, ...] = (
    smuggling, two_lengths, bare_lf, many_headers, endless_header, pipeline, chunk_bomb, zip_bomb, deep_json, deep_data, huge_shape,
    size_lie, half_body, slow_head, connections, rapid_reset, continuation_flood, header_bomb, ping_flood, settings_flood, message_lie,
    windows_shut,
)  # fmt: skip


async def _storm(act: Act, attacker: Attacker, seconds: float) -> None:
    end = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < end:
            group.create_task(act(attacker))
            await asyncio.sleep(1 / PER_S)


def attack(name: str, rest: Address, grpc: Address, seconds: float, pipe: Connection) -> None:
    """Be the attackers, in a process of their own."""
    attacker = Attacker(rest, grpc)
    act = next(act for act in (nothing, *ATTACKS) if act.__name__ == name)
    asyncio.run(_storm(act, attacker, seconds))
    pipe.send(dict(attacker.seen))


@dataclass(frozen=True, slots=True)
class Felt:
    """What the well-behaved clients noticed."""

    answers: int
    errors: int
    kinds: dict[str, int]
    """How many errors of each kind."""
    p99_ms: float


class Neighbours:
    """The well-behaved clients: REST and gRPC at a steady rate."""

    def __init__(self, running: Running, folder: Path, seconds: float) -> None:
        self._outputs = []
        self._processes = []
        for protocol, address in (("rest", running.http), ("grpc", running.grpc)):
            output = folder / f"{protocol}.json"
            argv = [
                SERVING, "bench", "run", "--url", f"http://{address}", "--protocol", protocol, "--model", "mlp", "--rate", "100", "-q",
                "--duration", str(seconds), "--json", str(output), "--timeout", "5",
            ]  # fmt: skip
            self._outputs.append(output)
            self._processes.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))

    def felt(self) -> Felt:
        for process in self._processes:
            _, said = process.communicate(timeout=120)
            if process.returncode not in (0, 1):  # 1: there were errors, which are what is asked for
                raise RuntimeError(f"serving bench run: {said[-300:]}")
        found = [json.loads(output.read_text()) for output in self._outputs]
        kinds: Counter[str] = Counter()
        for f in found:
            kinds.update(f["errors_by_kind"])
        return Felt(
            sum(f["answers"] for f in found),
            sum(f["errors"] for f in found),
            dict(kinds),
            max(f["latency_ms"]["p99"] or math.inf for f in found),
        )


def strike(act: Act, running: Running, site: Site, folder: Path, seconds: float) -> dict[str, Any]:
    """Attack, and say what everybody got."""
    gateways = site.processes(GATEWAY)
    before = _memory(gateways)
    neighbours = Neighbours(running, folder, seconds)
    time.sleep(2.0)  # they start and warm up
    ours, theirs = multiprocessing.Pipe()
    host, rest, grpc = "127.0.0.1", int(running.http.rsplit(":", 1)[1]), int(running.grpc.rsplit(":", 1)[1])
    attackers = multiprocessing.Process(target=attack, args=(act.__name__, (host, rest), (host, grpc), seconds, theirs))
    attackers.start()
    most = before
    while attackers.is_alive():
        attackers.join(0.1)
        most = max(most, _memory(gateways))
    got: dict[str, int] = ours.recv()
    felt = neighbours.felt()
    alive = set(site.processes(GATEWAY)) == set(gateways)
    blamed = sum(count for verdict, count in got.items() if verdict in ("500", "502", "504"))
    return {
        "attack": act.__name__.replace("_", " "),
        "got": got,
        "neighbour_answers": felt.answers,
        "neighbour_errors": felt.errors,
        "neighbour_errors_by_kind": felt.kinds,
        "neighbour_p99_ms": felt.p99_ms,
        "memory_before_mib": before // MIB,
        "memory_most_mib": most // MIB,
        "memory_after_mib": _memory(gateways) // MIB if alive else 0,
        "passed": alive and not blamed and not felt.errors,
    }


def _memory(pids: Sequence[int]) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in pids if psutil.pid_exists(pid))


HEADER = ("attack", "what it got", "neighbour's p99 ms", "its errors", "MiB before", "most", "after", "")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    got = ", ".join(f"{count} × {verdict}" for verdict, count in sorted(row["got"].items(), key=lambda item: -item[1]))
    return (
        row["attack"], got, f"{row['neighbour_p99_ms']:.1f}", str(row["neighbour_errors"]), str(row["memory_before_mib"]),
        str(row["memory_most_mib"]), str(row["memory_after_mib"]), "" if row["passed"] else "FAIL",
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/hostile", description="Attacks a running engine and looks what others notice.")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each attack")
    parser.add_argument("--only", help="attacks whose name contains this")
    parser.add_argument("--output", type=Path, help="JSON; a whole run writes benchmarks/results/hostile-DATE.json")
    arguments = parser.parse_args()
    wanted = [act for act in ATTACKS if not arguments.only or arguments.only in act.__name__]
    rows = []
    with tempfile.TemporaryDirectory(prefix="h-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        running = engine.launch("engine", CONFIG, folder)
        try:
            site = Site(running, folder)
            for act in (nothing, *wanted, nothing):
                rows.append(strike(act, running, site, folder, arguments.seconds))
                print("  ".join(cells(rows[-1])), flush=True)
        finally:
            running.stop()
    return told("hostile", HEADER, [cells(row) for row in rows], rows, arguments)


if __name__ == "__main__":
    sys.exit(main())
