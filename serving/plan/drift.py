"""drift: what one target says otherwise than another, value by value. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from serving.plan.target import Target


@dataclass(frozen=True, slots=True)
class Drift:
    """One value: where it stands ("models.mlp.versions.2.replicas"), and what each side says; None where a side has no such thing."""

    place: str
    declared: Any
    running: Any

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def drift(declared: Target, running: Target, whole: bool = False) -> list[Drift]:
    """Return where the engine's target differs from the declared one.

    Models that the declaration does not name are none of its business, and settings that it does not state neither; `whole`: it is
    all that should run, so that a model which it does not name is drift.
    """
    names = declared.routes.routes.keys() | (running.routes.routes.keys() if whole else set())
    found: list[Drift] = []
    mine, theirs = declared.settings.to_json(), running.settings.to_json()
    for name in sorted(declared.given):
        found += _differ(name, mine.get(name), theirs.get(name))
    for name in sorted(names):
        found += _differ(f"models.{name}", _model(declared, name), _model(running, name))
    return found


def _model(target: Target, name: str) -> dict[str, Any] | None:
    route = target.routes.routes.get(name)
    if route is None:
        return None
    traffic = {k: v for k, v in asdict(route).items() if k not in ("endpoint", "versions")}
    versions = {d.plan.version: _flat(d.to_json()) for d in target.deployments if d.plan.model == name}
    return {"traffic": traffic, "versions": versions}


def _flat(deployment: dict[str, Any]) -> dict[str, Any]:
    plan = {k: v for k, v in deployment.pop("plan").items() if k not in ("model", "version")}
    contents = deployment.pop("digest")
    return {**plan, **deployment, "contents": contents}


def _differ(place: str, declared: Any, running: Any) -> Iterator[Drift]:
    if isinstance(declared, Mapping) and isinstance(running, Mapping):
        for key in dict.fromkeys([*declared, *running]):
            yield from _differ(f"{place}.{key}", declared.get(key), running.get(key))
    elif declared != running:
        yield Drift(place, declared, running)
