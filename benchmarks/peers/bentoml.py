"""BentoML: one worker, its adaptive batching; base64 in JSON, for batched methods take nothing rawer from outside."""

from __future__ import annotations

from pathlib import Path

from benchmarks.ask import Ask
from benchmarks.peers import form
from benchmarks.peers.environment import REPOSITORY, program
from benchmarks.peers.port import answers_ok, free_ports
from benchmarks.process import Running, start
from benchmarks.workload import Workload

NAME = "bentoml"
VERSION = "bentoml 1.4.39"


def launch(scratch: Path) -> Running:
    """Start the service with mlp behind /predict; `scratch` takes what it would put into the home directory."""
    (port,) = free_ports(1)
    argv = [program(NAME), "-m", "bentoml", "serve", "benchmarks.peers.bentoml_app:Predictor", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--working-dir", str(REPOSITORY)]
    env = {"BENTOML_HOME": str(scratch / "home"), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": str(REPOSITORY)}
    http = f"127.0.0.1:{port}"
    return start(NAME, argv, scratch / "log", env=env, cwd=REPOSITORY, http=http, ready=lambda r: answers_ok(r.http, "/readyz"))


def ask(workload: Workload) -> Ask:
    return form.base64_json("/predict", lambda text: {"x": [text]}, (0,), workload)
