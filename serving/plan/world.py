"""World: what runs, as the controller has just observed it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from serving.plan.target import DeploymentTarget, EngineSettings, Target
from serving.routing import RouteTable


@dataclass(frozen=True, slots=True)
class Running:
    """One deployment: what was last asked for it, and how many of its replicas are in which state."""

    asked: DeploymentTarget
    running: int = 0
    starting: int = 0
    failed: int = 0

    @property
    def ready(self) -> bool:
        """Whether a request can be answered."""
        return self.running > 0

    @property
    def settled(self) -> bool:
        """Whether all that was asked for runs."""
        return self.running == self.asked.replicas and not self.starting and not self.failed

    def to_json(self) -> dict[str, Any]:
        return {"asked": self.asked.to_json(), "running": self.running, "starting": self.starting, "failed": self.failed}


@dataclass(frozen=True, slots=True)
class World:
    """What is there.

    settings     as last applied; None before the engine's own processes have been started
    gateways     gateway processes that take traffic (settings.gateways is how many were asked for)
    deployments  by version key ("mlp/2")
    routes       as last published
    """

    settings: EngineSettings | None = None
    gateways: int = 0
    deployments: dict[str, Running] = field(default_factory=dict)
    routes: RouteTable = field(default_factory=RouteTable)

    @classmethod
    def of(cls, target: Target) -> Self:
        """Return the world in which everything runs as this target says."""
        running = {d.key: Running(d, d.replicas) for d in target.deployments}
        return cls(target.settings, target.settings.gateways, running, target.routes)

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings.to_json() if self.settings else None,
            "gateways": self.gateways,
            "deployments": {key: d.to_json() for key, d in self.deployments.items()},
            "routes": self.routes.to_json(),
        }
