"""Runs a scenario: server → inputs → requests → load → Result, some times over, with the server watched meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from types import FrameType

from serving.bench import machine
from serving.bench.encode import Work, request
from serving.bench.figures import LoadFacts, Server, Stability, Streaming, TargetFacts
from serving.bench.fleet import generate
from serving.bench.load import Closed, Load
from serving.bench.prepare import Prepared, connect, prepare
from serving.bench.process_tree import ProcessTree, is_local, of_pid, of_port
from serving.bench.recording import Progress, Recording
from serving.bench.result import Result
from serving.bench.scenario import Scenario
from serving.bench.server_side import Counts
from serving.bench.streaming import Gaps, run_streams
from serving.bench.sweep import settle
from serving.bench.target import ServerAddress, Target
from serving.bench.turns import Stop
from serving.bench.watch import Watch
from serving.errors import InvalidArgument

Told = Callable[[Progress], None]
Sender = Callable[[ServerAddress, Sequence[Work], Load, Told, Stop], Recording]

PYTHON_DRIVERS = {"triton": "run_threads", "triton-aio": "run_loop"}
NO_PROCESSES = "the server's processes cannot be seen: its CPU and memory are not known (give --pid, or the rights to look)"
NO_STATISTICS = "the server has no statistics of its models: queue, compute and network time are not told apart"


@dataclass(frozen=True, slots=True)
class Once:
    """One run of a load."""

    recording: Recording
    server: Server
    gaps: Gaps | None = None


@dataclass(slots=True)
class Bench:
    """A scenario on its server, ready to be measured under several loads. `close` gives the connections back."""

    prepared: Prepared
    target: Target
    tree: ProcessTree | None
    stop: threading.Event
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, scenario: Scenario, stop: threading.Event | None = None) -> Bench:
        """Connect to the server and prepare what is sent; see `prepare` for what this raises."""
        address = scenario.address()
        _check_driver(scenario)
        target = connect(address, scenario.headers)
        try:
            prepared = prepare(scenario, target)
            tree = of_pid(scenario.pid) if scenario.pid else of_port(address.host, address.port)
        except BaseException:
            target.close()
            raise
        bench = cls(prepared, target, tree, stop or threading.Event(), list(prepared.warnings))
        if tree is None and is_local(address.host):
            bench.warnings.append(NO_PROCESSES)
        if bench.counts() is None:
            bench.warnings.append(NO_STATISTICS)
        return bench

    def close(self) -> None:
        self.target.close()

    def counts(self) -> Counts | None:
        """Return what the server has counted of the scenario's models; None where it does not."""
        total = Counts()
        for info in {(info.name, info.version): info for info in self.prepared.models}.values():
            entries = self.target.statistics(info.name, info.version)
            if entries is None:
                return None
            total += Counts.of(entries)
        return total

    def once(self, load: Load, told: Told) -> Once:
        """Run a load and return what was measured, of the client and of the server."""
        watch = Watch(self.tree, self.counts, told)
        gaps = None
        scenario, address, works = self.prepared.scenario, self.prepared.address, self.prepared.works
        if scenario.streaming:
            recording, gaps = run_streams(address, works, load, watch.told, self.stop)
        elif scenario.driver == "raw":
            tls = replace(address.tls, name=address.host) if address.secure else None
            requests = [request(address, work) for work in works]
            recording = generate(address.netloc, address.protocol, requests, load, watch.told, self.stop, tls)
        else:
            recording = _python_driver(scenario.driver)(address, works, load, watch.told, self.stop)
        if recording.interrupted:
            self.stop.set()
        return Once(recording, watch.server(recording), gaps)

    def repeat(self, load: Load, repetitions: int, told: Told) -> list[Once]:
        """Run a load some times over; Ctrl-C or `stop` ends the one under way and the series."""
        found: list[Once] = []
        while len(found) < repetitions and not (found and self.stop.is_set()):
            found.append(self.once(load, told))
        return found

    def steady(self, load: Load, told: Told, *, percent: float, within: float, at_most: int) -> tuple[list[Once], Stability]:
        """Run a load in windows until its figures hold still; only the first one warms up. Return the last windows."""
        found: list[Once] = []

        def window() -> Recording:
            found.append(self.once(replace(load, warm_up_s=0.0) if found else load, told))
            return found[-1].recording

        recordings, stability = settle(window, percent=percent, within=within, at_most=at_most, stopped=self.stop.is_set)
        return found[-len(recordings) :], stability

    def result(
        self, found: Sequence[Once], load: Load, started_at: datetime, command: Sequence[str] = (), stability: Stability | None = None
    ) -> Result:
        """Return the document of some runs of the same load."""
        scenario = self.prepared.scenario
        return Result.of(
            [one.recording for one in found],
            started_at=started_at,
            load=load_facts(load, scenario),
            target=_target_facts(self.prepared),
            slo_ms=scenario.slo_ms,
            servers=[one.server for one in found],
            name=scenario.name,
            streaming=_streaming([one.gaps for one in found if one.gaps is not None]),
            stability=stability,
            machine=machine.machine(),
            versions=machine.versions(),
            command=list(command),
            warnings=self.warnings,
        )


