"""Databases of earlier releases open; what was in them is still there."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from serving.control import schema
from serving.control.event import Event, Filter
from serving.control.migrations.__main__ import migrate
from serving.control.store import SqliteStore
from serving.errors import Unavailable
from tests.control.fake_cluster import target

FIRST = """
CREATE TABLE revisions (
    number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, author VARCHAR NOT NULL, reason VARCHAR NOT NULL,
    "at" FLOAT NOT NULL
);
CREATE TABLE counters (name VARCHAR NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (name));
INSERT INTO counters VALUES ('publication', 41);
"""
"""What the first engines made."""

FIRST_TARGET = {
    "settings": {
        "gateways": 1,
        "edge": "auto",
        "server_name": "serving",
        "limits": {
            "max_header_bytes": 65536, "max_body_bytes": 104857600, "max_json_bytes": 33554432, "header_timeout_s": 10.0,
            "body_timeout_s": 30.0, "idle_timeout_s": 75.0, "max_connections": 10000, "max_inflight_requests": 4096,
            "max_inflight_bytes": 536870912, "request_timeout_s": 60.0, "client_header": "", "client_requests_per_s": 0.0,
            "client_burst": 0, "client_inflight_requests": 0, "max_clients": 65536,
        },
    },
    "deployments": [
        {
            "plan": {
                "model": "mlp", "version": "1", "runtime": "torch", "artefact": "/m.pt2", "entry": "", "weights": "", "options": {},
                "threads": 1, "signature": None,
                "batching": {
                    "max_batch_size": 8, "max_delay_s": 0.0, "max_queue_requests": 2048, "max_queue_bytes": 1073741824, "timeout_s": 0.0,
                    "execution": "thread", "isolate": True,
                },
                "warm_up": [],
            },
            "replicas": 1, "cpus": 1.0, "gpus": 0.0, "accelerator_type": "", "labels": {}, "digest": "ab",
        }
    ],
    "routes": {"revision": 0, "routes": [["mlp", "1", ["1"], False]]},
    "descriptions": {"mlp": "words"},
    "given": ["gateways"],
}  # fmt: skip
"""A revision as the first engines wrote it. Values that a release adds have defaults, so that this can be read for ever."""


def first(folder: Path) -> Path:
    file = folder / "state.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(FIRST)
        row = (json.dumps(FIRST_TARGET), "ann", "the first", 1.5)
        connection.execute('insert into revisions (target, author, reason, "at") values (?, ?, ?, ?)', row)
        connection.commit()
    return file


def tables(file: Path) -> dict[str, list[tuple[object, ...]]]:
    """What SQLite says of each table: columns with their types, defaults, keys; and of each index, its columns."""
    with closing(sqlite3.connect(file)) as connection:
        names = [n for (n,) in connection.execute("select name from sqlite_master where type in ('table', 'index') order by name")]
        found = {n: connection.execute(f"pragma table_info('{n}')").fetchall() for n in names}
        return found | {f"index {n}": connection.execute(f"pragma index_info('{n}')").fetchall() for n in names}


def test_a_database_of_the_first_release_opens_with_all_that_was_in_it(tmp_path: Path) -> None:
    store = SqliteStore(first(tmp_path))
    assert store.recovered == ""
    found = store.latest()
    assert found is not None
    assert (found.number, found.author, found.reason, found.at, found.files) == (1, "ann", "the first", 1.5, ())
    assert found.target.routes.routes["mlp"].stable == "1"
    assert found.target.deployments[0].plan.batching.max_batch_size == 8
    assert store.next_publication() == 42
    assert store.append(target("mlp/2"), "bob", "", 2.5, events=[Event("apply", "x")]).number == 2
    assert [r.event.revision for r in store.events(Filter())] == [2]
    store.close()


def test_a_migrated_database_has_the_same_tables_as_a_new_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    SqliteStore(first(old)).close()
    SqliteStore(new / "state.db").close()
    assert tables(old / "state.db") == tables(new / "state.db")


def test_migrations_from_nothing_lead_to_the_same_tables(tmp_path: Path) -> None:
    file = first(tmp_path)
    migrate(file)
    migrate(file)  # harmless to repeat
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("select version_num from alembic_version").fetchall() == [(schema.HEAD,)]


def test_a_database_of_a_later_release_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    SqliteStore(file).close()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
        connection.commit()
    with pytest.raises(Unavailable, match=r"another release \(9999\) and cannot be brought to this one"):
        SqliteStore(file)
    assert [f.name for f in tmp_path.iterdir() if "damaged" in f.name] == []
