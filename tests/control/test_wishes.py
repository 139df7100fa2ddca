"""What clients ask of the whole engine, as the controller keeps it: edits, their numbers, a restart, and when a client is answered."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving.control.event import Event
from serving.control.wishes import MAX_REGIONS, Edit, Tell, WishBook, handlers, inspect, untold
from serving.errors import AlreadyExists, Internal, InvalidArgument, Unavailable, Unsupported
from serving.wishes import SharedRegion, Wishes


class Alone:
    """A Teller whose gateways know at once. told: the events of what was changed."""

    def __init__(self, book: WishBook, shares_memory: bool = True) -> None:
        self.book = book
        self.shares_memory = shares_memory
        self.told: list[Event] = []

    def wish(self, edit: Edit, tell: Tell = untold) -> Wishes:
        before = self.book.now
        self.told += tell(before, after := self.book.edit(edit))
        return after


@pytest.fixture
def key() -> Iterator[str]:
    path = Path("/dev/shm") / f"serving-test-{secrets.token_hex(6)}"
    path.write_bytes(bytes(100))
    yield f"/{path.name}"
    path.unlink()


def test_wishes_survive_the_controller(tmp_path: Path) -> None:
    book = WishBook(tmp_path / "wishes.json")
    book.edit(
        lambda w: replace(w, regions=(SharedRegion("r", "/k", 0, 8, 1, 2),), trace={"": {"trace_level": ["OFF"]}}, log={"log_info": False})
    )
    again = WishBook(tmp_path / "wishes.json")
    assert again.now == book.now
    assert again.now.number == 1
    assert Wishes.from_json(again.now.to_json()) == again.now


@pytest.mark.parametrize("text", ["", "{", "[]", '{"number": 1}'])
def test_a_file_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "wishes.json").write_text(text)
    assert WishBook(tmp_path / "wishes.json").now == Wishes()


def test_a_refused_edit_changes_nothing() -> None:
    book = WishBook()

    def refuse(wishes: Wishes) -> Wishes:
        raise InvalidArgument("no")

    with pytest.raises(InvalidArgument):
        book.edit(refuse)
    assert book.now.number == 0


def test_regions_come_and_go(key: str) -> None:
    book = WishBook()
    ask = handlers(Alone(book))
    for name in ("a", "b"):
        ask["shm_register"]({"region": name, "key": key, "offset": 10, "nbytes": 90})
    with pytest.raises(AlreadyExists, match="shared memory region 'a' already in manager"):
        ask["shm_register"]({"region": "a", "key": key, "offset": 0, "nbytes": 1})
    status = (Path("/dev/shm") / key[1:]).stat()
    assert book.now.regions[0] == SharedRegion("a", key, 10, 90, status.st_dev, status.st_ino)
    ask["shm_unregister"]({"region": "a"})
    assert [r.name for r in book.now.regions] == ["b"]
    ask["shm_unregister"]({"region": ""})
    assert book.now.regions == ()


def test_there_is_a_last_region(key: str) -> None:
    book = WishBook()
    book.edit(lambda w: replace(w, regions=tuple(SharedRegion(str(i), key, 0, 1) for i in range(MAX_REGIONS))))
    with pytest.raises(Unavailable, match="regions are registered"):
        handlers(Alone(book))["shm_register"]({"region": "r", "key": key, "offset": 0, "nbytes": 1})


def test_no_region_where_memory_is_not_shared(key: str) -> None:
    with pytest.raises(Unsupported, match="Client shared memory is disabled"):
        handlers(Alone(WishBook(), False))["shm_register"]({"region": "r", "key": key, "offset": 0, "nbytes": 1})


@pytest.mark.parametrize("key", ["", "/", "///", "/a/b", "..", "/..", ".", "/a\0b", "/" + "x" * 256])
def test_a_key_is_one_name(key: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid shm key"):
        inspect("r", key, 0, 1)


def test_what_is_not_a_file_is_not_opened(tmp_path: Path) -> None:
    link = Path("/dev/shm") / f"serving-test-{secrets.token_hex(6)}"
    link.symlink_to(tmp_path)
    try:
        with pytest.raises(Internal, match="Unable to open shared memory region"):
            inspect("r", f"/{link.name}", 0, 1)
    finally:
        link.unlink()


def test_a_setting_of_none_is_taken_back() -> None:
    ask = handlers(Alone(WishBook()))
    assert ask["trace"]({"model": "m", "settings": {"trace_rate": "5", "trace_count": "1"}})["trace"]["m"]["trace_rate"] == "5"
    assert ask["trace"]({"model": "m", "settings": {"trace_rate": None}})["trace"] == {"m": {"trace_count": "1"}}
    assert ask["trace"]({"model": "m", "settings": {"trace_count": None}})["trace"] == {}
    assert ask["log"]({"settings": {"log_info": False}})["log"] == {"log_info": False}
    assert ask["log"]({"settings": {"log_info": None}})["log"] == {}


def test_a_change_of_settings_is_an_event_and_a_repetition_is_none(key: str) -> None:
    teller = Alone(WishBook())
    ask = handlers(teller)
    ask["trace"]({"model": "m", "settings": {"trace_rate": "5", "trace_count": "1"}, "who": "ann"})
    ask["trace"]({"model": "m", "settings": {"trace_rate": "5"}})
    ask["trace"]({"model": "m", "settings": {"trace_rate": None}})
    ask["log"]({"settings": {"log_info": False}, "who": "bob"})
    ask["shm_register"]({"region": "r", "key": key, "offset": 0, "nbytes": 1})
    assert [(e.kind, e.model, e.who, e.what) for e in teller.told] == [
        ("settings.trace", "m", "ann", 'trace settings of m: trace_count = "1", trace_rate = "5"'),
        ("settings.trace", "m", "client", "trace settings of m: trace_rate as by default"),
        ("settings.log", "", "bob", "log settings: log_info = false"),
    ]
    assert [(e.before, e.after) for e in teller.told[1:]] == [
        ({"trace_rate": "5", "trace_count": "1"}, {"trace_count": "1"}),
        ({}, {"log_info": False}),
    ]


def test_two_that_register_the_same_name_at_once(key: str) -> None:
    lock = threading.Lock()

    class Locked(Alone):
        def wish(self, edit: Edit, tell: Tell = untold) -> Wishes:
            with lock:
                return super().wish(edit, tell)

    ask = handlers(Locked(WishBook()))
    outcomes: list[str] = []

    def register() -> None:
        try:
            ask["shm_register"]({"region": "r", "key": key, "offset": 0, "nbytes": 1})
            outcomes.append("registered")
        except AlreadyExists:
            outcomes.append("refused")

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 3 + ["registered"]
