"""Witness: tells what has happened between two looks at the engine, as events. Knows no cluster and no clock; it compares values.

It remembers from the record what was told last, so that a controller that starts anew does not tell it again. A process that ends
because it was asked to is no event; one that is missing without having been asked is `replica.lost`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serving.control.acceptance import route_told
from serving.control.event import Event, Filter, Recorded
from serving.control.ports import Store
from serving.control.status import VersionStatus
from serving.plan import DeploymentTarget, code_version, split
from serving.routing import Route


@dataclass(frozen=True, slots=True)
class Sight:
    """One look.

    versions  of the target, as the status has them      runs      keys that the cluster runs, wanted or not
    settled   versions (by key) whose replicas all run and none starts or stops
    routes    that every gateway has, None where that is not known      asked  what was last asked for, by key
    """

    revision: int
    versions: tuple[VersionStatus, ...]
    runs: frozenset[str]
    settled: frozenset[str]
    routes: Mapping[str, Route] | None
    asked: Mapping[str, DeploymentTarget]
    gateways: int
    gateways_wanted: int


MEMORY = 2000
"""Events of each kind that a new controller looks at, to know what was told last."""


def memory(store: Store) -> list[Recorded]:
    """Return the events of the record that a Witness begins with."""
    kinds = ("version", "traffic", "live", "gateways", "engine.started")
    found = [event for kind in kinds for event in store.events(Filter(kind=kind, limit=MEMORY))]
    return sorted(found, key=lambda r: r.number)


class Witness:
    """`record`: the newest events, oldest first, as many as are worth knowing."""

    def __init__(self, record: Iterable[Recorded] = ()) -> None:
        self._state: dict[str, str] = {}
        """What was told last of each version: ready, failed, down."""
        self._live: dict[str, dict[str, Any]] = {}
        self._routes: dict[str, Any] = {}
        self._gateways: int | None = None
        self._full: dict[str, tuple[DeploymentTarget, int]] = {}
        """Versions that had all their replicas: as they were asked for, and how many run now."""
        self._up: set[str] = set()
        for recorded in record:
            self._remember(recorded.event)

    def _remember(self, event: Event) -> None:
        key = f"{event.model}/{event.version}"
        match event.kind:
            case "engine.started":
                self._state.clear()
                self._gateways = None
            case "version.ready" | "version.failed" | "version.down":
                self._state[key] = event.kind.partition(".")[2]
            case "version.stopped":
                self._state.pop(key, None)
            case "live":
                self._live[event.model] = event.after
            case "traffic" if event.after is None:
                self._routes.pop(event.model, None)
            case "traffic":
                self._routes[event.model] = event.after
            case "gateways":
                self._gateways = event.after

    def tell(self, sight: Sight) -> list[Event]:
        """Return what is new."""
        events = [e.of_revision(sight.revision) for e in self._tell(sight)]
        for event in events:
            self._remember(event)
        return events

    def _tell(self, sight: Sight) -> Iterator[Event]:
        for v in sight.versions:
            yield from self._version(v)
            yield from self._replicas(v, sight)
        yield from self._stopped(sight.runs, {v.key for v in sight.versions})
        if sight.routes is not None:
            yield from self._traffic(sight.routes)
            yield from self._lives(sight, sight.routes)
        yield from self._gateway_count(sight)

    def _version(self, v: VersionStatus) -> Iterator[Event]:
        said = self._state.get(v.key)
        if v.state == "ready":
            self._up.add(v.key)
        if v.state == "ready" and said != "ready":
            yield Event(
                "version.ready", f"{v.key} is ready on {v.running} of {v.wanted} replicas", v.model, v.version, before=said, after="ready"
            )
        elif v.state == "failed" and said != "failed":
            yield Event("version.failed", f"{v.key} has failed: {v.reason}", v.model, v.version, before=said, after="failed")
        elif v.state == "starting" and said == "ready" and v.key in self._up:
            yield Event("version.down", f"{v.key} does not answer any more", v.model, v.version, before="ready", after="down")
        if v.state != "ready":
            self._up.discard(v.key)

    def _replicas(self, v: VersionStatus, sight: Sight) -> Iterator[Event]:
        asked = sight.asked.get(v.key)
        known = self._full.get(v.key)
        if asked is None or (known is not None and known[0] != asked):
            self._full.pop(v.key, None)
            known = None
        if asked is None:
            return
        if known is None:
            if v.running >= asked.replicas and v.key in sight.settled:
                self._full[v.key] = asked, asked.replicas
            return
        was, now = known[1], min(v.running, asked.replicas)
        if now == was:
            return
        self._full[v.key] = asked, now
        kind, word = ("replica.lost", "lost") if now < was else ("replica.back", "got back")
        count = abs(now - was)
        said = f"{v.key} has {word} {count} replica{'' if count == 1 else 's'}, {now} of {asked.replicas} run"
        yield Event(kind, said, v.model, v.version, before=was, after=now)

    def _stopped(self, runs: Collection[str], wanted: Collection[str]) -> Iterator[Event]:
        for key in [k for k in self._state if k not in runs and k not in wanted]:
            model, _, version = key.partition("/")
            yield Event("version.stopped", f"{key} has ended", model, version, before=self._state[key])
            self._full.pop(key, None)

    def _traffic(self, routes: Mapping[str, Route]) -> Iterator[Event]:
        for name, route in routes.items():
            before, after = self._routes.get(name), route_told(route)
            if before is None or _split(before) != _split(after):
                said = f"every gateway sends {name}: {split(route)}"
                yield Event("traffic", said, name, route.stable, before=before, after=after)
        for name in [n for n in self._routes if n not in routes]:
            yield Event("traffic", f"no gateway knows {name} any more", name, before=self._routes[name])

    def _lives(self, sight: Sight, routes: Mapping[str, Route]) -> Iterator[Event]:
        ready = {v.key for v in sight.versions if v.state == "ready"}
        for name, route in routes.items():
            key = f"{name}/{route.stable}"
            asked = sight.asked.get(key)
            if asked is None or key not in ready or key not in sight.settled:
                continue
            after = {"version": route.stable, "code": code_version(asked)}
            if self._live.get(name) != after:
                said = f"{key} holds the endpoint, on {asked.replicas} replica{'' if asked.replicas == 1 else 's'}"
                yield Event("live", said, name, route.stable, before=self._live.get(name), after=after)

    def _gateway_count(self, sight: Sight) -> Iterator[Event]:
        now, before = sight.gateways, self._gateways
        if before == now or (before is None and now < sight.gateways_wanted):
            return
        yield Event("gateways", f"{now} of {sight.gateways_wanted} gateways take traffic", before=before, after=now)


def _split(route: dict[str, Any]) -> dict[str, Any]:
    """Return who gets what of a route; which versions can be asked for by number is no matter of traffic."""
    return {name: value for name, value in route.items() if name != "versions"}
