"""MLServer: one inference worker, its own adaptive batching; REST in JSON, for it has no binary extension."""

from __future__ import annotations

from pathlib import Path

import orjson

from benchmarks.ask import Ask
from benchmarks.peers import form
from benchmarks.peers.environment import REPOSITORY, program
from benchmarks.peers.port import answers_ok, free_ports
from benchmarks.process import Running, start
from benchmarks.workload import Workload

NAME = "mlserver"
VERSION = "mlserver 1.7.1"


def launch(scratch: Path) -> Running:
    """Start the server with mlp; `scratch` takes its model folder and log."""
    http_port, grpc_port, metrics_port = free_ports(3)
    (scratch / "settings.json").write_bytes(orjson.dumps(settings(http_port, grpc_port, metrics_port, scratch)))
    (scratch / "mlp").mkdir()
    (scratch / "mlp" / "model-settings.json").write_bytes(orjson.dumps(model_settings()))
    return start(
        NAME,
        [program(NAME, "mlserver"), "start", str(scratch)],
        scratch / "log",
        env={"PYTHONPATH": str(REPOSITORY)},
        cwd=scratch,
        http=f"127.0.0.1:{http_port}",
        grpc=f"127.0.0.1:{grpc_port}",
        ready=lambda r: answers_ok(r.http, "/v2/models/mlp/ready"),
    )


def settings(http_port: int, grpc_port: int, metrics_port: int, scratch: Path) -> dict[str, object]:
    """settings.json; debug is what turns its access log on."""
    ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    quiet = {"debug": False, "metrics_endpoint": None, "metrics_dir": str(scratch), "gzip_enabled": False}
    return {"host": "127.0.0.1", **ports, **quiet, "parallel_workers": 1, "environments_dir": str(scratch / "environments")}


def model_settings() -> dict[str, object]:
    """model-settings.json; a batch time of 0 would turn batching off."""
    return {
        "name": "mlp",
        "implementation": "benchmarks.peers.mlserver_model.Predictor",
        "max_batch_size": 64,
        "max_batch_time": 0.001,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
    }


def ask(workload: Workload) -> Ask:
    return form.oip_json(workload)
