"""SqliteStore: what was kept is there after a restart."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from serving.control.store import SqliteStore
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
