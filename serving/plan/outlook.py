"""Outlook: what applying a target will do, told before it is done: processes, traffic, resources against what is free. Pure.

The base of an outlook is named by `fingerprint`, of the target that was accepted when it was made. When that is another, the world
has moved and the outlook is void.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from serving.plan.change import Plan, Replace, Scale, Start, Stop
from serving.plan.compare import diff
from serving.plan.room import Node, Room, needs
from serving.plan.target import DeploymentTarget, Target
from serving.plan.world import World
from serving.routing import PLAIN, Route, traffic_words


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who answers for one endpoint, in words, before and after; "" where there is no such endpoint."""

    endpoint: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """A version that finds no room. ever: no node could hold it, however empty; else it waits until something ends."""

    key: str
    reason: str
    ever: bool


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind: what the new replicas take before old ones end, what is free for them, what the nodes have, what it is like at the end."""

    name: str
    takes: float
    gives_back: float
    free: float
    total: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """What will happen.

    changes    in their order         replicas   by version key: (before, after), where that differs
    restarts   versions whose replicas are all replaced
    """

    changes: Plan = field(default_factory=Plan)
    replicas: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    restarts: tuple[str, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    resources: tuple[Resource, ...] = ()
    unfit: tuple[Unfit, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            **self.changes.to_json(),
            "replicas": {key: {"before": before, "after": after} for key, (before, after) in self.replicas.items()},
            "restarts": list(self.restarts),
            "traffic": [asdict(t) for t in self.traffic],
            "resources": [asdict(r) for r in self.resources],
            "unfit": [asdict(u) for u in self.unfit],
        }


def outlook(
    target: Target, world: World, nodes: Sequence[Node] | None = None, shortage: Callable[[DeploymentTarget], str] | None = None
) -> Outlook:
    """Return what bringing the world to the target will do.

    nodes     None: nothing is known of resources
    shortage  says why no node could ever hold a replica, or ""
    """
    plan = diff(target, world)
    coming = _coming(plan)
    unfit = [Unfit(d.key, why, True) for d, _ in coming if shortage and (why := shortage(d))]
    if nodes is not None:
        never = {u.key for u in unfit}
        unfit += _waiting([(d, n) for d, n in coming if d.key not in never], Room(nodes))
    return Outlook(
        plan,
        _replicas(target, world),
        tuple(c.subject for c in plan.changes if isinstance(c, Replace)),
        _traffic(target, world),
        _resources(coming, plan, nodes) if nodes is not None else (),
        tuple(unfit),
    )


def fingerprint(target: Target) -> str:
    """Return the SHA-256 of what a target says, in hex; the same for equal targets on every machine."""
    said = target.to_json()
    del said["given"]
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def split(route: Route) -> str:
    """Return who answers on a route, in words."""
    return f"100 % to {route.stable}" if route.traffic == PLAIN else traffic_words(route)


def _coming(plan: Plan) -> list[tuple[DeploymentTarget, int]]:
    """Return what starts, and how many replicas; of what restarts all, for the new ones start beside the old."""
    found: list[tuple[DeploymentTarget, int]] = []
    for change in plan.changes:
        match change:
            case Start() | Replace():
                found.append((change.deployment, change.deployment.replicas))
            case Scale() if change.deployment.replicas > change.before.replicas:
                found.append((change.deployment, change.deployment.replicas - change.before.replicas))
    return found


def _going(plan: Plan) -> list[tuple[DeploymentTarget, int]]:
    found: list[tuple[DeploymentTarget, int]] = []
    for change in plan.changes:
        match change:
            case Stop():
                found.append((change.deployment, change.deployment.replicas))
            case Replace():
                found.append((change.before, change.before.replicas))
            case Scale() if change.deployment.replicas < change.before.replicas:
                found.append((change.deployment, change.before.replicas - change.deployment.replicas))
    return found


def _waiting(coming: list[tuple[DeploymentTarget, int]], room: Room) -> list[Unfit]:
    found = []
    for d, replicas in coming:
        placed = room.place(d, replicas)
        if placed < replicas:
            each = " and ".join(f"{need:g} {name}" for name, need in needs(d, 1).items())
            said = (
                f"{replicas - placed} of {replicas} replicas find no node with {each} free beside what runs; they wait until something ends"
            )
            found.append(Unfit(d.key, said, False))
    return found


def _replicas(target: Target, world: World) -> dict[str, tuple[int, int]]:
    before = {key: known.asked.replicas for key, known in world.deployments.items()}
    after = {d.key: d.replicas for d in target.deployments}
    keys = dict.fromkeys([*before, *after])
    return {k: (before.get(k, 0), after.get(k, 0)) for k in keys if before.get(k, 0) != after.get(k, 0)}


def _traffic(target: Target, world: World) -> tuple[Traffic, ...]:
    before, after = world.routes.routes, target.routes.routes
    names = dict.fromkeys([*before, *after])
    told = [Traffic(n, split(before[n]) if n in before else "", split(after[n]) if n in after else "") for n in names]
    return tuple(t for t in told if t.before != t.after)


def _resources(coming: list[tuple[DeploymentTarget, int]], plan: Plan, nodes: Sequence[Node]) -> tuple[Resource, ...]:
    takes, back = _sum(coming), _sum(_going(plan))
    names = [n for n in dict.fromkeys(["CPU", "GPU", *takes, *back]) if n in takes or n in back]
    return tuple(
        Resource(
            name,
            takes.get(name, 0.0),
            back.get(name, 0.0),
            round(sum(n.free.get(name, 0.0) for n in nodes), 6),
            sum(n.total.get(name, 0.0) for n in nodes),
        )
        for name in names
    )


def _sum(held: list[tuple[DeploymentTarget, int]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for d, replicas in held:
        for name, need in needs(d, replicas).items():
            total[name] = total.get(name, 0.0) + need
    return total
