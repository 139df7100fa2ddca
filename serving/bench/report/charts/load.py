"""Throughput against latency: what each load cost, and where the server bends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.bench.report.draw import WIDTH, Chart, Plot, svg, text
from serving.bench.report.scale import latencies, linear, near
from serving.bench.report.words import count, duration
from serving.bench.result import Result

_HEIGHT = 400


def load_chart(series: Mapping[str, Sequence[Result]], slo_ms: float | None = None) -> Chart | None:
    """Return p50 and p99 over throughput, a line per series with a point per result; None for fewer than two answered results."""
    known = {title: [point for point in points if point.latency_ms.p99 is not None] for title, points in series.items()}
    points = [point for one in known.values() for point in one]
    if len(points) < 2:
        return None
    x = linear(max(point.throughput_rps for point in points), count, most=8)
    limit = near(slo_ms, max(point.latency_ms.p99 or 0.0 for point in points))
    y = latencies([*(value for point in points for value in (point.latency_ms.p50, point.latency_ms.p99)), limit])
    plot = Plot(72, 34, WIDTH - 96, _HEIGHT - 84, x, y)
    parts = [plot.axes("good answers per second", "latency")]
    if limit is not None:
        parts.append(plot.across(limit, f"SLO {duration(limit)}", "limit"))
    for number, one in enumerate(known.values()):
        p50 = [(point.throughput_rps, point.latency_ms.p50 or 0.0) for point in one]
        p99 = [(point.throughput_rps, point.latency_ms.p99 or 0.0) for point in one]
        colour = f"s{number % 8}"
        parts += [plot.line(p50, colour), plot.line(p99, f"{colour} dashed"), plot.dots(p50, colour), plot.dots(p99, f"{colour} open")]
        parts += [text(plot.px(at), plot.py(ms) - 9, _short(point), "tick", "middle") for (at, ms), point in zip(p99, one, strict=True)]
        parts += [_tip(plot, point, title=list(known)[number]) for point in one]
    legend = []
    for number, title in enumerate(known):
        legend += [(f"line s{number % 8}", f"{title} p50".strip()), (f"line s{number % 8} dashed", f"{title} p99".strip())]
    shapes = {point.load.shape for point in points}
    loads = {"closed": "requests at a time", "open": "requests per second"}
    note = f"Numbers at the points: {' or '.join(loads[shape] for shape in sorted(shapes))}."
    best = max(points, key=lambda point: point.throughput_rps)
    label = f"Throughput against latency; the most is {best.throughput_rps:,.0f} per second at {best.load.words}"
    return Chart("Throughput against latency", svg(_HEIGHT, label, parts), tuple(legend), note)


def _short(point: Result) -> str:
    load = point.load
    return count(load.rate_rps or 0) if load.shape == "open" else str(load.concurrency or "")


def _tip(plot: Plot, point: Result, title: str) -> str:
    latency = point.latency_ms
    words = f"{title} {point.load.words}: {point.throughput_rps:,.0f}/s · p50 {duration(latency.p50)} · p99 {duration(latency.p99)}".strip()
    x = plot.px(point.throughput_rps)
    caught = "".join(f'<circle cx="{x:.1f}" cy="{plot.py(ms or 0.0):.1f}" r="11"/>' for ms in (latency.p50, latency.p99))
    said = text(plot.left + plot.width, plot.top - 10, words, "said", "end")
    return f'<g class="slot">{caught}<g class="tip"><path d="M{x:.1f} {plot.top:.1f}v{plot.height:.1f}"/>{said}</g></g>'
