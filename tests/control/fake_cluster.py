"""FakeCluster: a Cluster whose processes start when a test says so. FakeStore, FakeClock: the same for memory and time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from serving.control.event import GENESIS, Event, Filter, Recorded, Verdict, chained, verify
from serving.control.ports import Acknowledged, Revision, Seen, VersionSeen, YamlText
from serving.hosting import VersionPlan
from serving.plan import DeploymentTarget, EngineSettings, Node, Target
from serving.routing import Route, RouteTable
from serving.state import GatewayState


class FakeCluster:
    """`said` is everything that it was asked to do, in words. What is deployed starts with `come_up`."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.versions: dict[str, VersionSeen] = {}
        self.gateways: set[str] = set()
        self.deaf: set[str] = set()
        """Gateways that run and do not answer."""
        self.machines = [Node("n1", {"CPU": 8.0}, {"CPU": 8.0})]
        self.short: dict[str, str] = {}
        self.state: GatewayState | None = None

    def observe(self) -> Seen:
        return Seen(dict(self.versions), frozenset(self.gateways))

    def deploy(self, deployments: Iterable[DeploymentTarget]) -> None:
        for d in deployments:
            self.said.append(f"deploy {d.key} x{d.replicas}")
            known = self.versions.get(d.key, VersionSeen())
            self.versions[d.key] = replace(known, starting=max(0, d.replicas - known.running))

    def retire(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.said.append(f"retire {key}")
            self.versions[key] = VersionSeen(stopping=1)

    def resize(self, settings: EngineSettings) -> None:
        self.said.append(f"resize {settings.gateways}")

    def publish(self, state: GatewayState) -> list[Acknowledged]:
        if self.state is None or self.state.revision != state.revision:
            routes = ", ".join(f"{r.endpoint}→{r.stable} of {' '.join(r.versions)}" for r in state.routes.routes.values())
            self.said.append(f"publish {routes or 'nothing'}")
        self.state = state
        routed = {f"{r.endpoint}/{v}" for r in state.routes.routes.values() for v in r.versions}
        served = frozenset(key for key, v in self.versions.items() if v.running and key in routed)
        return [Acknowledged(g, state.revision, served) for g in sorted(self.gateways - self.deaf)]

    def nodes(self) -> list[Node]:
        return self.machines

    def shortage(self, deployment: DeploymentTarget) -> str:
        return self.short.get(deployment.key, "")

    # What a test lets happen

    def come_up(self, *keys: str) -> None:
        for key in keys:
            self.versions[key] = VersionSeen(running=1)

    def fail(self, key: str, reason: str) -> None:
        self.versions[key] = VersionSeen(failed=True, reason=reason)

    def go(self, *keys: str) -> None:
        for key in keys:
            del self.versions[key]

    def take_said(self) -> list[str]:
        said, self.said = self.said, []
        return said


class FakeStore:
    def __init__(self) -> None:
        self.revisions: list[Revision] = []
        self.recorded: list[Recorded] = []
        self.publications = 0

    def latest(self) -> Revision | None:
        return self.revisions[-1] if self.revisions else None

    def history(self, count: int = 20, before: int = 0) -> list[Revision]:
        return [r for r in reversed(self.revisions) if not before or r.number < before][:count]

    def revision(self, number: int) -> Revision | None:
        return next((r for r in self.revisions if r.number == number), None)

    def append(
        self, target: Target, author: str, reason: str, at: float, files: Sequence[YamlText] = (), events: Iterable[Event] = ()
    ) -> Revision:
        self.revisions.append(Revision(len(self.revisions) + 1, target, author, reason, at, tuple(files)))
        self.record([e.of_revision(len(self.revisions)) for e in events], at)
        return self.revisions[-1]

    def record(self, events: Iterable[Event], at: float) -> list[Recorded]:
        before = len(self.recorded)
        for event in events:
            previous = self.recorded[-1].hash if self.recorded else GENESIS
            self.recorded.append(chained(event, len(self.recorded) + 1, at, previous))
        return self.recorded[before:]

    def events(self, which: Filter) -> list[Recorded]:
        found = [
            r
            for r in self.recorded
            if r.number > (which.after or 0) and (r.event.kind + ".").startswith(which.kind + "." * bool(which.kind))
        ]
        found = [r for r in found if which.model in ("", r.event.model) and r.at >= which.since]
        return found[: which.limit] if which.after is not None else found[-which.limit :]

    def newest_event(self) -> int:
        return len(self.recorded)

    def verify(self, head: str = "") -> Verdict:
        return verify(self.recorded, head)

    def kinds(self) -> list[str]:
        """What was recorded since the last question, in words."""
        said, self.said_up_to = self.recorded[self.said_up_to :], len(self.recorded)
        return [" ".join(filter(None, (r.event.kind, f"{r.event.model}/{r.event.version}".strip("/")))) for r in said]

    said_up_to = 0

    def next_publication(self) -> int:
        self.publications += 1
        return self.publications


class FakeClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time


def target(*keys: str, gateways: int = 1, stable: str = "", **changes: int) -> Target:
    """Return a Target of versions "mlp/1"; each model's last version is stable unless `stable` names it."""
    deployments = []
    versions: dict[str, list[str]] = {}
    for key in keys:
        model, version = key.split("/")
        versions.setdefault(model, []).append(version)
        deployments.append(DeploymentTarget(VersionPlan(model, version, "python", "/m.py", "M"), replicas=changes.get("replicas", 1)))
    routes = {m: Route(m, stable if stable in v else v[-1], tuple(v)) for m, v in versions.items()}
    return Target(EngineSettings(gateways), tuple(deployments), RouteTable(0, routes))
