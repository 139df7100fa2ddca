"""A result as tables of texts, for the terminal and for the page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.bench.compare import Change, Comparison
from serving.bench.figures import Figures, Latency
from serving.bench.gate import Judgement
from serving.bench.metric import METRICS
from serving.bench.report.words import duration, rate, share, size, titles
from serving.bench.result import Result

_LATENCIES = ("p50", "p90", "p95", "p99", "p999", "p9999", "max", "mean", "min")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a heading; the first column says what a row is of, the others are figures unless `texts` is set."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: bool = False


def result_tables(result: Result) -> list[Table]:
    """Return all there is to say about one result; tables without rows are left out."""
    tables = (figures(result), latency(result), requests(result), errors(result), server(result), batches(result), client(result))
    return [table for table in (*tables, repetitions(result), stability(result)) if table.rows]


def figures(result: Result) -> Table:
    rows = [("throughput", rate(result.throughput_rps), _interval(result, "throughput"))]
    if result.goodput_rps is not None:
        rows.append((f"goodput, at most {duration(result.slo_ms)}", rate(result.goodput_rps), _interval(result, "goodput")))
    rows.append(("answers", f"{result.answers:,}", ""))
    rows.append(("errors", f"{result.errors:,}" + (f" ({share(result.error_share)})" if result.errors else ""), ""))
    if result.streaming:
        stream = result.streaming
        rows.append(("time to first answer", f"p50 {duration(stream.first_ms.p50)}, p99 {duration(stream.first_ms.p99)}", ""))
        rows.append(("between answers", f"p50 {duration(stream.between_ms.p50)}, p99 {duration(stream.between_ms.p99)}", ""))
        rows.append(("answers per request", f"{stream.answers_per_request:.3g}", ""))
    return _with_intervals(result, "Summary", ("figure", "value"), rows)


def latency(result: Result) -> Table:
    found = [(METRICS[name].title, getattr(result.latency_ms, name), name) for name in _LATENCIES]
    rows = [(title, duration(value), _interval(result, name)) for title, value, name in found if value is not None]
    return _with_intervals(result, "Latency", ("percentile", "value"), rows)


def requests(result: Result) -> Table:
    """Return a row per name where there are several."""
    rows = [(name, *_line(one)) for name, one in result.requests.items()]
    return Table("By request", ("name", *_LINE), tuple(rows) if len(rows) > 1 else ())


def errors(result: Result) -> Table:
    rows = [(kind, f"{found.count:,}", "\n".join(found.texts)) for kind, found in result.errors_by_kind.items()]
    return Table("Errors", ("kind", "count", "first texts"), tuple(rows), texts=True)


def server(result: Result) -> Table:
    found = result.server
    rows = [
        ("in the queue", duration(found.queue_ms)),
        ("in the model", duration(found.compute_ms)),
        ("network, protocol and client", duration(found.network_ms)),
        ("CPU per 1000 answers", METRICS["cpu"].text(found.cpu_s_per_1000)),
        ("cores in use", "-" if found.cores is None else f"{found.cores:.2f}"),
        ("memory, shared pages shared out", size(found.pss_bytes)),
        ("memory, resident", size(found.rss_bytes)),
        ("mean batch", _mean_batch(result)),
    ]
    return Table("Server", ("figure", "value"), tuple(row for row in rows if row[1] != "-"))


def batches(result: Result) -> Table:
    total = sum(result.server.batch_sizes.values())
    rows = [(batch, f"{count:,}", share(count / total)) for batch, count in result.server.batch_sizes.items()]
    return Table("Batches", ("size", "batches", "share"), tuple(rows))


def client(result: Result) -> Table:
    found = result.client
    rows = [
        ("CPU per 1000 answers", METRICS["client_cpu"].text(found.cpu_s_per_1000)),
        ("cores in use", "-" if found.cores is None else f"{found.cores:.2f}"),
        ("busiest process", "-" if not found.busiest else f"{found.busiest:.2f} cores"),
        ("sent too late by, p99", duration(found.lateness_ms.p99)),
        ("connections", str(found.connections or "-")),
        ("connected again", f"{found.reconnects:,}" if found.reconnects else "-"),
        ("sent", size(found.sent_bytes or None)),
        ("received", size(found.received_bytes or None)),
    ]
    return Table("Load generator", ("figure", "value"), tuple(row for row in rows if row[1] != "-"))


def repetitions(result: Result) -> Table:
    """Return a row per repetition where there are several."""
    rows = [(str(number), *_line(one)) for number, one in enumerate(result.repetitions, 1)]
    return Table("Repetitions", ("run", *_LINE), tuple(rows) if len(rows) > 1 else ())


def stability(result: Result) -> Table:
    found = result.stability
    if found is None:
        return Table("Windows", (), ())
    rows = [(str(number), rate(one.throughput_rps), duration(one.latency_ms)) for number, one in enumerate(found.windows, 1)]
    held = f"the last three within {found.within:.0%}" if found.stable else f"never three within {found.within:.0%}"
    return Table(f"Windows: {held}", ("window", "throughput", found.percentile), tuple(rows))


def environment(result: Result) -> Table:
    """Return what was measured, where and with what."""
    machine, load = result.machine, result.load
    rows = [
        ("address", result.target.url),
        ("server", result.target.server),
        ("model", result.target.model),
        ("protocol", f"{result.target.protocol}, {result.target.driver} driver"),
        ("load", load.words),
        ("batch of a request", str(load.batch or "")),
        ("warm-up", f"{load.warm_up_s:g} s" if load.warm_up_s else ""),
        ("time-out", f"{load.timeout_s:g} s" if load.timeout_s else ""),
        ("seed", "" if load.seed is None else str(load.seed)),
        ("processor", f"{machine.processor}, {machine.cores} cores, {machine.memory_gib} GiB" if machine.processor else ""),
        ("system", ", ".join(filter(None, (machine.kernel, machine.python and f"Python {machine.python}")))),
        ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items() if version)),
        ("started", f"{result.started_at:%Y-%m-%d %H:%M:%S %Z}"),
        ("command", " ".join(result.command)),
    ]
    return Table("What was measured", ("", ""), tuple(row for row in rows if row[1]), texts=True)


def overview(results: Sequence[Result]) -> Table:
    """Return a row per result."""
    rows = [(title, *_line(result)) for title, result in zip(titles(results), results, strict=True)]
    return Table("Results", ("result", *_LINE), tuple(rows))


def comparison_table(comparison: Comparison) -> Table:
    """Return a row per figure: before, after, ratio, interval, verdict."""
    rows = [_change(change) for change in comparison.changes]
    return Table("Comparison", ("figure", "before", "after", "ratio", "95 % interval", "verdict", "why"), tuple(rows))


def gate_table(judgements: Sequence[Judgement]) -> Table:
    rows = [(one.rule.text, one.outcome, one.why) for one in judgements]
    return Table("Gate", ("rule", "outcome", "why"), tuple(rows), texts=True)


_LINE = ("throughput", "goodput", "p50", "p90", "p99", "p99.9", "max", "errors")


def _line(one: Figures) -> tuple[str, ...]:
    ms: Latency = one.latency_ms
    return (
        rate(one.throughput_rps), rate(one.goodput_rps),
        duration(ms.p50), duration(ms.p90), duration(ms.p99), duration(ms.p999), duration(ms.max), f"{one.errors:,}",
    )  # fmt: skip


def _interval(result: Result, name: str) -> str:
    found = result.intervals.get(name)
    if found is None:
        return ""
    words = rate if name in ("throughput", "goodput") else duration
    return f"{words(found.mean)}, {words(max(found.low, 0.0))} to {words(found.high)}"


def _with_intervals(result: Result, title: str, columns: tuple[str, ...], rows: list[tuple[str, str, str]]) -> Table:
    if not result.intervals:
        return Table(title, columns, tuple(row[:2] for row in rows))
    return Table(title, (*columns, "mean of runs, 95 % interval"), tuple(rows))


def _mean_batch(result: Result) -> str:
    sizes = result.server.batch_sizes
    total = sum(sizes.values())
    return f"{sum(int(batch) * count for batch, count in sizes.items()) / total:.2f}" if total else "-"


def _change(change: Change) -> tuple[str, ...]:
    metric = change.metric
    if metric.name == "error_share":
        values = share(change.before or 0.0), share(change.after or 0.0), f"{(change.ratio or 0.0) * 100:+.3g} points"
        interval = "" if change.low is None or change.high is None else f"{change.low * 100:+.3g} to {change.high * 100:+.3g}"
        return metric.title, *values, interval, change.verdict, change.why
    words = duration if metric.unit == "ms" else metric.text
    interval = "" if change.low is None or change.high is None else f"{change.low:.3f} to {change.high:.3f}"
    ratio = "" if change.ratio is None else f"{change.ratio:.3f}x"
    return metric.title, words(change.before), words(change.after), ratio, interval, change.verdict, change.why
