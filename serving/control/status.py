"""Status: what the controller tells people and programs. Values only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["starting", "ready", "failed", "stopping"]


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version. `reason` says what is wrong or waited for; replicas that run of those that are wanted.

    since     when it came into its state, in seconds since 1970; where starts fail, when the first of them did
    failures  starts that have failed one after another
    next_try  when the next start may begin, in seconds since 1970; 0.0 = nothing waits for its time
    traffic   what it gets of the requests that name no version, as wanted: "95 %", "by rule"; "" = it has to be asked for by its number
    updating  its replicas are being replaced by ones with other code or settings
    """

    model: str
    version: str
    state: State
    reason: str
    running: int
    wanted: int
    stable: bool
    description: str = ""
    since: float = 0.0
    failures: int = 0
    next_try: float = 0.0
    traffic: str = ""
    updating: bool = False

    @property
    def key(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """One gateway, and the revision of routes that it has acknowledged."""

    gateway: str
    revision: int


@dataclass(frozen=True, slots=True)
class Status:
    """The engine at one moment.

    revision   of the Target that is worked on, 0 = none
    published  number of the routes that the gateways should have
    settled    nothing is left to do or to wait for: every version is ready or has failed, every gateway has the routes
    waiting    what is left to do, as sentences
    worked     revision that the last round worked on: what this status is of
    behind     gateways that have not acknowledged what was published
    moving     models whose routes are not yet those of the target
    draining   version keys whose replicas have been told to end
    answering  by endpoint, the stable version of the routes that every gateway has; empty while not every one has them
    """

    revision: int = 0
    published: int = 0
    settled: bool = False
    versions: tuple[VersionStatus, ...] = ()
    gateways: tuple[GatewayStatus, ...] = ()
    gateways_wanted: int = 0
    edge: str = ""
    waiting: tuple[str, ...] = ()
    answering: dict[str, str] = field(default_factory=dict)
    worked: int = 0
    behind: int = 0
    moving: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()

    @property
    def failed(self) -> list[VersionStatus]:
        return [v for v in self.versions if v.state == "failed"]

    @property
    def ready(self) -> bool:
        """Whether every model's stable version can be called through a gateway."""
        return bool(self.gateways) and all(v.state == "ready" for v in self.versions if v.stable)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ready": self.ready, "failed": [v.key for v in self.failed]}
