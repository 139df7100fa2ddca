"""The figures that are compared and judged, by the names that gates use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from serving.bench.figures import Run

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a run, and so of a result.

    `of` gives None where it was not measured. `digits` is how many decimals people want to see.
    """

    name: str
    title: str
    unit: str
    better: Better
    of: Callable[[Run], float | None]
    digits: int = 3

    def text(self, value: float | None) -> str:
        """Return the value with its unit, '-' where there is none."""
        if value is None:
            return "-"
        number = f"{value:,.{self.digits}f}"
        return number + self.unit if self.unit.startswith("/") else f"{number} {self.unit}".rstrip()


def _latency(name: str, title: str) -> Metric:
    return Metric(name, title, "ms", "lower", attrgetter(f"latency_ms.{name}"))


def _mebibytes(run: Run) -> float | None:
    found = run.server.pss_bytes or run.server.rss_bytes
    return None if found is None else found / 2**20


_TITLES = {
    "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p99.9", "p9999": "p99.99",
    "max": "max", "mean": "mean", "min": "min",
}  # fmt: skip

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("throughput", "throughput", "/s", "higher", attrgetter("throughput_rps"), 0),
        Metric("goodput", "goodput", "/s", "higher", attrgetter("goodput_rps"), 0),
        *(_latency(name, title) for name, title in _TITLES.items()),
        Metric("errors", "errors", "", "lower", attrgetter("errors"), 0),
        Metric("error_share", "error share", "", "lower", attrgetter("error_share"), 6),
        Metric("cpu", "server CPU per 1000", "s", "lower", attrgetter("server.cpu_s_per_1000"), 4),
        Metric("memory", "server memory", "MiB", "lower", _mebibytes, 0),
        Metric("queue", "time in the queue", "ms", "lower", attrgetter("server.queue_ms")),
        Metric("compute", "time in the model", "ms", "lower", attrgetter("server.compute_ms")),
        Metric("client_cpu", "client CPU per 1000", "s", "lower", attrgetter("client.cpu_s_per_1000"), 4),
    )
}
