"""Route, RouteTable, choose: which versions answer for an endpoint. Frozen values with a revision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from serving.errors import NotFound
from serving.routing.parts import POINTS

Where = Literal["header", "parameter", "address"]
How = Literal["equals", "matches"]


@dataclass(frozen=True, slots=True)
class Share:
    """A version's part of the requests that name no version, in points: 10,000 are all of them."""

    version: str
    points: int


@dataclass(frozen=True, slots=True)
class Sticky:
    """What a caller is known by: the same key gets the same version. `name` of the header (lower case) or parameter.

    A request without the key is shared out like all others.
    """

    by: Where
    name: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A request whose header or parameter `name` equals, or as a whole matches, `text` gets the version. The first one that fits counts."""

    version: str
    by: Where
    name: str
    how: How
    text: str


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that gets copies of `points` of the requests that other versions answer; what it says is counted and dropped.

    max_inflight_requests, max_inflight_bytes   what one gateway has under way there; beyond it requests are not copied
    """

    version: str
    points: int
    max_inflight_requests: int = 32
    max_inflight_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Traffic:
    """How an endpoint chooses among its versions. Nothing given: `stable` answers."""

    split: tuple[Share, ...] = ()
    sticky: Sticky | None = None
    rules: tuple[Rule, ...] = ()
    shadows: tuple[Shadow, ...] = ()

    @property
    def chooses(self) -> bool:
        """Whether another version than the stable one may be chosen."""
        return bool(self.split or self.rules)

    def to_json(self) -> dict[str, Any]:
        return {
            "split": [[s.version, s.points] for s in self.split],
            "sticky": [self.sticky.by, self.sticky.name] if self.sticky else None,
            "rules": [[r.version, r.by, r.name, r.how, r.text] for r in self.rules],
            "shadows": [[s.version, s.points, s.max_inflight_requests, s.max_inflight_bytes] for s in self.shadows],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Traffic:
        return cls(
            tuple(Share(*s) for s in value["split"]),
            Sticky(*value["sticky"]) if value["sticky"] else None,
            tuple(Rule(*r) for r in value["rules"]),
            tuple(Shadow(*s) for s in value["shadows"]),
        )


PLAIN = Traffic()


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. `versions` are all that can be pinned by path; `stable` holds the endpoint: it answers where nothing else is said,
    and for versions that cannot.
    """

    endpoint: str
    stable: str
    versions: tuple[str, ...]
    at_most_once: bool = False
    traffic: Traffic = PLAIN

    @property
    def shares(self) -> dict[str, int]:
        """Points of each version that has some, of the requests that no rule takes."""
        if not self.traffic.split:
            return {self.stable: POINTS}
        return {s.version: s.points for s in self.traffic.split if s.points}

    @property
    def named(self) -> frozenset[str]:
        """Versions that requests reach although their callers name none: by share, by rule, as a copy."""
        traffic = self.traffic
        others = [r.version for r in traffic.rules] + [s.version for s in traffic.shadows if s.points]
        return frozenset({self.stable, *self.shares, *others})

    def gains(self, before: Route | None) -> frozenset[str]:
        """Return the versions that get more than under `before`, or something new: they have to be ready first."""
        if before is None:
            return self.named
        had = before.shares
        more = {v for v, points in self.shares.items() if points > had.get(v, 0)}
        return frozenset(more | (self.named - before.named))


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes at one revision."""

    revision: int = 0
    routes: dict[str, Route] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"revision": self.revision, "routes": [_to_json(r) for r in self.routes.values()]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RouteTable:
        routes = [_from_json(*row) for row in value["routes"]]
        return cls(value["revision"], {r.endpoint: r for r in routes})


def _to_json(r: Route) -> list[Any]:
    row: list[Any] = [r.endpoint, r.stable, list(r.versions), r.at_most_once]
    return row if r.traffic == PLAIN else [*row, r.traffic.to_json()]


def _from_json(endpoint: str, stable: str, versions: list[str], once: bool, traffic: dict[str, Any] | None = None) -> Route:
    return Route(endpoint, stable, tuple(versions), once, Traffic.from_json(traffic) if traffic else PLAIN)


def choose(table: RouteTable, endpoint: str, version: str) -> str:
    """Return the version that answers where the caller's words decide. Raises NotFound in the words that clients compare."""
    route = table.routes.get(endpoint)
    if route is None:
        raise NotFound(f"Request for unknown model: '{endpoint}' is not found")
    if not version:
        return route.stable
    if version not in route.versions:
        raise NotFound(f"Request for unknown model: '{endpoint}' version {version} is not found")
    return version
