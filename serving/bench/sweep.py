"""Several loads one after the other: throughput against latency, the most a server takes within a limit, and figures that hold still.

Knows no load and no server: what measures is passed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from serving.bench.figures import Part, Stability, Window
from serving.bench.recording import Recording
from serving.bench.result import SCHEMA_VERSION, Result

NEEDED = 3  # windows in a row, as perf_analyzer has it


class Sweep(Part):
    """The results of one target under several loads, in the order in which they were taken."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["sweep"] = "sweep"
    name: str = ""
    points: list[Result] = Field(min_length=1)

    def text(self) -> str:
        """Return the document as indented JSON with a line feed at its end."""
        return self.model_dump_json(indent=2) + "\n"

    def best(self, holds: Callable[[Result], bool] = lambda result: True) -> Result | None:
        """Return the point of the highest throughput among those that `holds` is true of."""
        return max(filter(holds, self.points), key=lambda point: point.throughput_rps, default=None)


def read(path: Path) -> Result | Sweep:
    """Return the result or the sweep in a file. ValueError says what is wrong with it, OSError that it cannot be read."""
    text = path.read_bytes()
    try:
        document = json.loads(text)
        if not isinstance(document, dict) or "points" not in document:
            return Result.read(path)
        return Sweep.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path} is not a sweep of version {SCHEMA_VERSION}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def climb(
    loads: Iterable[float], measure: Callable[[float], Result], holds: Callable[[Result], bool] = lambda result: True
) -> list[Result]:
    """Measure each load in turn, up to and including the first of which `holds` is false; return all that was measured."""
    found = []
    for load in loads:
        found.append(measure(load))
        if not holds(found[-1]):
            break
    return found


def search(
    low: float, high: float, measure: Callable[[float], Result], holds: Callable[[Result], bool], *, within: float = 0.05
) -> tuple[float | None, list[Result]]:
    """Return the highest load between `low` and `high` of which `holds` is true, to `within` of itself, and all results on the way.

    None where it is false at `low` already. It is taken for granted that a load which is too high stays so when it grows.
    """
    if not 0 < low <= high:
        raise ValueError(f"a search from {low} to {high}, expected 0 < low <= high")
    found = [measure(low)]
    if not holds(found[0]):
        return None, found
    if high > low:
        found.append(measure(high))
        if holds(found[-1]):
            return high, found
    while high - low > within * low:
        middle = (low + high) / 2
        found.append(measure(middle))
        if holds(found[-1]):
            low = middle
        else:
            high = middle
    return low, found


def steps(low: int, high: int, factor: float = 2.0) -> list[int]:
    """Return low, low·factor, … and `high` itself: `steps(1, 48)` is 1, 2, 4, 8, 16, 32, 48."""
    if not 1 <= low <= high or factor <= 1:
        raise ValueError(f"steps from {low} to {high} by {factor}, expected 1 <= low <= high and a factor above 1")
    found = [low]
    while found[-1] < high:
        found.append(min(max(round(found[-1] * factor), found[-1] + 1), high))
    return found


def settle(
    measure: Callable[[], Recording],
    *,
    percent: float = 50.0,
    within: float = 0.1,
    at_most: int = 10,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[list[Recording], Stability]:
    """Measure windows until three in a row agree, or `at_most` of them; return the last three and what was seen.

    They agree when the throughput and the latency at `percent` of each lie within `within` of the three's mean (perf_analyzer's rule).
    A window without answers never agrees.
    """
    if at_most < 1:
        raise ValueError(f"{at_most} windows, expected at least 1")
    recordings: list[Recording] = []
    windows: list[Window] = []
    while len(windows) < at_most and not agree(windows, within) and not (recordings and stopped()):
        recordings = [*recordings[1 - NEEDED :], measure()]
        latency = recordings[-1].latency
        windows.append(
            Window(throughput_rps=recordings[-1].throughput_rps, latency_ms=latency.percentile(percent) / 1e6 if latency.count else None)
        )
    stable = agree(windows, within)
    return recordings, Stability(stable=stable, within=within, percentile=f"p{percent:g}", windows=windows)


def agree(windows: Sequence[Window], within: float) -> bool:
    """True where the last three windows lie within this share of their mean, in throughput and in latency."""
    last = windows[-NEEDED:]
    latencies = [window.latency_ms for window in last if window.latency_ms is not None]
    if len(latencies) < NEEDED:
        return False
    return all(_close(values, within) for values in ([window.throughput_rps for window in last], latencies))


def _close(values: Sequence[float], within: float) -> bool:
    mean = sum(values) / len(values)
    return all(abs(value - mean) <= within * mean for value in values)
