"""Replica: the Ray Serve shell around a ReplicaHost."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

from serving.cluster import ends, serve_api
from serving.cluster.memory import MemoryLimit
from serving.cluster.shell import enter, go_first
from serving.cluster.starts import Starts
from serving.cluster.trouble import Trouble
from serving.edge import Reporter
from serving.errors import ServingError
from serving.hosting import HostPlan
from serving.replica.host import ReplicaHost

log = logging.getLogger(__name__)

DRAIN_S = 30.0

HANDOVER_S = 1.0
"""Serve tells a replica to leave when it tells gateways who has come in its place. They connect to those first; until then it answers."""


class Replica:
    """One replica process. Serve asks for its metadata before the first `reconfigure`, so it listens when `__init__` returns.

    code    of the version, as Serve is told; after failures to start it with this code, the next try waits (`starts.py`)
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, boot: str, plan: dict[str, Any], tcp_host: str | None, device: str, code: str
    ) -> None:
        held = HostPlan.from_json(plan)
        key = held.versions[0].key
        told, name = enter(boot, f"replica-{key.replace('/', '-')}")
        go_first()
        self._starts = Starts(Path(told.run_dir), key)
        self._trouble = Trouble(Path(told.run_dir), key, name)
        await self._starts.turn(code)
        self._starts.begin(name, code)
        if limit_mb := sum(version.memory_mb for version in held.versions):
            MemoryLimit(limit_mb, self._starts.failed).start()
        # A thread hangs, which nothing but the end of the process can end.
        hung = partial(ends.end, told=self._starts.failed, code=ends.HUNG_CODE)
        self._host = ReplicaHost(held, name, told.run_dir, tcp_host, device=device, hung=hung)
        try:
            await asyncio.to_thread(self._host.start, _note)
        except ServingError as error:
            self._starts.failed(error.message)
            raise serve_api.cannot_start(error.message) from error
        except BaseException as error:
            self._starts.failed(f"{type(error).__name__}: {error}")
            raise
        self._starts.ready()
        self._reporter = Reporter(told.run_dir, "replica", name, self._samples)

    async def _samples(self) -> list[list[Any]]:
        self._trouble.tell(*self._host.trouble())
        return self._host.samples()

    async def reconfigure(self, plan: dict[str, Any]) -> None:
        """Take over batching policies: called before traffic, with what holds by then, and again at each change."""
        await asyncio.to_thread(self._host.reconfigure, HostPlan.from_json(plan))

    def record_replica_metadata(self) -> dict[str, Any]:
        """Return where gateways reach this replica; Serve gives it to every one of them."""
        return dict(self._host.address)

    def check_health(self) -> None:
        self._host.healthy()

    async def __del__(self) -> None:
        self._starts.left()
        self._trouble.over()
        if self._host.address:  # else it is deleted before it has come up
            if self._host.gateways:
                await asyncio.sleep(HANDOVER_S)
            await asyncio.to_thread(self._host.drain, DRAIN_S - 5.0)
            await self._reporter.close()


def _note(key: str, state: str) -> None:
    log.info("%s: %s", key, state)
