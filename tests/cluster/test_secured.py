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
    file = write_model(folder / "models", "echo")
    held = json.loads(write_model(folder / "models", "held", "1 2", traffic={"stable": 1}).read_text())
    declared = json.loads(file.read_text())
    declared["models"] |= held["models"]
    file.write_text(json.dumps({**declared, "gateways": 2, "access": {"approval": ["held"]}}))
    options = [f"--tls-cert={certs / 'server.pem'}", f"--tls-key={certs / 'server.key'}", f"--tls-client-ca={certs / 'ca.pem'}"]
    with RunningEngine(folder / "state", file, "--access=on", *options) as running:
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


def trusting(certs: Path) -> ssl.SSLContext:
    """Return what a client of the engine has: trust in the CA, and a certificate of it."""
    context = ssl.create_default_context(cafile=str(certs / "ca.pem"))
    context.load_cert_chain(certs / "client.pem", certs / "client.key")
    return context


def make_key(engine: RunningEngine, folder: Path, name: str, role: str, **quota: float) -> str:
    """Return a new key, made over the control API."""
    admin = {"x-api-key": (engine.state_dir / "admin.key").read_text().strip()}
    with httpx.Client(verify=trusting(folder / "certs"), headers=admin) as client:
        made = client.post(f"https://localhost:{engine.control}/api/keys", json={"name": name, "grants": [role], **quota})
    assert made.status_code == 200, made.text
    return str(made.json()["key"])


def test_everything_on(engine: RunningEngine, folder: Path) -> None:
    certs = folder / "certs"
    trust = trusting(certs)
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
    assert "key ci: predictor:echo" in [e["what"] for e in events["events"]]
    assert key not in json.dumps(events)

    assert serving(engine, folder, "keys", "revoke", "ci").returncode == 0
    with httpx.Client(verify=trust) as client:
        assert client.post(infer, json=BODY, headers={"x-api-key": key}).status_code == 401
    for file in [*(engine.state_dir / "logs").rglob("*"), engine.state_dir / "state.db", engine.state_dir / "state.db-wal"]:
        if file.is_file():
            assert key.encode() not in file.read_bytes(), f"the key is in {file}"


def test_a_quota_is_one_for_both_gateways(engine: RunningEngine, folder: Path) -> None:
    key = make_key(engine, folder, "few", "predictor", requests_per_s=0.001, burst=12)
    statuses, refused = [], None
    for _ in range(24):
        with httpx.Client(verify=trusting(folder / "certs")) as client:
            answer = client.post(f"https://localhost:{engine.http}/v2/models/echo/infer", json=BODY, headers={"x-api-key": key})
        statuses.append(answer.status_code)
        refused = refused or (answer if answer.status_code == 429 else None)
    assert statuses == [200] * 12 + [429] * 12
    assert refused is not None
    assert int(refused.headers["retry-after"]) > 0
    assert "0.001/s, burst 12" in serving(engine, folder, "keys", "list").stdout


def test_a_change_waits_until_somebody_else_agrees(engine: RunningEngine, folder: Path) -> None:
    roles = {"dev": "deployer", "lead": "approver", "use": "predictor"}
    keys = {name: make_key(engine, folder, name, role) for name, role in roles.items()}

    def answers() -> set[str]:
        found = set()
        for _ in range(6):
            with httpx.Client(verify=trusting(folder / "certs")) as client:
                at = f"https://localhost:{engine.http}/v2/models/held/infer"
                found.add(client.post(at, json=BODY, headers={"x-api-key": keys["use"]}).json()["model_version"])
        return found

    def moved(stable: int) -> str:
        return str(write_model(folder / "models", "held", "1 2", traffic={"stable": stable}))

    def run(who: str, *words: str) -> tuple[int, str]:
        done = serving(engine, folder, *words, key=keys[who])
        return done.returncode, done.stderr

    assert run("dev", "apply", moved(2), "--reason", "better") == (4, "plan 1 waits for an approval (held): serving approve 1\n")
    assert run("lead", "apply", moved(2))[0] == 4
    assert answers() == {"1"}
    code, said = run("dev", "approve", "1")
    assert (code, "'dev' needs the role approver" in said) == (1, True)
    code, said = run("lead", "approve", "2")
    assert (code, "'lead' has asked for plan 2; somebody else has to approve it" in said) == (1, True)
    assert run("lead", "approve", "1", "--reason", "seen")[0] == 0
    assert answers() == {"2"}
    code, said = run("lead", "approve", "2")
    assert (code, "plan 2 does not wait any more: overtaken" in said) == (1, True)
    assert run("dev", "rollback", "held")[0] == 0, "the way back does not wait"
    assert answers() == {"1"}
    shown = json.loads(serving(engine, folder, "approvals", "--all", "--json", key=keys["dev"]).stdout)["approvals"]
    assert [(a["number"], a["state"], a["author"], a["by"]) for a in shown] == [
        (1, "approved", "dev", "lead"),
        (2, "overtaken", "lead", ""),
    ]
    events = json.loads(serving(engine, folder, "events", "--json", "--kind", "approval", key=keys["dev"]).stdout)["events"]
    assert [(e["kind"], e["who"], e["why"]) for e in events] == [
        ("approval.asked", "dev", "better"),
        ("approval.asked", "lead", f"apply {folder / 'models' / 'held.yaml'}"),
        ("approval.given", "lead", "seen"),
    ]


def test_who_changes_the_log_stands_in_the_record(engine: RunningEngine, folder: Path) -> None:
    admin = {"x-api-key": (engine.state_dir / "admin.key").read_text().strip()}
    with httpx.Client(verify=trusting(folder / "certs")) as client:
        done = client.post(f"https://localhost:{engine.http}/v2/logging", json={"log_verbose_level": 1}, headers=admin)
    assert done.status_code == 200
    events = json.loads(serving(engine, folder, "events", "--json", "--kind", "settings.log").stdout)["events"]
    assert [(e["who"], e["before"], e["after"]) for e in events] == [("admin", {}, {"log_verbose_level": 1})]


def _shown(port: int, certs: Path) -> bytes:
    with (
        socket.create_connection(("localhost", port), timeout=60) as plain,
        trusting(certs).wrap_socket(plain, server_hostname="localhost") as talk,
    ):
        return talk.getpeercert(binary_form=True) or b""
