"""enter, go_first: what each of our processes does first."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from serving import telemetry
from serving.cluster import serve_api
from serving.cluster.boot import Boot

SWITCH_S = 0.0005
"""Our loops share their processes with Ray's threads. With Python's 5 ms, a prediction may wait that long for one of them."""
GARBAGE_AFTER = 20_000
"""Objects until the collector looks. Those of a request die by their reference counts; with Python's 700 it looks every 50 requests."""


def go_first() -> None:
    """Have the kernel take this process before the engine's own when the machine runs out of memory (Linux)."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        return  # elsewhere there is nothing to say


def enter(boot: str, kind: str) -> tuple[Boot, str]:
    """Send the log to the process's own file, keep Serve's port on this machine; return the boot and the id of this replica."""
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(GARBAGE_AFTER, 20, 100)
    told = Boot.from_json(boot)
    name = serve_api.replica_id()
    telemetry.log_to_file(told.logs, f"{kind}-{name}")
    if not told.ray_address:
        serve_api.stay_on_loopback()
    return told, name
