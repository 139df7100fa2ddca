"""Clients in JavaScript, as they are: Node's fetch, and @grpc/grpc-js with proto-loader where NODE_PATH leads to them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tritonclient.grpc import model_config_pb2, service_pb2

from .rig import DataPath

CLIENTS = Path(__file__).parent / "clients"
NODE = shutil.which("node")


def has(package: str) -> bool:
    """Whether node finds the package."""
    asked = [NODE or "node", "-e", f"require.resolve('{package}')"]
    return NODE is not None and subprocess.run(asked, capture_output=True, timeout=60, cwd=CLIENTS).returncode == 0


def has_fetch() -> bool:
    return NODE is not None and subprocess.run([NODE, "-e", "fetch"], capture_output=True, timeout=60).returncode == 0


def run(script: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([NODE or "node", script, *arguments], capture_output=True, timeout=120, text=True, cwd=CLIENTS)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not has_fetch(), reason="needs node 18 or newer")
def test_fetch(path: DataPath, gate: Path) -> None:
    found = run("rest.js", f"http://{path.rest}")
    assert found["live"] == {"status": 200, "body": {"live": True}}
    assert found["metadata"]["body"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    output = {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2, 4, 6]}
    assert found["json"] == {"status": 200, "body": {"model_name": "marked", "model_version": "1", "id": "js", "outputs": [output]}}
    assert found["binary"] == {"kind": "application/octet-stream", "numbers": [2, 4, 6]}
    assert found["compressed"] == 1000
    assert found["parallel"] == [200] * 50
    assert found["unknown"] == {"status": 404, "body": {"error": "Request for unknown model: 'nobody' is not found"}}
    assert found["invalid"]["status"] == 400
    assert found["method"] == {"status": 405, "body": {"error": "Method Not Allowed"}}
    assert found["events"] == [0, 1, 2]
    assert found["aborted"] == "AbortError"


@pytest.mark.skipif(not (has("@grpc/grpc-js") and has("@grpc/proto-loader")), reason="needs npm install @grpc/grpc-js @grpc/proto-loader")
def test_grpc_js(path: DataPath, gate: Path, tmp_path: Path) -> None:
    files = FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):
        files.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    described = tmp_path / "descriptors"
    described.write_bytes(files.SerializeToString())
    found = run("grpc.js", path.grpc, str(described))
    assert found["live"] is True
    assert found["metadata"]["versions"] == ["1"]
    assert found["unary"] == {"id": "js", "model": "marked", "version": "1", "numbers": [2, 4, 6]}
    assert found["typed"] == [8, 10, 12]
    assert found["parallel"] == [2 * n for n in range(50)]
    assert found["large"] == 1_200_000
    assert found["unknown"] == {"code": 5, "details": "Request for unknown model: 'nobody' is not found"}
    assert found["invalid"]["code"] == 3
    assert found["deadline"]["code"] == 4
    assert found["cancelled"] == 1
    assert found["stream"][:2] == [2, 4]
    assert "a row is marked" in found["stream"][2]
    assert found["stream"][3] == 6
    assert found["given_up"] == 1
