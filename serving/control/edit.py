"""Edits of a whole Target: what `apply` and `delete` ask for. Pure."""

from __future__ import annotations

from dataclasses import replace

from serving.control.acceptance import part_out
from serving.errors import InvalidArgument, NotFound
from serving.plan import Target
from serving.routing import RouteTable


class Conflict(InvalidArgument):
    """What is asked for does not fit what is there now; the same request may have been right before."""


def merged(current: Target, new: Target) -> Target:
    """Return `current` with the models of `new` in place of those of the same name; other models stay.

    Settings of the engine are taken from `new` where its files state them.
    """
    names = new.routes.routes.keys()
    kept = tuple(d for d in current.deployments if d.plan.model not in names)
    words = {k: v for k, v in current.descriptions.items() if k.split("/")[0] not in names}
    return Target(
        replace(current.settings, **{name: getattr(new.settings, name) for name in new.given}),
        kept + new.deployments,
        RouteTable(0, {**current.routes.routes, **new.routes.routes}),
        words | new.descriptions,
        current.given | new.given,
        current.shelf.without(names),
    )


def without(current: Target, model: str) -> Target:
    """Return `current` without a model, loaded or not. Raises NotFound where it has none of that name."""
    if model not in current.routes.routes and model not in current.shelf.routes.routes:
        known = ", ".join(sorted(current.routes.routes)) or "none"
        raise NotFound(f"there is no model '{model}' (models: {known})")
    return replace(part_out(current, model), shelf=current.shelf.without((model,)))
