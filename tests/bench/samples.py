"""Recordings and results with known figures, for the tests of what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from serving.bench.figures import LoadFacts, Machine, Server, TargetFacts
from serving.bench.histogram import Histogram
from serving.bench.recording import Errors, Recording, Second, Tally
from serving.bench.result import Result

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LOAD = LoadFacts(shape="closed", concurrency=16, duration_s=4.0)
TARGET = TargetFacts(url="http://127.0.0.1:8000", protocol="rest", server="fake 1.0", model="mlp")
MACHINE = Machine(processor="a processor", cores=2, memory_gib=8, kernel="Linux 6.1", python="3.11.2")


def recording(
    latencies_ms: dict[str, Sequence[float]], *, wall_s: float = 4.0, errors: dict[str, int] | None = None, **fields: Any
) -> Recording:
    """Return what a run would have measured: the latencies by name, spread evenly over its seconds; errors fall into the first one."""
    made = Recording(wall_s=wall_s, client_cpu_s=wall_s / 4, processes=1, **fields)
    for name, latencies in latencies_ms.items():
        values = (np.asarray(latencies) * 1e6).round().astype(np.int64)
        made.requests[name] = Tally(Histogram.of(values))
        for number, part in enumerate(np.array_split(values, int(wall_s))):
            second = made.second(number)
            second.answers += len(part)
            second.add(Histogram.of(part))
        made.answered += len(values)
    for kind, count in (errors or {}).items():
        made.tally(next(iter(latencies_ms))).errors[kind] = Errors(count, [f"first {kind}"])
        made.second(0).errors += count
    return made


def result(recordings: Sequence[Recording], *, servers: Sequence[Server] = (), **fields: Any) -> Result:
    """Return the document of these recordings."""
    known = {"started_at": NOON, "load": LOAD, "target": TARGET, "machine": MACHINE, "versions": {"serving": "0.1.0"}}
    return Result.of(recordings, servers=servers, **(known | fields))


def spread(median_ms: float, count: int = 400, seed: int = 1) -> list[float]:
    """Return latencies whose median is about `median_ms`, with a tail as servers have it."""
    return list(np.random.default_rng(seed).lognormal(np.log(median_ms), 0.4, count))


def runs(rates: Sequence[float], *, median_ms: float = 5.0, **fields: Any) -> Result:
    """Return a result of one repetition per rate: that many answers a second, latencies the longer the lower the rate."""
    slow = [median_ms * max(rates) / rate for rate in rates]
    return result(
        [recording({"mlp": spread(ms, int(4 * rate), seed)}) for seed, (rate, ms) in enumerate(zip(rates, slow, strict=True))], **fields
    )


def second_of(*latencies_ms: float) -> Second:
    """Return a second with these answers."""
    made = Second(answers=len(latencies_ms))
    made.add(Histogram.of([round(ms * 1e6) for ms in latencies_ms]))
    return made
