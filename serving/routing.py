"""Route, RouteTable, choose: which version answers. Pure; frozen values with a revision.

The weighted and rule-based forms hang on `Route` later; today a route names the version that holds the endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from serving.errors import NotFound


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. `versions` are all that can be pinned by path; `stable` answers when the caller names none."""

    endpoint: str
    stable: str
    versions: tuple[str, ...]
    at_most_once: bool = False


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes at one revision."""

    revision: int = 0
    routes: dict[str, Route] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "revision": self.revision,
            "routes": [[r.endpoint, r.stable, list(r.versions), r.at_most_once] for r in self.routes.values()],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RouteTable:
        routes = {e: Route(e, s, tuple(v), once) for e, s, v, once in value["routes"]}
        return cls(value["revision"], routes)


def choose(table: RouteTable, endpoint: str, version: str) -> str:
    """Return the version that answers. Raises NotFound in the words that clients compare."""
    route = table.routes.get(endpoint)
    if route is None:
        raise NotFound(f"Request for unknown model: '{endpoint}' is not found")
    if not version:
        return route.stable
    if version not in route.versions:
        raise NotFound(f"Request for unknown model: '{endpoint}' version {version} is not found")
    return version
