"""The whole engine with everything on: mutual TLS on all four ports, keys, roles, and a certificate that is renewed while it serves."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.auth as grpc_auth

from serving.cli.certs import init, issue
from tests.cluster.running import SERVING, START_S, RunningEngine, wait, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")]
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secured")
    init(folder / "certs")
    issue("server", folder / "certs", host=["localhost", "127.0.0.1"])
    issue("client", folder / "certs", client=True)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[RunningEngine]:
    certs = folder / "certs"
    options = [f"--tls-cert={certs / 'server.pem'}", f"--tls-key={certs / 'server.key'}", f"--tls-client-ca={certs / 'ca.pem'}"]
    with RunningEngine(folder / "state", write_model(folder / "models", "echo"), "--access=on", *options) as running:
        yield running


def serving(engine: RunningEngine, folder: Path, *words: str, key: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command; without a key it finds the admin's in the state directory."""
    certs = folder / "certs"
    told = {
        "SERVING_CONTROL_URL": f"https://127.0.0.1:{engine.control}",
        "SERVING_STATE_DIR": str(engine.state_dir),
        "SERVING_CA": str(certs / "ca.pem"),
        "SERVING_CLIENT_CERT": str(certs / "client.pem"),
        "SERVING_CLIENT_KEY": str(certs / "client.key"),
        **({"SERVING_API_KEY": key} if key else {}),
    }
    return subprocess.run([*SERVING, *words], capture_output=True, text=True, env={**os.environ, **told}, timeout=START_S, check=False)


def test_everything_on(engine: RunningEngine, folder: Path) -> None:
    certs = folder / "certs"
    trust = ssl.create_default_context(cafile=str(certs / "ca.pem"))
    trust.load_cert_chain(certs / "client.pem", certs / "client.key")
    infer = f"https://localhost:{engine.http}/v2/models/echo/infer"
    made = serving(engine, folder, "keys", "create", "ci", "--role", "predictor", "--models", "echo", "--expires", "1h")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    with httpx.Client(verify=trust) as client:
        assert client.get(f"https://localhost:{engine.http}/v2/health/ready").status_code == 200
        assert client.post(infer, json=BODY).status_code == 401
        assert client.post(infer, json=BODY, headers={"x-api-key": key}).json()["model_name"] == "echo"
        assert client.get(f"https://localhost:{engine.control}/api/status").status_code == 401
        assert "serving_edge_up 1.0" in client.get(f"https://localhost:{engine.metrics}/metrics").text
    for port in (engine.http, engine.grpc, engine.metrics, engine.control):
        with httpx.Client(verify=ssl.create_default_context(cafile=str(certs / "ca.pem"))) as stranger, pytest.raises(httpx.TransportError):
            stranger.get(f"https://localhost:{port}/")

    pems = {"root_certificates": "ca.pem", "private_key": "client.key", "certificate_chain": "client.pem"}
    with triton_grpc.InferenceServerClient(
        f"localhost:{engine.grpc}", ssl=True, **{name: str(certs / file) for name, file in pems.items()}
    ) as client:
        client.register_plugin(grpc_auth.BasicAuth("ci", key))
        x = triton_grpc.InferInput("x", [1, 4], "FP32")
        x.set_data_from_numpy(np.ones((1, 4), np.float32))
        assert client.infer("echo", [x]).as_numpy("y").tolist() == [[1, 1, 1, 1]]

        # a renewed certificate, with this connection open
        issue("server", certs, host=["localhost", "127.0.0.1", "renewed.test"])
        for port in (engine.http, engine.control, engine.metrics):
            wait(lambda port=port: b"renewed.test" in _shown(port, certs), 120, "the new certificate")  # type: ignore[misc]
        assert client.infer("echo", [x]).as_numpy("y").tolist() == [[1, 1, 1, 1]]

    assert serving(engine, folder, "status", key=key).returncode == 0
    refused = serving(engine, folder, "delete", "echo", key=key)
    assert refused.returncode == 1
    assert "'ci' needs the role deployer for model 'echo'" in refused.stderr
    events = json.loads(serving(engine, folder, "events", "--json", "--kind", "key").stdout)
    assert [e["what"] for e in events["events"]][-1:] == ["key ci: predictor:echo"]
    assert key not in json.dumps(events)

    assert serving(engine, folder, "keys", "revoke", "ci").returncode == 0
    with httpx.Client(verify=trust) as client:
        assert client.post(infer, json=BODY, headers={"x-api-key": key}).status_code == 401
    for file in [*(engine.state_dir / "logs").rglob("*"), engine.state_dir / "state.db", engine.state_dir / "state.db-wal"]:
        if file.is_file():
            assert key.encode() not in file.read_bytes(), f"the key is in {file}"


def _shown(port: int, certs: Path) -> bytes:
    context = ssl.create_default_context(cafile=str(certs / "ca.pem"))
    context.load_cert_chain(certs / "client.pem", certs / "client.key")
    with (
        socket.create_connection(("localhost", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as talk,
    ):
        return talk.getpeercert(binary_form=True) or b""
