"""SqliteStore: revisions of the Target, and events, in one SQLite file. Each write is on the disk (WAL, synchronous=FULL) when it returns.

A database of an earlier release is brought to this one's tables when it is opened (`migrations/`); one of a later release is refused.

The newest revision is also kept beside it, in a file of its own that is only ever replaced as a whole. A power cut in the middle of a
write costs neither: SQLite drops an unfinished transaction, and a copy that is not complete is not there. Where the database itself
is damaged (a disk, a backup, a hand), it is put aside and the copy starts a new one; `recovered` says so.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, create_engine, delete, event, insert, inspect, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from serving.control import journal, schema
from serving.control.approval import Approval
from serving.control.event import Event, Filter, Recorded, Verdict, verify
from serving.control.keyring import StoredKey
from serving.control.ports import Revision, YamlText
from serving.errors import InvalidArgument, Unavailable
from serving.plan import Target

_revisions, _counters = schema.revisions, schema.counters
COPY = "latest.json"
MIGRATE_S = 300.0


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

    def history(self, count: int = 20, before: int = 0) -> list[Revision]:
        """Return the newest revisions, newest first. Those that this release cannot read are left out."""
        return self._read(count, before, skip=True)

    def revision(self, number: int) -> Revision | None:
        """Raises InvalidArgument where another release wrote it."""
        rows = self._read(1, number + 1)
        return rows[0] if rows and rows[0].number == number else None

    def append(
        self, target: Target, author: str, reason: str, at: float, files: Sequence[YamlText] = (), events: Iterable[Event] = ()
    ) -> Revision:
        row = {"target": json.dumps(target.to_json()), "author": author, "reason": reason, "at": at}
        row["files"] = json.dumps([asdict(f) for f in files])
        with self._writing() as connection:
            key = connection.execute(insert(_revisions).values(**row)).inserted_primary_key
            assert key is not None
            journal.append(connection, [e.of_revision(key[0]) for e in events], at)
        with self._clear():
            _write_whole(self._file.with_name(COPY), json.dumps({"number": key[0], **row}))
        return Revision(key[0], target, author, reason, at, tuple(files))

    def next_publication(self) -> int:
        statement = upsert(_counters).values(name="publication", value=1)
        statement = statement.on_conflict_do_update(index_elements=["name"], set_={"value": _counters.c.value + 1})
        with self._writing() as connection:
            return int(connection.execute(statement.returning(_counters.c.value)).scalar_one())

    def record(self, events: Iterable[Event], at: float) -> list[Recorded]:
        with self._writing() as connection:
            return journal.append(connection, events, at)

    def events(self, which: Filter) -> list[Recorded]:
        with self._reading() as connection:
            return journal.find(connection, which)

    def verify(self, head: str = "") -> Verdict:
        """Follow the chain of all events; `head`: see `event.verify`."""
        with self._reading() as connection:
            return verify(journal.every(connection), head)

    def all_keys(self) -> list[StoredKey]:
        with self._reading() as connection:
            return [StoredKey.from_json(json.loads(row.body)) for row in connection.execute(select(schema.access_keys))]

    def put_key(self, key: StoredKey, events: Iterable[Event], at: float) -> None:
        row = {"id": key.hash.id, "name": key.hash.name, "body": json.dumps(key.to_json()), "revoked": key.revoked}
        statement = upsert(schema.access_keys).values(**row)
        with self._writing() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))
            journal.append(connection, events, at)

    def forget_key(self, number: str) -> None:
        with self._writing() as connection:
            connection.execute(delete(schema.access_keys).where(schema.access_keys.c.id == number))

    def approval(self, number: int) -> Approval | None:
        with self._reading() as connection:
            row = connection.execute(select(schema.approvals).where(schema.approvals.c.number == number)).first()
        return _approval(row) if row else None

    def approvals(self, states: Collection[str], limit: int, before: int = 0) -> list[Approval]:
        table = schema.approvals
        statement = select(table).where(table.c.state.in_(states)).order_by(table.c.number.desc()).limit(limit)
        if before:
            statement = statement.where(table.c.number < before)
        with self._reading() as connection:
            rows = connection.execute(statement).all()
        return [_approval(row) for row in reversed(rows)]

    def put_approval(self, approval: Approval, tell: Callable[[Approval], Iterable[Event]], at: float) -> Approval:
        """Keep one under its number, or a new one where that is 0, and record the events that `tell` makes of it."""
        table, row = schema.approvals, {"state": approval.state, "body": json.dumps(approval.to_json())}
        with self._writing() as connection:
            if approval.number:
                connection.execute(update(table).where(table.c.number == approval.number).values(**row))
            else:
                key = connection.execute(insert(table).values(**row)).inserted_primary_key
                assert key is not None
                approval = replace(approval, number=key[0])
            journal.append(connection, tell(approval), at)
        return approval

    def newest_event(self) -> int:
        """Return the number of the last event, 0 where there is none."""
        with self._reading() as connection:
            return journal.newest(connection)

    def delivered(self, url: str) -> int | None:
        """Return the last event that this webhook has had, None where it has not been heard of."""
        with self._reading() as connection:
            return journal.delivered(connection, url)

    def deliver(self, url: str, number: int) -> None:
        """Note that this webhook has had all events up to this one."""
        with self._writing() as connection:
            journal.deliver(connection, url, number)

    def copy(self, to: Path) -> None:
        """Write the whole database into a new file, as it is at one moment, while it is in use."""
        with self._clear(), closing(sqlite3.connect(to)) as other, self._engine.connect() as connection:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            source.backup(other)
        to.chmod(0o600)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._clear(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """Hold the write lock from the first statement on: what is read in the block is still so when it ends."""
        with self._clear(), self._engine.execution_options(write=True).begin() as connection:
            yield connection

    def _read(self, count: int, before: int = 0, skip: bool = False) -> list[Revision]:
        statement = select(_revisions).order_by(_revisions.c.number.desc()).limit(count)
        if before:
            statement = statement.where(_revisions.c.number < before)
        with self._reading() as connection:
            rows = connection.execute(statement).all()
        found = []
        for r in rows:
            try:
                target = self._target(r.number, r.target)
            except InvalidArgument:
                if skip:
                    continue
                raise
            files = tuple(YamlText(f["name"], f["text"]) for f in json.loads(r.files))
            found.append(Revision(r.number, target, r.author, r.reason, r.at, files))
        return found

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
        event.listen(self._engine, "begin", _begin)
        try:
            release = self._release()
            if release not in (schema.HEAD, ""):
                self._engine.dispose()
                self._migrate(release)
            with self._engine.connect() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if found != "ok":
                raise DatabaseError("PRAGMA quick_check", None, sqlite3.DatabaseError(str(found)))
        except BaseException:
            self._engine.dispose()
            raise
        self._file.chmod(0o600)

    def _release(self) -> str:
        """Return which release's tables are there. An empty database gets this one's."""
        with self._engine.execution_options(write=True).begin() as connection:
            tables = inspect(connection).get_table_names()
            if schema.version.name in tables:
                return str(connection.execute(select(schema.version)).scalar())
            if _revisions.name in tables:
                return "before there were migrations"
            schema.metadata.create_all(connection)
            connection.execute(insert(schema.version).values(version_num=schema.HEAD))
            return ""

    def _migrate(self, release: str) -> None:
        """Raises Unavailable with what the migration says, where it cannot."""
        ended = subprocess.run(
            [sys.executable, "-m", "serving.control.migrations", str(self._file)],
            capture_output=True,
            text=True,
            timeout=MIGRATE_S,
            check=False,
        )
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"])[-1]
            raise Unavailable(f"{self._file} is of another release ({release}) and cannot be brought to this one: {last}")

    def _compare_with_copy(self) -> None:
        """Take the copy over where the database does not have it."""
        try:
            copy = json.loads(self._file.with_name(COPY).read_text())
            row = {**{name: copy[name] for name in ("target", "author", "reason")}, "number": int(copy["number"])}
            row |= {"at": float(copy["at"]), "files": str(copy.get("files", "[]"))}
        except (OSError, ValueError, KeyError, TypeError):
            if self.recovered:
                self.recovered += "; there is no copy of the last revision"
            return
        with self._writing() as connection:
            newest = connection.execute(select(_revisions.c.number).order_by(_revisions.c.number.desc()).limit(1)).scalar() or 0
            if newest >= row["number"]:
                return
            connection.execute(insert(_revisions).values(**row))
            said = self.recovered or f"{self._file} had no revision {row['number']}"
            self.recovered = f"{said}; revision {row['number']} comes from its copy"
            journal.append(connection, [Event("store.recovered", self.recovered, revision=row["number"])], time.time())
            # publications have to go on above all that there were: seconds do, for there was never one a second
            connection.execute(upsert(_counters).values(name="publication", value=int(time.time())).on_conflict_do_nothing())

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


def _approval(row: Row[tuple[Any, ...]]) -> Approval:
    return replace(Approval.from_json(json.loads(row.body)), number=row.number)


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
    connection.isolation_level = None  # `_begin` says when a transaction begins; the driver would leave DDL out of it
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("write") else "BEGIN")
