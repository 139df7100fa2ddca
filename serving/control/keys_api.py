"""The part of the control API that makes and ends API keys. For admins of the whole engine only.

GET    /api/keys             all keys, without secrets
POST   /api/keys             {"name", "grants": ["predictor:mlp"], "expires_s": 0, "requests_per_s": 0, "burst": 0, "inflight_requests": 0}
DELETE /api/keys/{name}      ends it; answered when every gateway knows
"""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from serving.access.identity import Quota
from serving.control.author import author_of
from serving.control.keyring import Keyring
from serving.control.runner import Runner

TOLD_S = 10.0
YEARS_S = 100 * 366 * 86_400.0


class NewKey(BaseModel):
    """expires_s: from now; 0 = never."""

    model_config = ConfigDict(extra="forbid")
    name: str
    grants: list[str] = Field(min_length=1, max_length=64)
    expires_s: float = Field(0.0, ge=0, le=YEARS_S)
    requests_per_s: float = Field(0.0, ge=0, le=1e6)
    burst: int = Field(0, ge=0, le=1_000_000)
    inflight_requests: int = Field(0, ge=0, le=1_000_000)
    author: str = ""


def router(runner: Runner, keyring: Keyring) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    @routes.get("/api/keys")
    def keys() -> dict[str, Any]:
        now = time.time()
        on = keyring.settle(runner.target.settings.access).enabled
        return {"access": on, "problem": keyring.problem, "keys": [key.told(now) for key in keyring.all()]}

    @routes.post("/api/keys")
    def create(order: NewKey, request: Request) -> dict[str, Any]:
        until = time.time() + order.expires_s if order.expires_s else 0.0
        quota = Quota(order.requests_per_s, order.burst, order.inflight_requests)
        key, stored = keyring.create(order.name, order.grants, until, quota, author_of(request, order.author))
        return {**stored.told(time.time()), "key": key, "everywhere": runner.tell(TOLD_S)}

    @routes.delete("/api/keys/{name}")
    def revoke(name: str, request: Request, author: str = "") -> dict[str, Any]:
        ended = keyring.revoke(name, author_of(request, author))
        return {**ended.told(time.time()), "everywhere": runner.tell(TOLD_S)}

    return routes
