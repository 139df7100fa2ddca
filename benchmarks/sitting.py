"""Sitting: starts the systems one after the other, loads them, and notes what it finds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grpc
import httpx

from benchmarks import table, tester, wrk
from benchmarks.ask import Ask, Generator, LoadFailed, Measured, WrongAnswer
from benchmarks.peers import (
    bare_loop,
    bentoml,
    engine,
    environment,
    fastapi_uvicorn,
    form,
    httptools_echo,
    kserve,
    litserve,
    mlserver,
    ray_serve,
    triton,
)
from benchmarks.process import Running, StartFailed, cpu_between
from benchmarks.workload import ECHO_IMAGE, WORKLOADS, Workload
from serving.bench.result import Result
from serving.errors import ServingError

_LOADS = {**WORKLOADS, ECHO_IMAGE.model: ECHO_IMAGE}
_FAILURES = (StartFailed, WrongAnswer, LoadFailed, ServingError, httpx.HTTPError, grpc.RpcError, OSError, subprocess.CalledProcessError)
_REPEATS = 6
"""A disturbed load is repeated so often; the least disturbed counts. The same for all systems."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows (and table.IDLE) by key, systems by name, and for how long each is loaded.

    repeat_s  of the whole sitting, for repeating loads that were disturbed
    """

    keys: frozenset[str]
    systems: frozenset[str]
    rounds: int
    seconds: float
    idle_s: float
    config: Path
    generator: Generator = "bench"
    repeat_s: float = 120.0


class Sitting:
    """What to measure, and what has been found so far.

    given     an engine that runs already, to be measured instead of starting one
    scratch   a folder for the files of wrk and h2load
    runs      row → system → what each round measured
    failures  what could not be measured, and why
    """

    def __init__(self, choice: Choice, given: Running | None, scratch: Path) -> None:
        self.choice = choice
        self.given = given
        self.scratch = scratch
        self.rows = [row for row in table.ROWS if row.key in choice.keys]
        self.runs: dict[str, dict[str, list[dict[str, float]]]] = {}
        self.failures: list[str] = []
        self._batches: dict[int, int] = {}
        self._repeat_s = 0.0
        self._loads: dict[tuple[table.Row, str], list[tuple[tester.Once, Ask, str]]] = {}

    def results(self) -> Iterator[tuple[str, Result]]:
        """Every row and system as a document of `serving bench`, by the name of a file. Rounds of one sitting pair up."""
        sitting = uuid4().hex
        for (row, name), found in self._loads.items():
            _, ask, address = found[-1]
            runs = [once for once, _, _ in found]
            url = f"{'http' if row.protocol == 'rest' else 'grpc'}://{address}"
            yield (
                f"{row.key}.{name}.json",
                tester.result(runs, ask, table.SYSTEMS[name], url, row.connections, self.choice.seconds, sitting),
            )

    def measure(self) -> None:
        order = self._order()
        for number in range(self.choice.rounds if order else 0):
            print(f"round {number + 1} of {self.choice.rounds}", flush=True)
            for name in order if number % 2 == 0 else reversed(order):
                self._system(name)
        if table.IDLE in self.choice.keys and self.given is None and {"engine", "ray-empty"} <= self.choice.systems:
            self._idle()

    def _order(self) -> list[str]:
        """The systems of a round. Asked for by name, those of table.FURTHER are installed; a run of everything leaves out what is not."""
        order = [name for name in table.SYSTEMS if name in self.choice.systems and any(name in row.systems for row in self.rows)]
        absent = [name for name in order if name in table.FURTHER and not environment.is_installed(name)]
        if absent and self.choice.systems == table.SYSTEMS.keys():
            print(f"left out, not installed: {', '.join(absent)} (--systems {','.join(absent)} installs them)", flush=True)
            return [name for name in order if name not in absent]
        for name in absent:
            with self._guard(f"installing {name}"):
                environment.install(name)
        return [name for name in order if name not in table.FURTHER or environment.is_installed(name)]

    def _system(self, name: str) -> None:
        rows = [row for row in self.rows if name in row.systems]
        if name in ("bare", "bare-two"):
            for row in rows:
                self._bare(row, name, 2 if name == "bare-two" else 1)
        elif name == "engine-two" and self.given is not None:
            return  # a server that runs already has the replicas that it has
        else:
            with self._guard(name), self._started(name) as server:
                for row in rows:
                    with self._guard(f"{name} {row.key}"):
                        self._row(row, name, server)

    @contextmanager
    def _started(self, name: str) -> Iterator[Running]:
        if self.given is not None and name == "engine":
            yield self.given
            return
        with tempfile.TemporaryDirectory(prefix="b-", ignore_cleanup_errors=True) as folder:
            server = _LAUNCHERS[name](self, name, Path(folder))
            try:
                yield server
            finally:
                server.stop()

    def _row(self, row: table.Row, name: str, server: Running) -> None:
        ask = self._ask(row, name, server)
        found, once = self._load(server, ask, row.connections)
        for _ in range(_REPEATS):
            if not found.disturbed or self._repeat_s > self.choice.repeat_s:
                break
            began = time.monotonic()
            again, once_more = self._load(server, ask, row.connections)
            self._repeat_s += time.monotonic() - began
            if again.disturbance < found.disturbance:
                found, once = again, once_more
        self._note(row.key, name, found.to_json())
        if once is not None:
            self._loads.setdefault((row, name), []).append((once, ask, server.http if row.protocol == "rest" else server.grpc))

    def _load(self, server: Running, ask: Ask, connections: int) -> tuple[Measured, tester.Once | None]:
        if self.choice.generator == "wrk":
            return wrk.measure(server, ask, connections, self.choice.seconds, self.scratch), None
        once = tester.measure(server, ask, connections, self.choice.seconds)
        return once.measured, once

    def _ask(self, row: table.Row, name: str, server: Running) -> Ask:
        """What is sent, tried once."""
        workload = _LOADS[row.model]
        if row.protocol == "grpc":
            return workload.grpc(server.grpc)
        ask = _FORMS[name](workload) if name in _FORMS else workload.rest()
        ask.try_rest(server.http)
        return ask

    def _bare(self, row: table.Row, name: str, processes: int) -> None:
        if processes not in self._batches:
            self._batches[processes] = bare_loop.best_batch(row.model, processes, min(2.0, self.choice.seconds))
        batch = self._batches[processes]
        per_s = bare_loop.images_per_s(row.model, batch, processes, self.choice.seconds)
        self._note(row.key, name, {"per_s": round(per_s, 2), "batch": batch, "other_cores": 0.0})

    def _idle(self) -> None:
        print(f"idle, {self.choice.idle_s:.0f} s each", flush=True)
        with self._guard("idle engine"), self._started("engine") as server:
            replicas = server.count("ServeReplica")
            cores = _cores_at_rest(server, self.choice.idle_s)
            self._note(table.IDLE, "engine", {"cpu_cores": cores, "replicas": replicas, "processes": len(server.members())})
        if not self.runs.get(table.IDLE):
            return
        with self._guard("idle ray-empty"), tempfile.TemporaryDirectory(prefix="b-", ignore_cleanup_errors=True) as folder:
            server = ray_serve.launch_empty(replicas, Path(folder))
            try:
                cores = _cores_at_rest(server, self.choice.idle_s)
                self._note(table.IDLE, "ray-empty", {"cpu_cores": cores, "replicas": replicas, "processes": len(server.members())})
            finally:
                server.stop()

    @contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """A system that fails leaves a gap; the others go on."""
        try:
            yield
        except _FAILURES as error:
            self.failures.append(f"{what}: {error}")
            print(f"  {what}: FAILED: {error}", file=sys.stderr, flush=True)

    def _note(self, key: str, system: str, run: dict[str, float]) -> None:
        self.runs.setdefault(key, {}).setdefault(system, []).append(run)
        shown = "  ".join(
            f"{name} {value:g}" for name, value in run.items() if name not in ("requests", "seconds", "other_cores", "stolen_cores")
        )
        others = run.get("other_cores", 0), run.get("stolen_cores", 0)
        disturbed = f"  † others used {others[0]:.2f} cores, the host took {others[1]:.2f}" if others[0] > 0.15 or others[1] > 0.05 else ""
        print(f"  {key:12} {system:10} {shown}{disturbed}", flush=True)


_LAUNCHERS: dict[str, Callable[[Sitting, str, Path], Running]] = {
    "engine": lambda sitting, name, scratch: engine.launch(name, sitting.choice.config, scratch),
    "engine-two": lambda sitting, name, scratch: engine.launch(name, sitting.choice.config, scratch),
    "triton": lambda sitting, name, scratch: triton.launch(scratch),
    "ray": lambda sitting, name, scratch: ray_serve.launch(name, "mlp", scratch),
    "ray-fast": lambda sitting, name, scratch: ray_serve.launch(name, "mlp", scratch),
    "fastapi": lambda sitting, name, scratch: fastapi_uvicorn.launch(scratch),
    "httptools": lambda sitting, name, scratch: httptools_echo.launch(scratch),
    "kserve": lambda sitting, name, scratch: kserve.launch(scratch),
    "mlserver": lambda sitting, name, scratch: mlserver.launch(scratch),
    "litserve": lambda sitting, name, scratch: litserve.launch(scratch),
    "bentoml": lambda sitting, name, scratch: bentoml.launch(scratch),
}
_FORMS: dict[str, Callable[[Workload], Ask]] = {
    "mlserver": mlserver.ask,
    "litserve": litserve.ask,
    "bentoml": bentoml.ask,
    "httptools": form.echo,
}
"""What does not speak the protocol's binary REST."""


def _cores_at_rest(server: Running, seconds: float) -> float:
    time.sleep(min(10.0, seconds))  # what starting left behind: imports, health checks, first reports
    before, began = server.cpu_s(), time.monotonic()
    time.sleep(seconds)
    return round(cpu_between(before, server.cpu_s()) / (time.monotonic() - began), 4)
