"""Latency over percentile, on an axis on which each further nine takes as much room as the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence

from serving.bench.histogram import Histogram
from serving.bench.report.draw import WIDTH, Chart, Plot, svg
from serving.bench.report.scale import in_nines, latencies, near, nines
from serving.bench.report.words import duration

_STEPS = 120
_HEIGHT = 400


def percentile_chart(histograms: Sequence[tuple[str, Histogram]], slo_ms: float | None = None) -> Chart | None:
    """Return a line per named histogram; None where all are empty."""
    known = [(number, title, histogram) for number, (title, histogram) in enumerate(histograms) if histogram.count]
    if not known:
        return None
    x = nines(max(histogram.count for _, _, histogram in known))
    percents = [1.0, *(100 * (1 - 10 ** -(x.high * step / _STEPS)) for step in range(1, _STEPS + 1))]
    lines = []
    for number, title, histogram in known:
        reach = [percent for percent in percents if percent <= 100 * (1 - 1 / histogram.count) + 1e-9] or [0.0]
        values = [ns / 1e6 for ns in histogram.percentiles(reach)]
        lines.append((number, title, list(zip(reach, values, strict=True)), histogram.max_ns / 1e6))
    limit = near(slo_ms, max(largest for *_, largest in lines))
    y = latencies([*(value for _, _, points, _ in lines for _, value in points), limit])
    plot = Plot(72, 34, WIDTH - 96, _HEIGHT - 84, x, y)
    parts = [plot.axes("percentile", "latency")]
    if limit is not None:
        parts.append(plot.across(limit, f"SLO {duration(limit)}", "limit"))
    parts += [plot.line(points, f"s{number % 8}") for number, _, points, _ in lines]
    tips = []
    for step, percent in enumerate(percents):
        marks = [(title, points[step][1]) for _, title, points, _ in lines if step < len(points)]
        said = " · ".join(f"{title} {duration(value)}" if 1 < len(lines) < 4 else duration(value) for title, value in marks)
        tips.append((percent, f"p{percent:.{math.floor(in_nines(percent))}f}: {said}", [(value, "") for _, value in marks]))
    parts.append(plot.hover(tips))
    label = "Latency over percentile: " + "; ".join(
        f"{title}: p50 {duration(histogram.percentile(50) / 1e6)}, p99 {duration(histogram.percentile(99) / 1e6)}"
        for _, title, histogram in known
    )
    ends = ", ".join(f"{title} {duration(largest)}" if len(lines) > 1 else duration(largest) for _, title, _, largest in lines)
    note = f"Max: {ends}. The axis ends where less than one answer is left." if len(lines) < 4 else ""
    legend = tuple((f"line s{number % 8}", title) for number, title, _, _ in lines) if len(lines) > 1 else ()
    return Chart("Latency by percentile", svg(_HEIGHT, label, parts), legend, note)
