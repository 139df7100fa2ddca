"""sound: holds a Target that came over the network against what the engine can work with. Raises InvalidArgument with what is wrong.

YAML has been through `spec/`, which says more and with file and line. A Target in a body has been through nothing, and a revision is for
good: one that could not be worked with would stop the controller for everybody's models, and would be there again after a restart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict
from math import isfinite
from typing import Any

from pydantic import TypeAdapter, ValidationError

from serving.access.identity import Grant
from serving.errors import InvalidArgument
from serving.names import model_name, version_name
from serving.plan import DeploymentTarget, Target
from serving.routing import POINTS, Route, RouteTable, bad_pattern

_types = TypeAdapter(Target)
_POSITIVE = (
    "replicas threads max_queue_requests max_queue_bytes max_streams predict_timeout_s max_idle_s max_sequences gateways max_header_bytes "
    "max_body_bytes max_json_bytes header_timeout_s body_timeout_s idle_timeout_s max_connections max_inflight_requests max_inflight_bytes "
    "request_timeout_s max_clients"
)
_LARGEST = {"replicas": 10_000, "gateways": 256, "cpus": 4096, "gpus": 64, "threads": 1024, "max_batch_size": 65_536, "max_streams": 4096}
_ANY_LARGEST = 1 << 50
_FREE = ("options", "shape", "labels")
"""Fields whose numbers are somebody else's: a model's, a signature's."""


def sound(target: Target) -> Target:
    """Return the target with every value of the type that it should have."""
    try:
        found = _types.validate_python(asdict(target))
        json.dumps(found.to_json(), ensure_ascii=False).encode()
    except (ValidationError, RecursionError, UnicodeEncodeError) as error:
        raise InvalidArgument(f"'target' is not a Target: {_said(error)}") from None
    if found != target:
        raise InvalidArgument("'target' is not a Target: a number or a truth value in it is given as text")
    for problem in _problems(found):
        raise InvalidArgument(f"'target' cannot be served: {problem}")
    return found


def _said(error: ValidationError | RecursionError | UnicodeEncodeError) -> str:
    if isinstance(error, RecursionError):
        return "it is too deep"
    if isinstance(error, UnicodeEncodeError):
        return "it holds half a character (a lone surrogate)"
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:300]


def _problems(target: Target) -> Iterator[str]:
    for place, deployments, routes in (
        ("", target.deployments, target.routes),
        ("shelf: ", target.shelf.deployments, target.shelf.routes),
    ):
        yield from (f"{place}{said}" for said in _of_models(deployments, routes))
    settings = target.settings
    yield from _numbers("settings", asdict(settings))
    for grant in settings.access.jwt.roles.values() if settings.access.jwt else ():
        Grant.of(grant)
    if wrong := bad_pattern(settings.forward_headers):
        yield f"settings: forward_headers is no pattern: {wrong[:200]}"


def _of_models(deployments: Collection[DeploymentTarget], table: RouteTable) -> Iterator[str]:
    versions: dict[str, set[str]] = {}
    for d in deployments:
        model_name(d.plan.model)
        version_name(d.plan.version)
        versions.setdefault(d.plan.model, set()).add(d.plan.version)
        yield from _numbers(d.key, asdict(d))
        if not all(size >= 1 for size in d.plan.warm_up):
            yield f"{d.key}: warm_up has a batch of no rows"
    yield from (f"{key} stands there {n} times" for key, n in Counter(d.key for d in deployments).items() if n > 1)
    for route in table.routes.values():
        model_name(route.endpoint)
        yield from (f"{route.endpoint}: {said}" for said in _of_route(route, versions.get(route.endpoint, set())))
    yield from (f"{model} has no route" for model in versions if model not in table.routes)


def _of_route(route: Route, declared: Collection[str]) -> Iterator[str]:
    traffic = route.traffic
    if len(set(route.versions)) != len(route.versions) or not set(route.versions) <= set(declared):
        yield f"its versions are {', '.join(sorted(declared)) or 'none'}, not {', '.join(route.versions)}"
    named = {route.stable, *(s.version for s in traffic.split), *(s.version for s in traffic.shadows), *(r.version for r in traffic.rules)}
    yield from (f"version {version} is not one of its versions" for version in sorted(named - set(route.versions)))
    shares = [s.points for s in traffic.split]
    if shares and (sum(shares) != POINTS or min(shares) < 0 or len({s.version for s in traffic.split}) != len(shares)):
        yield f"shares of {', '.join(map(str, shares))} points; expected {POINTS} in all, each version once"
    for shadow in traffic.shadows:
        if not (0 <= shadow.points <= POINTS and shadow.max_inflight_requests > 0 and 0 < shadow.max_inflight_bytes < _ANY_LARGEST):
            yield f"the shadow of version {shadow.version} has numbers out of range"
    for rule in traffic.rules:
        if rule.by == "address" or not rule.name:
            yield f"a rule to version {rule.version} looks at no header and no parameter"
        if rule.how == "matches" and (wrong := bad_pattern(rule.text)):
            yield f"a rule to version {rule.version} has a pattern that is none: {wrong[:200]}"
    if traffic.sticky is not None and traffic.sticky.by != "address" and not traffic.sticky.name:
        yield "sticky names no header and no parameter"


def _numbers(place: str, value: Any, name: str = "") -> Iterator[str]:
    """Yield the numbers in a tree that are out of range."""
    if name in _FREE:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(place, inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(place, inner, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        least, most = int(name in _POSITIVES and isinstance(value, int)), _LARGEST.get(name, _ANY_LARGEST)
        if not isfinite(value) or not least <= value <= most or (name in _POSITIVES and value <= 0):
            yield f"{place}: {name} is {value!s:.40}, expected a number from {least} to {most}"


_POSITIVES = frozenset(_POSITIVE.split())
