"""Reports: what a process has counted, on its way to the keeper. At once, every second, and whenever the keeper wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import process_time
from typing import Any

import psutil

from serving.errors import ServingError

Samples = Callable[[], Awaitable[Sequence[Sequence[Any]]]]
Send = Callable[[Sequence[Sequence[Any]], int], None]
"""send(samples, number of the round that they answer, 0 = none)"""

REPORT_S = 1.0


class Reports:
    """Sends samples until it is stopped. `kind` of the process labels what it takes of the machine. Belongs to the running loop."""

    def __init__(self, kind: str, samples: Samples, send: Send) -> None:
        self._kind = kind
        self._samples = samples
        self._send = send
        self._wanted = asyncio.Event()
        self._number = 0
        self._task = asyncio.get_running_loop().create_task(self._run())

    def want(self, number: int) -> None:
        """Have a report made now, for the keeper's round of that number."""
        self._number = number
        self._wanted.set()

    def stop(self) -> None:
        self._task.cancel()

    async def report(self) -> None:
        """Send one now."""
        number = self._number
        samples = await self._samples()
        self._send([*samples, *process_samples(self._kind)], number)

    async def _run(self) -> None:
        while True:
            self._wanted.clear()
            try:
                await self.report()
            except ServingError:
                return  # what it counts has stopped
            try:
                await asyncio.wait_for(self._wanted.wait(), REPORT_S)
            except TimeoutError:
                continue


def process_samples(kind: str) -> list[list[Any]]:
    """Return what this process takes of the machine."""
    labels = {"process": kind}
    return [
        ["serving_process_cpu_seconds_total", "counter", labels, round(process_time(), 3)],
        ["serving_process_resident_memory_bytes", "gauge", labels, psutil.Process().memory_info().rss],
        ["serving_processes", "gauge", labels, 1],
    ]
