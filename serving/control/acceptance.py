"""accept: keeps a Target as a revision, with an event for each model that it changes. What a change means, plan.diff tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from serving.control.event import Event
from serving.control.ports import Revision, Store, YamlText
from serving.plan import ChangeSettings, DeploymentTarget, EngineSettings, Plan, ResizeGateways, Target, World, code_version, diff
from serving.routing import Route, RouteTable


@dataclass(frozen=True, slots=True)
class Act:
    """Who wants a change, and why. `kind`: a kind of event (apply, delete, rollback, restore); `files`: the YAML that said so."""

    author: str
    reason: str
    kind: str = "apply"
    files: tuple[YamlText, ...] = ()


def accept(store: Store, before: Revision | None, target: Target, act: Act, at: float) -> Revision:
    """Return the revision that holds the target: a new one, or `before` where that is the same already."""
    if before is not None and before.target == target:
        return before
    was = before.target if before else None
    return store.append(target, act.author, act.reason, at, act.files, list(_events(was, target, act)))


def effects(before: Target | None, after: Target) -> Plan:
    """Return what it means to go from one target to another, where the first one runs as it says."""
    return diff(after, World.of(before) if before else World())


def part(target: Target, model: str) -> Target:
    """Return what a target says of one model, and nothing else; of one that it has not, nothing."""
    return Target(
        EngineSettings(),
        tuple(d for d in target.deployments if d.plan.model == model),
        RouteTable(0, {name: route for name, route in target.routes.routes.items() if name == model}),
        {k: v for k, v in target.descriptions.items() if k.split("/")[0] == model},
    )


def _parts(target: Target) -> dict[str, Target]:
    """Return the part of each model, in one pass: a target may have a thousand."""
    deployments: dict[str, list[DeploymentTarget]] = {}
    for d in target.deployments:
        deployments.setdefault(d.plan.model, []).append(d)
    words: dict[str, dict[str, str]] = {}
    for key, text in target.descriptions.items():
        words.setdefault(key.split("/")[0], {})[key] = text
    return {
        name: Target(EngineSettings(), tuple(deployments.get(name, ())), RouteTable(0, {name: route}), words.get(name, {}))
        for name, route in target.routes.routes.items()
    }


def told(target: Target, model: str) -> dict[str, Any] | None:
    """Return one model as events tell of it, None where the target has none of that name. `code` changes with what needs new replicas."""
    route = target.routes.routes.get(model)
    if route is None:
        return None
    versions = {
        d.plan.version: {"replicas": d.replicas, "contents": d.digest, "code": code_version(d)}
        for d in target.deployments
        if d.plan.model == model
    }
    return {"route": route_told(route), "versions": versions}


def route_told(route: Route) -> dict[str, Any]:
    plain: dict[str, Any] = _plain(asdict(route))
    return plain


def _events(before: Target | None, after: Target, act: Act) -> Iterator[Event]:
    plan = effects(before, after)
    effect: dict[str, list[str]] = {}
    for change in plan.changes:
        effect.setdefault(change.subject.split("/")[0], []).append(change.effect)
    was, now = _parts(before or Target()), _parts(after)
    for name in {**was, **now}:
        old, new = was.get(name, Target()), now.get(name, Target())
        if old != new:
            said = "; ".join(effect.get(name, ())) or f"{name}: words for people, or order"
            yield Event(act.kind, said, name, "", act.author, act.reason, told(old, name), told(new, name))
    if before is None or before.settings != after.settings:
        said = "; ".join(c.effect for c in plan.changes if isinstance(c, ResizeGateways | ChangeSettings)) or "settings of the engine"
        settings = _settings_told(before.settings) if before else None
        yield Event("settings", said, "", "", act.author, act.reason, settings, _settings_told(after.settings))


def _settings_told(settings: EngineSettings) -> Any:
    """Return the settings as events tell of them: of webhooks the host, for a URL may be a secret, and events are sent to others."""
    return _plain(settings.to_json()) | {"webhooks": [w.host for w in settings.webhooks]}


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back: lists for tuples."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    return value


def with_part(current: Target, other: Target, model: str) -> Target:
    """Return `current` with one model as `other` has it; without the model where `other` has none."""
    kept, new = part_out(current, model), part(other, model)
    return replace(
        kept,
        deployments=kept.deployments + new.deployments,
        routes=RouteTable(0, {**kept.routes.routes, **new.routes.routes}),
        descriptions=kept.descriptions | new.descriptions,
    )


def part_out(current: Target, model: str) -> Target:
    """Return `current` without one model."""
    return replace(
        current,
        deployments=tuple(d for d in current.deployments if d.plan.model != model),
        routes=RouteTable(0, {name: route for name, route in current.routes.routes.items() if name != model}),
        descriptions={k: v for k, v in current.descriptions.items() if k.split("/")[0] != model},
    )
