"""SqliteStore: revisions of the Target in one SQLite file. Each write is on the disk (WAL, synchronous=FULL) when its call returns.

The newest revision is also kept beside it, in a file of its own that is only ever replaced as a whole. A power cut in the middle of a
write costs neither: SQLite drops an unfinished transaction, and a copy that is not complete is not there. Where the database itself
is damaged (a disk, a backup, a hand), it is put aside and the copy starts a new one; `recovered` says so.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Column as C
from sqlalchemy import Float, Integer, MetaData, String, Table, Text, create_engine, event, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from serving.control.ports import Revision
from serving.errors import InvalidArgument, Unavailable
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
COPY = "latest.json"


class SqliteStore:
    """The Store of one state directory. May be used from several threads.

    recovered  what had to be done to open it, for people; "" where all was well

    Every method raises Unavailable where the disk does not do as it should.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.recovered = ""
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with self._clear(damaged=False):
                self._open()
        except DatabaseError:
            aside = _put_aside(file)
            self.recovered = f"{file} was damaged and lies in {aside} now"
            with self._clear():
                self._open()
        self._compare_with_copy()

    def latest(self) -> Revision | None:
        """Raises InvalidArgument where it was written by an engine that knows other things than this one."""
        rows = self._read(1)
        return rows[0] if rows else None

    def history(self, count: int = 20) -> list[Revision]:
        """Return the newest revisions, newest first."""
        return self._read(count)

    def append(self, target: Target, author: str, reason: str, at: float) -> Revision:
        row = {"target": json.dumps(target.to_json()), "author": author, "reason": reason, "at": at}
        with self._clear(), self._engine.begin() as connection:
            key = connection.execute(insert(_revisions).values(**row)).inserted_primary_key
        assert key is not None
        with self._clear():
            _write_whole(self._file.with_name(COPY), json.dumps({"number": key[0], **row}))
        return Revision(key[0], target, author, reason, at)

    def next_publication(self) -> int:
        statement = upsert(_counters).values(name="publication", value=1)
        statement = statement.on_conflict_do_update(index_elements=["name"], set_={"value": _counters.c.value + 1})
        with self._clear(), self._engine.begin() as connection:
            return int(connection.execute(statement.returning(_counters.c.value)).scalar_one())

    def close(self) -> None:
        self._engine.dispose()

    def _read(self, count: int) -> list[Revision]:
        statement = select(_revisions).order_by(_revisions.c.number.desc()).limit(count)
        with self._clear(), self._engine.connect() as connection:
            rows = connection.execute(statement).all()
        return [Revision(r.number, self._target(r.number, r.target), r.author, r.reason, r.at) for r in rows]

    def _target(self, number: int, text: str) -> Target:
        try:
            return Target.from_json(json.loads(text))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument(
                f"revision {number} in {self._file} cannot be read ({type(error).__name__}: {error}); another release of serving wrote it"
            ) from None

    # Opening

    def _open(self) -> None:
        self._engine = create_engine(URL.create("sqlite", database=str(self._file)))
        event.listen(self._engine, "connect", _make_durable)
        try:
            _schema.create_all(self._engine)
            with self._engine.connect() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if found != "ok":
                raise DatabaseError("PRAGMA quick_check", None, sqlite3.DatabaseError(str(found)))
        except BaseException:
            self._engine.dispose()
            raise
        self._file.chmod(0o600)

    def _compare_with_copy(self) -> None:
        """Take the copy over where the database does not have it."""
        try:
            copy = json.loads(self._file.with_name(COPY).read_text())
            row = {**{name: copy[name] for name in ("target", "author", "reason")}, "number": int(copy["number"]), "at": float(copy["at"])}
        except (OSError, ValueError, KeyError, TypeError):
            if self.recovered:
                self.recovered += "; there is no copy of the last revision"
            return
        with self._clear(), self._engine.begin() as connection:
            newest = connection.execute(select(_revisions.c.number).order_by(_revisions.c.number.desc()).limit(1)).scalar() or 0
            if newest >= row["number"]:
                return
            connection.execute(insert(_revisions).values(**row))
            # publications have to go on above all that there were: seconds do, for there was never one a second
            connection.execute(upsert(_counters).values(name="publication", value=int(time.time())).on_conflict_do_nothing())
        said = self.recovered or f"{self._file} had no revision {row['number']}"
        self.recovered = f"{said}; revision {row['number']} comes from its copy"

    @contextmanager
    def _clear(self, damaged: bool = True) -> Iterator[None]:
        """Turn what SQLite and the disk say into Unavailable; a damaged database too, unless `damaged` is False."""
        try:
            yield
        except DatabaseError as error:
            if not damaged and type(error.orig) is sqlite3.DatabaseError:
                raise
            raise Unavailable(f"{self._file}: {error.orig}") from error
        except OSError as error:
            raise Unavailable(f"{error.filename or self._file}: {error.strerror}") from error


def _put_aside(file: Path) -> Path:
    """Rename a database with its journals; return its new name."""
    count = 1
    while (aside := file.with_name(f"{file.name}.damaged-{count}")).exists():
        count += 1
    for ending in ("", "-wal", "-shm"):
        journal = file.with_name(file.name + ending)
        if journal.exists():
            journal.rename(aside.with_name(aside.name + ending))
    return aside


def _write_whole(file: Path, text: str) -> None:
    """Write a file so that after a power cut there is the old one or the new one."""
    draft = file.with_name(f"{file.name}.draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _make_durable(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
