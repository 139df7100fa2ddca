"""Traffic: clients of every kind against a running engine, until they are stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, Self

from tests.cluster.running import RunningEngine
from tests.data_path.load import Load

ECHO = "echo_fp32"
"""The model that is asked; it gives its input back."""


class Doors(NamedTuple):
    """What `Load` needs to know of an engine."""

    rest: str
    grpc: str


class Traffic(Load):
    """Load on `echo_fp32` of an engine, some hundred requests a second. `more` waits for each kind that was started, also for one that
    has no answer yet.
    """

    pause_s = 0.02

    def __init__(self, engine: RunningEngine) -> None:
        super().__init__(Doors(f"127.0.0.1:{engine.http}", f"127.0.0.1:{engine.grpc}"))  # type: ignore[arg-type]

    def start(self, keep_alive: int = 4, new_connections: int = 4, unary: int = 4, streams: int = 2) -> Self:
        kinds = {"keep-alive": keep_alive, "new connection": new_connections, "unary": unary, "stream": streams}
        self.done.update({kind: 0 for kind, count in kinds.items() if count})
        super().start(keep_alive, new_connections, unary, streams)
        return self

    async def _keep_alive(self, seed: int) -> None:
        number = seed * 1_000_000
        while not self._stop.is_set():
            async with self._connection() as (reader, writer):
                open_ = True
                while open_ and not self._stop.is_set():
                    number += 1
                    open_ = await self._ask(reader, writer, number, "keep-alive")

    async def _new_connections(self, seed: int) -> None:
        number = seed * 1_000_000
        while not self._stop.is_set():
            number += 1
            async with self._connection() as (reader, writer):
                await self._ask(reader, writer, number, "new connection")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect, and leave no socket behind whatever happens: these clients may be cut off."""
        reader, writer = await asyncio.open_connection(*self.path.rest.split(":"))
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def end(self) -> None:
        """Have a few more answers of each kind, then stop. No request may have failed."""
        await self.more()
        await self.stop()
        assert (self.failed, self.ended_streams) == ([], [])


async def grpc_answers(engine: RunningEngine) -> list[str]:
    """Return when calls are answered, with what went wrong until then."""
    refused: list[str] = []
    while True:
        attempt = Traffic(engine).start(keep_alive=0, new_connections=0, unary=1, streams=0)
        await attempt.more()
        await attempt.stop()
        if not attempt.failed:
            return refused
        refused += attempt.failed
        await asyncio.sleep(0.05)
