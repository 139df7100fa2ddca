"""LitServe: one worker process, its own batching; base64 in JSON, for it has neither raw bodies nor the inference protocol."""

from __future__ import annotations

from pathlib import Path

from benchmarks.ask import Ask
from benchmarks.peers import form
from benchmarks.peers.environment import REPOSITORY, program
from benchmarks.peers.port import answers_ok, free_ports
from benchmarks.process import Running, start
from benchmarks.workload import Workload

NAME = "litserve"
VERSION = "litserve 0.2.19"


def launch(scratch: Path) -> Running:
    """Start the server with mlp behind /predict."""
    (port,) = free_ports(1)
    argv = [program(NAME), "-m", "benchmarks.peers.litserve_app", str(port)]
    http = f"127.0.0.1:{port}"
    return start(NAME, argv, scratch / "log", cwd=REPOSITORY, http=http, ready=lambda r: answers_ok(r.http, "/health"))


def ask(workload: Workload) -> Ask:
    return form.base64_json("/predict", lambda text: {"x": text}, ("y",), workload)
