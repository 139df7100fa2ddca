"""Recording: what a run measured, as counts and histograms. Recordings add up, over processes and over repetitions."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

from serving.bench.histogram import Histogram

TEXTS = 3
"""So many different texts are kept of each kind of error."""


@dataclass(slots=True)
class Errors:
    """How often one kind of error came, and its first texts."""

    count: int = 0
    texts: list[str] = field(default_factory=list)

    def add(self, text: str, times: int = 1) -> None:
        self.count += times
        if len(self.texts) < TEXTS and text and text not in self.texts:
            self.texts.append(text)


@dataclass(slots=True)
class Tally:
    """The requests of one name that began within the measurement. `latency` holds good answers only, in ns."""

    latency: Histogram = field(default_factory=Histogram)
    errors: dict[str, Errors] = field(default_factory=dict)

    @property
    def answers(self) -> int:
        return self.latency.count

    @property
    def failed(self) -> int:
        return sum(errors.count for errors in self.errors.values())

    def fail(self, kind: str, text: str = "", times: int = 1) -> None:
        self.errors.setdefault(kind, Errors()).add(text, times)

    def __iadd__(self, other: Tally) -> Tally:
        self.latency += other.latency
        for kind, errors in other.errors.items():
            mine = self.errors.setdefault(kind, Errors())
            mine.count += errors.count
            mine.texts.extend(text for text in errors.texts if text not in mine.texts)
            del mine.texts[TEXTS:]
        return self


@dataclass(slots=True)
class Second:
    """One second of the measurement: what was answered or failed in it, whenever it had begun.

    The histogram is kept packed: there is one for each second, and unpacked it takes about 100 KB.
    """

    answers: int = 0
    errors: int = 0
    packed: bytes = b""

    @property
    def latency(self) -> Histogram:
        if not self.packed:
            return Histogram()
        unpacked = pickle.loads(self.packed)
        assert isinstance(unpacked, Histogram)
        return unpacked

    def add(self, latency: Histogram) -> None:
        self.packed = pickle.dumps(self.latency + latency if self.packed else latency, pickle.HIGHEST_PROTOCOL)

    def __iadd__(self, other: Second) -> Second:
        self.answers += other.answers
        self.errors += other.errors
        if other.packed:
            self.add(other.latency)
        return self


@dataclass(slots=True)
class Recording:
    """One run, or several.

    requests      by name: those that were meant to begin within the measurement, their good answers and their errors
    answered      good answers that came within it: throughput is answered / wall_s. A server that falls behind has begun requests
                  that are answered after the end, so this is less than `answers`
    timeline      by second from the start of the measurement
    lateness      ns from the intended to the real start (open loop): waiting for a connection, and the generator's own slowness
    wall_s        length of the measurement
    client_cpu_s  user and system time of the processes that sent, within the measurement
    client_busy   cores that the busiest of these processes used: near 1 it is the bottleneck
    waited        requests of an open loop for which no connection was free when they were due
    sent_bytes    of bodies; received_bytes: all that came
    interrupted   ended before its time
    """

    requests: dict[str, Tally] = field(default_factory=dict)
    answered: int = 0
    timeline: dict[int, Second] = field(default_factory=dict)
    lateness: Histogram = field(default_factory=Histogram)
    wall_s: float = 0.0
    client_cpu_s: float = 0.0
    client_busy: float = 0.0
    processes: int = 0
    connections: int = 0
    reconnects: int = 0
    waited: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    interrupted: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def answers(self) -> int:
        """Good answers to requests of the measurement."""
        return sum(tally.answers for tally in self.requests.values())

    @property
    def failed(self) -> int:
        return sum(tally.failed for tally in self.requests.values())

    @property
    def throughput_rps(self) -> float:
        return self.answered / self.wall_s if self.wall_s else 0.0

    @property
    def latency(self) -> Histogram:
        """Of all names together."""
        return Histogram.merged(tally.latency for tally in self.requests.values())

    @property
    def errors(self) -> dict[str, Errors]:
        """Of all names together, by kind."""
        total = Tally()
        for tally in self.requests.values():
            total += Tally(errors=tally.errors)
        return total.errors

    def tally(self, name: str) -> Tally:
        """Return the row of this name; it is made where there is none."""
        return self.requests.setdefault(name, Tally())

    def second(self, number: int) -> Second:
        return self.timeline.setdefault(number, Second())

    def __add__(self, other: Recording) -> Recording:
        """Return both, the other one after this one in time: lengths add up, its seconds follow this one's."""
        behind = max(self.timeline, default=-1) + 1
        total = self._merged(other, behind)
        total.wall_s = self.wall_s + other.wall_s
        total.processes = max(self.processes, other.processes)
        total.connections = max(self.connections, other.connections)
        return total

    def beside(self, other: Recording) -> Recording:
        """Return both, taken at the same time by different processes."""
        total = self._merged(other, 0)
        total.wall_s = max(self.wall_s, other.wall_s)
        total.processes = self.processes + other.processes
        total.connections = self.connections + other.connections
        return total

    def _merged(self, other: Recording, behind: int) -> Recording:
        total = Recording(
            answered=self.answered + other.answered,
            lateness=self.lateness + other.lateness,
            client_cpu_s=self.client_cpu_s + other.client_cpu_s,
            client_busy=max(self.client_busy, other.client_busy),
            reconnects=self.reconnects + other.reconnects,
            waited=self.waited + other.waited,
            sent_bytes=self.sent_bytes + other.sent_bytes,
            received_bytes=self.received_bytes + other.received_bytes,
            interrupted=self.interrupted or other.interrupted,
            warnings=list(dict.fromkeys(self.warnings + other.warnings)),
        )
        for one, offset in ((self, 0), (other, behind)):
            for name, tally in one.requests.items():
                row = total.tally(name)
                row += tally
            for number, second in one.timeline.items():
                row_of_time = total.second(number + offset)
                row_of_time += second
        return total


@dataclass(frozen=True, slots=True)
class Progress:
    """How a run stands, about four times a second. Counts are those of the phase; latencies of about the last second, in ms."""

    phase: str
    """"starting", "warming up", "measuring" or "draining"."""
    elapsed_s: float
    """Within the phase."""
    duration_s: float
    """Of the phase; 0 where it has no fixed length."""
    answers: int
    errors: int
    rate_rps: float
    p50_ms: float
    p99_ms: float
    in_flight: int
