"""Soak: a quarter of an hour at 0.7 of what the engine can do; does any of its processes grow? One table, and JSON in results/.

    scripts/soak [--minutes 15] [--share 0.7]

First REST and gRPC together in closed loops say what the engine can do, then both come at `share` of that in open loops. Every few seconds
memory (PSS) and open descriptors of each process of the engine are read; a straight line through them, without the first fifth, says how
they grow. Exit code 1: memory or descriptors of a process grew beyond what reading them twice may differ by, or a request failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.chaos import CONFIG, SERVING, UNSENT
from benchmarks.peers import engine
from benchmarks.process import Running
from benchmarks.table import plain_table

PROTOCOLS = ("rest", "grpc")
EVERY_S = 5.0
SETTLING = 0.2
"""Part of the time, at its beginning, that counts for no slope: pools and caches fill."""
MIB = 1 << 20
FLAT_MIB, FLAT_PART = 4.0, 0.03
"""Growth over the whole time that still counts as none: so many MiB, or so much of the process, whichever is more."""
FLAT_DESCRIPTORS = 4.0


@dataclass(slots=True)
class Watched:
    """What was read of one process. Times in seconds since the load began, memory in MiB."""

    title: str
    at_s: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


def sample(running: Running, at_s: float, found: dict[int, Watched]) -> None:
    """Read all processes once."""
    for pid, stat in running.members().items():
        if stat.state == "Z":
            continue
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            pss = Path(f"/proc/{pid}/smaps_rollup").read_text().partition("Pss:")[2].split(maxsplit=1)[0]
            descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except (OSError, IndexError):
            continue  # it has just ended
        watched = found.setdefault(pid, Watched(_short(title)))
        watched.at_s.append(round(at_s, 1))
        watched.memory_mib.append(round(int(pss) / 1024, 2))
        watched.descriptors.append(descriptors)


def _short(title: str) -> str:
    """Return what tells a process from the others: of a Ray worker its title, else the program and what it runs."""
    words = title.split()
    if not words or words[0].startswith("ray::"):
        return title[:60]
    program = Path(words[0]).name
    module = next((after for word, after in pairwise(words) if word == "-m"), "")
    return f"{program} {module}".strip()


def slope_an_hour(at_s: Sequence[float], values: Sequence[float]) -> float:
    """Return how much a straight line through the values, without the first fifth, rises in an hour. 0.0 for fewer than three."""
    first = int(len(values) * SETTLING)
    times, rest = np.asarray(at_s[first:]), np.asarray(values[first:], np.float64)
    return float(np.polyfit(times, rest, 1)[0]) * 3600 if len(rest) >= 3 else 0.0


def judged(watched: Watched, seconds: float) -> dict[str, Any]:
    """Return the figures of one process, and whether they are flat. `grew` is what the line rises by in the time of the run."""
    memory, descriptors = slope_an_hour(watched.at_s, watched.memory_mib), slope_an_hour(watched.at_s, watched.descriptors)
    grew_mib, grew = memory * seconds / 3600, descriptors * seconds / 3600
    return {
        "process": watched.title,
        "memory_mib": {"first": watched.memory_mib[0], "last": watched.memory_mib[-1], "most": max(watched.memory_mib)},
        "memory_mib_an_hour": round(memory, 2),
        "memory_grew_mib": round(grew_mib, 2),
        "descriptors": {"first": watched.descriptors[0], "last": watched.descriptors[-1], "most": max(watched.descriptors)},
        "descriptors_an_hour": round(descriptors, 2),
        "flat": grew_mib <= max(FLAT_MIB, FLAT_PART * watched.memory_mib[-1]) and grew <= FLAT_DESCRIPTORS,
    }


class Load:
    """REST and gRPC at once, each from a generator of its own."""

    def __init__(self, running: Running, folder: Path) -> None:
        self._urls = {"rest": f"http://{running.http}", "grpc": f"http://{running.grpc}"}
        self._folder = folder

    def start(self, seconds: float, more: dict[str, list[str]]) -> list[subprocess.Popen[str]]:
        return [
            subprocess.Popen(
                [
                    SERVING, "bench", "run", "--url", url, "--protocol", protocol, "--model", "mlp", "--duration", str(seconds), "-q",
                    "--timeout", "10", "--json", str(self._folder / f"{protocol}.json"), *more[protocol],
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for protocol, url in self._urls.items()
        ]  # fmt: skip

    def results(self, generators: Sequence[subprocess.Popen[str]]) -> dict[str, dict[str, Any]]:
        for generator in generators:
            _, said = generator.communicate(timeout=120)
            if generator.returncode:
                raise RuntimeError(f"serving bench run: {said[-500:]}")
        return {protocol: json.loads((self._folder / f"{protocol}.json").read_text()) for protocol in self._urls}


def soak(running: Running, folder: Path, seconds: float, share: float) -> dict[str, Any]:
    """Find out what the engine can do, ask for a share of it, and watch."""
    load = Load(running, folder)
    closed = {protocol: ["--concurrency", "32"] for protocol in PROTOCOLS}
    most = {p: r["throughput_rps"] for p, r in load.results(load.start(max(3.0, min(10.0, seconds / 10)), closed)).items()}
    rates = {protocol: round(share * most[protocol]) for protocol in PROTOCOLS}
    found: dict[int, Watched] = {}
    generators = load.start(seconds, {protocol: ["--rate", str(rates[protocol])] for protocol in PROTOCOLS})
    began = time.monotonic()
    due = began
    while any(generator.poll() is None for generator in generators):
        sample(running, time.monotonic() - began, found)
        due += EVERY_S
        time.sleep(max(0.0, due - time.monotonic()))
    felt = load.results(generators)
    stayed = [watched for watched in found.values() if watched.at_s[-1] - watched.at_s[0] > seconds / 2]
    processes = [judged(watched, seconds) for watched in stayed]
    ticks = min(len(watched.at_s) for watched in stayed)
    totals = [round(sum(watched.memory_mib[tick] for watched in stayed), 1) for tick in range(ticks)]
    return {
        "seconds": seconds,
        "share_of_capacity": share,
        "capacity_rps": {protocol: round(rate, 1) for protocol, rate in most.items()},
        "rate_rps": rates,
        "clients": {
            p: {
                "answers": r["answers"],
                "errors": sum(kinds.values()),
                "kinds": kinds,
                "unsent": r["errors"] - sum(kinds.values()),
                "p50_ms": r["latency_ms"]["p50"],
                "p99_ms": r["latency_ms"]["p99"],
            }
            for p, r in felt.items()
            for kinds in [_kinds(r)]
        },
        "memory_mib_an_hour": round(sum(process["memory_mib_an_hour"] for process in processes), 2),
        "processes": processes,
        "came_or_went": sorted(watched.title for watched in found.values() if watched not in stayed),
        "memory_mib": {"every_s": EVERY_S, "of_all": totals},
        "passed": all(process["flat"] for process in processes) and not any(_kinds(r) for r in felt.values()),
    }


def _kinds(result: dict[str, Any]) -> dict[str, int]:
    """Return how often a request failed, by kind, without those that were due in the last moment and never left."""
    return {kind: value["count"] for kind, value in result["errors_by_kind"].items() if kind != UNSENT}


HEADER = ("process", "MiB first", "last", "MiB an hour", "descriptors first", "last", "an hour", "")


def cells(process: dict[str, Any]) -> tuple[str, ...]:
    memory, descriptors = process["memory_mib"], process["descriptors"]
    return (
        process["process"], f"{memory['first']:.1f}", f"{memory['last']:.1f}", f"{process['memory_mib_an_hour']:+.1f}",
        str(descriptors["first"]), str(descriptors["last"]), f"{process['descriptors_an_hour']:+.1f}", "" if process["flat"] else "GROWS",
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Looks whether anything grows while the engine works for long.")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--share", type=float, default=0.7, help="of what the engine can do")
    parser.add_argument("--output", type=Path, help="JSON; 15 minutes and more are written to benchmarks/results/soak-DATE.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="s-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        running = engine.launch("engine", CONFIG, folder)
        try:
            found = soak(running, folder, arguments.minutes * 60, arguments.share)
        finally:
            running.stop()
    print(plain_table(HEADER, [cells(process) for process in found["processes"]]))
    for protocol, felt in found["clients"].items():
        print(
            f"{protocol}: {felt['answers']:,} answers at {found['rate_rps'][protocol]:,}/s of {found['capacity_rps'][protocol]:,.0f}/s, "
            f"{felt['errors']} errors, p50 {felt['p50_ms']:.2f} ms, p99 {felt['p99_ms']:.2f} ms"
        )
    print(f"all processes: {found['memory_mib_an_hour']:+.1f} MiB an hour; {'flat' if found['passed'] else 'NOT FLAT'}")
    if output := machine.keep("soak", found, arguments.output, arguments.minutes >= 15):
        print(f"written: {output}")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
