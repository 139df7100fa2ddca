"""SqliteStore: what was kept is there after a restart."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.control.event import Event, Filter
from serving.control.ports import YamlText
from serving.control.store import COPY, SqliteStore
from serving.errors import InvalidArgument, Unavailable
from tests.control.fake_cluster import target


def test_an_empty_store_has_no_revision(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "deep" / "state.db")
    assert store.latest() is None
    store.close()


def test_revisions_survive(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    store.append(target("mlp/1"), "ann", "first", 1.5)
    second = store.append(target("mlp/1", "echo/2", gateways=2), "bob", "second", 2.5)
    store.close()
    again = SqliteStore(tmp_path / "state.db")
    assert again.latest() == second
    assert [(r.number, r.author, r.reason, r.at) for r in again.history()] == [(2, "bob", "second", 2.5), (1, "ann", "first", 1.5)]
    again.close()


@given(st.lists(st.booleans(), max_size=12))
def test_publication_numbers_only_rise_whatever_restarts(restarts: list[bool]) -> None:

    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "state.db")
        last = 0
        for restart in restarts:
            if restart:
                store.close()
                store = SqliteStore(Path(folder) / "state.db")
            number = store.next_publication()
            assert number > last
            last = number
        store.close()


def test_the_file_is_private_and_safe_against_a_power_cut(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    store = SqliteStore(file)
    assert file.stat().st_mode & 0o777 == 0o600
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    store.close()


def kept(folder: Path, *models: str) -> Path:
    """Keep one revision for each model, close, and return the database."""
    store = SqliteStore(folder / "state.db")
    for model in models:
        store.append(target(model), "ann", f"apply {model}", 1.5)
        store.next_publication()
    store.close()
    return folder / "state.db"


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "zeros": lambda file: file.write_bytes(b"\0" * 5000),
    "text": lambda file: file.write_text("no database"),
    "cut": _cut,
    "a page of noise": lambda file: file.write_bytes(file.read_bytes()[:4096] + bytes(range(256)) * 16 + file.read_bytes()[8192:]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_database_is_put_aside_and_the_copy_of_the_last_revision_goes_on(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    file = kept(tmp_path, "mlp/1", "mlp/2")
    damage(file)
    store = SqliteStore(file)
    found = store.latest()
    assert found is not None
    assert (found.number, found.target, found.author, found.at) == (2, target("mlp/2"), "ann", 1.5)
    assert f"{file} was damaged and lies in {file}.damaged-1 now; revision 2 comes from its copy" == store.recovered
    assert store.next_publication() > 2
    assert store.append(target("mlp/3"), "ann", "", 2.5).number == 3
    store.close()
    damage(file)
    again = SqliteStore(file)
    assert "damaged-2" in again.recovered
    assert again.latest() is not None
    again.close()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_without_a_copy_it_begins_anew_and_says_so(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    file = kept(tmp_path, "mlp/1")
    damage(file)
    (tmp_path / COPY).write_text('{"number": 1, "tar')
    store = SqliteStore(file)
    assert store.latest() is None
    assert "there is no copy" in store.recovered
    store.close()


def test_a_database_that_is_gone_comes_back_from_the_copy(tmp_path: Path) -> None:
    file = kept(tmp_path, "mlp/1")
    file.unlink()
    store = SqliteStore(file)
    found = store.latest()
    assert found is not None
    assert found.target == target("mlp/1")
    assert "comes from its copy" in store.recovered
    store.close()


@pytest.mark.parametrize("copy", ["", "{", "[]", '{"number": "x"}', "\0" * 100])
def test_a_copy_that_is_no_use_harms_nobody(tmp_path: Path, copy: str) -> None:
    file = kept(tmp_path, "mlp/1")
    (tmp_path / COPY).write_text(copy)
    store = SqliteStore(file)
    assert store.recovered == ""
    assert store.latest() is not None
    store.close()


def test_a_disk_that_refuses_is_unavailable_and_nothing_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises(Unavailable, match="unable to open database file"):
        SqliteStore(tmp_path / "state.db")
    assert [f.name for f in tmp_path.iterdir()] == ["state.db"]


def test_a_revision_of_another_release_says_so(tmp_path: Path) -> None:
    file = kept(tmp_path, "mlp/1")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("""update revisions set target = '{"settings": {"wings": 2}}'""")
        connection.commit()
    store = SqliteStore(file)
    with pytest.raises(InvalidArgument, match=r"revision 1 in .* cannot be read .* another release"):
        store.latest()
    assert store.append(target("mlp/2"), "ann", "", 2.5).number == 2
    latest = store.latest()
    assert latest is not None
    assert latest.target == target("mlp/2")
    store.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_torn_write_costs_at_most_what_was_not_promised(tmp_path: Path, data: st.DataObject) -> None:
    """The machine stops at any byte of the journal: the database opens, and has every revision that `append` had returned."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    store = SqliteStore(folder / "state.db")
    store.append(target("mlp/1"), "ann", "first", 1.5)
    promised = data.draw(st.booleans(), "the second was promised")
    copy = (folder / COPY).read_bytes()
    store.append(target("mlp/2"), "ann", "second", 2.5)
    after = Path(tempfile.mkdtemp(dir=tmp_path))
    for name in ("state.db", "state.db-wal", COPY):
        shutil.copyfile(folder / name, after / name)
    store.close()
    if not promised:
        (after / COPY).write_bytes(copy)
    journal = after / "state.db-wal"
    stop = data.draw(st.integers(0, journal.stat().st_size), "bytes of the journal that reached the disk")
    noise = data.draw(st.binary(max_size=64), "and what lies behind")
    journal.write_bytes(journal.read_bytes()[:stop] + noise)
    again = SqliteStore(after / "state.db")
    found = again.latest()
    assert found is not None
    assert found.number in ((2,) if promised else (1, 2))
    assert found.target == target(f"mlp/{found.number}")
    again.close()


