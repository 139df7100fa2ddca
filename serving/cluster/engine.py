"""Engine: starts everything, waits until it answers, and stops everything. One per process of `serving up`."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from serving.cluster import leftovers, local_ray, serve_api
from serving.cluster.boot import TAG
from serving.cluster.office import DOWN, Office
from serving.cluster.openness import who_may_ask
from serving.cluster.ray_cluster import CONTROLLER, EDGE, GATEWAYS, RayCluster
from serving.cluster.serve_api import Application, ApplicationSeen
from serving.cluster.session import Session
from serving.cluster.vigil import EVERY_S, Ended, Vigil, Ward, call_on
from serving.control.acceptance import Act, accept
from serving.control.backup import COPIES, from_copies
from serving.control.event import Event
from serving.control.ports import Revision
from serving.control.store import SqliteStore
from serving.edge.config import EDGE_SOCKET
from serving.errors import Internal, InvalidArgument, ServingError, Unavailable
from serving.plan import Target, key_of_app

log = logging.getLogger(__name__)

DRAIN_S = 35.0
"""Longest wait for gateways, and once more for replicas, to answer what they have."""
LET_IN_S = 0.2
"""In which gateways accept those who have connected already."""
POLL_S = 0.1
WATCH_S = 1.0
VIGIL_EVERY = round(EVERY_S / WATCH_S)
ANSWER_S = 5.0


def serve(session: Session) -> int:
    """Run one engine on the Ray that this process is connected to, until it is to stop; return the exit code."""
    target = _target(session)
    session.boot = session.boot.secured(target.settings.tls)
    engine = Engine(session)
    ended, gently = "the engine has drained and ended", True
    try:
        engine.start(target)
        status = engine.wait()
        if status is not None:
            failed = status["failed"]
            some = f" · {len(failed)} of {len(status['versions'])} versions failed: {', '.join(failed)}" if failed else ""
            urls = session.boot.urls
            session.say(f"ready {urls['rest']} {urls['grpc']} control {urls['control']}{some}", sys.stdout)
            session.say(who_may_ask(session.boot, target))
            session.ready_at = time.monotonic()
            engine.watch()
        session.say("stopping")
    except Ended as error:
        ended = error.message
        gently = False
        raise
    except ServingError as error:
        ended = error.message
        engine.check()  # whatever was noticed first: where Ray has ended, that is why
        raise
    finally:
        if gently:
            engine.stop()
        _note_the_end(session, ended)
    return 0


def _note_the_end(session: Session, what: str) -> None:
    boot = session.boot
    try:
        with closing(SqliteStore(boot.database)) as store:
            store.record([Event("engine.stopped", what, before={"engine": boot.engine})], time.time())
    except Unavailable as error:
        log.warning("the end could not be recorded: %s", error.message)


def _target(session: Session) -> Target:
    """Return what is to run, kept as a revision. Raises InvalidArgument where there is nothing."""
    boot = session.boot
    given = boot.target()
    with closing(SqliteStore(boot.database)) as store:
        if store.recovered:
            session.say(f"warning: {store.recovered}")
        again = "" if boot.life == 1 else " again: its Ray had ended"
        event = Event("engine.started", f"the engine starts on {boot.host}{again}", who=boot.author, after={"engine": boot.engine})
        store.record([event], time.time())
        try:
            latest = store.latest()
        except InvalidArgument as unreadable:
            if given is None:
                raise
            session.say(f"warning: {unreadable.message}; the files are taken")
            latest = None
        if given is None:
            if latest is None:
                lost = f" ({store.recovered})" if store.recovered else ""
                raise InvalidArgument(f"nothing to serve: no file was given, and {boot.state_dir} has no earlier revision{lost}")
            return _with_files(session, store, latest)
        accept(store, latest, given, Act(boot.author, "up", "apply", boot.files()), time.time())
        return given


def _with_files(session: Session, store: SqliteStore, latest: Revision) -> Target:
    """Return the target of the newest revision; models whose files are gone run from the copies that a restore has laid out."""
    boot = session.boot
    target, moved = from_copies(latest.target, Path(boot.state_dir) / COPIES)
    if moved:
        act = Act(boot.author, "files of models are gone; copies of a backup are there", "restore", latest.files)
        number = accept(store, latest, target, act, time.time()).number
        session.say(f"files of {', '.join(moved)} are gone: copies from {Path(boot.state_dir) / COPIES} are taken (revision {number})")
    return target


class Engine:
    """Everything that runs on Ray. Says at each step what has come up."""

    def __init__(self, session: Session) -> None:
        self._boot = session.boot
        self._session = session
        self._say = session.say
        self._own_ray = not session.boot.ray_address

    def start(self, target: Target) -> None:
        """Start everything that serves the target; waits for none of it."""
        serve_api.start()
        cluster = RayCluster(self._boot)
        if not self._own_ray and (others := serve_api.applications().keys() & {CONTROLLER, GATEWAYS, EDGE}):
            raise Unavailable(f"another engine runs on this Ray (applications {', '.join(sorted(others))}); end it first")
        models = [cluster.model(d) for d in target.deployments if not cluster.shortage(d)]
        # models first: they take longest
        serve_api.deploy([*models, self._office(cluster), *cluster.front(target.settings)])

    def _office(self, cluster: RayCluster) -> Application:
        return Application(
            name=CONTROLLER,
            deployment="controller",
            host=Office,
            arguments=(self._boot.to_json(),),
            code_version="1",
            resources={**cluster.plain_resources(), "resources": {"node:__internal_head__": 0.001}},
            surge=False,
            drain_s=10.0,
        )

    def wait(self) -> dict[str, Any] | None:
        """Return the status once everything is ready or has failed; None when it is to stop before. Says what comes up.

        Raises Internal where a part of the engine itself cannot start.
        """
        office = None
        told: dict[str, str] = {}
        while not self._session.stop_asked.wait(POLL_S):
            self.check()
            seen = serve_api.applications()
            for name in (EDGE, GATEWAYS, CONTROLLER):
                _require(name, seen.get(name))
            if name_is_up(seen, CONTROLLER):
                office = office or serve_api.handle(CONTROLLER, "controller")
                status: dict[str, Any] = serve_api.call(office, "status", ANSWER_S)
                self._tell(status, told)
                if status["settled"]:
                    return status
        return None

    def _tell(self, status: dict[str, Any], told: dict[str, str]) -> None:
        for v in status["versions"]:
            key = f"{v['model']}/{v['version']}"
            if told.get(key) != v["state"] and v["state"] != "starting":
                told[key] = v["state"]
                self._say(f"{key} {v['state']}" + (f": {v['reason']}" if v["reason"] else ""))

    def watch(self) -> None:
        """Return when the engine is to stop. Raises Ended where Ray has ended by itself."""
        down = Path(self._boot.run_dir) / DOWN
        vigil = self._vigil() if self._own_ray else None
        turns = 0
        while not self._session.stop_asked.wait(WATCH_S):
            self.check()
            turns += 1
            if vigil is not None and not turns % VIGIL_EVERY:
                vigil.turn()
            if down.exists():
                return

    def _vigil(self) -> Vigil:
        edge = partial(call_on, Path(self._boot.run_dir) / EDGE_SOCKET, socket.SOCK_STREAM)
        wards = [
            Ward("Ray Serve's controller", serve_api.ask, partial(self._kill, "ray::ServeController")),
            Ward("the edge", edge, partial(self._kill, f"ray::ServeReplica:{EDGE}")),
        ]
        if nursery := local_ray.nursery():
            wards.append(Ward("the nursery", nursery.ask, nursery.replace))
        vigil = Vigil(_ask_ray, wards)
        vigil.start()
        return vigil

    def _kill(self, title: str) -> None:
        """Kill a process, so that Ray starts another."""
        for pid in leftovers.processes(TAG, self._boot.engine, title):
            os.kill(pid, signal.SIGKILL)

    def check(self) -> None:
        """Raise Ended where Ray has ended."""
        if self._own_ray:
            local_ray.check()

    def stop(self) -> None:
        """Drain the gateways, then the rest. Bounded, whatever has happened before; what is left then is the caller's to end."""
        worker = threading.Thread(target=self._stop_gently, name="stop", daemon=True)
        worker.start()
        while worker.is_alive() and not self._session.hurry.is_set() and (not self._own_ray or local_ray.alive()):
            worker.join(0.1)

    def _stop_gently(self) -> None:
        try:
            self._last_call()
            self._delete(CONTROLLER, GATEWAYS)
            self._say("gateways have drained")
            seen = serve_api.applications()
            self._delete(EDGE, *(name for name in seen if key_of_app(name)))
            self._say("replicas have drained")
        except Exception as error:
            # Ray may be half gone by now, in any way; what is left is ended by its tag
            log.warning("stopping: %s", error)

    def _last_call(self) -> None:
        """Let nobody new in: who connects now would wait for a gateway that will not come. Gateways answer all who are in."""
        try:
            serve_api.call(serve_api.handle(EDGE, EDGE), "last_call", ANSWER_S)
        except Unavailable as error:
            log.warning("stopping: %s", error.message)
        self._session.hurry.wait(LET_IN_S)

    def _delete(self, *names: str) -> None:
        serve_api.delete(names)
        end = time.monotonic() + DRAIN_S
        while serve_api.applications().keys() & set(names):
            if time.monotonic() > end:
                raise Internal(f"{', '.join(names)} did not end in {DRAIN_S:g} s")
            if self._session.hurry.wait(POLL_S):
                return


def _ask_ray() -> None:
    """Raise Ended where Ray has given up the node on which all runs: its raylet did not answer for a minute."""
    if not serve_api.nodes():
        raise Ended("Ray has given up this machine: its raylet does not answer")


def name_is_up(seen: dict[str, ApplicationSeen], name: str) -> bool:
    """Return whether an application has a running replica."""
    return name in seen and seen[name].running > 0


def _require(name: str, app: ApplicationSeen | None) -> None:
    if app is not None and app.failed and not app.running:
        raise Internal(f"the engine's {name} cannot start: {app.reason}")
