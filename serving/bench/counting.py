"""Counting: from the tapes of the processes that send to one Recording, while the run goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.bench.histogram import Histogram
from serving.bench.recording import Progress, Recording
from serving.bench.request import Request
from serving.bench.tape import End, Failures, Kind, Record, State

_OPEN_SECONDS = 3
_RECENT_S = 1.0


class Counting:
    """`take` records as they come; `fold` now and then: it does the work."""

    def __init__(self, requests: Sequence[Request], processes: int) -> None:
        self._requests = requests
        self._recording = Recording(processes=processes)
        for request in requests:
            self._recording.tally(request.name)
        self._values: dict[tuple[Kind, int, int], list[NDArray[np.int64]]] = {}
        self._seconds: dict[int, Histogram] = {}
        self._recent: deque[tuple[float, NDArray[np.int64]]] = deque()
        self._states: dict[int, State] = {}
        self.ends: dict[int, End] = {}
        self._phase = "starting"
        self._phase_answers = self._phase_errors = 0

    @property
    def phase(self) -> str:
        """Of the process that is least far."""
        return self._phase

    def take(self, source: int, record: Record, failures_or_state: object = None) -> None:
        """Take one record of the process numbered `source`; pickles come unpacked."""
        kind = record.kind
        if kind <= Kind.LATE:
            self._values.setdefault((kind, record.request, record.second), []).append(record.values)
        elif isinstance(failures_or_state, Failures):
            self._fail(record, failures_or_state)
        elif isinstance(failures_or_state, State):
            self._states[source] = failures_or_state
        elif isinstance(failures_or_state, End):
            self.ends[source] = failures_or_state

    def fold(self, now_s: float) -> None:
        """Bring what was taken into the histograms."""
        taken, self._values = self._values, {}
        for (kind, number, second), arrays in taken.items():
            values = np.concatenate(arrays)
            if kind is Kind.LATE:
                if second >= 0:
                    self._recording.lateness.record_many(values)
                continue
            self._recent.append((now_s, values))
            self._phase_answers += len(values)
            if kind is Kind.GOOD:
                self._recording.tally(self._requests[number].name).latency.record_many(values)
            if second >= 0 and kind is not Kind.WARM:
                self._recording.answered += len(values)
                self._recording.second(second).answers += len(values)
                self._seconds.setdefault(second, Histogram()).record_many(values)
        while self._recent and self._recent[0][0] < now_s - _RECENT_S:
            self._recent.popleft()
        self._seal(max(self._seconds, default=0) - _OPEN_SECONDS)

    def progress(self, now_ns: int) -> Progress:
        """Return how the run stands. The counts begin again with each phase."""
        state = min(self._states.values(), key=lambda one: one.began_ns, default=State("starting", now_ns, 0.0, 0))
        if state.phase != self._phase:
            self._phase, self._phase_answers, self._phase_errors = state.phase, 0, 0
        recent = np.concatenate([values for _, values in self._recent]) if self._recent else np.zeros(1, np.int64)
        p50, p99 = np.percentile(recent, (50, 99)) / 1e6
        return Progress(
            phase=state.phase,
            elapsed_s=max(0.0, (now_ns - state.began_ns) / 1e9),
            duration_s=state.duration_s,
            answers=self._phase_answers,
            errors=self._phase_errors,
            rate_rps=sum(len(values) for _, values in self._recent) / _RECENT_S,
            p50_ms=float(p50),
            p99_ms=float(p99),
            in_flight=sum(one.in_flight for one in self._states.values()),
        )

    def recording(self) -> Recording:
        """Return all that was counted; to be called once, at the end."""
        made = self._recording
        self._seal(max(self._seconds, default=0))
        ends = list(self.ends.values())
        began = min((end.began_ns for end in ends), default=0)
        made.wall_s = max((max(end.ended_ns, end.began_ns) for end in ends), default=0) / 1e9 - began / 1e9
        made.client_cpu_s = sum(end.cpu_s for end in ends)
        made.client_busy = max((_cores(end) for end in ends), default=0.0)
        made.connections = sum(end.connections for end in ends)
        made.reconnects = sum(end.reconnects for end in ends)
        made.received_bytes = sum(end.received_bytes for end in ends)
        made.waited = sum(end.waited for end in ends)
        made.interrupted = any(end.interrupted for end in ends)
        made.warnings = list(dict.fromkeys(warning for end in ends for warning in end.warnings))
        return made

    def _fail(self, record: Record, failures: Failures) -> None:
        self._phase_errors += failures.times
        if failures.phase is Kind.WARM:
            return
        if failures.phase is Kind.GOOD:
            request = self._requests[record.request]
            self._recording.tally(request.name).fail(failures.kind, failures.text, failures.times)
        if record.second >= 0:
            self._recording.second(record.second).errors += failures.times

    def _seal(self, up_to: int) -> None:
        for second in [number for number in self._seconds if number <= up_to]:
            self._recording.second(second).add(self._seconds.pop(second))


def _cores(end: End) -> float:
    wall_ns = end.ended_ns - end.began_ns
    return end.cpu_s * 1e9 / wall_ns if wall_ns > 0 else 0.0
