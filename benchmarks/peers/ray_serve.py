"""Plain Ray Serve: every default ("ray"), HAProxy with the throughput flags ("ray-fast"), and empty replicas ("ray-empty")."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peers.port import free_ports
from benchmarks.process import Running, start

NAMES = ("ray", "ray-fast")
_REPOSITORY = Path(__file__).parents[2]
_FAST = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_HAPROXY_NBTHREAD": "1"}
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


def launch(name: str, model: str, scratch: Path) -> Running:
    """Start Ray Serve with one replica of `model`; `name` is one of NAMES."""
    flags = _FAST | _haproxy_places(scratch) if name == "ray-fast" else {}
    http_port, grpc_port = free_ports(2)
    return _start(name, ["model", model, str(http_port), str(grpc_port)], flags, scratch, http_port, grpc_port)


def launch_empty(replicas: int, scratch: Path) -> Running:
    """Start Ray Serve without any proxy and with `replicas` replicas that hold nothing."""
    return _start("ray-empty", ["empty", str(replicas)], {}, scratch, 0, 0)


def _start(name: str, arguments: list[str], flags: dict[str, str], scratch: Path, http_port: int, grpc_port: int) -> Running:
    # Serve's proxy pickles gRPC messages by the name of a module that tritonclient's wheel does not have.
    (scratch / "grpc_service_pb2.py").write_text("from tritonclient.grpc.service_pb2 import *  # noqa: F403\n")
    log = scratch / "log"
    return start(
        name,
        [sys.executable, "-m", "benchmarks.peers.ray_server", str(scratch / "ray"), *arguments],
        log,
        env={**_QUIET, **flags, "PYTHONPATH": f"{_REPOSITORY}:{scratch}"},
        cwd=_REPOSITORY,
        http=f"127.0.0.1:{http_port}",
        grpc=f"127.0.0.1:{grpc_port}",
        ready=lambda running: b"serving\n" in log.read_bytes(),
    )


def _haproxy_places(scratch: Path) -> dict[str, str]:
    """Own files and ports, so that two Ray Serves on one machine do not meet."""
    stats, metrics = free_ports(2)
    return {
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(scratch / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "server-state"),
    }
