"""KServe's SDK: its ModelServer with one worker; the SDK has no batching."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.environment import REPOSITORY, program
from benchmarks.peers.port import answers_ok, free_ports
from benchmarks.process import Running, start

NAME = "kserve"
VERSION = "kserve 0.21.0"


def launch(scratch: Path) -> Running:
    """Start the server with mlp over the protocol's binary REST."""
    (port,) = free_ports(1)
    argv = [program(NAME), "-m", "benchmarks.peers.kserve_app", f"--http_port={port}", "--enable_grpc=false", "--workers=1"]
    argv += ["--enable_latency_logging=false", "--event-loop=uvloop"]
    http = f"127.0.0.1:{port}"
    return start(NAME, argv, scratch / "log", cwd=REPOSITORY, http=http, ready=lambda r: answers_ok(r.http, "/v2/models/mlp/ready"))
