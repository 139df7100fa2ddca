"""Disturbance: what a machine did beside a measurement, and what its host took from it."""

from __future__ import annotations

import resource
import time
from types import TracebackType

from benchmarks.machine import cpu_ticks_s, stolen_s
from benchmarks.process import Running, cpu_between


class Disturbance:
    """Enter it around a load. Then: `server_cpu_s`, `generator_cpu_s` (of the children that have ended, and of this process),
    `other_cores` (of everybody else) and `stolen_cores`."""

    def __init__(self, server: Running) -> None:
        self._server = server

    def __enter__(self) -> Disturbance:
        self._cpu, self._ticks, self._steal, self._began = _own_s(), cpu_ticks_s(), stolen_s(), time.monotonic()
        self._server_cpu = self._server.cpu_s()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server_cpu_s = cpu_between(self._server_cpu, self._server.cpu_s())
        elapsed = time.monotonic() - self._began
        self.generator_cpu_s = _own_s() - self._cpu
        other = (cpu_ticks_s() - self._ticks - self.server_cpu_s - self.generator_cpu_s) / elapsed
        self.other_cores = max(0.0, round(other, 2))
        self.stolen_cores = round((stolen_s() - self._steal) / elapsed, 2)


def _own_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
