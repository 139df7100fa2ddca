"""Turns: when the clients of a Python driver send, and what became of it. The raw drivers have their own, tighter loop.

Same rules as theirs: a request counts where its intended start lies within the measurement, a latency counts from the intended
start, an answer counts towards throughput where it comes within the measurement. Safe for threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import accumulate
from random import Random
from time import monotonic_ns, process_time
from typing import NamedTuple, Protocol

from serving.bench.arrivals import Arrivals
from serving.bench.encode import Work
from serving.bench.histogram import Histogram
from serving.bench.load import Load, Open
from serving.bench.recording import Progress, Recording

REPORT_S = 0.25
POLL_S = 0.05
MAX_CLIENTS = 512
"""Of an open loop that names no connections."""
NEVER = (1 << 63) - 1
LOST = frozenset({"connection", "grpc UNAVAILABLE"})
"""Kinds of error behind which a client pauses: a server that is gone would else be asked thousands of times a second."""
LOST_PAUSE_S = 0.02


class Stop(Protocol):
    """An event of `threading` or `multiprocessing`."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Turn(NamedTuple):
    """One request to send: which, when it is meant to start (monotonic ns), and whether its answer is to be checked."""

    ticket: int
    number: int
    intended_ns: int
    check: bool


class Outcome(NamedTuple):
    """How a request ended. kind "": well. Times are monotonic ns."""

    number: int
    intended_ns: int
    started_ns: int
    ended_ns: int
    kind: str
    text: str


class Turns:
    """One run. Clients ask `turn()` for the next request, wait for its start, send it, and `note()` the outcome."""

    def __init__(self, load: Load, works: Sequence[Work], progress: Callable[[Progress], None], stop: Stop) -> None:
        self.load = load
        self._names = [work.name for work in works]
        self._cumulative = list(accumulate(work.weight for work in works))
        self._random = Random(load.seed)
        self._progress = progress
        self._stop = stop
        self._lock = threading.Lock()
        self._outcomes: deque[Outcome] = deque()
        self._arrivals = _times(load.shape.arrivals, load.seed) if isinstance(load.shape, Open) else None
        self._taken = self._measured = 0
        self._recording = Recording(processes=1)
        self._open: dict[int, Turn] = {}
        self._began_ns = self._measure_ns = self._end_ns = NEVER
        self._reported_ns = self._last_ns = 0
        self._phase = "starting"
        self._cpu_s = 0.0
        self._recent = Histogram()

    def begin(self) -> None:
        """Set the clock going; clients are there by now."""
        self._began_ns = monotonic_ns()
        self._measure_ns = self._began_ns + round(self.load.warm_up_s * 1e9)
        if self.load.duration_s:
            self._end_ns = self._measure_ns + round(self.load.duration_s * 1e9)

    def turn(self) -> Turn | None:
        """Return the next request, None when there is none any more. Wait for its start with `wait_s` before sending it."""
        with self._lock:
            intended = monotonic_ns()
            if self._stop.is_set() or intended >= self._end_ns:
                return None
            if self._arrivals is not None:
                offset = next(self._arrivals, NEVER)
                if self._began_ns + offset >= self._end_ns or offset == NEVER:
                    return None
                intended = self._began_ns + offset
            if intended >= self._measure_ns:
                if self.load.max_requests and self._measured >= self.load.max_requests:
                    return None
                self._measured += 1
            number = self._random.choices(range(len(self._names)), cum_weights=self._cumulative)[0] if len(self._names) > 1 else 0
            self._taken += 1
            turn = Turn(self._taken, number, intended, self._random.random() < self.load.check_share)
            self._open[turn.ticket] = turn
            return turn

    def measures(self, turn: Turn) -> bool:
        """Say whether a request counts."""
        return turn.intended_ns >= self._measure_ns

    def wait_s(self, turn: Turn) -> float:
        """Return how long to wait before the start of a request; 0 or less: send now."""
        return (turn.intended_ns - monotonic_ns()) / 1e9

    def note(self, turn: Turn, started_ns: int, kind: str = "", text: str = "") -> None:
        """Say that a request has ended, now."""
        if self._open.pop(turn.ticket, None) is not None:
            self._outcomes.append(Outcome(turn.number, turn.intended_ns, started_ns, monotonic_ns(), kind, text))

    def drop(self, turn: Turn) -> None:
        """Say that a request was never sent, because the run ended first."""
        self._open.pop(turn.ticket, None)

    def tick(self, done: bool) -> bool:
        """Collect outcomes and report progress, some times a second; return whether the run is over.

        It is over when all clients are `done`, or when the answers under way at the end have had their time.
        """
        now = monotonic_ns()
        if self._stop.is_set() and not self._recording.interrupted:
            self._recording.interrupted = True
            self._end_ns = min(self._end_ns, now)
        phase = "warming up" if now < self._measure_ns else "measuring" if now < self._end_ns else "draining"
        if phase != self._phase:
            if self._phase == "measuring":
                self._cpu_s = process_time() - self._cpu_s
            if phase == "measuring":
                self._cpu_s = process_time()
            self._phase = phase
        over = done or now >= self._end_ns + self.load.drain_s * 1e9
        if over or now - self._reported_ns >= REPORT_S * 1e9:
            self._collect()
            self._progress(self._state(now))
            self._reported_ns = now
        if over:
            # With nothing left to send, the measurement ended with the last answer, and not when somebody looked.
            self._end_ns = min(self._end_ns, max(self._last_ns, min(self._measure_ns, now)) if done else now)
            if phase == "measuring":
                self._cpu_s = process_time() - self._cpu_s
        return over

    def recording(self) -> Recording:
        """Return what was measured. What is still under way counts as an error."""
        recording = self._recording
        for turn in list(self._open.values()):
            if self._measure_ns <= turn.intended_ns <= self._end_ns:
                recording.tally(self._names[turn.number]).fail("not answered", f"within {self.load.drain_s:g} s after the end")
        recording.wall_s = max(0.0, (self._end_ns - self._measure_ns) / 1e9)
        recording.client_cpu_s = self._cpu_s
        recording.client_busy = self._cpu_s / recording.wall_s if recording.wall_s else 0.0
        if recording.client_busy > 0.9:
            busy = f"the client used {recording.client_busy:.2f} of a core"
            recording.warnings.append(f"{busy}: these are the figures of a busy Python client more than the server's")
        return recording

    def _collect(self) -> None:
        recording = self._recording
        latencies: dict[int, list[int]] = {}
        seconds: dict[int, list[int]] = {}
        lateness: list[int] = []
        recent: list[int] = []
        while self._outcomes:
            number, intended, started, ended, kind, text = self._outcomes.popleft()
            within = self._measure_ns <= ended <= self._end_ns
            second = (ended - self._measure_ns) // 1_000_000_000
            latency = ended - intended
            recent.append(latency)
            self._last_ns = max(self._last_ns, ended)
            if intended >= self._measure_ns:
                if kind:
                    recording.tally(self._names[number]).fail(kind, text)
                else:
                    latencies.setdefault(number, []).append(latency)
                if self._arrivals is not None:
                    lateness.append(max(0, started - intended))
            if within and kind:
                recording.second(second).errors += 1
            elif within:
                recording.answered += 1
                recording.second(second).answers += 1
                seconds.setdefault(second, []).append(latency)
        for number, found in latencies.items():
            recording.tally(self._names[number]).latency.record_many(found)
        for second, found in seconds.items():
            recording.second(second).add(Histogram.of(found))
        recording.lateness.record_many(lateness)
        self._recent = Histogram.of(recent)

    def _state(self, now: int) -> Progress:
        began, length = {
            "warming up": (self._began_ns, self.load.warm_up_s),
            "measuring": (self._measure_ns, self.load.duration_s),
            "draining": (self._end_ns, self.load.drain_s),
        }[self._phase]
        recent = self._recent
        p50, p99 = recent.percentiles((50, 99)) if recent.count else (0, 0)
        rate = recent.count / max(REPORT_S, (now - self._reported_ns) / 1e9)
        answers, failed = self._recording.answers, self._recording.failed
        return Progress(self._phase, (now - began) / 1e9, length, answers, failed, rate, p50 / 1e6, p99 / 1e6, len(self._open))


