"""A keeper as a process of its own: `python keeper_process.py RUN_DIR HTTP GRPC METRICS`; prints HAProxy's pid when it is ready."""

from __future__ import annotations

import sys
import threading

from serving.edge import EdgeConfig, EdgeKeeper

if __name__ == "__main__":
    keeper = EdgeKeeper(EdgeConfig(sys.argv[1], *(int(port) for port in sys.argv[2:5]), edge="grpc"))
    keeper.start()
    print(keeper.status()["haproxy"]["pid"], flush=True)  # noqa: T201
    threading.Event().wait()
