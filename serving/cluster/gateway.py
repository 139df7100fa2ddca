"""Gateway: the Ray Serve shell around a GatewayServer. It takes traffic once the controller has told it the routes."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from time import monotonic
from typing import Any

from serving.cluster import directory, serve_api
from serving.cluster.addresses import AddressBook
from serving.cluster.directory import Found
from serving.cluster.shell import enter
from serving.edge import Adopt, SlotClaim
from serving.errors import Unavailable
from serving.gateway.server import GatewayServer
from serving.plan import app_name
from serving.state import GatewayState

log = logging.getLogger(__name__)

DRAIN_S = 30.0
REFRESH_S = 1.0
FIRST_PEERS_S, POLL_S = 1.0, 0.02
"""How long a gateway that replaces another waits for connections to the replicas before it takes the requests that wait at the edge."""
MODEL = "model"
"""Name of the deployment in each version's application."""


class Gateway:
    """One gateway process."""

    def __init__(self, boot: str) -> None:
        self._boot, self.name = enter(boot, "gateway")
        self._server = GatewayServer(self.name, self._boot.run_dir)
        self._server.start([])
        self._book = AddressBook()
        self._handles: dict[str, serve_api.Handle] = {}
        self._loop = asyncio.get_running_loop()
        self._claim: SlotClaim | None = None
        self._claiming = asyncio.Lock()
        self._adopted: dict[int, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._wrong = ""
        self._draining = False

    async def apply(self, state_json: dict[str, Any]) -> dict[str, Any]:
        """Take the state; return the revision in force and the keys that can be answered. The first one opens the doors."""
        state = GatewayState.from_json(state_json)
        keys = {f"{route.endpoint}/{v}" for route in state.routes.routes.values() for v in route.versions}
        # what the routes in force name stays until the new ones are in force: else requests would find a version without replicas
        await self._discover(keys | self._handles.keys())
        revision = await asyncio.to_thread(self._server.apply, state)
        if revision == state.revision and self._handles.keys() != keys:
            await self._discover(keys)
        async with self._claiming:
            if self._claim is None and not self._draining:
                await self._open()
        # an address is not enough: who is told that a version is ready may ask for it at once
        served = await asyncio.to_thread(self._server.served)
        return {"gateway": self.name, "revision": revision, "served": served}

    def check_health(self) -> None:
        self._server.healthy()
        if self._wrong and not self._draining:
            raise Unavailable(self._wrong)

    async def __del__(self) -> None:
        self._draining = True
        if self._claim is not None:
            self._claim.draining()
        await asyncio.to_thread(self._server.drain, DRAIN_S - 10.0)
        for task in self._tasks:
            task.cancel()
        if self._claim is not None:
            await self._claim.leave()

    # Where replicas are

    async def _discover(self, keys: set[str]) -> None:
        self._book.keep(keys)
        for key in keys - self._handles.keys():
            app = app_name(*key.split("/"))
            directory.listen(app, partial(self._told, key))
            self._handles[key] = await asyncio.to_thread(serve_api.handle, app, MODEL)
        for key in self._handles.keys() - keys:
            await asyncio.to_thread(serve_api.forget, self._handles.pop(key))
        self._set_peers()

    def _told(self, key: str, found: Found) -> None:
        """Called by Serve's router in its own thread."""
        self._loop.call_soon_threadsafe(self._take, key, found)

    def _take(self, key: str, found: Found) -> None:
        self._book.tell(key, found, monotonic())
        self._set_peers()

    def _set_peers(self) -> None:
        self._server.set_peers(self._book.peers(monotonic()))

    # The place at the edge

    async def _open(self) -> None:
        for _ in range(int(FIRST_PEERS_S / POLL_S)):
            if self._server.ready():
                break
            await asyncio.sleep(POLL_S)
        claim = await SlotClaim.claim(self._boot.run_dir, self.name)
        await asyncio.to_thread(self._server.take_lane, claim.slot)
        for listener in claim.listeners:
            await asyncio.to_thread(self._server.listen, listener)
        self._claim = claim
        self._server.statistics_from(lambda model: asyncio.run_coroutine_threadsafe(claim.statistics(model), self._loop))
        claim.report_from(partial(asyncio.to_thread, self._server.report))
        self._tasks = [self._loop.create_task(self._follow(claim)), self._loop.create_task(self._refresh())]
        log.info("gateway %s has slot %d", self.name, claim.slot)

    async def _follow(self, claim: SlotClaim) -> None:
        async for change in claim:
            if isinstance(change, Adopt):
                self._adopted[change.number] = await asyncio.to_thread(self._server.listen, change.listener)
            elif change.number in self._adopted:
                await asyncio.to_thread(self._server.unlisten, self._adopted.pop(change.number))
        self._wrong = "the slot at the edge is lost"

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            self._set_peers()
