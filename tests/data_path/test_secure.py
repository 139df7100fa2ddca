"""Everything on: mutual TLS at the edge, keys and roles in the gateway; with the clients that people use, through a renewed certificate."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.auth as grpc_auth
import tritonclient.http as triton_http
import tritonclient.http.auth as http_auth

from serving.access.key import KeyHash, new_key
from serving.access.settings import AccessRules
from tests.certificates import two_authorities

from .models import plan
from .rig import DataPath, wait_for

X = np.ones((1, 4), np.float32)
KEY, KEY_ID, KEY_DIGEST = new_key()
RULES = AccessRules((KeyHash(KEY_ID, KEY_DIGEST, "ci", ("predictor:echo*",)),))


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = two_authorities(tmp_path_factory.mktemp("certs"))
    for name in ("server.pem", "server.key"):
        shutil.copy(folder / "one" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def node(certs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPath]:
    ca = str(certs / "one" / "ca.pem")
    with DataPath(tls_certificate=str(certs / "server.pem"), tls_key=str(certs / "server.key"), tls_client_ca=ca) as path:
        path.access = RULES
        path.replica(plan(tmp_path_factory.mktemp("models"), path.gate), "r1")
        path.gateway("a")
        yield path


def files(certs: Path) -> dict[str, str]:
    """Return what a client trusts and shows."""
    one = certs / "one"
    return {"ca": str(one / "ca.pem"), "certificate": str(one / "client.pem"), "key": str(one / "client.key")}


@pytest.fixture
def http(node: DataPath, certs: Path) -> Iterator[triton_http.InferenceServerClient]:
    own = files(certs)
    context = {"ssl_options": {"certfile": own["certificate"], "keyfile": own["key"], "ca_certs": own["ca"]}}
    client = triton_http.InferenceServerClient(f"localhost:{node.config.http_port}", ssl=True, **context)
    yield client
    client.close()


def grpc_client(node: DataPath, certs: Path) -> triton_grpc.InferenceServerClient:
    own = files(certs)
    return triton_grpc.InferenceServerClient(
        f"localhost:{node.config.grpc_port}",
        ssl=True,
        root_certificates=own["ca"],
        private_key=own["key"],
        certificate_chain=own["certificate"],
    )


def tensor(kind: Any) -> Any:
    found = kind.InferInput("x", X.shape, "FP32")
    found.set_data_from_numpy(X)
    return [found]


def test_tritonclient_over_rest(http: triton_http.InferenceServerClient) -> None:
    assert http.is_server_live()
    with pytest.raises(triton_http.InferenceServerException, match="asks who you are"):
        http.infer("echo_fp32", tensor(triton_http))
    for header in ({"Authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
        answer = http.infer("echo_fp32", tensor(triton_http), headers=header)
        assert (answer.as_numpy("y") == X).all()
    http.register_plugin(http_auth.BasicAuth("anybody", KEY))
    assert (http.infer("echo_fp32", tensor(triton_http)).as_numpy("y") == X).all()
    with pytest.raises(triton_http.InferenceServerException, match="needs the role predictor for model 'gate'"):
        http.infer("gate", tensor(triton_http))


def test_tritonclient_over_grpc(node: DataPath, certs: Path) -> None:
    with grpc_client(node, certs) as client:
        assert client.is_server_live()
        with pytest.raises(triton_grpc.InferenceServerException, match="asks who you are") as refused:
            client.infer("echo_fp32", tensor(triton_grpc))
        assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        for header in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
            assert (client.infer("echo_fp32", tensor(triton_grpc), headers=header).as_numpy("y") == X).all()
        client.register_plugin(grpc_auth.BasicAuth("anybody", KEY))
        assert (client.infer("echo_fp32", tensor(triton_grpc)).as_numpy("y") == X).all()
        with pytest.raises(triton_grpc.InferenceServerException) as refused:
            client.infer("gate", tensor(triton_grpc))
        assert refused.value.status() == "StatusCode.PERMISSION_DENIED"


def test_curl(node: DataPath, certs: Path) -> None:
    own = files(certs)
    url = f"https://localhost:{node.config.http_port}/v2/models/echo_fp32"
    words = [
        "curl",
        "-sS",
        "--cacert",
        own["ca"],
        "--cert",
        own["certificate"],
        "--key",
        own["key"],
        "-w",
        "%{http_code}",
        "-o",
        "/dev/null",
    ]

    def status(*more: str) -> str:
        return subprocess.run([*words, *more, url], capture_output=True, text=True, check=True).stdout

    assert status() == "401"
    assert status("-u", f"me:{KEY}") == status("-H", f"x-api-key: {KEY}") == status("--oauth2-bearer", KEY) == "200"


def test_who_has_no_certificate_or_speaks_old_tls_is_turned_away(node: DataPath, certs: Path) -> None:
    for port in (node.config.http_port, node.config.grpc_port):
        trust = ssl.create_default_context(cafile=files(certs)["ca"])
        with httpx.Client(verify=trust) as client, pytest.raises(httpx.TransportError):
            client.get(f"https://localhost:{port}/v2/health/live")
        for version, accepted in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
            own = files(certs)
            command = ["openssl", "s_client", "-connect", f"localhost:{port}", version, "-CAfile", own["ca"], "-brief"]
            command += ["-cert", own["certificate"], "-key", own["key"], "-cipher", "DEFAULT@SECLEVEL=0"]
            result = subprocess.run(command, input="", capture_output=True, text=True, check=False)
            assert ("Verification: OK" in result.stderr) == accepted, result.stderr


def shown(port: int, certs: Path) -> bytes:
    """Return the certificate that the port shows now."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(certs / "one" / "client.pem", certs / "one" / "client.key")
    with socket.create_connection(("localhost", port), timeout=60) as plain, context.wrap_socket(plain) as talk:
        return talk.getpeercert(binary_form=True) or b""


def test_a_renewed_certificate_cuts_no_connection(node: DataPath, certs: Path) -> None:
    """Last in this file: the server is of the other CA afterwards."""
    before = shown(node.config.http_port, certs)
    own = files(certs)
    trust = ssl.create_default_context(cafile=own["ca"])
    trust.load_cert_chain(own["certificate"], own["key"])
    failed: list[BaseException] = []
    stop = threading.Event()
    answers = 0

    def ask() -> None:
        nonlocal answers
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
        with httpx.Client(verify=trust, headers={"x-api-key": KEY}) as client:
            while not stop.is_set():
                try:
                    client.post(f"https://localhost:{node.config.http_port}/v2/models/echo_fp32/infer", json=body).raise_for_status()
                    answers += 1
                except httpx.HTTPError as error:
                    failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    with grpc_client(node, certs) as client:
        client.infer("echo_fp32", tensor(triton_grpc), headers={"x-api-key": KEY})
        for name in ("server.pem", "server.key"):
            shutil.copy(certs / "two" / name, certs / name)
        wait_for(lambda: shown(node.config.http_port, certs) != before)
        wait_for(lambda: shown(node.config.grpc_port, certs) != before)
        seen, limit = answers, time.monotonic() + 60
        while answers < seen + 20 and time.monotonic() < limit:
            client.infer("echo_fp32", tensor(triton_grpc), headers={"x-api-key": KEY})
    stop.set()
    asking.join(60)
    assert failed == []
    assert answers >= seen + 20
    assert node.keeper.status()["haproxy"]["restarts"] == 0
