"""The keyring: keys that are made, kept as hashes, listed and ended; the first one; the key set that is read again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from serving.access.identity import Role
from serving.access.key import parts_of
from serving.access.settings import AccessSettings, JwtSettings
from serving.control.event import Filter
from serving.control.keyring import ADMIN_FILE, Keyring, Quota
from serving.control.store import SqliteStore
from serving.errors import AlreadyExists, InvalidArgument, NotFound, Unauthenticated
from tests.access.tokens import jwk, key_set, token

ON = AccessSettings(True)


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "state.db")


@pytest.fixture
def ring(store: SqliteStore, tmp_path: Path, clock: Time) -> Keyring:
    return Keyring(store, tmp_path, clock)


def opens(ring: Keyring, key: str, now: float = 1000.0) -> bool:
    door = ring.door(ON)
    assert door is not None
    try:
        door.identify({b"x-api-key": key.encode()}, now)
    except Unauthenticated:
        return False
    return True


def test_a_key_is_kept_as_a_hash(ring: Keyring, store: SqliteStore, tmp_path: Path) -> None:
    key, stored = ring.create("ci", ["predictor:mlp"], 2000.0, Quota(5.0, 10, 2), "ann")
    parts = parts_of(key)
    assert parts is not None
    assert opens(ring, key)
    assert not opens(ring, key, 2000.0)
    for file in tmp_path.glob("state.db*"):
        assert parts[1].encode() not in file.read_bytes()
    assert stored.told(1000.0)["state"] == "valid"
    assert stored.told(2000.0)["state"] == "expired"
    event = store.events(Filter(kind="key.created"))[0]
    assert (event.event.who, event.event.what) == ("ann", "key ci: predictor:mlp")
    assert parts[1] not in json.dumps(event.to_json())
    assert stored.hash.digest not in json.dumps(event.to_json())


def test_keys_survive_a_restart_and_their_end_does(ring: Keyring, tmp_path: Path, clock: Time) -> None:
    one, _ = ring.create("one", ["admin"])
    two, _ = ring.create("two", ["viewer", "deployer:m*"])
    ring.revoke("two")
    again = Keyring(SqliteStore(tmp_path / "state.db"), tmp_path, clock)
    assert opens(again, one)
    assert not opens(again, two)
    assert [k.told(1000.0)["state"] for k in again.all()] == ["valid", "revoked"]
    three, _ = again.create("two", ["viewer"])
    assert opens(again, three)
    assert not opens(again, two)


def test_rules_are_the_same_object_until_something_changes(ring: Keyring) -> None:
    first = ring.rules(ON)
    assert first is not None
    assert ring.rules(ON) is first
    ring.create("ci", ["viewer"])
    assert ring.rules(ON) is not first
    assert ring.rules(AccessSettings()) is None
    assert ring.door(AccessSettings()) is None


def test_the_first_admin_finds_a_key_in_a_private_file(ring: Keyring, tmp_path: Path) -> None:
    ring.rules(AccessSettings())
    assert not (tmp_path / ADMIN_FILE).exists(), "while access is off nobody needs one"
    ring.rules(ON)
    file = tmp_path / ADMIN_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert opens(ring, file.read_text().strip())
    assert [k.hash.name for k in ring.all()] == ["admin"]
    ring.rules(ON)
    assert len(ring.all()) == 1


def test_the_last_admin_cannot_lock_everybody_out(ring: Keyring, clock: Time) -> None:
    ring.rules(ON)
    with pytest.raises(InvalidArgument, match="last key with the role admin"):
        ring.revoke("admin")
    ring.create("boss", ["admin"], 1500.0)
    ring.revoke("admin")
    clock.now = 1500.0
    assert ring.rules(ON) is not None
    assert [k.told(1500.0)["state"] for k in ring.all()] == ["revoked", "expired", "valid"], "the last one has expired: there is a new one"


def test_access_opens_for_an_admin_whatever_keys_there_are(store: SqliteStore, tmp_path: Path, clock: Time) -> None:
    ring = Keyring(store, tmp_path, clock, most=2)
    ring.create("admin", ["viewer"])
    ring.create("ci", ["predictor"])
    ring.rules(ON)
    assert opens(ring, (tmp_path / ADMIN_FILE).read_text().strip())
    assert sorted(k.hash.name for k in ring.all()) == ["admin", "admin-2", "ci"]


def test_keys_that_have_ended_make_room_for_new_ones(store: SqliteStore, tmp_path: Path, clock: Time) -> None:
    ring = Keyring(store, tmp_path, clock, most=3)
    for name, until in (("short", 1100.0), ("gone", 0.0), ("stays", 0.0)):
        ring.create(name, ["viewer"], until)
        clock.now += 1.0
    ring.revoke("gone")
    ring.create("new", ["viewer"])
    assert [k.hash.name for k in ring.all()] == ["short", "stays", "new"], "of those that have ended"
    clock.now = 1100.0
    ring.create("newer", ["viewer"])
    with pytest.raises(InvalidArgument, match="there are 3 keys, and no more are kept; revoke some first"):
        ring.create("newest", ["viewer"])
    again = Keyring(store, tmp_path, clock)
    assert [k.hash.name for k in again.all()] == ["stays", "new", "newer"]
    created = [e.event.what for e in store.events(Filter(kind="key.created"))]
    assert "key short: viewer" in created, "the record forgets nothing"


def test_what_cannot_be_a_key_is_refused(ring: Keyring) -> None:
    ring.create("ci", ["viewer"])
    for name, grants, until, kind in [
        ("ci", ["viewer"], 0.0, AlreadyExists),
        ("", ["viewer"], 0.0, InvalidArgument),
        ("a b", ["viewer"], 0.0, InvalidArgument),
        ("x", [], 0.0, InvalidArgument),
        ("x", ["king"], 0.0, InvalidArgument),
        ("x", ["viewer"], 999.0, InvalidArgument),
    ]:
        with pytest.raises(kind):
            ring.create(name, grants, until)
    with pytest.raises(NotFound):
        ring.revoke("nobody")


def test_a_switch_counts_more_than_the_settings(store: SqliteStore, tmp_path: Path, clock: Time) -> None:
    assert Keyring(store, tmp_path, clock, forced=True).rules(AccessSettings()) is not None
    assert Keyring(store, tmp_path, clock, forced=False).rules(ON) is None


def test_a_key_set_is_read_again_and_a_broken_one_keeps_the_last(ring: Keyring, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    settings = AccessSettings(True, JwtSettings(str(file), "https://idp.test", ("serving",)))

    def admits(kid: str) -> bool:
        door = ring.door(settings)
        assert door is not None
        try:
            found = door.identify({b"authorization": f"Bearer {token(kid=kid, which=kid, exp=3000, roles=['viewer'])}".encode()}, 1000.0)
        except Unauthenticated:
            return False
        return found.may(Role.viewer)

    assert not admits("one")
    assert "keys.json" in ring.problem
    file.write_text(key_set(jwk("ES256", "one", which="one")))
    assert admits("one")
    assert ring.problem == ""
    file.write_text(key_set(jwk("ES256", "one", which="one"), jwk("ES256", "two", which="two")))
    assert admits("one")
    assert admits("two")
    file.write_text("half a fi")
    assert admits("two")
    assert ring.problem
    os.replace(_written(tmp_path / "next.json", key_set(jwk("ES256", "two", which="two"))), file)
    assert not admits("one"), "keys that are gone from the set are gone"
    assert admits("two")


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file
