"""The part of the control API for changes that wait for an approval.

GET  /api/approvals                   ?state=pending&limit=100&before=0     the newest that wait ("" = all), with smaller numbers than
                                      `before` where that is given; oldest first
GET  /api/approvals/{number}          one of them, with its Target and the text of its files
POST /api/approvals/{number}/approve  {"reason": "", "wait_s": 0, "author": ""}     carries it out; answers as apply does
POST /api/approvals/{number}/reject   {"reason": "", "author": ""}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.control.approval import PAGE, Approvals
from serving.control.author import author_of, identity_of
from serving.control.order import Number, Reason
from serving.control.runner import Runner

Count = Annotated[int, Query(ge=1, le=1000)]


class Decision(BaseModel):
    """Why; and how long the answer may wait until the change is everywhere."""

    model_config = ConfigDict(extra="forbid")
    reason: Reason = ""
    author: str = ""
    wait_s: float = Field(0.0, ge=0, le=3600)


def router(runner: Runner, approvals: Approvals, about: dict[str, Any]) -> APIRouter:
    """Return the routes. `about` is added to what an approval answers, as to every status."""
    routes = APIRouter()

    @routes.get("/api/approvals")
    def listed(
        state: Literal["", "pending", "approved", "rejected", "overtaken"] = "pending", limit: Count = PAGE, before: Number = 0
    ) -> dict[str, Any]:
        return {"approvals": [a.told() for a in approvals.all(state, limit, before)]}

    @routes.get("/api/approvals/{number}")
    def one(number: Number) -> dict[str, Any]:
        found = approvals.find(number)
        return {**found.told(), "target": found.target, "files": [{"name": f.name, "text": f.text} for f in found.files]}

    @routes.post("/api/approvals/{number}/approve")
    def approve(number: Number, order: Decision, request: Request) -> dict[str, Any]:
        done = approvals.approve(number, identity_of(request), author_of(request, order.author), order.reason)
        status = runner.wait(done.revision, order.wait_s)
        return {**about, **status.to_json(), "revision": done.revision, "approval": done.told()}

    @routes.post("/api/approvals/{number}/reject")
    def reject(number: Number, order: Decision, request: Request) -> dict[str, Any]:
        return {"approval": approvals.reject(number, identity_of(request), author_of(request, order.author), order.reason).told()}

    return routes
