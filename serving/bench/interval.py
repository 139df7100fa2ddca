"""How far a figure can be trusted: intervals of 95 % over a few repetitions, of a mean and of a ratio.

Student (1908) for means. For ratios the percentile bootstrap of the median (Efron 1979), on logarithms, so that A/B and B/A say the same.
The bootstrap is too narrow for few values (Hesterberg 2015, "What teachers should know about the bootstrap"), so below `FEW` values the
interval also covers Student's. Not for values that depend on each other, such as the seconds of one run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
FEW = 12  # from here on the bootstrap stands alone

_RESAMPLES = 5_000
# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom; `student` has a rule for more that is within 0.001.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return (mean, low, high) of two values or more. ValueError with fewer."""
    if len(values) < 2:
        raise ValueError(f"an interval needs two values or more, got {len(values)}")
    mean = statistics.fmean(values)
    half = student(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def paired_ratio(before: Sequence[float], after: Sequence[float], seed: int = 1) -> tuple[float, float, float]:
    """Return (median of after/before by pair, low, high). All values above 0, as many before as after, two or more."""
    logs = np.log(np.asarray(after, np.float64)) - np.log(np.asarray(before, np.float64))
    if logs.size < 2:
        raise ValueError(f"an interval needs two pairs or more, got {logs.size}")
    low, high = _percentiles(_medians(logs, np.random.default_rng(seed)))
    if logs.size < FEW:
        mean, half = float(logs.mean()), student(logs.size - 1) * float(logs.std(ddof=1)) / math.sqrt(logs.size)
        low, high = min(low, mean - half), max(high, mean + half)
    return math.exp(float(np.median(logs))), math.exp(low), math.exp(high)


def unpaired_ratio(before: Sequence[float], after: Sequence[float], seed: int = 1) -> tuple[float, float, float]:
    """Return (median after / median before, low, high). All values above 0, two or more on each side."""
    a, b = np.log(np.asarray(before, np.float64)), np.log(np.asarray(after, np.float64))
    if min(a.size, b.size) < 2:
        raise ValueError(f"an interval needs two values or more on each side, got {a.size} and {b.size}")
    generator = np.random.default_rng(seed)
    low, high = _percentiles(_medians(b, generator) - _medians(a, generator))
    if min(a.size, b.size) < FEW:
        mean, half = float(b.mean() - a.mean()), _welch(a, b)
        low, high = min(low, mean - half), max(high, mean + half)
    return math.exp(float(np.median(b) - np.median(a))), math.exp(low), math.exp(high)


def share_difference(before: tuple[int, int], after: tuple[int, int]) -> tuple[float, float, float]:
    """Return (difference of shares, low, high) of (hits, tries): Newcombe 1998, method 10. Not for hits that come in bursts."""
    p, p_low, p_high = wilson(*before)
    q, q_low, q_high = wilson(*after)
    difference = q - p
    return difference, difference - math.hypot(q - q_low, p_high - p), difference + math.hypot(q_high - q, p - p_low)


def wilson(hits: int, tries: int) -> tuple[float, float, float]:
    """Return (share, low, high), Wilson 1927; (0, 0, 1) without tries."""
    if not tries:
        return 0.0, 0.0, 1.0
    z, share = student(10**6), hits / tries
    centre = share + z * z / (2 * tries)
    half = z * math.sqrt(share * (1 - share) / tries + z * z / (4 * tries * tries))
    scale = 1 + z * z / tries
    return share, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def student(freedom: float) -> float:
    """Return the t that 95 % lie within; degrees of freedom are rounded down, at least 1."""
    whole = max(int(freedom), 1)
    return _T[whole - 1] if whole <= len(_T) else 1.96 + 2.46 / whole


def _welch(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    va, vb = float(a.var(ddof=1)) / a.size, float(b.var(ddof=1)) / b.size
    if va + vb == 0:
        return 0.0
    return student((va + vb) ** 2 / (va**2 / (a.size - 1) + vb**2 / (b.size - 1))) * math.sqrt(va + vb)


def _medians(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    drawn = np.sort(values[generator.integers(0, values.size, (_RESAMPLES, values.size))], axis=1)
    return (drawn[:, (values.size - 1) // 2] + drawn[:, values.size // 2]) / 2


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
