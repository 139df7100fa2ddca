"""Tally: what a gateway counted. One `Cell` per version and protocol; counting is plain adds, 0.3 µs a request.

Everything is cumulative since the process began and adds across processes; bounds of histograms never change. Of queue,
compute and batch the gateway keeps sums (for means); replicas know them by batch and keep the histograms.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from serving.errors import Code
from serving.inference import InferResponse

Sample = list[Any]
"""[name, kind, {label: value}, number or histogram]: see "Metrics" in the architecture notes."""

DURATION_BOUNDS = tuple(round(16e-6 * 2 ** (i / 2), 9) for i in range(47))
"""Seconds: two buckets an octave from 16 µs to 134 s."""
_OUTCOMES = tuple(c.name.lower() for c in Code)


class Cell:
    """Counts of one version over one protocol."""

    __slots__ = ("batch_rows", "compute_us", "duration", "duration_s", "outcomes", "queue_us", "started")

    def __init__(self) -> None:
        self.started = 0
        self.outcomes = [0] * len(_OUTCOMES)
        self.duration = [0] * (len(DURATION_BOUNDS) + 1)
        self.duration_s = 0.0
        self.queue_us = 0
        self.compute_us = 0
        self.batch_rows = 0

    def count(self, response: InferResponse, duration_s: float) -> None:
        """Count an answer. `duration_s` from submit to answer."""
        self.outcomes[response.code] += 1
        self.duration[bisect_left(DURATION_BOUNDS, duration_s)] += 1
        self.duration_s += duration_s
        self.queue_us += response.queue_us
        self.compute_us += response.compute_us
        self.batch_rows += response.batch_rows

    def cancelled(self) -> None:
        """Count a call that its owner took back: no duration, it says nothing about the model."""
        self.outcomes[Code.CANCELLED] += 1

    @property
    def inflight(self) -> int:
        """Calls submitted and not ended."""
        return self.started - sum(self.outcomes)


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
    histogram = {"bounds": list(DURATION_BOUNDS), "counts": list(cell.duration), "sum": cell.duration_s}
    out.append(["serving_request_duration_seconds", "histogram", labels, histogram])
    out.append(["serving_queue_seconds", "counter", labels, cell.queue_us / 1e6])
    out.append(["serving_compute_seconds", "counter", labels, cell.compute_us / 1e6])
    out.append(["serving_batch_rows", "counter", labels, cell.batch_rows])
