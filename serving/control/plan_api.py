"""The part of the control API that tells what an apply would do.

    POST /api/plan     {"target": Target} or {"files": [...]}, "replace": false

The answer names the base that it stands on; `apply` with that fingerprint as `expect` is refused (409) when another revision has come.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from serving.control.edit import merged
from serving.control.order import Intent, Parse, target_of
from serving.control.runner import Runner
from serving.plan import Target, fingerprint


def router(runner: Runner, parse: Parse) -> APIRouter:
    routes = APIRouter()

    @routes.post("/api/plan")
    def plan(intent: Intent) -> dict[str, Any]:
        new = target_of(intent.target, intent.files, parse)
        revision, _, outlook = runner.outlook(lambda now: new if intent.replace else merged(now, new))
        base = {"revision": revision.number if revision else 0, "fingerprint": fingerprint(revision.target if revision else Target())}
        return {"base": base, **outlook.to_json()}

    return routes
