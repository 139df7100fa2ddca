"""Axes: where a value lies between 0 and 1, and which ticks people like to read. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from serving.bench.report.words import duration

LOG_FROM = 30.0  # a latency axis is logarithmic when its largest value is so many times its smallest


@dataclass(frozen=True, slots=True)
class Scale:
    """`low` and `high` are the ends in terms of `transform`, which is ascending; ticks are (value, label)."""

    low: float
    high: float
    transform: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]
    note: str = ""

    def at(self, value: float) -> float:
        """Return where the value lies: 0 at the low end, 1 at the high end, never outside."""
        return min(max((self.transform(value) - self.low) / (self.high - self.low), 0.0), 1.0)


def linear(high: float, label: Callable[[float], str], *, low: float = 0.0, most: int = 6) -> Scale:
    """Return an even axis from `low` to a round number at or above `high`, with at most `most` + 1 ticks."""
    span = high - low if high > low else 1.0
    step = _round_step(span / most)
    steps = math.ceil(span / step - 1e-9)
    return Scale(low, low + steps * step, float, tuple((low + i * step, label(low + i * step)) for i in range(steps + 1)))


def logarithmic(low: float, high: float, label: Callable[[float], str]) -> Scale:
    """Return a logarithmic axis over both values (above 0), ticks at 1, 2, 5 · 10ⁿ, or powers of ten where that is too many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)
    marks = [m * 10.0**n for n in range(first, last + 1) for m in (1, 2, 5)]
    bottom = max(mark for mark in marks if mark <= low * (1 + 1e-9))
    top = min((mark for mark in marks if mark >= high * (1 - 1e-9) and mark > bottom), default=10.0 ** (last + 1))
    inside = [mark for mark in marks if bottom <= mark <= top]
    if len(inside) > 10:
        inside = [mark for mark in inside if round(math.log10(mark), 6).is_integer()]
    return Scale(math.log10(bottom), math.log10(top), _log10, tuple((mark, label(mark)) for mark in inside), "log")


def latencies(values_ms: Iterable[float | None]) -> Scale:
    """Return an axis for latencies in ms: from 0, or logarithmic where they differ much."""
    known = [value for value in values_ms if value]
    if not known:
        return linear(1.0, duration)
    low, high = min(known), max(known)
    return logarithmic(low, high, duration) if high > LOG_FROM * low else linear(high, duration)


def near(limit: float | None, largest: float) -> float | None:
    """Return the limit where it is worth room on an axis that goes to `largest`, else None."""
    return limit if limit is not None and limit <= 4 * largest else None


def nines(values: int) -> Scale:
    """Return an axis of percentiles on which 90 %, 99 %, 99.9 % … lie evenly, to the last that `values` values can tell."""
    top = max(math.log10(max(values, 1)), 1.0)
    marks = [(0.0, "0"), (50.0, "50 %"), (75.0, "75 %"), (90.0, "90 %"), (95.0, "95 %"), (99.0, "99 %")]
    marks += [(100 - 10.0 ** (2 - n), f"{100 - 10.0 ** (2 - n):.{n - 2}f} %") for n in range(3, math.floor(top + 1e-9) + 1)]
    return Scale(0.0, top, in_nines, tuple(mark for mark in marks if in_nines(mark[0]) <= top + 1e-9))


def in_nines(percent: float) -> float:
    """Return how many nines a percentile has: 0 for 0, 1 for 90, 2 for 99; 12 for 100."""
    return -math.log10(max(1 - percent / 100, 1e-12))


def ratios(values: Iterable[float]) -> Scale:
    """Return a logarithmic axis of ratios around 1, as wide to both sides, at least from 1/1.1 to 1.1."""
    furthest = min(max((abs(math.log(value)) for value in (*values, 1.1)), default=0.0), math.log(100))
    marks = next(marks for marks in _RATIO_MARKS if marks[-1] >= math.exp(furthest) - 1e-9 or marks is _RATIO_MARKS[-1])
    ticks = (*((1 / mark, f"{1 / mark:.3g}") for mark in reversed(marks)), (1.0, "1"), *((mark, f"{mark:.3g}") for mark in marks))
    end = math.log10(marks[-1])
    return Scale(-end, end, _log10, ticks, "log")


_RATIO_MARKS = ((1.05, 1.1), (1.1, 1.25), (1.25, 1.5), (1.5, 2.0), (2.0, 3.0), (2.0, 5.0), (3.0, 10.0), (10.0, 100.0))


def _log10(value: float) -> float:
    return math.log10(max(value, 1e-9))


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= least * (1 - 1e-9))
