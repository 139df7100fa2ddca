"""The part of the control API that tells what an apply would do.

    POST /api/plan     {"target": Target} or {"files": [...]}, "replace": false

The answer names the base that it stands on; `apply` with that fingerprint as `expect` is refused (409) when another revision has come.
"approval" names the models because of which it would have to be approved first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from serving.control.edit import merged
from serving.control.order import Intent, Parse, target_of
from serving.control.runner import Runner
from serving.plan import Target, fingerprint

Needed = Callable[[Target, Target], list[str]]
"""Returns the models because of which a change has to be approved."""


def _nobody(_before: Target, _after: Target) -> list[str]:
    return []


def router(runner: Runner, parse: Parse, needed: Needed = _nobody) -> APIRouter:
    routes = APIRouter()

    @routes.post("/api/plan")
    def plan(intent: Intent) -> dict[str, Any]:
        new = target_of(intent.target, intent.files, parse)
        revision, target, outlook = runner.outlook(lambda now: new if intent.replace else merged(now, new))
        before = revision.target if revision else Target()
        base = {"revision": revision.number if revision else 0, "fingerprint": fingerprint(before)}
        return {"base": base, **outlook.to_json(), "approval": needed(before, target)}

    return routes
