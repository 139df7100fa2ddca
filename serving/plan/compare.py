"""diff: which Changes lead from what runs to what should run. Pure.

The order, so that at every step each route names only versions that run:

    1  gateways come, settings reach them      5  versions that held the endpoint until now are replaced
    2  new versions start, others grow         6  batching changes, others shrink
    3  versions that no caller gets are replaced     7  old versions stop
    4  routes are edited                       8  gateways go

A version is compared with what was asked for, not with what has come up so far: replicas that are starting or have failed
are Ray Serve's to bring back, and a diff during a start is empty.
"""

from __future__ import annotations

from dataclasses import replace

from serving.plan.change import (
    Change,
    ChangeSettings,
    EditRoute,
    Plan,
    Rebatch,
    Replace,
    ResizeGateways,
    Scale,
    Start,
    Stop,
)
from serving.plan.serve_app import code_facts
from serving.plan.target import DeploymentTarget, Target
from serving.plan.world import World
from serving.routing import Route


def diff(target: Target, world: World) -> Plan:
    """Return what to do, in order; an empty Plan where the world is as it should be."""
    wanted = {d.key: d for d in target.deployments}
    held = {f"{r.endpoint}/{v}" for r in world.routes.routes.values() for v in _holders(r, target.routes.routes.get(r.endpoint))}
    early: list[Change] = []
    replaced: list[Change] = []
    replaced_late: list[Change] = []
    late: list[Change] = []
    for key, after in wanted.items():
        known = world.deployments.get(key)
        if known is None:
            early.append(Start(after))
            continue
        before = known.asked
        if reasons := _reasons(before, after):
            (replaced_late if key in held else replaced).append(Replace(before, after, reasons))
            continue
        grown = replace(before, replicas=max(before.replicas, after.replicas))
        rebatched = replace(grown, plan=after.plan)
        early += [Scale(before, grown)] if grown != before else []
        late += [Rebatch(grown, rebatched)] if rebatched != grown else []
        late += [Scale(rebatched, after)] if rebatched.replicas != after.replicas else []
    stops = [Stop(known.asked) for key, known in world.deployments.items() if key not in wanted]
    come, go = _gateways(target, world)
    return Plan((*come, *_settings(target, world), *early, *replaced, *_routes(target, world), *replaced_late, *late, *stops, *go))


def _holders(before: Route, after: Route | None) -> frozenset[str]:
    """Return the versions that get requests until the route is edited, and no more than that afterwards."""
    return before.named - (after.gains(before) if after else frozenset())


def _reasons(before: DeploymentTarget, after: DeploymentTarget) -> tuple[str, ...]:
    if before == after:
        return ()
    was, new = code_facts(before), code_facts(after)
    return tuple(name for name in new if was[name] != new[name])


def _gateways(target: Target, world: World) -> tuple[list[Change], list[Change]]:
    """Return the change of their number as (to do first, to do last)."""
    before = world.settings.gateways if world.settings else 0
    after = target.settings.gateways
    if before == after:
        return [], []
    change = ResizeGateways(before, after)
    return ([change], []) if after > before else ([], [change])


def _settings(target: Target, world: World) -> list[Change]:
    before, after = world.settings, target.settings
    if before is not None and replace(before, gateways=after.gateways) == after:
        return []
    return [ChangeSettings(before, after)]


def _routes(target: Target, world: World) -> list[Change]:
    before, after = world.routes.routes, target.routes.routes
    edits: list[Change] = [EditRoute(before.get(e), route) for e, route in after.items() if before.get(e) != route]
    return edits + [EditRoute(route, None) for e, route in before.items() if e not in after]
