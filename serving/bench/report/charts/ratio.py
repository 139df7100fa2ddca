"""What a comparison found: each figure's ratio with its interval, and the ratio pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence

from serving.bench.compare import Change, Comparison
from serving.bench.metric import METRICS
from serving.bench.report.draw import WIDTH, Chart, Plot, svg, text
from serving.bench.report.scale import Scale, ratios

_ROW = 28
_CLASSES = {"better": "good", "worse": "bad", "same": "same", "undecided": "unsure"}


def ratio_chart(comparison: Comparison) -> Chart | None:
    """Return a row per figure that has a ratio: a dot, its interval, coloured by the verdict; None where there is none."""
    changes = [change for change in comparison.changes if change.ratio is not None and change.metric.name != "error_share"]
    if not changes:
        return None
    x = ratios(value for change in changes for value in (change.low, change.high, change.ratio) if value)
    rows = Scale(0.0, float(len(changes)), lambda row: len(changes) - row, ())
    plot = Plot(190, 16, WIDTH - 340, len(changes) * _ROW, x, rows)
    most = 1 + comparison.threshold
    left, right = plot.px(1 / most), plot.px(most)
    parts = [
        f'<rect x="{left:.1f}" y="{plot.top}" width="{right - left:.1f}" height="{plot.height}" class="shade same"/>',
        plot.axes("after / before"),
        f'<line x1="{plot.px(1):.1f}" x2="{plot.px(1):.1f}" y1="{plot.top}" y2="{plot.top + plot.height}" class="axis"/>',
    ]
    parts += [_row(plot, number, change) for number, change in enumerate(changes)]
    words = ", ".join(f"{change.metric.title} {change.ratio:.3f} ({change.verdict})" for change in changes)
    legend = tuple((f"dot {_CLASSES[verdict]}", verdict) for verdict in _CLASSES if any(change.verdict == verdict for change in changes))
    note = (
        f"Shaded: less than {comparison.threshold:.0%}, which does not count. Lines: 95 % intervals. "
        "Throughput and goodput are better to the right, all else to the left."
    )
    return Chart("What changed", svg(plot.height + 62, f"Ratios after to before: {words}", parts), legend, note)


def pair_chart(comparison: Comparison, names: Sequence[str] = ("throughput", "p50", "p99")) -> Chart | None:
    """Return the ratio of some figures pair by pair, in the order they were run; None without pairs."""
    if comparison.method != "pairs":
        return None
    both = list(zip(comparison.before.repetitions, comparison.after.repetitions, strict=True))
    lines = []
    for name in names:
        values = [(METRICS[name].of(a), METRICS[name].of(b)) for a, b in both]
        lines.append((METRICS[name].title, [(number, b / a) for number, (a, b) in enumerate(values, 1) if a and b]))
    y = ratios(ratio for _, points in lines for _, ratio in points)
    step = max(1, math.ceil(len(both) / 20))
    x = Scale(0.5, len(both) + 0.5, float, tuple((n, str(n)) for n in range(1, len(both) + 1, step)))
    plot = Plot(72, 34, WIDTH - 96, 200, x, y)
    parts = [plot.axes("pair", "after / before"), plot.across(1.0, "", "axis")]
    for number, (_, points) in enumerate(lines):
        parts += [plot.line(points, f"s{number} thin"), plot.dots(points, f"s{number}")]
    tips: list[tuple[float, str, list[tuple[float, str]]]] = [
        (n, f"pair {n}: " + " · ".join(f"{title} {dict(points)[n]:.3f}x" for title, points in lines if n in dict(points)), [])
        for n in range(1, len(both) + 1)
    ]
    parts.append(plot.hover(tips))
    legend = tuple((f"dot s{number}", title) for number, (title, _) in enumerate(lines))
    return Chart("Pair by pair", svg(284, f"Ratios of {len(both)} pairs", parts), legend)


def _row(plot: Plot, number: int, change: Change) -> str:
    assert change.ratio is not None
    y, colour = plot.top + (number + 0.5) * _ROW, _CLASSES[change.verdict]
    parts = [text(plot.left - 12, y + 4, change.metric.title, "row", "end")]
    if change.low is not None and change.high is not None:
        parts.append(
            f'<line x1="{plot.px(change.low):.1f}" x2="{plot.px(change.high):.1f}" y1="{y:.1f}" y2="{y:.1f}" class="whisker {colour}"/>'
        )
    parts.append(f'<circle cx="{plot.px(change.ratio):.1f}" cy="{y:.1f}" r="5" class="dot {colour}"/>')
    parts.append(text(plot.left + plot.width + 14, y + 4, f"{change.ratio:.3f}x  {change.verdict}", f"row {colour}"))
    return "".join(parts)
