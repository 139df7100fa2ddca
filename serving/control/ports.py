"""Cluster, Store, Clock: what the controller needs from outside, and the values that cross."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from serving.control.event import Event, Filter, Recorded, Verdict
from serving.plan import DeploymentTarget, EngineSettings, Node, Target
from serving.state import GatewayState


@dataclass(frozen=True, slots=True)
class VersionSeen:
    """One version as the cluster sees it: replicas by state; `failed` where a start has failed, and why in `reason`.

    failures, since, next_try  starts that have failed one after another, when the first did, when the next may begin (seconds since
                               1970); 0 where the cluster does not know
    updating                   replicas are being replaced or changed
    trouble                    what went wrong in calls of the model lately
    """

    running: int = 0
    starting: int = 0
    stopping: int = 0
    failed: bool = False
    reason: str = ""
    failures: int = 0
    since: float = 0.0
    next_try: float = 0.0
    updating: bool = False
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the cluster runs now. versions: by version key. gateways: ids of those that can be called. edge: "" or what is wrong."""

    versions: dict[str, VersionSeen] = field(default_factory=dict)
    gateways: frozenset[str] = frozenset()
    edge: str = ""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Answer of one gateway to a state: the revision in force, and the version keys that it has replicas for."""

    gateway: str
    revision: int
    served: frozenset[str] = frozenset()


class Cluster(Protocol):
    """Runs processes. No call waits for a process to start or stop."""

    def observe(self) -> Seen:
        """Return what runs. Raises Unavailable while the cluster cannot be asked."""

    def deploy(self, deployments: Iterable[DeploymentTarget]) -> None:
        """Start these versions, or bring running ones to this shape. Harmless to repeat."""

    def retire(self, keys: Iterable[str]) -> None:
        """Drain and stop versions. Harmless to repeat."""

    def resize(self, settings: EngineSettings) -> None:
        """Bring edge and gateways to these settings. Harmless to repeat."""

    def publish(self, state: GatewayState) -> list[Acknowledged]:
        """Give the state to all gateways; return who has it. One that does not answer in time is left out."""

    def nodes(self) -> list[Node]:
        """Return the nodes that live, and what they have free. Raises Unavailable while the cluster cannot be asked."""

    def shortage(self, deployment: DeploymentTarget) -> str:
        """Return why no replica of it can ever be placed on the nodes that there are, or ""."""


@dataclass(frozen=True, slots=True)
class YamlText:
    """A file as it was when it was applied."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Revision:
    """A Target as it was accepted, and the text of the files that said so. `at` in seconds since 1970."""

    number: int
    target: Target
    author: str
    reason: str
    at: float
    files: tuple[YamlText, ...] = ()


class Store(Protocol):
    """Keeps what must survive a restart. May be used from several threads."""

    def latest(self) -> Revision | None:
        """Return the newest revision, None where there is none."""

    def history(self, count: int = 20, before: int = 0) -> list[Revision]:
        """Return the newest revisions (of those below `before`), newest first."""

    def revision(self, number: int) -> Revision | None:
        """Return one revision, None where there is no such."""

    def append(
        self, target: Target, author: str, reason: str, at: float, files: Sequence[YamlText] = (), events: Iterable[Event] = ()
    ) -> Revision:
        """Keep a new revision, and with it the events that tell of it; returned when both are on the disk."""

    def record(self, events: Iterable[Event], at: float) -> list[Recorded]:
        """Chain events to the record."""

    def events(self, which: Filter) -> list[Recorded]:
        """Return the newest events that match, oldest first; with `after`, the first ones behind it."""

    def newest_event(self) -> int:
        """Return the number of the last event, 0 where there is none."""

    def verify(self, head: str = "") -> Verdict:
        """Say whether the record is as it was written."""

    def next_publication(self) -> int:
        """Return a number that is higher than every one returned before, also across restarts."""


class Clock(Protocol):
    def now(self) -> float:
        """Return seconds since 1970."""
