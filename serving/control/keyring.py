"""Keyring: the engine's API keys, and from them what gateways and the control API check. Keys come in and go out through this alone.

The first admin key is made by itself when access is on and nobody could open anything: it is written to `admin.key` in the state
directory (0600), where `serving` finds it for commands on this machine.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Protocol, Self

from serving.access.door import Door
from serving.access.identity import NO_QUOTA, Grant, Quota, Role
from serving.access.key import KeyHash, new_key
from serving.access.settings import AccessRules, AccessSettings
from serving.access.token import public_keys
from serving.control.event import ENGINE, Event
from serving.errors import AlreadyExists, InvalidArgument, NotFound

log = logging.getLogger(__name__)

ADMIN_FILE = "admin.key"
ADMIN = "admin"
MAX_KEYS = 10_000
"""Those that were revoked or have expired are kept, too, as long as there is room."""
MAX_JWKS_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\-]{0,99}\Z")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is kept. Times in seconds since 1970; revoked 0.0: it has not been."""

    hash: KeyHash
    created: float
    by: str
    revoked: float = 0.0

    def holds(self, now: float) -> bool:
        return not self.revoked and not 0.0 < self.hash.until <= now

    def told(self, now: float) -> dict[str, Any]:
        """Return what people are told of it: all but the digest."""
        h = self.hash
        state = "revoked" if self.revoked else "valid" if self.holds(now) else "expired"
        return {
            "name": h.name, "id": h.id, "grants": list(h.grants), "state": state, "expires": h.until, "created": self.created,
            "by": self.by, "revoked": self.revoked,
            "requests_per_s": h.requests_per_s, "burst": h.burst, "inflight_requests": h.inflight_requests,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "hash": KeyHash.from_json(value["hash"])})


class KeyStore(Protocol):
    """Where keys are kept."""

    def all_keys(self) -> list[StoredKey]:
        """Return all keys, revoked ones too."""

    def put_key(self, key: StoredKey, events: Iterable[Event], at: float) -> None:
        """Keep a key, in place of the one with the same id, and record the events."""

    def forget_key(self, number: str) -> None:
        """Keep the key with this id no longer."""


