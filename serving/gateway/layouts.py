"""LayoutIds, LayoutCache: layouts sent and received once per connection.

The two directions of one connection have ids of their own. Both sides keep at most MAX_LAYOUTS.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from serving.errors import DecodeError, ServingError
from serving.inference import Layout
from serving.wire.frame import MAX_LAYOUTS


class _Entry(NamedTuple):
    key: str
    layout: Layout
    id: int


class LayoutIds:
    """Ids of the layouts that this side has DEFINEd.

    Found by the identity of the Layout object, for a hash of a whole layout costs more than the rest of a request; by
    value only when the object is new. The table holds the object, so its identity cannot come back as another one.
    """

    __slots__ = ("_by_identity", "_by_value", "_entries", "_limit", "_next")

    def __init__(self, limit: int = MAX_LAYOUTS) -> None:
        self._limit = limit
        self._entries: list[_Entry] = []
        self._next = 0
        self._by_identity: dict[int, _Entry] = {}
        self._by_value: dict[tuple[str, Layout, str], _Entry] = {}

    def find(self, key: str, layout: Layout) -> int:
        """Return the id of the layout for the version `key`; -1 when it has to be defined first."""
        entry = self._by_identity.get(id(layout))
        if entry is not None and entry.key == key:
            return entry.id
        entry = self._by_value.get(_value(key, layout))
        if entry is None:
            return -1
        self._replace(entry, _Entry(key, layout, entry.id))
        return entry.id

    @property
    def full(self) -> bool:
        """Whether the next `define` takes the id of an older layout: frames that use it must be complete by then."""
        return len(self._entries) == self._limit

    def define(self, key: str, layout: Layout) -> tuple[int, bytes]:
        """Return a new id, the oldest one when all are in use, and the JSON of its DEFINE frame."""
        layout_id = self._next
        self._next = (layout_id + 1) % self._limit
        entry = _Entry(key, layout, layout_id)
        if layout_id == len(self._entries):
            self._entries.append(entry)
        else:
            old = self._entries[layout_id]
            self._by_value.pop(_value(old.key, old.layout), None)
            self._replace(old, entry)
        self._by_identity[id(layout)] = entry
        self._by_value[_value(key, layout)] = entry
        return layout_id, orjson.dumps({"m": key, **layout.to_json()})

    def _replace(self, old: _Entry, new: _Entry) -> None:
        held = self._by_identity.get(id(old.layout))
        if held is old:
            del self._by_identity[id(old.layout)]
        self._entries[new.id] = new
        self._by_identity[id(new.layout)] = new
        self._by_value[_value(new.key, new.layout)] = new

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"LayoutIds({len(self)} of {self._limit})"


def _value(key: str, layout: Layout) -> tuple[str, Layout, str]:
    """Return what tells layouts apart. The parameters as text too: 1, 1.0 and True are equal, and three things to a model."""
    return key, layout, repr(layout.parameters) if layout.parameters else ""


class LayoutCache:
    """Layouts by the JSON they arrived in, for all connections of a gateway: equal answers of different replicas share
    one object, which is what the encoders look up by. The oldest goes when there are too many."""

    __slots__ = ("_by_json", "_limit")

    def __init__(self, limit: int = 4 * MAX_LAYOUTS) -> None:
        self._limit = limit
        self._by_json: dict[bytes, Layout] = {}

    def get(self, body: bytes) -> Layout:
        """Return the layout. Raises DecodeError for JSON that is none."""
        found = self._by_json.get(body)
        if found is not None:
            return found
        try:
            layout = Layout.from_json(orjson.loads(body))
        except (ValueError, TypeError, KeyError, AttributeError, ServingError) as e:
            raise DecodeError(f"not a layout: {e}") from e
        if len(self._by_json) >= self._limit:
            del self._by_json[next(iter(self._by_json))]
        self._by_json[body] = layout
        return layout

    def __len__(self) -> int:
        return len(self._by_json)
