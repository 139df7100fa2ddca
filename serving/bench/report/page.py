"""The HTML page: one file with everything in it, no script and no network, light and dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from serving.bench.compare import Comparison
from serving.bench.gate import Judgement
from serving.bench.histogram import Histogram
from serving.bench.report import table
from serving.bench.report.charts.load import load_chart
from serving.bench.report.charts.percentile import percentile_chart
from serving.bench.report.charts.ratio import pair_chart, ratio_chart
from serving.bench.report.charts.time import time_chart
from serving.bench.report.draw import Chart
from serving.bench.report.table import Table
from serving.bench.report.words import about, duration, rate, share, size, titles
from serving.bench.result import Result
from serving.bench.sweep import Sweep

_FOLDER = Path(__file__).parent
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_MOST_LINES = 8
_COLOURED = ("better", "worse", "undecided", "passed", "failed")


@dataclass(frozen=True, slots=True)
class Tile:
    """One large figure."""

    name: str
    value: str
    note: str = ""
    mood: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """A piece of a bar: `part` in [0, 1] of its length."""

    name: str
    value: str
    part: float


@dataclass(frozen=True, slots=True)
class Part:
    """What the page shows of one result, or of several together."""

    title: str
    about: str = ""
    warnings: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    charts: tuple[Chart, ...] = ()
    split: tuple[Share, ...] = ()
    batches: tuple[Share, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: bool = False


def result_page(results: Sequence[Result], sweeps: Sequence[Sweep] = (), title: str = "") -> str:
    """Return the page of one or several results and sweeps. ValueError for none at all."""
    points = [point for sweep in sweeps for point in sweep.points]
    everything = [*results, *points]
    if not everything:
        raise ValueError("a report needs at least one result")
    if len(everything) == 1:
        only = everything[0]
        return render(title or only.name or only.target.model or "Load test", [_whole(only, "")])
    parts = [_together(results, sweeps)]
    parts += [_whole(one, name, folded=True) for name, one in zip(titles(everything), everything, strict=True)]
    return render(title or "Load tests", parts)


def comparison_page(comparison: Comparison, judgements: Sequence[Judgement] = (), title: str = "") -> str:
    """Return the page of two results side by side, with what a gate said of them."""
    before, after = comparison.before, comparison.after
    names = _sides(before, after)
    slo_ms = after.slo_ms if after.slo_ms == before.slo_ms else None
    charts = (
        ratio_chart(comparison),
        percentile_chart([(name, one.latency()) for name, one in zip(names, (before, after), strict=True)], slo_ms),
        pair_chart(comparison),
    )
    head = Part(
        title="",
        about=f"{names[0]}: {about(before)}\n{names[1]}: {about(after)}\n{comparison.basis}",
        warnings=comparison.differences,
        tiles=tuple(_changes(comparison)),
        charts=tuple(chart for chart in charts if chart),
        tables=tuple(one for one in (table.gate_table(judgements), table.comparison_table(comparison)) if one.rows),
    )
    parts = [head, *(_whole(one, name, folded=True) for name, one in zip(names, (before, after), strict=True))]
    return render(title or "Comparison", parts)


def _sides(before: Result, after: Result) -> tuple[str, str]:
    one, other = titles([before, after])
    return f"before ({one})", f"after ({other})"


def render(title: str, parts: Sequence[Part]) -> str:
    """Return a page of these parts."""
    style = (_FOLDER / "style.css").read_text()
    return _ENVIRONMENT.get_template("page.html.jinja").render(title=title, parts=parts, style=style, moods=_COLOURED)


def _whole(result: Result, title: str, *, folded: bool = False) -> Part:
    charts = (percentile_chart([("latency", result.latency())], result.slo_ms), time_chart(result.timeline, result.slo_ms))
    wide = (table.requests(result), table.errors(result), table.repetitions(result))
    summary = (table.figures(result),) if result.intervals or result.streaming else ()
    narrow = (*summary, table.latency(result), table.server(result), table.client(result), table.stability(result))
    return Part(
        title=title,
        about=about(result),
        warnings=tuple(result.warnings),
        tiles=tuple(_tiles(result)),
        charts=tuple(chart for chart in charts if chart),
        split=tuple(_split(result)),
        batches=tuple(_batches(result)),
        tables=tuple(one for one in (*wide, *narrow, table.environment(result)) if one.rows),
        folded=folded,
    )


def _together(results: Sequence[Result], sweeps: Sequence[Sweep]) -> Part:
    series: dict[str, list[Result]] = {}
    for number, sweep in enumerate(sweeps, 1):
        series[sweep.name or (f"sweep {number}" if len(sweeps) > 1 or results else "")] = list(sweep.points)
    for result in results:
        target = result.target
        series.setdefault(" ".join(filter(None, (target.server, target.model, target.protocol, target.driver))), []).append(result)
    for one in series.values():
        one.sort(key=lambda point: (point.load.rate_rps or 0.0, point.load.concurrency or 0))
    everything = [*results, *(point for sweep in sweeps for point in sweep.points)]
    slos = {result.slo_ms for result in everything}
    slo_ms = slos.pop() if len(slos) == 1 else None
    lines = _lines(results, sweeps, slo_ms)
    charts = (load_chart(series, slo_ms), percentile_chart(lines, slo_ms))
    return Part(title="", charts=tuple(chart for chart in charts if chart), tables=(table.overview(everything),))


def _lines(results: Sequence[Result], sweeps: Sequence[Sweep], slo_ms: float | None) -> list[tuple[str, Histogram]]:
    """Return what fits into one plot: the first results, and of each sweep the best point (with an SLO: the best whose p99 keeps it)."""
    shown = list(results[:_MOST_LINES])
    for sweep in sweeps:
        within = sweep.best(lambda point: slo_ms is not None and point.latency_ms.p99 is not None and point.latency_ms.p99 <= slo_ms)
        shown += [best for best in (within or sweep.best(),) if best]
    shown = shown[:_MOST_LINES]
    return list(zip(titles(shown), (one.latency() for one in shown), strict=True))


def _tiles(result: Result) -> list[Tile]:
    ms = result.latency_ms
    tiles = [Tile("throughput", rate(result.throughput_rps), f"{result.answers:,} answers")]
    if result.goodput_rps is not None:
        part = result.goodput_rps / result.throughput_rps if result.throughput_rps else 0.0
        tiles.append(Tile(f"goodput, {duration(result.slo_ms)}", rate(result.goodput_rps), f"{share(part)} of the throughput"))
    tiles += [Tile(name, duration(value)) for name, value in (("p50", ms.p50), ("p99", ms.p99), ("p99.9", ms.p999), ("max", ms.max))]
    failed = share(result.error_share) if result.errors else "none"
    tiles.append(Tile("errors", f"{result.errors:,}", failed, "bad" if result.errors else "good"))
    used = result.server
    if used.cpu_s_per_1000 is not None:
        note = f"{used.cores:.2f} cores" if used.cores is not None else ""
        tiles.append(Tile("server CPU", f"{duration(used.cpu_s_per_1000)}", f"per answer · {note}".strip(" ·")))
    memory = used.pss_bytes or used.rss_bytes
    if memory is not None:
        tiles.append(Tile("server memory", size(memory)))
    return tiles


def _changes(comparison: Comparison) -> list[Tile]:
    moods = {"better": "good", "worse": "bad", "same": "", "undecided": "unsure"}
    shown = [change for change in comparison.changes if change.metric.name in ("throughput", "goodput", "p50", "p99", "p999", "cpu")]
    return [
        Tile(change.metric.title, f"{change.ratio:.3f}x" if change.ratio is not None else "-", change.verdict, moods[change.verdict])
        for change in shown
    ]


def _split(result: Result) -> list[Share]:
    found = result.server
    named = (("queue", found.queue_ms), ("model", found.compute_ms), ("network, protocol, client", found.network_ms))
    known = [(name, ms) for name, ms in named if ms is not None]
    total = sum(ms for _, ms in known)
    return [Share(name, duration(ms), ms / total) for name, ms in known] if total > 0 and len(known) > 1 else []


def _batches(result: Result) -> list[Share]:
    sizes = result.server.batch_sizes
    total, most = sum(sizes.values()), max(sizes.values(), default=0)
    return [Share(batch, f"{count:,} ({share(count / total)})", count / most) for batch, count in sizes.items()] if total else []
