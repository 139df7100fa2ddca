"""Edits of a Target for load and unload: one model comes, goes, or comes back as it was. Pure."""

from __future__ import annotations

from dataclasses import replace

from serving.control.acceptance import part, part_out, with_part
from serving.control.edit import merged
from serving.plan import Shelf, Target
from serving.routing import RouteTable


def loaded(current: Target, new: Target, keep: bool) -> Target:
    """Return `current` with the one model of `new` running. keep: what is declared of it goes to the shelf; else it leaves that."""
    (model,) = new.routes.routes
    return replace(merged(current, new), shelf=_shelved(current, model) if keep else current.shelf.without((model,)))


def unloaded(current: Target, model: str, keep: bool) -> Target:
    """Return `current` with a model not running. keep: what is declared of it goes to the shelf."""
    return replace(part_out(current, model), shelf=_shelved(current, model) if keep else current.shelf.without((model,)))


def restored(current: Target, before: Target, model: str) -> Target:
    """Return `current` with one model as it was in `before`, running, unloaded or unknown."""
    shelf = with_part(_as_target(current.shelf), _as_target(before.shelf), model)
    return replace(with_part(current, before, model), shelf=Shelf(shelf.deployments, shelf.routes))


def declared(current: Target, model: str) -> Target | None:
    """Return what is declared of one model: from the shelf where that has it, else what runs. None where there is none of that name."""
    for place in (_as_target(current.shelf), current):
        if model in place.routes.routes:
            return replace(part(place, model), descriptions=part(current, model).descriptions)
    return None


def _shelved(current: Target, model: str) -> Shelf:
    """Return the shelf with what runs of the model; what stands there already is what was declared."""
    shelf = current.shelf
    if model in shelf.routes.routes or model not in current.routes.routes:
        return shelf
    mine = part(current, model)
    return Shelf(shelf.deployments + mine.deployments, RouteTable(0, {**shelf.routes.routes, **mine.routes.routes}))


def _as_target(shelf: Shelf) -> Target:
    return Target(deployments=shelf.deployments, routes=shelf.routes)
