"""Tally: what a gateway counted. One `Cell` per version and protocol; counting is integer adds into lists.

Histograms are cumulative since the process began and add across processes: their bounds never change.
Duration has two buckets an octave from 16 µs to 134 s; queue and compute time have one, from 1 µs: their index is the
bit length of a whole number of microseconds, which costs less than a search.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from serving.errors import Code
from serving.inference import InferResponse

Sample = list[Any]
"""[name, kind, {label: value}, number or histogram]: see "Metrics" in the architecture notes."""

DURATION_BOUNDS = tuple(round(16e-6 * 2 ** (i / 2), 9) for i in range(47))
STAGE_BOUNDS = tuple(2**i / 1e6 for i in range(28))
ROWS_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_STAGE_CELLS = 33
_OUTCOMES = tuple(c.name.lower() for c in Code)


class Cell:
    """Counts of one version over one protocol."""

    __slots__ = (
        "compute", "compute_us", "duration", "duration_s", "inflight", "outcomes", "queue", "queue_us", "rows", "rows_sum",
    )  # fmt: skip

    def __init__(self) -> None:
        self.inflight = 0
        self.outcomes = [0] * len(_OUTCOMES)
        self.duration = [0] * (len(DURATION_BOUNDS) + 1)
        self.duration_s = 0.0
        self.queue = [0] * _STAGE_CELLS
        self.queue_us = 0
        self.compute = [0] * _STAGE_CELLS
        self.compute_us = 0
        self.rows = [0] * (len(ROWS_BOUNDS) + 1)
        self.rows_sum = 0

    def count(self, response: InferResponse, duration_s: float) -> None:
        """Count an answer. `duration_s` from submit to answer."""
        self.inflight -= 1
        code = response.code
        self.outcomes[code] += 1
        self.duration[bisect_left(DURATION_BOUNDS, duration_s)] += 1
        self.duration_s += duration_s
        if not code:
            queue_us = response.queue_us
            self.queue[queue_us.bit_length()] += 1
            self.queue_us += queue_us
            compute_us = response.compute_us
            self.compute[compute_us.bit_length()] += 1
            self.compute_us += compute_us
            rows = response.batch_rows
            self.rows[bisect_left(ROWS_BOUNDS, rows)] += 1
            self.rows_sum += rows

    def cancelled(self) -> None:
        """Count a call that its owner took back."""
        self.inflight -= 1
        self.outcomes[Code.CANCELLED] += 1


class VersionTally(dict[str, Cell]):
    """Cells of one version by protocol ("rest", "grpc"); a cell is made when first asked for."""

    def __init__(self, model: str, version: str) -> None:
        self.model = model
        self.version = version
        self.rejected: dict[str, int] = {}

    def __missing__(self, protocol: str) -> Cell:
        cell = self[protocol] = Cell()
        return cell

    def reject(self, reason: str) -> None:
        """Count a request that was refused at the door, before it became a call."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1


class Tally:
    """All counts of one gateway. Versions stay in it when they have gone, so that counters never fall."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, str], VersionTally] = {}

    def version(self, model: str, version: str) -> VersionTally:
        """Return the counts of a version; always the same object."""
        key = (model, version)
        found = self._versions.get(key)
        if found is None:
            found = self._versions[key] = VersionTally(model, version)
        return found

    def samples(self) -> list[Sample]:
        """Return everything counted so far, as cumulative samples."""
        out: list[Sample] = []
        for version in self._versions.values():
            labels = {"model": version.model, "version": version.version}
            for protocol, cell in version.items():
                _render(out, cell, {**labels, "protocol": protocol})
            out.append(["serving_inflight_requests", "gauge", labels, sum(c.inflight for c in version.values())])
            for reason, n in version.rejected.items():
                out.append(["serving_rejected_total", "counter", {**labels, "reason": reason}, n])
        return out

    def __repr__(self) -> str:
        return f"Tally({len(self._versions)} versions)"


def _render(out: list[Sample], cell: Cell, labels: dict[str, str]) -> None:
    for code, n in enumerate(cell.outcomes):
        if n:
            out.append(["serving_requests_total", "counter", {**labels, "outcome": _OUTCOMES[code]}, n])
    for name, bounds, counts, total in (
        ("serving_request_duration_seconds", DURATION_BOUNDS, cell.duration, cell.duration_s),
        ("serving_queue_seconds", STAGE_BOUNDS, _fold(cell.queue), cell.queue_us / 1e6),
        ("serving_compute_seconds", STAGE_BOUNDS, _fold(cell.compute), cell.compute_us / 1e6),
        ("serving_batch_rows", ROWS_BOUNDS, cell.rows, cell.rows_sum),
    ):
        out.append([name, "histogram", labels, {"bounds": list(bounds), "counts": list(counts), "sum": total}])


def _fold(counts: list[int]) -> list[int]:
    """Return the counts with those above the last bound in one: a u32 of microseconds reaches over an hour."""
    last = len(STAGE_BOUNDS)
    return [*counts[:last], sum(counts[last:])]
