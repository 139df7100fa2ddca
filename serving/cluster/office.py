"""Office: the Ray Serve shell around the controller and the control API, on the head node."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from serving.cluster import directory
from serving.cluster.ray_cluster import GATEWAYS, RayCluster
from serving.cluster.shell import enter
from serving.control import approval_api, backup_api, keys_api, kpis, plan_api, record_api
from serving.control.api import ApiServer, create_app
from serving.control.approval import Approvals, refuse_at_once
from serving.control.backup import COPIES, from_copies
from serving.control.controller import Controller
from serving.control.desk import Desk
from serving.control.guard import Guard
from serving.control.keyring import Keyring
from serving.control.model_control import ModelControl
from serving.control.order import File
from serving.control.runner import Runner, SystemClock
from serving.control.samples import samples
from serving.control.store import SqliteStore
from serving.control.webhooks import Webhooks
from serving.control.wishes import WishBook, handlers
from serving.edge import Reporter
from serving.plan import Target
from serving.spec import ModelFiles, Source, changed, parse
from serving.state import DESK_SOCKET

WISHES = "wishes.json"
"""In the run directory: what clients have asked of the engine, for a controller that comes after this one."""
DOWN = "down"
"""A file of this name in the run directory asks the engine to end."""

KPIS_EVERY_S = 30.0
"""How often the delivery figures of the metrics page are counted anew."""

SENT = "sent"
"""Folder in the state directory for the files that clients send to be loaded."""


class Office:
    """The controller's process."""

    def __init__(self, boot: str) -> None:
        told, name = enter(boot, "controller")
        cluster = RayCluster(told)
        store = SqliteStore(told.database)
        clock = SystemClock()
        keyring = Keyring(store, Path(told.state_dir), clock.now, told.access_forced)
        wishes = WishBook(Path(told.run_dir) / WISHES)
        self._runner = Runner(Controller(cluster, store, clock, keyring.rules, wishes))
        directory.listen(GATEWAYS, lambda _: self._runner.wake())
        cluster.follow_gateways()
        down = Path(told.run_dir) / DOWN
        about = {"urls": told.urls, "engine": told.engine}
        routers = [
            record_api.router(self._runner, store, changed, about, lambda t: from_copies(t, Path(told.state_dir) / COPIES)[0]),
            backup_api.router(store, Path(told.state_dir)),
            keys_api.router(self._runner, keyring),
        ]

        def check(model: str, goal: Target) -> None:
            record_api.check(model, goal, self._runner.world()[1], changed, "as it was planned")

        approvals = Approvals(self._runner, store, clock.now, check, keyring.settle)
        routers += [approval_api.router(self._runner, approvals, about), plan_api.router(self._runner, _parse, approvals.needed)]
        guard = Guard(keyring, lambda: self._runner.target.settings)
        app = create_app(self._runner, _parse, down.touch, about, routers, guard, approvals)
        self._api = ApiServer(app, told.host, told.control_port, told.certificate)
        source = ModelFiles(map(Path, told.repositories), Path(told.state_dir) / SENT)
        models = ModelControl(self._runner, source, told.model_control == "explicit", refuse=partial(refuse_at_once, approvals))
        self._desk = Desk(Path(told.run_dir) / DESK_SOCKET, {**models.handlers, **handlers(self._runner)})
        self._api.start()
        self._runner.start()
        self._desk.start()
        self._webhooks = Webhooks(store, lambda: self._runner.target.settings.webhooks)
        self._webhooks.start()
        self._store, self._clock = store, clock
        self._kpis: list[list[Any]] = []
        self._counted_at = 0.0
        self._reporter = Reporter(told.run_dir, "controller", name, self._samples)

    async def _samples(self) -> list[list[Any]]:
        now = self._clock.now()
        if now - self._counted_at > KPIS_EVERY_S:
            # Reads the record of a month: not at every look.
            self._counted_at = now
            self._kpis = await asyncio.to_thread(kpis.samples, self._store, now)
        return [*samples(self._runner.status), *self._kpis]

    def status(self) -> dict[str, Any]:
        return self._runner.status.to_json()

    def check_health(self) -> None:
        self._runner.healthy()
        self._api.healthy()
        self._desk.healthy()

    async def __del__(self) -> None:
        await asyncio.to_thread(self._webhooks.stop)
        await self._reporter.close()
        await asyncio.to_thread(self._desk.stop)
        await asyncio.to_thread(self._api.stop)
        await asyncio.to_thread(self._runner.stop)


def _parse(files: list[File]) -> Target:
    return parse([Source(f.name, f.text, Path(f.folder)) for f in files])