class Keyring:
    """May be used from several threads. changed: called when gateways have to be told."""

    def __init__(
        self, store: KeyStore, state_dir: Path, now: Callable[[], float], forced: bool | None = None, most: int = MAX_KEYS
    ) -> None:
        """forced: access is on or off, whatever the settings say. most: so many keys are kept."""
        self._store = store
        self._folder = state_dir
        self._now = now
        self._forced = forced
        self._most = most
        self._lock = threading.RLock()
        self._keys = {key.hash.id: key for key in store.all_keys()}
        self._jwks: tuple[tuple[int, ...], str] = ((), "")
        self._rules: AccessRules | None = None
        self._door: Door | None = None
        self.problem = ""
        """What is wrong with the key set for tokens, "" where nothing is."""

    def settle(self, settings: AccessSettings) -> AccessSettings:
        """Return the settings that count."""
        return settings if self._forced is None else replace(settings, enabled=self._forced)

    def rules(self, settings: AccessSettings) -> AccessRules | None:
        """Return what is to be checked now, None while access is off; the same object as long as nothing has changed."""
        settings = self.settle(settings)
        with self._lock:
            if not settings.enabled:
                self._rules = self._door = None
                return None
            self._ensure_admin(settings)
            now = self._now()
            keys = sorted((k.hash for k in self._keys.values() if k.holds(now)), key=lambda h: h.id)
            jwks = self._read_jwks(settings.jwt.jwks) if settings.jwt else ""
            rules = AccessRules(tuple(keys), settings.jwt, jwks, settings.quota)
            if rules != self._rules:
                self._door = Door(rules)
                self._rules = rules
            return self._rules

    def door(self, settings: AccessSettings) -> Door | None:
        """Return what the control API checks with, None while access is off."""
        with self._lock:
            self.rules(settings)
            return self._door

    def all(self) -> list[StoredKey]:
        """Return all keys, the oldest first."""
        with self._lock:
            return sorted(self._keys.values(), key=lambda k: (k.created, k.hash.name))

    def create(
        self, name: str, grants: Sequence[str], until: float = 0.0, quota: Quota | None = None, by: str = ENGINE
    ) -> tuple[str, StoredKey]:
        """Make a key and return it, the only time that it is seen. Raises AlreadyExists, InvalidArgument."""
        if not _NAME.match(name):
            raise InvalidArgument(f"'{name[:140]}' is not the name of a key: 1 to 100 letters, digits, '_', '-', '.' or '@'")
        parsed = [str(Grant.of(text)) for text in grants]
        limits = quota or NO_QUOTA
        with self._lock:
            now = self._now()
            if not parsed:
                raise InvalidArgument("a key needs a role")
            if any(k.hash.name == name and k.holds(now) for k in self._keys.values()):
                raise AlreadyExists(f"there is a key '{name}' already; revoke it first")
            if until and until <= now:
                raise InvalidArgument("the key would have expired already")
            if len(self._keys) >= self._most:
                self._forget_one(now)
            return self._make(name, parsed, until, limits, by)

    def _make(self, name: str, grants: list[str], until: float, limits: Quota, by: str) -> tuple[str, StoredKey]:
        now = self._now()
        key, number, digest = new_key()
        stored = StoredKey(KeyHash(number, digest, name, tuple(grants), until, **asdict(limits)), now, by)
        self._put(stored, Event("key.created", f"key {name}: {', '.join(grants)}", who=by, after=stored.told(now)))
        return key, stored

    def _forget_one(self, now: float) -> None:
        """Make room: the oldest key that has ended is known by its events only. Raises InvalidArgument where all of them hold."""
        ended = [k for k in self._keys.values() if not k.holds(now)]
        if not ended:
            raise InvalidArgument(f"there are {self._most} keys, and no more are kept; revoke some first")
        oldest = min(ended, key=lambda k: k.created).hash.id
        self._store.forget_key(oldest)
        del self._keys[oldest]

    def revoke(self, name: str, by: str = ENGINE) -> StoredKey:
        """End a key, by its name or id. Raises NotFound; InvalidArgument for the last one that may administer."""
        with self._lock:
            now = self._now()
            found = [k for k in self._keys.values() if not k.revoked and name in (k.hash.name, k.hash.id)]
            if not found:
                raise NotFound(f"there is no key '{name}'")
            # an expired key may have the name of one that holds
            key = max(found, key=lambda k: (k.holds(now), k.created))
            others = [k for k in self._keys.values() if k is not key and self._administers(k)]
            if self._administers(key) and not others:
                raise InvalidArgument(f"'{name}' is the last key with the role admin; make another one first")
            ended = replace(key, revoked=now)
            self._put(ended, Event("key.revoked", f"key {key.hash.name}", who=by, before=key.told(now), after=ended.told(now)))
            return ended

    def _put(self, key: StoredKey, event: Event) -> None:
        self._store.put_key(key, [event], self._now())
        self._keys[key.hash.id] = key

    def _administers(self, key: StoredKey) -> bool:
        return key.holds(self._now()) and key.hash.identity.may_all(Role.admin)

    def _ensure_admin(self, settings: AccessSettings) -> None:
        """Make the first key, where there is none that could make others; where tokens can, only if there has never been a key."""
        if any(map(self._administers, self._keys.values())) or (settings.jwt is not None and self._keys):
            return
        # access has to open whatever else there is: another key may have the name, and there may be no room
        taken = {k.hash.name for k in self._keys.values() if k.holds(self._now())}
        name = next(n for n in chain([ADMIN], (f"{ADMIN}-{i}" for i in count(2))) if n not in taken)
        key, _ = self._make(name, ["admin"], 0.0, NO_QUOTA, ENGINE)
        file = self._folder / ADMIN_FILE
        draft = file.with_name(f"{ADMIN_FILE}.draft")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(key + "\n")
        draft.replace(file)
        log.warning("access is on: the key of the first admin lies in %s", file)

    def _read_jwks(self, path: str) -> str:
        """Return the key set, read anew when the file has changed; the last good one where it cannot be used."""
        try:
            seen = os.stat(path)
            stamp = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
            if stamp == self._jwks[0]:
                return self._jwks[1]
            if seen.st_size > MAX_JWKS_BYTES:
                raise InvalidArgument(f"it is larger than {MAX_JWKS_BYTES} bytes")
            self._jwks = stamp, public_keys(Path(path).read_text())
            self.problem = ""
        except (OSError, UnicodeDecodeError, InvalidArgument) as error:
            said = error.message if isinstance(error, InvalidArgument) else str(error)
            problem = f"key set {path}: {said}"
            if problem != self.problem:
                log.warning("%s; %s", problem, "the last good one holds" if self._jwks[1] else "no token is taken")
            self.problem = problem
        return self._jwks[1]
