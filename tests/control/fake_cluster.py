"""FakeCluster: a Cluster whose processes start when a test says so. FakeStore, FakeClock: the same for memory and time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from serving.control.ports import Acknowledged, Revision, Seen, VersionSeen
from serving.hosting import VersionPlan
from serving.plan import DeploymentTarget, EngineSettings, Target
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
        self.publications = 0

    def latest(self) -> Revision | None:
        return self.revisions[-1] if self.revisions else None

    def append(self, target: Target, author: str, reason: str, at: float) -> Revision:
        self.revisions.append(Revision(len(self.revisions) + 1, target, author, reason, at))
        return self.revisions[-1]

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
