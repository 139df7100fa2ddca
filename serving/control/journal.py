"""Journal: events in the state database. Appending takes SQLite's write lock first, so that the chain has one end whoever writes.

Its methods work on a connection that the store has opened; they know tables and events, and nothing of files and errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from sqlalchemy import Connection, Row, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from serving.control import schema
from serving.control.event import GENESIS, Event, Filter, Recorded, canonical, chained

_events = schema.events
_LATEST = select(_events.c.number, _events.c.hash).order_by(_events.c.number.desc()).limit(1)


def append(connection: Connection, events: Iterable[Event], at: float) -> list[Recorded]:
    """Chain events to the end. The connection's transaction has to hold the write lock already."""
    row = connection.execute(_LATEST).first()
    number, previous = (row.number, row.hash) if row else (0, GENESIS)
    recorded = []
    for event in events:
        number += 1
        recorded.append(chained(event, number, at, previous))
        previous = recorded[-1].hash
    if recorded:
        connection.execute(insert(_events), [_row(r) for r in recorded])
    return recorded


def find(connection: Connection, which: Filter) -> list[Recorded]:
    """Return the newest events that match, oldest first; those that come first after `which.after` where that is given."""
    statement = select(_events)
    if which.model:
        statement = statement.where(_events.c.model == which.model)
    if which.kind:
        statement = statement.where((_events.c.kind == which.kind) | _events.c.kind.startswith(f"{which.kind}.", autoescape=True))
    if which.since:
        statement = statement.where(_events.c.at >= which.since)
    if which.after is not None:
        statement = statement.where(_events.c.number > which.after).order_by(_events.c.number)
        return [_recorded(row) for row in connection.execute(statement.limit(which.limit))]
    rows = connection.execute(statement.order_by(_events.c.number.desc()).limit(which.limit)).all()
    return [_recorded(row) for row in reversed(rows)]


def every(connection: Connection) -> Iterator[Recorded]:
    """Yield the whole record, oldest first, without holding it in memory."""
    for row in connection.execution_options(yield_per=500).execute(select(_events).order_by(_events.c.number)):
        yield _recorded(row)


def newest(connection: Connection) -> int:
    """Return the number of the last event, 0 where there is none."""
    row = connection.execute(_LATEST).first()
    return row.number if row else 0


def delivered(connection: Connection, url: str) -> int | None:
    """Return the last event that this webhook has had, None where it is new."""
    found = connection.execute(select(schema.deliveries.c.event).where(schema.deliveries.c.url == url)).scalar()
    return None if found is None else int(found)


def deliver(connection: Connection, url: str, number: int) -> None:
    statement = upsert(schema.deliveries).values(url=url, event=number)
    connection.execute(statement.on_conflict_do_update(index_elements=["url"], set_={"event": number}))


def _row(r: Recorded) -> dict[str, object]:
    body = asdict(r.event)
    del body["kind"], body["model"]
    return {
        "number": r.number,
        "at": r.at,
        "kind": r.event.kind,
        "model": r.event.model,
        "body": canonical(body),
        "previous": r.previous,
        "hash": r.hash,
    }


def _recorded(row: Row[tuple[object, ...]]) -> Recorded:
    """Return the event of a row; one whose body is no event any more stays visible, and breaks the chain."""
    try:
        event = Event(kind=row.kind, model=row.model, **json.loads(row.body))
    except (TypeError, ValueError):
        event = Event(row.kind, f"cannot be read: {row.body}", row.model)
    return Recorded(row.number, row.at, event, row.previous, row.hash)
