"""Reporter: the end of `edge.sock` of a process that holds no slot: replicas, the controller. It outlives keepers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from serving.edge.config import EDGE_SOCKET
from serving.edge.lane import Lane, Message
from serving.edge.reports import Reports, Samples
from serving.errors import ServingError

_RETRY_S = 0.2
_SLOWEST_RETRY_S = 5.0
"""A node without a keeper has nobody to report to."""


class Reporter:
    """Reports what `samples` gives, to the keeper of this node. Belongs to the running loop.

    kind    "replica" or "controller"; name   unique among the engine's processes with the pid
    """

    def __init__(self, run_dir: str, kind: str, name: str, samples: Samples) -> None:
        self._path = str(Path(run_dir) / EDGE_SOCKET)
        self._hello: Message = {"process": kind, "name": name, "pid": os.getpid()}
        self._kind = kind
        self._samples = samples
        self._reports: Reports | None = None
        self._lane: Lane | None = None
        self._closed = False
        self._lost = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self, last: bool = True) -> None:
        """End, with one last report unless `last` is False."""
        self._closed = True
        self._task.cancel()
        if self._reports is not None:
            self._reports.stop()
            if last:
                with suppress(ServingError):  # what it counts may have stopped
                    await self._reports.report()
        if self._lane is not None:
            await self._lane.flushed()
            self._lane.close()

    async def _run(self) -> None:
        wait_s = _RETRY_S
        while True:
            if await self._connect():
                wait_s = _RETRY_S
                await self._lost.wait()
                if self._reports is not None:
                    self._reports.stop()
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, _SLOWEST_RETRY_S)

    async def _connect(self) -> bool:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self._path)
        except OSError:
            sock.close()
            return False
        except BaseException:
            sock.close()
            raise
        self._lost.clear()
        lane = self._lane = Lane(sock, self._receive, self._lost.set)
        lane.send(self._hello)

        def send(samples: Sequence[Sequence[Any]], number: int) -> None:
            if number or lane.idle:
                lane.send({"report": samples, "asked": number})

        self._reports = Reports(self._kind, self._samples, send)
        return True

    def _receive(self, message: Message, sockets: list[socket.socket]) -> None:
        for sock in sockets:
            sock.close()
        if "want" in message and self._reports is not None:
            self._reports.want(int(message["want"]))