def _times(arrivals: Arrivals, seed: int) -> Iterator[int]:
    for chunk in arrivals.chunks(seed):
        yield from chunk.tolist()


Send = Callable[[Turn], Awaitable[tuple[str, str]]]
"""Sends one request, checks its answer if told to, and returns the kind and the text of what went wrong ("" for nothing)."""


def clients_of(load: Load, most: int = MAX_CLIENTS) -> int:
    """Return how many clients send at the same time, each one request at a time."""
    return min(load.in_flight, load.connections or (most if isinstance(load.shape, Open) else load.in_flight))


async def send_in_loop(turns: Turns, senders: Sequence[Send], stop: Stop) -> None:
    """Run a load with one task per client, until it is over."""
    turns.begin()
    over = asyncio.Event()
    tasks = [asyncio.create_task(_client(turns, send, over)) for send in senders]
    try:
        # In a thread: counting, and what progress makes others do, must not hold up those who send.
        while not await asyncio.to_thread(turns.tick, all(task.done() for task in tasks)):
            await asyncio.wait(tasks, timeout=POLL_S)
            if stop.is_set():
                over.set()
            for task in tasks:
                if task.done():
                    task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _client(turns: Turns, send: Send, over: asyncio.Event) -> None:
    limit_s = turns.load.timeout_s
    while (turn := turns.turn()) is not None:
        if (pause := turns.wait_s(turn)) > 0:
            try:
                await asyncio.wait_for(over.wait(), pause)
            except TimeoutError:
                pass
            else:
                turns.drop(turn)
                return
        started = monotonic_ns()
        try:
            async with asyncio.timeout(limit_s):
                kind, text = await send(turn)
        except TimeoutError:
            kind, text = "timeout", f"no answer within {limit_s:g} s"
        turns.note(turn, started, kind, text)
        if kind in LOST:
            await asyncio.sleep(LOST_PAUSE_S)
