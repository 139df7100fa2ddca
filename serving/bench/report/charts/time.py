"""Latency, throughput and errors over the seconds of a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.bench.figures import Second
from serving.bench.report.draw import WIDTH, Chart, Plot, svg, text
from serving.bench.report.scale import latencies, linear
from serving.bench.report.words import count, duration

_MOST = 240  # points; longer tests are drawn in steps of several seconds
_LATENCY_HEIGHT = 250
_RATE_HEIGHT = 110
_GAP = 44


def time_chart(timeline: Sequence[Second], slo_ms: float | None = None) -> Chart | None:
    """Return p50 to p99 as a band, the max as a line, answers and errors per second below; None for less than two seconds."""
    steps = _steps(timeline)
    if len(steps) < 2:
        return None
    end = steps[-1].at + steps[-1].seconds
    x = linear(end, lambda s: f"{s:g} s", most=10)
    y = latencies([value for step in steps for value in (step.p50, step.p99, step.largest)])
    upper = Plot(72, 34, WIDTH - 96, _LATENCY_HEIGHT, x, y)
    lower = Plot(72, 34 + _LATENCY_HEIGHT + _GAP, WIDTH - 96, _RATE_HEIGHT, x, linear(max(step.total for step in steps), count, most=3))
    parts = [upper.axes("", "latency", x_labels=False), lower.axes("time", "answers per second")]
    parts += [_failed(upper, lower, step) for step in steps if step.errors]
    for run in _runs(steps):
        known = [step for step in run if step.largest is not None]
        if run[0].at > 0:
            parts.append(_border(upper, run[0].at, f"run {run[0].repetition + 1}"))
        p50, p99 = [(step.middle, step.p50) for step in known], [(step.middle, step.p99) for step in known]
        parts.append(upper.band(p99, p50, "s0"))
        parts.append(upper.line([(step.middle, step.largest or 0.0) for step in known], "s0 thin"))
        parts.append(upper.line(p99, "s0 dashed"))
        parts.append(upper.line(p50, "s0"))
        parts.append(lower.band([(step.middle, step.rate) for step in run], [(step.middle, 0.0) for step in run], "s0"))
        parts.append(lower.line([(step.middle, step.rate) for step in run], "s0"))
    if slo_ms is not None and y.transform(slo_ms) <= y.high:
        parts.append(upper.across(slo_ms, f"SLO {duration(slo_ms)}", "limit"))
    tips = [(step.middle, step.words, [(step.p50, "")] if step.largest is not None else []) for step in steps]
    parts.append(upper.hover(tips, below=_GAP + _RATE_HEIGHT))
    legend = [("line s0", "p50"), ("line s0 dashed", "p99"), ("line s0 thin", "max"), ("band s0", "p50 to p99")]
    if any(step.errors for step in steps):
        legend.append(("bar bad", "errors"))
    longest = steps[0].seconds
    note = f"Each point is {longest:g} s: p50 is the mean of its seconds', p99 and max are the largest of theirs." if longest > 1 else ""
    failed = sum(second.errors for second in timeline)
    label = f"Latency over {end:g} seconds; {failed} errors"
    return Chart("Over time", svg(lower.top + _RATE_HEIGHT + 46, label, parts), tuple(legend), note)


@dataclass(frozen=True, slots=True)
class _Step:
    """Some seconds of one repetition; `at` on the axis, where repetitions follow one another."""

    repetition: int
    at: float
    seconds: int
    rate: float
    errors: float
    p50: float
    p99: float
    largest: float | None

    @property
    def middle(self) -> float:
        return self.at + self.seconds / 2

    @property
    def total(self) -> float:
        return self.rate + self.errors

    @property
    def words(self) -> str:
        failed = f" · {self.errors:,.4g} errors/s" if self.errors else ""
        if self.largest is None:
            return f"{self.at:g} s: no answer{failed}"
        latency = f"p50 {duration(self.p50)} · p99 {duration(self.p99)} · max {duration(self.largest)}"
        return f"{self.at:g} s: {latency} · {self.rate:,.0f}/s{failed}"


def _steps(timeline: Sequence[Second]) -> list[_Step]:
    size = -(-len(timeline) // _MOST)
    steps: list[_Step] = []
    begun = 0.0
    for repetition in dict.fromkeys(second.repetition for second in timeline):
        by_number = {int(second.at_s): second for second in timeline if second.repetition == repetition}
        length = max(by_number) + 1
        for start in range(0, length, size):
            wide = min(size, length - start)
            seconds = [by_number[number] for number in range(start, start + wide) if number in by_number]
            steps.append(_step(repetition, begun + start, wide, seconds))
        begun += length
    return steps


def _step(repetition: int, at: float, wide: int, seconds: Sequence[Second]) -> _Step:
    answered = [second for second in seconds if second.max_ms is not None]
    p50 = sum(second.p50_ms or 0.0 for second in answered) / len(answered) if answered else 0.0
    return _Step(
        repetition, at, wide,
        rate=sum(second.answers for second in seconds) / wide,
        errors=sum(second.errors for second in seconds) / wide,
        p50=p50,
        p99=max((second.p99_ms or 0.0 for second in answered), default=0.0),
        largest=max((second.max_ms or 0.0 for second in answered), default=None),
    )  # fmt: skip


def _runs(steps: Sequence[_Step]) -> list[list[_Step]]:
    return [[step for step in steps if step.repetition == number] for number in dict.fromkeys(step.repetition for step in steps)]


def _failed(upper: Plot, lower: Plot, step: _Step) -> str:
    left, right = upper.px(step.at), upper.px(step.at + step.seconds)
    top, bottom = lower.py(step.errors), lower.top + lower.height
    tall = max(bottom - top, 3.0)
    shade = f'<rect x="{left:.1f}" y="{upper.top:.1f}" width="{right - left:.1f}" height="{upper.height:.1f}" class="shade bad"/>'
    return shade + f'<rect x="{left:.1f}" y="{bottom - tall:.1f}" width="{right - left:.1f}" height="{tall:.1f}" class="bar bad"/>'


def _border(plot: Plot, at: float, words: str) -> str:
    x = plot.px(at)
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{plot.top:.1f}" y2="{plot.top + plot.height + _GAP + _RATE_HEIGHT:.1f}" class="border"/>'
    return line + text(x + 5, plot.top + 12, words, "tick")
