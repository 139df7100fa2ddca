"""enter: what each of our processes does first."""

from __future__ import annotations

from serving import telemetry
from serving.cluster import serve_api
from serving.cluster.boot import Boot


def enter(boot: str, kind: str) -> tuple[Boot, str]:
    """Send the log to the process's own file, keep Serve's port on this machine; return the boot and the id of this replica."""
    told = Boot.from_json(boot)
    name = serve_api.replica_id()
    telemetry.log_to_file(told.logs, f"{kind}-{name}")
    if not told.ray_address:
        serve_api.stay_on_loopback()
    return told, name
