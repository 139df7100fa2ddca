"""Versions: which version answers a request, by the routes and by what replicas have described. Knows no calls."""

from __future__ import annotations

from collections.abc import Mapping

from serving.errors import Unavailable
from serving.gateway.call import Served
from serving.gateway.chooser import Asker, Said
from serving.gateway.tally import Tally
from serving.gateway.traffic import Traffic
from serving.routing import Route, RouteTable, choose


class Versions:
    """Of one gateway. Made ready by `settle`, so that most requests cost one look-up."""

    def __init__(self, tally: Tally, traffic: Traffic) -> None:
        self._tally = tally
        self._traffic = traffic
        self._routes = RouteTable()
        self._resolved: dict[tuple[str, str], Served] = {}
        """(model, version as asked) of everything that can be answered."""

    def resolve(self, model: str, version: str, asker: Asker | None = None, said: Said = b"") -> Served:
        """Return the version that answers; "" as the version asks for the route's own, which may depend on who asks, and with what.

        Raises NotFound where no route has it, Unavailable while no replica has said HELLO.
        """
        served = self._resolved.get((model, version))
        if served is None:
            if not version and (served := self._traffic.pick(model, asker, said)) is not None:
                return served
            chosen = choose(self._routes, model, version)
            self._tally.version(model, chosen).reject("not_ready")
            raise not_ready(model, chosen)
        return served

    def candidates(self, model: str, version: str) -> list[Served]:
        """Return the versions of which one answers a request that nobody has read yet. Raises as `resolve` does."""
        found = self._traffic.candidates(model) if not version else []
        return found or [self.resolve(model, version)]

    def settle(self, routes: RouteTable, served: Mapping[str, Served]) -> None:
        """Take the routes, and the versions that there are by version key."""
        resolved: dict[tuple[str, str], Served] = {}
        for route in routes.routes.values():
            for version in {*route.versions, route.stable}:
                found = served.get(f"{route.endpoint}/{version}")
                if found is not None:
                    found.at_most_once = route.at_most_once
                    resolved[route.endpoint, version] = found
                    if version == route.stable and not route.traffic.chooses:
                        resolved[route.endpoint, ""] = found
        self._routes = routes
        self._resolved = resolved
        self._traffic.settle(routes.routes.values(), served)

    def models(self) -> list[tuple[Route, dict[str, Served | None]]]:
        """Return all routes, each with its versions; None for a version that no replica has described."""
        return [(r, {v: self._resolved.get((r.endpoint, v)) for v in r.versions}) for r in self._routes.routes.values()]

    @property
    def ready(self) -> bool:
        """Whether every version of every route has a replica."""
        return all(s is not None and s.ready for _, versions in self.models() for s in versions.values())

    def ready_of(self, model: str) -> list[str]:
        """Return the versions of a route that have a replica now."""
        route = self._routes.routes.get(model)
        found = [self._resolved.get((model, v)) for v in route.versions] if route is not None else []
        return [s.version for s in found if s is not None and s.ready]

    def __repr__(self) -> str:
        return f"Versions({', '.join(f'{model}/{version}' for model, version in self._resolved if version)})"


def not_ready(model: str, version: str) -> Unavailable:
    """Return what a client hears of a version that no replica answers for."""
    return Unavailable(f"Request for unknown model: '{model}' version {version} is not at ready state", retry_after_s=1.0)
