"""SqliteStore: revisions of the Target in one SQLite file. Each write is on the disk (WAL, synchronous=FULL) when its call returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sqlalchemy import Column as C
from sqlalchemy import Float, Integer, MetaData, String, Table, Text, create_engine, event, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import URL

from serving.control.ports import Revision
from serving.plan import Target

_schema = MetaData()
_revisions = Table(
    "revisions",
    _schema,
    C("number", Integer, primary_key=True, autoincrement=True),
    C("target", Text, nullable=False),
    C("author", String, nullable=False),
    C("reason", String, nullable=False),
    C("at", Float, nullable=False),
    sqlite_autoincrement=True,
)
_counters = Table("counters", _schema, C("name", String, primary_key=True), C("value", Integer, nullable=False))


class SqliteStore:
    """The Store of one state directory. May be used from several threads."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._engine = create_engine(URL.create("sqlite", database=str(file)))
        event.listen(self._engine, "connect", _make_durable)
        _schema.create_all(self._engine)
        file.chmod(0o600)

    def latest(self) -> Revision | None:
        rows = self._read(1)
        return rows[0] if rows else None

    def history(self, count: int = 20) -> list[Revision]:
        """Return the newest revisions, newest first."""
        return self._read(count)

    def append(self, target: Target, author: str, reason: str, at: float) -> Revision:
        row = {"target": json.dumps(target.to_json()), "author": author, "reason": reason, "at": at}
        with self._engine.begin() as connection:
            number = connection.execute(insert(_revisions).values(**row)).inserted_primary_key
        assert number is not None
        return Revision(number[0], target, author, reason, at)

    def next_publication(self) -> int:
        statement = upsert(_counters).values(name="publication", value=1)
        statement = statement.on_conflict_do_update(index_elements=["name"], set_={"value": _counters.c.value + 1})
        with self._engine.begin() as connection:
            return int(connection.execute(statement.returning(_counters.c.value)).scalar_one())

    def close(self) -> None:
        self._engine.dispose()

    def _read(self, count: int) -> list[Revision]:
        statement = select(_revisions).order_by(_revisions.c.number.desc()).limit(count)
        with self._engine.connect() as connection:
            rows = connection.execute(statement).all()
        return [Revision(r.number, Target.from_json(json.loads(r.target)), r.author, r.reason, r.at) for r in rows]


def _make_durable(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
