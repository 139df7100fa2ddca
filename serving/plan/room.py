"""Room: what nodes have and have free, and whether replicas find a place in it. Pure; places first-fit, in the order of the plan.

Ray places by its own strategy, so a place that is found here is one that Ray can find; with several nodes that are almost full it
may need another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serving.plan.target import DeploymentTarget

_KIND = "accelerator_type:"
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Node:
    """One machine: resources by Ray's names (CPU, GPU, accelerator_type:A100), all of them and those that nothing holds now."""

    name: str
    total: Mapping[str, float] = field(default_factory=dict)
    free: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


class Room:
    """What is left of the nodes while replicas are put into it, one after another."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._left = [dict(n.free) for n in nodes]

    def place(self, d: DeploymentTarget, replicas: int) -> int:
        """Take room for so many replicas; return how many found some."""
        for placed in range(replicas):
            spot = next((left for node, left in zip(self._nodes, self._left, strict=True) if _fits(d, node, left)), None)
            if spot is None:
                return placed
            for name, need in _needs(d).items():
                spot[name] = spot.get(name, 0.0) - need
        return replicas


def needs(d: DeploymentTarget, replicas: int) -> dict[str, float]:
    """Return what so many replicas hold, by resource."""
    return {name: need * replicas for name, need in _needs(d).items()}


def _needs(d: DeploymentTarget) -> dict[str, float]:
    return {name: need for name, need in (("CPU", float(d.cpus)), ("GPU", float(d.gpus))) if need}


def _fits(d: DeploymentTarget, node: Node, left: Mapping[str, float]) -> bool:
    if d.accelerator_type and f"{_KIND}{d.accelerator_type}" not in node.total:
        return False
    if any(node.labels.get(name) != value for name, value in d.labels.items()):
        return False
    return all(left.get(name, 0.0) + _EPSILON >= need for name, need in _needs(d).items())
