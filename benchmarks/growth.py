"""Growth: CPU for an answer, memory and latency as connections, payloads, gateways and replicas grow; JSON and one page with plots.

    scripts/growth [--seconds 3] [--only payload]

The model gives back what it gets, so that all of it is the server's. Every point is a run of `serving bench` in a closed loop; server CPU
and memory (PSS) are those of all processes of the engine. Client and server share the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import machine
from benchmarks.chaos import SERVING, Site
from benchmarks.peers import engine
from benchmarks.process import Running
from benchmarks.table import plain_table
from serving.bench.report.draw import WIDTH, Chart, Plot, svg
from serving.bench.report.page import Part, render
from serving.bench.report.scale import latencies, linear, logarithmic
from serving.bench.report.words import duration, size

ECHO = str(Path(__file__).parent / "models" / "echo.py")
KB = 1024
CONNECTIONS = (1, 4, 16, 64, 256, 1000, 2000)
PAYLOADS = (KB, 16 * KB, 64 * KB, 256 * KB, KB * KB, 4 * KB * KB, 16 * KB * KB, 64 * KB * KB)
FOUR_BYTES = 4


@dataclass(frozen=True, slots=True)
class Point:
    """One run. CPU in µs of all server processes for an answer, memory in bytes."""

    protocol: str
    x: int
    answers_s: float
    errors: int
    p50_ms: float
    p99_ms: float
    cpu_us: float
    memory: int
    answers: int


@dataclass(frozen=True, slots=True)
class Series:
    """What grows, in which unit, and how its points are made."""

    name: str
    title: str
    label: Callable[[float], str]
    points: Callable[[Bench], Iterator[Point]]


class Bench:
    """An engine under test, and runs against it."""

    def __init__(self, running: Running, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        self._running = running
        self._site = Site(running, folder)
        self._folder = folder

    def apply(self, gateways: int = 1, replicas: int = 1) -> None:
        """Give the engine so many of each, and wait until it has them."""
        file = self._folder / "changed.yaml"
        file.write_text(yaml.safe_dump(config(gateways, replicas)))
        subprocess.run([SERVING, "apply", str(file), "--url", f"http://{self._site.control}"], check=True, stdout=subprocess.DEVNULL)

    def run(self, protocol: str, x: int, *more: str) -> Point:
        output = self._folder / "out.json"
        output.unlink(missing_ok=True)
        address = self._running.grpc if protocol == "grpc" else self._running.http
        argv = [
            SERVING, "bench", "run", "--url", f"http://{address}", "--protocol", protocol, "--duration", str(self.seconds),
            "--pid", str(self._running.root), "--timeout", "60", "--json", str(output), "-q", *more,
        ]  # fmt: skip
        done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        found = json.loads(output.read_text()) if output.exists() else {}
        if done.returncode:
            raise RuntimeError(f"serving bench run, {protocol} {x}: {done.stderr[-500:]} {found.get('errors_by_kind')}")
        ms, server = found["latency_ms"], found["server"]
        point = Point(
            protocol, x, round(found["throughput_rps"], 1), found["errors"], ms["p50"], ms["p99"],
            round((server["cpu_s_per_1000"] or 0.0) * 1000, 1), server["pss_bytes"] or server["rss_bytes"] or 0, found["answers"],
        )  # fmt: skip
        print(f"  {protocol} {x:>9,}: {point.answers_s:>9,.1f}/s  p50 {point.p50_ms:.2f} ms  p99 {point.p99_ms:.2f} ms", flush=True)
        return point


def config(gateways: int, replicas: int) -> dict[str, Any]:
    signature = {"inputs": [{"name": "x", "dtype": "FP32", "shape": [-1]}], "outputs": [{"name": "y", "dtype": "FP32", "shape": [-1]}]}
    echo = {
        "versions": {1: {"artefact": ECHO, "runtime": "torch", "entry": "Echo"}},
        "signature": signature,
        "batching": {"max_batch_size": 64},
        "execution": "inline",
        "replicas": replicas,
        "warm_up": {"batch_sizes": [1]},
    }
    return {"gateways": gateways, "models": {"echo": echo}}


def _connections(bench: Bench) -> Iterator[Point]:
    for protocol in ("rest", "grpc"):
        for count in CONNECTIONS:
            yield bench.run(protocol, count, "--model", "echo", "--shape", "x:16", "--concurrency", str(count))


def _payloads(bench: Bench) -> Iterator[Point]:
    for protocol in ("rest", "grpc"):
        for nbytes in PAYLOADS:
            yield bench.run(
                protocol, nbytes, "--model", "echo", "--shape", f"x:{nbytes // FOUR_BYTES}", "--concurrency", "4", "--samples", "1"
            )


def _gateways(bench: Bench) -> Iterator[Point]:
    for count in (1, 2, 3, 4):
        bench.apply(gateways=count)
        for protocol in ("rest", "grpc"):
            yield bench.run(protocol, count, "--model", "echo", "--shape", "x:16", "--concurrency", "64")
    bench.apply()


def _replicas(bench: Bench) -> Iterator[Point]:
    for count in (1, 2, 4):
        bench.apply(replicas=count)
        for protocol in ("rest", "grpc"):
            yield bench.run(protocol, count, "--model", "echo", "--shape", "x:16", "--concurrency", "64")
    bench.apply()


def _number(value: float) -> str:
    return f"{value:,.0f}"


SERIES = (
    Series("connections", "connections, each with a request under way", _number, _connections),
    Series("payload", "bytes of a request and of its answer, 4 connections", size, _payloads),
    Series("gateways", "gateways, 64 connections", _number, _gateways),
    Series("replicas", "replicas, 64 connections", _number, _replicas),
)


def charts(series: Series, points: Sequence[Point]) -> list[Chart]:
    """Return the plots of a series: CPU for an answer, latency, memory; a line for each protocol."""
    xs = sorted({point.x for point in points})
    x = logarithmic(xs[0], xs[-1], series.label) if xs[-1] > 8 * xs[0] else linear(xs[-1], series.label, most=len(xs))
    cpu = [point.cpu_us / 1000 for point in points]
    both = latencies([value for p in points for value in (p.p50_ms, p.p99_ms)])
    made = [
        ("server CPU for an answer", latencies(cpu), lambda p: p.cpu_us / 1000, None, duration),
        ("latency: p50, dashed p99", both, lambda p: p.p50_ms, lambda p: p.p99_ms, duration),
        ("memory of all processes", linear(max(p.memory for p in points), size), lambda p: float(p.memory), None, size),
    ]
    found = []
    for title, y, value, second, words in made:
        plot = Plot(84, 34, WIDTH - 108, 220, x, y)
        parts = [plot.axes(series.title, title)]
        for number, protocol in enumerate(("rest", "grpc")):
            own = [point for point in points if point.protocol == protocol]
            line = [(float(point.x), value(point)) for point in own]
            parts += [plot.line(line, f"s{number}"), plot.dots(line, f"s{number}")]
            if second is not None:
                parts.append(plot.line([(float(point.x), second(point)) for point in own], f"s{number} dashed"))
        said = ", ".join(f"{p.protocol} {series.label(p.x)} {words(value(p))}" for p in points)
        found.append(Chart(f"{series.name}: {title}", svg(310, f"{title}: {said}", parts), (("line s0", "REST"), ("line s1", "gRPC"))))
    return found


HEADER = ("", "protocol", "answers/s", "errors", "p50 ms", "p99 ms", "CPU µs", "memory")


def cells(series: Series, point: Point) -> tuple[str, ...]:
    return (
        f"{series.label(point.x)} {series.name if series.name != 'payload' else ''}".strip(), point.protocol, f"{point.answers_s:,.1f}",
        str(point.errors), f"{point.p50_ms:.2f}", f"{point.p99_ms:.2f}", f"{point.cpu_us:,.0f}", size(point.memory),
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/growth", description="How CPU, memory and latency grow.")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    parser.add_argument("--only", choices=[series.name for series in SERIES])
    parser.add_argument("--output", type=Path, help="JSON, with a page beside it; a whole run writes benchmarks/results/growth-DATE.json")
    arguments = parser.parse_args()
    found: dict[str, list[Point]] = {}
    with tempfile.TemporaryDirectory(prefix="g-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        file = folder / "growth.yaml"
        file.write_text(yaml.safe_dump(config(1, 1)))
        running = engine.launch("engine", file, folder)
        try:
            bench = Bench(running, folder, arguments.seconds)
            for series in SERIES:
                if arguments.only in (None, series.name):
                    print(series.title, flush=True)
                    found[series.name] = list(series.points(bench))
        finally:
            running.stop()
    shown = [series for series in SERIES if series.name in found]
    print(plain_table(HEADER, [cells(series, point) for series in shown for point in found[series.name]]))
    rows = {name: [asdict(point) for point in points] for name, points in found.items()}
    if output := machine.keep("growth", rows, arguments.output, not arguments.only):
        parts = [Part(title=s.name, about=s.title, charts=tuple(charts(s, found[s.name]))) for s in shown]
        output.with_suffix(".html").write_text(render("How the engine grows", parts))
        print(f"written: {output}, {output.with_suffix('.html').name}")
    return 1 if any(point.errors for points in found.values() for point in points) else 0


if __name__ == "__main__":
    sys.exit(main())
