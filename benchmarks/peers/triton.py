"""Triton: its server binary from the nvidia-pytriton wheel, with an ordinary repository for the Python backend."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.peers.port import answers_ok, free_ports
from benchmarks.process import Running, start
from benchmarks.workload import WORKLOADS, Workload

NAME = "triton"
VERSION = "nvidia-pytriton 0.7.0 (Triton 2.51.0)"
_REPOSITORY = Path(__file__).parents[2]
_HOME = _REPOSITORY / ".venv" / "peers" / "triton"
_SERVER = _HOME / "pytriton" / "tritonserver"

_CONFIG = """\
backend: "python"
max_batch_size: 64
dynamic_batching {{}}
input [{{ name: "x" data_type: TYPE_FP32 dims: [{dims}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{answer}] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""

# What a careful user writes: DLPack both ways, one join, one call, one split. The stub's interpreter ignores PYTHONPATH.
_MODEL = """\
import sys

sys.path[:0] = {path}

import torch
import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import from_dlpack, to_dlpack

from {module} import {entry}


class TritonPythonModel:
    def initialize(self, args):
        torch.set_num_threads(1)
        self.model = {entry}().eval()

    def execute(self, requests):
        inputs = [from_dlpack(pb_utils.get_input_tensor_by_name(r, "x").to_dlpack()) for r in requests]
        with torch.inference_mode():
            joined = self.model(torch.cat(inputs) if len(inputs) > 1 else inputs[0])
        answers = joined.split([len(x) for x in inputs])
        return [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("y", to_dlpack(y))]) for y in answers]
"""


def install() -> None:
    if not (_SERVER / "bin" / "tritonserver").exists():
        package = "nvidia-pytriton==0.7.0"
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(_HOME), package], check=True)


def launch(scratch: Path) -> Running:
    """Start Triton with all benchmark models; `scratch` takes its repository and log."""
    backends = scratch / "backends"
    _link_backend(backends / "python")
    for workload in WORKLOADS.values():
        _write_model(scratch / "models" / workload.model, workload)
    http_port, grpc_port = free_ports(2)
    argv = [
        str(_SERVER / "bin" / "tritonserver"), f"--model-repository={scratch / 'models'}", f"--backend-directory={backends}",
        "--http-address=127.0.0.1", f"--http-port={http_port}", "--http-thread-count=8",
        "--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}", "--allow-metrics=false", "--log-info=false",
    ]  # fmt: skip
    paths = [Path(sys.base_prefix, "lib"), _SERVER / "external_libs", _SERVER / "lib"]
    env = {"LD_LIBRARY_PATH": ":".join(map(str, paths))}
    http, grpc = f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}"
    return start(NAME, argv, scratch / "log", env=env, http=http, grpc=grpc, ready=lambda r: answers_ok(r.http, "/v2/health/ready"))


def _link_backend(place: Path) -> None:
    place.mkdir(parents=True)
    for file in (_SERVER / "backends" / "python").iterdir():
        (place / file.name).symlink_to(file)
    stub = place / "triton_python_backend_stub"
    stub.unlink(missing_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub.symlink_to(_SERVER / "python_backend_stubs" / version / stub.name)


def _write_model(place: Path, workload: Workload) -> None:
    (place / "1").mkdir(parents=True)
    dims, answer = (", ".join(map(str, shape)) for shape in (workload.row, workload.y.shape[1:]))
    (place / "config.pbtxt").write_text(f'name: "{workload.model}"\n' + _CONFIG.format(dims=dims, answer=answer))
    module, entry = workload.cls.__module__, workload.cls.__name__
    path = [sysconfig.get_path("purelib"), str(_REPOSITORY)]
    (place / "1" / "model.py").write_text(_MODEL.format(path=path, module=module, entry=entry))