def run(scenario: Scenario, told: Told = lambda progress: None, stop: threading.Event | None = None, command: Sequence[str] = ()) -> Result:
    """Run a scenario and return its result. Ctrl-C ends it early; what was measured until then is returned."""
    bench = Bench.open(scenario, stop)
    try:
        with interrupts(bench.stop):
            started_at = datetime.now(UTC)
            return bench.result(bench.repeat(scenario.load, scenario.repetitions, told), scenario.load, started_at, command)
    finally:
        bench.close()


@contextmanager
def interrupts(stop: threading.Event) -> Iterator[None]:
    """Make Ctrl-C set `stop`; a second one raises KeyboardInterrupt. In the main thread; elsewhere none come."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def load_facts(load: Load, scenario: Scenario) -> LoadFacts:
    """Return a load in the words of the result."""
    shape = load.shape
    closed = isinstance(shape, Closed)
    batches = {asked.batch_size for asked in scenario.requests if asked.input is None or asked.batch_size > 1}
    return LoadFacts(
        shape="closed" if closed else "open",
        concurrency=shape.concurrency if isinstance(shape, Closed) else None,
        rate_rps=None if isinstance(shape, Closed) else shape.arrivals.mean_rate,
        arrivals=None if isinstance(shape, Closed) else type(shape.arrivals).__name__.lower(),
        duration_s=load.duration_s or None,
        max_requests=load.max_requests or None,
        warm_up_s=load.warm_up_s,
        connections=load.connections or None,
        processes=load.processes,
        timeout_s=load.timeout_s,
        seed=load.seed,
        batch=batches.pop() if len(batches) == 1 else None,
    )


def _target_facts(prepared: Prepared) -> TargetFacts:
    models = {info.name: info.to_json() for info in prepared.models}
    return TargetFacts(
        url=prepared.address.url,
        protocol=prepared.address.protocol,
        driver="stream" if prepared.scenario.streaming else prepared.scenario.driver,
        server=f"{prepared.server.name} {prepared.server.version}".strip(),
        model=", ".join(models),
        metadata=next(iter(models.values())) if len(models) == 1 else models,
    )


def _streaming(gaps: Sequence[Gaps]) -> Streaming | None:
    return sum(gaps[1:], gaps[0]).figures() if gaps else None


def _check_driver(scenario: Scenario) -> None:
    if (scenario.driver != "raw" or scenario.streaming) and scenario.load.processes > 1:
        raise InvalidArgument("only the driver raw sends from several processes; leave --processes out")
    if scenario.driver != "raw":
        _python_driver(scenario.driver)


def _python_driver(name: str) -> Sender:
    """Return the function of `drivers.py`; by name, because tritonclient's HTTP client is an extra."""
    try:
        module = import_module("serving.bench.drivers")
    except ImportError as error:
        raise InvalidArgument(f"the driver '{name}' needs tritonclient[http,grpc], which pip installs: {error}") from None
    sender: Sender = getattr(module, PYTHON_DRIVERS[name])
    return sender
