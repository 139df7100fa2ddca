"""What was before: one model through the revisions, and the way back. Pure but for the store that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from serving.control.acceptance import effects, part
from serving.control.ports import Revision, Store
from serving.errors import NotFound
from serving.plan import Change, ChangeSettings, ResizeGateways, Target

PAGE = 50
FARTHEST = 1000
"""Revisions that are looked through for the one to go back to."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A revision, and in sentences what it meant to come to it."""

    revision: Revision
    effects: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        r = self.revision
        return {
            "revision": r.number,
            "at": r.at,
            "author": r.author,
            "reason": r.reason,
            "effects": list(self.effects),
            "files": [f.name for f in r.files],
        }


def entries(store: Store, model: str = "", limit: int = 20) -> list[Entry]:
    """Return the newest revisions, newest first; of a model: those that changed something about it."""
    found: list[Entry] = []
    for revision, before in _pairs(store):
        if model and part(revision.target, model) == part(before or Target(), model):
            continue
        changes = effects(before, revision.target).changes
        found.append(Entry(revision, tuple(c.effect for c in changes if not model or _concerns(c, model))))
        if len(found) == limit:
            break
    return found


def way_back(store: Store, model: str, to: int = 0) -> Revision:
    """Return the revision to go back to: the one of that number, else the newest in which the model was there and was another.

    Raises NotFound where there is none, or where it has no such model.
    """
    if to:
        revision = store.revision(to)
        if revision is None:
            raise NotFound(f"there is no revision {to}")
        if model not in revision.target.routes.routes:
            raise NotFound(f"revision {to} has no model '{model}'")
        return revision
    latest = store.latest()
    now = part(latest.target, model) if latest else Target()
    for revision, _ in _pairs(store):
        then = part(revision.target, model)
        if then != now and then.routes.routes:
            return revision
    if now.routes.routes:
        raise NotFound(f"no revision is known in which '{model}' was another")
    raise NotFound(f"there is no model '{model}', and no revision in which there was one")


def _concerns(change: Change, model: str) -> bool:
    return not isinstance(change, ResizeGateways | ChangeSettings) and change.subject.split("/")[0] == model


def _pairs(store: Store) -> Iterator[tuple[Revision, Target | None]]:
    """Yield each revision with the target before it, newest first; before the first there is none."""
    later: Revision | None = None
    before, seen = 0, 0
    while seen < FARTHEST and (page := store.history(PAGE, before)):
        for revision in page:
            if later is not None:
                yield later, revision.target
            later = revision
        before, seen = page[-1].number, seen + len(page)
    if later is not None and seen < FARTHEST:
        yield later, None
