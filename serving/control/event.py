"""Event: one thing that was changed or has happened. Recorded: with its number, its time and its place in the record's chain.

Each recorded event has the SHA-256 of the one before it and of its own content, so that an event which was edited, taken out or put
in later shows (`verify`). Whoever can write the file can make the whole chain anew; a head that was noted elsewhere (a webhook's
receiver has every hash) tells that, too. Kinds are words with dots:

    apply delete rollback restore settings             a change that was accepted; `model` says of what, `who` and `why` by whom
    settings.log settings.trace                        what clients of the protocol set; ends with the engine
    approval.asked approval.given approval.refused     changes that wait until somebody else agrees
    traffic live                                       all gateways have a route; another version, or other contents, holds the endpoint
    version.ready version.failed version.down version.stopped
    replica.lost replica.back gateways                 processes that went or came without having been asked to
    key.created key.revoked                            API keys; never their secrets
    engine.started engine.stopped store.recovered
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

GENESIS = "0" * 64
"""What stands before the first event."""
ENGINE = "engine"
"""Who, where nobody asked for it."""
CLIENT = "client"
"""Who, where a client of the protocol asked for it while nobody is asked who they are."""


@dataclass(frozen=True, slots=True)
class Event:
    """What, in a sentence; of which model and version; who asked for it and why; plain JSON values before and after."""

    kind: str
    what: str
    model: str = ""
    version: str = ""
    who: str = ENGINE
    why: str = ""
    before: Any = None
    after: Any = None
    revision: int = 0

    def of_revision(self, number: int) -> Self:
        return replace(self, revision=number)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event in the chain. `at` in seconds since 1970."""

    number: int
    at: float
    event: Event
    previous: str
    hash: str

    def to_json(self) -> dict[str, Any]:
        return {"number": self.number, "at": self.at, **asdict(self.event), "previous": self.previous, "hash": self.hash}


def chained(event: Event, number: int, at: float, previous: str) -> Recorded:
    """Return the event as the next one after the hash `previous`."""
    return Recorded(number, at, event, previous, _hash(event, number, at, previous))


def _hash(event: Event, number: int, at: float, previous: str) -> str:
    content = canonical({"number": number, "at": at, **asdict(event)})
    return hashlib.sha256(previous.encode() + content.encode()).hexdigest()


def canonical(value: Any) -> str:
    """Return JSON text that is the same for equal values, whoever writes it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the chain holds. `problem`: where it breaks, and how; "" where it does not."""

    events: int = 0
    head: str = GENESIS
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"events": self.events, "head": self.head, "problem": self.problem, "intact": not self.problem}


def verify(events: Iterable[Recorded], head: str = "") -> Verdict:
    """Follow the chain from its beginning. `head`: a hash that was noted at some time, which has to be in it."""
    count, last, found = 0, GENESIS, not head or head == GENESIS
    for e in events:
        if e.number != count + 1:
            return Verdict(count, last, f"event {count + 1} is missing: number {e.number} comes after {count}")
        if e.previous != last:
            return Verdict(count, last, f"event {e.number} does not follow event {count}: its previous hash is another")
        if e.hash != _hash(e.event, e.number, e.at, e.previous):
            return Verdict(
                count, last, f"event {e.number} ({e.event.kind} {e.event.model or ''}".rstrip() + ") was changed after it was recorded"
            )
        count, last, found = e.number, e.hash, found or e.hash == head
    problem = "" if found else f"no event has the hash {head}: events at the end were taken away, or this is another record"
    return Verdict(count, last, problem)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events; "" and 0: all. `kind`: or how kinds begin ("version"). `since`: a time. `after`: a number; then the first behind it."""

    model: str = ""
    kind: str = ""
    since: float = 0.0
    after: int | None = None
    limit: int = 100
