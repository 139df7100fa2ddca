"""What a replica needs imported before it starts, for the nursery."""

from __future__ import annotations

from serving.models.registry import RUNTIMES
from serving.plan import DeploymentTarget, Target

_EXPORTED = "torch.export.pt2_archive._package"
"""What loading a .pt2 imports beyond torch: as much again."""


def preload(deployment: DeploymentTarget) -> str:
    """Return the modules, comma-separated; "" where those of every worker are enough."""
    if deployment.plan.runtime != "torch":
        return ""
    return ",".join([RUNTIMES["torch"], *([_EXPORTED] if deployment.plan.artefact.endswith(".pt2") else [])])


def preloads(target: Target | None) -> list[str]:
    """Return the different ones of a target."""
    return sorted({preload(d) for d in target.deployments} - {""}) if target else []