def test_a_revision_keeps_the_text_of_its_files_and_its_events(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    files = (YamlText("mlp.yaml", "models: {}  # ä\n"),)
    first = store.append(target("mlp/1"), "ann", "first", 1.5, files, [Event("apply", "mlp/1 starts", "mlp")])
    assert store.revision(1) == first
    assert store.revision(2) is None
    assert first.files == files
    assert [(r.number, r.event.kind, r.event.revision) for r in store.events(Filter())] == [(1, "apply", 1)]
    store.close()


def test_events_are_found_by_model_kind_time_and_number(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    for n, kind in enumerate(["apply", "version.ready", "version.failed", "versions"]):
        store.record([Event(kind, "", model) for model in ("a", "b")], at=float(n))

    def found(**which: Any) -> list[int]:
        return [r.number for r in store.events(Filter(**which))]

    assert found() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found(model="b") == [2, 4, 6, 8]
    assert found(kind="version") == [3, 4, 5, 6]
    assert found(kind="version.ready") == [3, 4]
    assert found(since=2.0) == [5, 6, 7, 8]
    assert found(limit=2) == [7, 8]
    assert found(after=3, limit=2) == [4, 5]
    assert store.newest_event() == 8
    store.close()


def test_an_event_that_was_edited_in_the_file_shows(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    recorded = store.record([Event("apply", "x", "mlp", who="ann"), Event("apply", "y", "mlp", who="bob")], 1.5)
    assert store.verify().to_json() == {"events": 2, "head": recorded[1].hash, "problem": "", "intact": True}
    for edit in ("update events set body = replace(body, 'ann', 'eve') where number = 1", "update events set body = '}' where number = 1"):
        with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
            connection.execute(edit)
            connection.commit()
        assert store.verify().problem == "event 1 (apply mlp) was changed after it was recorded"
    store.close()


def test_two_processes_that_record_make_one_chain(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "state.db") for _ in range(2)]

    def write(store: SqliteStore) -> None:
        for n in range(20):
            store.record([Event("apply", str(n))], float(n))

    threads = [threading.Thread(target=write, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = stores[0].verify()
    assert (found.events, found.problem) == (40, "")
    for store in stores:
        store.close()


def test_what_a_webhook_has_had_is_remembered(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    assert store.delivered("http://a") is None
    store.deliver("http://a", 3)
    store.deliver("http://a", 5)
    store.close()
    again = SqliteStore(tmp_path / "state.db")
    assert again.delivered("http://a") == 5
    again.close()


def test_a_copy_is_whole_while_the_database_is_written_to(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    store.append(target("mlp/1"), "ann", "", 1.5, events=[Event("apply", "x")])
    (tmp_path / "elsewhere").mkdir()
    store.copy(tmp_path / "elsewhere" / "state.db")
    store.append(target("mlp/2"), "ann", "", 2.5)
    store.close()
    copy = SqliteStore(tmp_path / "elsewhere" / "state.db")
    assert copy.verify().events == 1
    assert copy.revision(1) is not None
    copy.close()
