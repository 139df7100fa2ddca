"""Tally: what a gateway counted. One `Cell` per version and protocol; counting is plain adds, 0.4 µs a request.

Everything is cumulative since the process began and adds across processes; bounds of histograms never change. Waiting and computing
are kept as sums here: replicas see them batch by batch and keep the histograms (`replica/samples.py`).

Of each batch the gateway sees only its own requests. What it keeps by the size of the batch, rows of its own and rows times the
batch's time, adds up to whole batches over all gateways: divided by the size it is their number and time (`edge/statistics.py`).
"""

from __future__ import annotations

from bisect import bisect_left
from time import monotonic, time
from typing import Any

from serving.errors import Code
from serving.inference import InferResponse, Layout

Sample = list[Any]
"""[name, kind, {label: value}, number, histogram or table]: see "Metrics" in the architecture notes."""

DURATION_BOUNDS = tuple(round(16e-6 * 2 ** (i / 2), 9) for i in range(47))
"""Seconds: two buckets an octave from 16 µs to 134 s."""
_OUTCOMES = tuple(c.name.lower() for c in Code)
_OK = _OUTCOMES[Code.OK]


class Failure:
    """Calls that ended with one code: how many took how long, and their sums."""

    __slots__ = ("duration_s", "durations", "queue_us")

    def __init__(self) -> None:
        self.durations = [0] * (len(DURATION_BOUNDS) + 1)
        self.duration_s = 0.0
        self.queue_us = 0


class Share:
    """Our part of all batches of one size: rows of ours in them; and the sum over these rows of the time that their batch ran."""

    __slots__ = ("row_us", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.row_us = 0


class Cell:
    """Counts of one version over one protocol. Those above `shares` are of answers; `failures` are of what ended with an error, by code."""

    __slots__ = (
        "cancels",
        "compute_us",
        "duration_s",
        "durations",
        "failures",
        "last",
        "queue_us",
        "share",
        "shares",
        "size",
        "started",
    )

    def __init__(self) -> None:
        self.started = 0
        self.durations = [0] * (len(DURATION_BOUNDS) + 1)
        self.duration_s = 0.0
        self.queue_us = 0
        self.compute_us = 0
        """For each answer that of its whole batch."""
        self.last = 0.0
        """time.monotonic() of the last answer; 0.0 = none"""
        self.shares: dict[int, Share] = {}
        self.size = -1
        self.share = Share()
        """That of batches of `size` rows."""
        self.failures: dict[int, Failure] = {}
        self.cancels = 0

    def count(self, response: InferResponse, asked: Layout, duration_s: float, now: float) -> None:
        """Count the end of a call: its answer, what it asked, its time from submit to answer, and the time now.

        `Calls.deliver` has this written out for answers: benchmarks/micro/channel.py.
        """
        if response.code:
            self.count_failure(response, duration_s)
            return
        self.durations[bisect_left(DURATION_BOUNDS, duration_s)] += 1
        self.duration_s += duration_s
        self.queue_us += response.queue_us
        self.compute_us += response.compute_us
        # The batches of a version are mostly of one size for a while.
        share = self.share if response.batch_rows == self.size else self.other(response.batch_rows)
        share.rows += asked.rows
        share.row_us += asked.rows * response.compute_us
        self.last = now

    def other(self, size: int) -> Share:
        """Return the share of batches of that size, and keep it as `share`."""
        share = self.shares.get(size)
        if share is None:
            share = self.shares[size] = Share()
        self.size, self.share = size, share
        return share

    def count_failure(self, response: InferResponse, duration_s: float) -> None:
        """Count a call that ended with an error."""
        failure = self.failures.get(response.code)
        if failure is None:
            failure = self.failures[response.code] = Failure()
        failure.durations[bisect_left(DURATION_BOUNDS, duration_s)] += 1
        failure.duration_s += duration_s
        failure.queue_us += response.queue_us

    def cancelled(self) -> None:
        """Count a call that its owner took back: no duration, it says nothing about the model."""
        self.cancels += 1

    @property
    def answered(self) -> int:
        """Calls that were answered."""
        return sum(self.durations)

    @property
    def inflight(self) -> int:
        """Calls submitted and not ended."""
        return self.started - self.cancels - self.answered - sum(sum(f.durations) for f in self.failures.values())


class VersionTally(dict[str, Cell]):
    """Cells of one version by protocol ("rest", "grpc"); a cell is made when first asked for."""

    def __init__(self, model: str, version: str) -> None:
        self.model = model
        self.version = version
        self.request_bytes = 0
        """Tensors sent to replicas, and of answers that came from them; counted by channels."""
        self.response_bytes = 0
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
        since_1970 = time() - monotonic()
        for version in self._versions.values():
            labels = {"model": version.model, "version": version.version}
            for protocol, cell in version.items():
                _render(out, cell, {**labels, "protocol": protocol}, since_1970)
            out.append(["serving_inflight_requests", "gauge", labels, sum(c.inflight for c in version.values())])
            out.append(["serving_request_bytes_total", "counter", labels, version.request_bytes])
            out.append(["serving_response_bytes_total", "counter", labels, version.response_bytes])
            for reason, n in version.rejected.items():
                out.append(["serving_rejected_total", "counter", {**labels, "reason": reason}, n])
        return out

    def __repr__(self) -> str:
        return f"Tally({len(self._versions)} versions)"


def _render(out: list[Sample], cell: Cell, labels: dict[str, str], since_1970: float) -> None:
    _render_ended(out, cell, {**labels, "outcome": _OUTCOMES[Code.OK]})
    for code, failure in cell.failures.items():
        _render_ended(out, failure, {**labels, "outcome": _OUTCOMES[code]})
    if cell.cancels:
        out.append(["serving_requests_total", "counter", {**labels, "outcome": _OUTCOMES[Code.CANCELLED]}, cell.cancels])
    shares = cell.shares.values()
    queue_us = cell.queue_us + sum(f.queue_us for f in cell.failures.values())
    out.append(["serving_rows_total", "counter", labels, sum(s.rows for s in shares)])
    out.append(["serving_queue_seconds_total", "counter", labels, queue_us / 1e6])
    out.append(["serving_compute_seconds_total", "counter", labels, cell.compute_us / 1e6])
    out.append(["batches", "table", labels, {str(size): [s.rows, s.row_us] for size, s in cell.shares.items()}])
    if cell.last:
        out.append(["serving_last_answer_timestamp_seconds", "latest", labels, round(since_1970 + cell.last, 3)])


def _render_ended(out: list[Sample], ended: Cell | Failure, labels: dict[str, str]) -> None:
    times = sum(ended.durations)
    if not times:
        return
    out.append(["serving_requests_total", "counter", labels, times])
    histogram = {"bounds": DURATION_BOUNDS, "counts": list(ended.durations), "sum": round(ended.duration_s, 6)}
    out.append(["serving_request_duration_seconds", "histogram", labels, histogram])
