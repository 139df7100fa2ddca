"""The part of the control API that tells what was, and goes back to it.

GET  /api/history                    ?model=&limit=20       revisions, newest first, with what each of them meant
GET  /api/revisions/{number}         one of them, with its Target and the text of its files
POST /api/models/{name}/rollback     {"to": 0, "author": "", "reason": "", "wait_s": 0}
GET  /api/events                     ?model=&kind=&since=&after=&limit=100     the newest that match, oldest first
GET  /api/kpis                       ?days=30               delivery figures of the last days (kpis.py)
GET  /api/events/verify              ?head=                 whether the chain of events holds
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.control import history
from serving.control import kpis as figures
from serving.control.acceptance import Act, part
from serving.control.author import author_of
from serving.control.edit import Conflict
from serving.control.event import Filter
from serving.control.order import Number, Reason
from serving.control.ports import Store
from serving.control.runner import Runner
from serving.control.shelving import restored
from serving.errors import NotFound
from serving.plan import DeploymentTarget, Target, World, code_version

Changed = Callable[[DeploymentTarget], str]
"""Says what is wrong with the files of a deployment, or ""."""
Count = Annotated[int, Query(ge=1, le=10_000)]


class Rollback(BaseModel):
    """Where to; 0: to the newest revision in which the model was another."""

    model_config = ConfigDict(extra="forbid")
    to: Number = 0
    author: str = ""
    reason: Reason = ""
    wait_s: float = Field(0.0, ge=0, le=3600)


def router(
    runner: Runner, store: Store, changed: Changed, about: dict[str, Any], find: Callable[[Target], Target] = lambda target: target
) -> APIRouter:
    """Return the routes. `about` is added to what a rollback answers, as to every status; `find` knows where files are that have gone."""
    routes = APIRouter()

    @routes.get("/api/history")
    def revisions(model: str = "", limit: Count = 20) -> dict[str, Any]:
        return {"revisions": [entry.to_json() for entry in history.entries(store, model, limit)]}

    @routes.get("/api/revisions/{number}")
    def revision(number: Number) -> dict[str, Any]:
        found = store.revision(number)
        if found is None:
            raise NotFound(f"there is no revision {number}")
        return {
            "revision": found.number,
            "at": found.at,
            "author": found.author,
            "reason": found.reason,
            "target": found.target.to_json(),
            "files": [asdict(f) for f in found.files],
        }

    @routes.post("/api/models/{name}/rollback")
    def rollback(name: str, order: Rollback, request: Request) -> dict[str, Any]:
        goal = history.way_back(store, name, order.to)
        _, world = runner.world()
        wanted = find(goal.target)
        check(name, wanted, world, changed, f"as it was in revision {goal.number}")
        act = Act(author_of(request, order.author), order.reason or f"back to revision {goal.number}", "rollback", goal.files)
        number = runner.change(lambda now: restored(now, wanted, name), act, [name])
        status = runner.wait(number, order.wait_s)
        return {**about, **status.to_json(), "revision": number, "to": goal.number, "stable": goal.target.routes.routes[name].stable}

    @routes.get("/api/events")
    def events(model: str = "", kind: str = "", since: float = 0.0, after: Number | None = None, limit: Count = 100) -> dict[str, Any]:
        return {"events": [e.to_json() for e in store.events(Filter(model, kind, since, after, limit))]}

    @routes.get("/api/events/verify")
    def verify(head: str = "") -> dict[str, Any]:
        return store.verify(head).to_json()

    @routes.get("/api/kpis")
    def kpis(days: Annotated[float, Query(gt=0, le=3650)] = 30.0) -> dict[str, Any]:
        until = time.time()
        total, models = figures.count(figures.history(store), until - days * figures.DAY_S, until)
        return {"until": until, "all": total.to_json(), "models": {name: k.to_json() for name, k in models.items()}}

    return routes


def check(model: str, goal: Target, world: World, changed: Changed, how: str) -> None:
    """Raise Conflict where a version that has to be started is no longer what it was. What runs still needs no file."""
    for deployment in part(goal, model).deployments:
        running = world.deployments.get(deployment.key)
        warm = running is not None and running.ready and code_version(running.asked) == code_version(deployment)
        if not warm and (wrong := changed(deployment)):
            raise Conflict(f"{deployment.key} cannot be started {how}: {wrong}")
