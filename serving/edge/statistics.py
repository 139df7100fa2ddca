"""statistics: what the sums of all gateways say about each version.

A gateway sees its own requests of each batch. Those of `size` rows hold `size` rows of requests, whoever's they are, so the rows of all
gateways divided by the size are the number of batches; the time of a batch, counted once for each of its rows, is divided likewise.
Whole while nothing is under way; rounded where a part of a batch was cancelled, failed or is not answered yet.
"""

from __future__ import annotations

from collections import defaultdict
from math import floor

from serving.edge.ledger import Histogram, Report, Table
from serving.statistics import Batches, Sum, VersionStatistics

Version = tuple[str, str]
"""(model, version)"""


def statistics(totals: Report) -> dict[Version, VersionStatistics]:
    """Return the statistics of every version that a gateway has counted."""
    counted: dict[Version, _Counted] = defaultdict(_Counted)
    for (_, name, labels), value in totals.items():
        if name in _NAMES:
            known = dict(labels)
            if "model" in known and "version" in known:
                counted[known["model"], known["version"]].take(name, known, value)
    return {version: found.statistics() for version, found in counted.items()}


_NAMES = frozenset(
    {
        "serving_requests_total",
        "serving_request_duration_seconds",
        "serving_rejected_total",
        "serving_queue_seconds_total",
        "serving_compute_seconds_total",
        "serving_last_answer_timestamp_seconds",
        "batches",
    }
)


class _Counted:
    """What the samples of one version add up to. Times in µs, which is what they are counted in: so no sum moves by rounding."""

    def __init__(self) -> None:
        self.answered = self.failed = self.cancelled = self.rejected = 0
        self.answered_us = self.failed_us = self.queue_us = self.compute_us = 0
        self.last_s = 0.0
        self.shares: dict[int, list[int]] = defaultdict(lambda: [0, 0])

    def take(self, name: str, labels: dict[str, str], value: object) -> None:
        outcome = labels.get("outcome", "")
        match value:
            case Histogram() if outcome == "ok":
                self.answered_us += _us(value.sum)
            case Histogram():
                self.failed_us += _us(value.sum)
            case Table():
                for size, share in value.rows.items():
                    mine = self.shares[max(1, int(size))]  # 0: a request that ran by itself, such as one with several answers
                    mine[:] = [a + b for a, b in zip(mine, share, strict=True)]
            case int() | float() if name == "serving_requests_total":
                count = int(value)
                match outcome:
                    case "ok":
                        self.answered += count
                    case "cancelled":
                        self.cancelled += count
                    case _:
                        self.failed += count
            case int() | float() if name == "serving_rejected_total":
                self.rejected += int(value)
            case int() | float() if name == "serving_queue_seconds_total":
                self.queue_us += _us(value)
            case int() | float() if name == "serving_compute_seconds_total":
                self.compute_us += _us(value)
            case int() | float():
                self.last_s = max(self.last_s, value)

    def statistics(self) -> VersionStatistics:
        batches = [_batches(size, *share) for size, share in sorted(self.shares.items())]
        return VersionStatistics(
            success=Sum(self.answered, self.answered_us * 1000),
            fail=Sum(self.failed + self.cancelled + self.rejected, self.failed_us * 1000),
            queue=Sum(self.answered + self.failed + self.cancelled, self.queue_us * 1000),
            compute=Sum(self.answered, self.compute_us * 1000),
            rows=sum(share[0] for share in self.shares.values()),
            executions=sum(b.times for b in batches),
            last_ms=int(self.last_s * 1000),
            batches=tuple(b for b in batches if b.times),
        )


def _batches(size: int, rows: int, row_us: int) -> Batches:
    """Return the batches of one size. A part of a batch counts from its half on; its first one at once."""
    return Batches(size, max(floor(rows / size + 0.5), 1 if rows else 0), row_us // size * 1000)


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
