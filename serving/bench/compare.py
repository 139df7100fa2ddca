"""Two results of the same load side by side: what changed, by how much, and how sure that is.

A change counts when its interval leaves 1 out (it is there) and it is larger than the threshold (it matters). Repetitions that took
turns are compared pair by pair, so that what slowed both sides down at a time cancels out; others as two samples. One run a side has
no interval: it does not tell how much the next run would differ, so every verdict on it is "undecided".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serving.bench.figures import Run
from serving.bench.interval import paired_ratio, share_difference, unpaired_ratio
from serving.bench.metric import METRICS, Metric
from serving.bench.result import Result

Verdict = Literal["better", "worse", "same", "undecided"]
Method = Literal["pairs", "samples", "single"]

COMPARED = ("throughput", "goodput", "p50", "p90", "p95", "p99", "p999", "mean", "max", "error_share", "queue", "compute", "cpu", "memory")
THRESHOLD = 0.03
FEWEST = 3  # repetitions: with two, Student's interval is 12.7 standard errors wide on each side


@dataclass(frozen=True, slots=True)
class Change:
    """One figure before and after. `ratio` is after/before (of shares: the difference), `low` and `high` its 95 % interval or None."""

    metric: Metric
    before: float | None
    after: float | None
    ratio: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    why: str = ""

    @property
    def sure(self) -> bool:
        """True where the interval leaves "no change" out."""
        nothing = 0.0 if self.metric.name == "error_share" else 1.0
        return self.low is not None and self.high is not None and not self.low <= nothing <= self.high


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes. `count` is the number of pairs, or of repetitions on the side that has fewer."""

    before: Result
    after: Result
    changes: tuple[Change, ...]
    method: Method
    count: int
    threshold: float
    differences: tuple[str, ...]

    def of(self, verdict: Verdict) -> list[str]:
        """Return the titles of the figures with this verdict."""
        return [change.metric.title for change in self.changes if change.verdict == verdict]

    @property
    def basis(self) -> str:
        """Return in words what the intervals rest on."""
        match self.method:
            case "pairs":
                return f"{self.count} pairs that took turns; ratio by pair, its median, 95 % bootstrap interval"
            case "samples":
                return f"{self.count} repetitions a side, not taken in turns; ratio of medians, 95 % bootstrap interval"
            case "single":
                return "one run on a side: no interval, so no verdict; repeat it (5 times or more, in turns) to get one"

    @property
    def summary(self) -> str:
        """Return one line: 'better: throughput, p50 · worse: p99'."""
        verdicts: tuple[Verdict, ...] = ("worse", "better", "same", "undecided")
        return " · ".join(f"{verdict}: {', '.join(titles)}" for verdict in verdicts if (titles := self.of(verdict)))


def compare(before: Result, after: Result, *, threshold: float = THRESHOLD, names: Sequence[str] = COMPARED) -> Comparison:
    """Return what changed in each figure that both results have. `threshold`: 0.03 means that less than 3 % does not matter."""
    paired = before.interleaved is not None and before.interleaved == after.interleaved
    a, b = before.repetitions, after.repetitions
    count = min(len(a), len(b))
    method: Method = "single" if count < 2 else "pairs" if paired and len(a) == len(b) else "samples"
    changes = []
    for name in names:
        metric = METRICS[name]
        old, new = metric.of(before), metric.of(after)
        if old is None or new is None:
            continue
        changes.append(_shares(metric, before, after) if name == "error_share" else _change(metric, old, new, a, b, method, threshold))
    return Comparison(before, after, tuple(changes), method, count, threshold, _differences(before, after))


def judge(metric: Metric, ratio: float, low: float, high: float, threshold: float) -> Verdict:
    """Return the verdict on a ratio after/before and its interval."""
    if metric.better == "higher":
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
    most = 1 + threshold
    if low > 1 and ratio > most:
        return "worse"
    if high < 1 and ratio < 1 / most:
        return "better"
    return "same" if 1 / most <= low and high <= most else "undecided"


def _change(metric: Metric, old: float, new: float, a: Sequence[Run], b: Sequence[Run], method: Method, threshold: float) -> Change:
    if old <= 0 or new <= 0:
        verdict: Verdict = "same" if old == new else "undecided"
        return Change(metric, old, new, None, None, None, verdict, "a figure of 0 has no ratio")
    before = [value for one in a if (value := metric.of(one))]
    after = [value for one in b if (value := metric.of(one))]
    if method == "single" or len(before) < len(a) or len(after) < len(b):
        why = "one run on a side" if method == "single" else "not measured in every repetition"
        return Change(metric, old, new, new / old, None, None, "undecided", why)
    ratio, low, high = paired_ratio(before, after) if method == "pairs" else unpaired_ratio(before, after)
    verdict = judge(metric, ratio, low, high, threshold)
    return Change(metric, old, new, ratio, low, high, verdict, _why(verdict, low, high, threshold))


def _why(verdict: Verdict, low: float, high: float, threshold: float) -> str:
    if verdict != "undecided":
        return ""
    return "the noise is larger than the change" if low <= 1 <= high else f"there, but it may be less than {threshold:.0%}"


def _shares(metric: Metric, before: Result, after: Result) -> Change:
    difference, low, high = share_difference((before.errors, before.errors + before.answers), (after.errors, after.errors + after.answers))
    verdict: Verdict = "undecided"
    if not before.errors and not after.errors:
        verdict = "same"
    elif low > 0 or high < 0:
        verdict = "worse" if difference > 0 else "better"
    return Change(metric, before.error_share, after.error_share, difference, low, high, verdict)


def _differences(before: Result, after: Result) -> tuple[str, ...]:
    """Return what else is not the same, so that a change may come from it."""
    found = []
    for title, a, b in (
        ("load", before.load.words, after.load.words),
        ("duration", f"{before.load.duration_s} s", f"{after.load.duration_s} s"),
        ("model", before.target.model, after.target.model),
        ("protocol", before.target.protocol, after.target.protocol),
        ("driver", before.target.driver, after.target.driver),
        ("SLO", f"{before.slo_ms} ms", f"{after.slo_ms} ms"),
        ("processor", before.machine.processor, after.machine.processor),
        ("cores", str(before.machine.cores), str(after.machine.cores)),
    ):
        if a != b:
            found.append(f"{title}: {a or '-'} before, {b or '-'} after")
    for side, one in (("before", before), ("after", after)):
        if one.client.saturated:
            found.append(f"{side}: the generator may have been the bottleneck")
    return tuple(found)
