"""Runs all micro-benchmarks and compares them with the stored baseline, by ratio.

    scripts/bench-micro            print each figure, and how it stands to the baseline; exit 1 where one is over the limit
    scripts/bench-micro --update   store these figures as the baseline

Machines differ and share their cores, so a figure is held against a reference loop timed right before it: the baseline holds multiples
of that loop, not nanoseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import uvloop

from benchmarks.micro import channel, protocol, replica, routing

BASELINE = Path(__file__).parents[1] / "results" / "micro.json"
LIMIT = 1.4
"""Noise of a shared machine is 10 to 20 % here, reference loop included."""


def reference() -> float:
    """Return ns for a fixed piece of Python of the kind that the hot path is made of; the best of many short runs."""
    pack = struct.Struct("<IIQQ").pack
    table: dict[int, bytes] = {}

    def loop() -> None:
        for i in range(100):
            table[i] = pack(i, 1, 2, 3)
            table.get(i)

    best = float("inf")
    for _ in range(300):
        start = perf_counter()
        loop()
        best = min(best, perf_counter() - start)
    return best * 1e9


def measure() -> dict[str, float]:
    """Return each figure as a multiple of the reference loop."""
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "protocol": protocol.measure,
        "replica": lambda: asyncio.run(replica.measure(32, 1, 64, 0.3)),
        "channel": _channel,
        "routing": lambda: asyncio.run(routing.measure()),
    }
    figures: dict[str, float] = {}
    for room, run in parts.items():
        scale = reference()
        figures |= {f"{room}: {name}": ns / scale for name, ns in run().items()}
    return figures


def _channel() -> dict[str, float]:
    runs = [uvloop.run(channel.measure(32, 1000)) for _ in range(3)]
    return {name: min(run[name] for run in runs) * 1000 for name in runs[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    found = measure()
    scale = reference()
    if arguments.update:
        BASELINE.parent.mkdir(parents=True, exist_ok=True)
        BASELINE.write_text(json.dumps({name: round(figure, 4) for name, figure in found.items()}, indent=1) + "\n")
    baseline = json.loads(BASELINE.read_text())
    slow = []
    for name, figure in found.items():
        ratio = figure / baseline[name] if baseline.get(name) else float("nan")
        print(f"{name:<52}{figure * scale:9.0f} ns   {ratio:5.2f} × baseline")
        if ratio > LIMIT:
            slow.append(name)
    if slow:
        print(f"over {LIMIT} × the baseline: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
