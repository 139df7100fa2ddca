"""Traffic: the choosers and mirrors of all routes that need them. A plain route costs a request nothing here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from serving.gateway.call import Served
from serving.gateway.chooser import Asker, Chooser, Said
from serving.gateway.mirror import Mirror, Sends
from serving.protocol.parameters import ParameterReader
from serving.routing import Route


class Traffic:
    """Of one gateway. A route that stays as it was keeps its chooser, and with it its place in the turn."""

    def __init__(self, calls: Sends, loop: asyncio.AbstractEventLoop) -> None:
        self._calls = calls
        self._loop = loop
        self._reader = ParameterReader()
        self._choosers: dict[str, Chooser] = {}
        self._mirrors: dict[str, Mirror] = {}

    def settle(self, routes: Iterable[Route], served: Mapping[str, Served]) -> None:
        """Take the routes, and the versions that there are by version key."""
        choosers: dict[str, Chooser] = {}
        mirrors: dict[str, Mirror] = {}
        for route in routes:
            name, traffic = route.endpoint, route.traffic
            if traffic.chooses:
                chooser = self._choosers.get(name)
                if chooser is None or chooser.route != route:
                    chooser = Chooser(route, self._reader)
                chooser.settle(served)
                choosers[name] = chooser
            mirror = self._mirrors.get(name)
            if mirror is None or mirror.route != route:
                mirror = Mirror(route, self._calls, self._loop) if traffic.shadows else None
            if mirror is not None:
                mirror.settle(served)
                mirrors[name] = mirror
            for version in route.versions:
                found = served.get(f"{name}/{version}")
                if found is not None:
                    found.mirror = mirror
        self._choosers, self._mirrors = choosers, mirrors

    def pick(self, model: str, asker: Asker | None, said: Said) -> Served | None:
        """Return the version that answers a request that names none; None where the route is plain, or nobody can.

        Who only asks about the model (`asker` None) gets the one that holds the endpoint.
        """
        chooser = self._choosers.get(model)
        if chooser is None:
            return None
        return chooser.pick(asker, said) if asker is not None else chooser.holder

    def candidates(self, model: str) -> list[Served]:
        """Return the versions of which one answers a request that names none; nothing where the route is plain, or nobody can."""
        chooser = self._choosers.get(model)
        return chooser.candidates if chooser is not None else []
