"""Results as CSV: a row for each whole, each kind of request and each repetition; plain numbers, units in the columns' names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from serving.bench.figures import Figures, Latency, Run
from serving.bench.report.words import titles
from serving.bench.result import Result

_LATENCIES = tuple(Latency.model_fields)
COLUMNS = (
    "result", "scope", "name", "started_at", "url", "protocol", "driver", "server", "model",
    "shape", "concurrency", "rate_rps", "arrivals", "duration_s",
    "answers", "errors", "throughput_rps", "goodput_rps", "slo_ms", *(f"{name}_ms" for name in _LATENCIES),
    "queue_ms", "compute_ms", "network_ms", "server_cpu_s_per_1000", "server_rss_bytes", "server_pss_bytes", "client_cpu_s_per_1000",
)  # fmt: skip
TIMELINE_COLUMNS = ("result", "repetition", "at_s", "answers", "errors", "p50_ms", "p99_ms", "max_ms")


def csv_text(results: Sequence[Result]) -> str:
    """Return the rows under COLUMNS; scope is "all", "request" or "repetition", an empty cell was not measured."""
    return _written(COLUMNS, (row for title, result in zip(titles(results), results, strict=True) for row in _rows(title, result)))


def timeline_csv(results: Sequence[Result]) -> str:
    """Return a row per second of each result under TIMELINE_COLUMNS."""
    return _written(
        TIMELINE_COLUMNS,
        (
            (title, second.repetition + 1, second.at_s, second.answers, second.errors, second.p50_ms, second.p99_ms, second.max_ms)
            for title, result in zip(titles(results), results, strict=True)
            for second in result.timeline
        ),
    )


def _rows(title: str, result: Result) -> Iterator[tuple[object, ...]]:
    yield _row(title, "all", "", result, result, result.duration_s, result)
    for name, figures in result.requests.items():
        yield _row(title, "request", name, result, figures, result.duration_s, None)
    for number, run in enumerate(result.repetitions, 1):
        yield _row(title, "repetition", str(number), result, run, run.duration_s, run)


def _row(title: str, scope: str, name: str, result: Result, one: Figures, duration_s: float, run: Run | None) -> tuple[object, ...]:
    target, load = result.target, result.load
    server = run.server if run else None
    used = (
        (server.queue_ms, server.compute_ms, server.network_ms, server.cpu_s_per_1000, server.rss_bytes, server.pss_bytes)
        if server
        else (None,) * 6
    )
    return (
        title, scope, name, result.started_at.isoformat(), target.url, target.protocol, target.driver, target.server, target.model,
        load.shape, load.concurrency, load.rate_rps, load.arrivals, duration_s,
        one.answers, one.errors, one.throughput_rps, one.goodput_rps, result.slo_ms,
        *(getattr(one.latency_ms, latency) for latency in _LATENCIES),
        *used, run.client.cpu_s_per_1000 if run else None,
    )  # fmt: skip


def _written(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()
