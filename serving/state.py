"""GatewayState: all that a gateway is told by the controller. Values only, at one revision."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serving.access.settings import AccessRules
from serving.routing import RouteTable
from serving.wishes import Wishes

DESK_SOCKET = "desk.sock"
"""In the run directory: the socket on which the controller takes what gateways ask of it (`control/desk.py`, `gateway/desk.py`)."""


_MEMORY = Path("/dev/shm")


def quota_file(run_dir: str) -> Path:
    """Return where the gateways of a run directory count quotas together: in memory, for writing it must never wait for a disk."""
    return _MEMORY / f"{Path(run_dir).name}.quotas" if _MEMORY.is_dir() else Path(run_dir) / "quotas"


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Bounds that a gateway keeps for itself, whoever stands in front of it. Sizes in bytes, times in seconds."""

    max_header_bytes: int = 64 * 1024
    max_body_bytes: int = 1 << 30
    max_json_bytes: int = 64 << 20
    header_timeout_s: float = 15.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 600.0
    max_connections: int = 8192
    max_inflight_requests: int = 16384
    max_inflight_bytes: int = 2 << 30
    request_timeout_s: float = 300.0
    """An answer that takes longer is DEADLINE_EXCEEDED, whatever the client asked for."""
    # Of one client in one gateway; 0 = no limit.
    client_header: str = ""
    """Tells clients apart; those without it, and all where it is "", are told apart by their address."""
    client_requests_per_s: float = 0.0
    client_burst: int = 0
    """Requests that may come at once after a pause; 0 = those of a second."""
    client_inflight_requests: int = 0
    max_clients: int = 65_536
    """Clients that are kept in mind."""

    @property
    def max_decompressed_bytes(self) -> int:
        """What a compressed body or message may become: a kilobyte may be a megabyte, so it gets less room than others."""
        return min(self.max_json_bytes, self.max_body_bytes)


@dataclass(frozen=True, slots=True)
class GatewayState:
    """Routes, limits and names. A gateway keeps the last one while the controller is away."""

    routes: RouteTable = field(default_factory=RouteTable)
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    server_name: str = "serving"
    client_shm: bool = False
    """Clients may register shared memory."""
    forward_headers: str = ""
    """Names of headers that become parameters of requests: a pattern for whole names, "" for none."""
    wishes: Wishes = field(default_factory=Wishes)
    access: AccessRules | None = None
    """Who may ask; None: everybody."""
    base_path: str = ""
    """REST is served under this path, too, such as "/models"."""

    @property
    def revision(self) -> int:
        return self.routes.revision

    def to_json(self) -> dict[str, Any]:
        return {
            "routes": self.routes.to_json(),
            "limits": asdict(self.limits),
            "server_name": self.server_name,
            "client_shm": self.client_shm,
            "forward_headers": self.forward_headers,
            "wishes": self.wishes.to_json(),
            "access": self.access and self.access.to_json(),
            "base_path": self.base_path,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> GatewayState:
        access = value["access"]
        return cls(
            RouteTable.from_json(value["routes"]),
            GatewayLimits(**value["limits"]),
            value["server_name"],
            value["client_shm"],
            value["forward_headers"],
            Wishes.from_json(value["wishes"]),
            None if access is None else AccessRules.from_json(access),
            value.get("base_path", ""),
        )
