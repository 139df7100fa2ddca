"""Access at a gateway: who is asked, who is refused, in the words of each protocol; and that it holds from the next request on."""

from __future__ import annotations

import json
import socket
import time
from base64 import b64encode
from collections.abc import Iterator

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.access.key import KeyHash, new_key
from serving.access.settings import AccessRules, JwtSettings
from serving.access.token import public_keys
from serving.state import GatewayLimits
from tests.access.tokens import jwk, key_set, token
from tests.gateway.alone import LoneGateway

BODY = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
INFER = "/v2/models/m/infer"


def made(name: str, *grants: str, **more: float) -> tuple[str, KeyHash]:
    key, number, digest = new_key()
    return key, KeyHash(number, digest, name, grants, **more)  # type: ignore[arg-type]


CI, CI_HASH = made("ci", "predictor:m")
LOOK, LOOK_HASH = made("look", "viewer")
OTHER, OTHER_HASH = made("other", "predictor:n*")
ADMIN, ADMIN_HASH = made("boss", "admin")
SLOW, SLOW_HASH = made("slow", "predictor", requests_per_s=0.01, burst=2)
RULES = AccessRules(
    (CI_HASH, LOOK_HASH, OTHER_HASH, ADMIN_HASH, SLOW_HASH),
    JwtSettings("", "https://idp.test", ("serving",)),
    public_keys(key_set(jwk("ES256", "one"))),
)


@pytest.fixture
def gateway() -> Iterator[LoneGateway]:
    lone = LoneGateway()
    lone.limit(GatewayLimits(), RULES)
    yield lone
    lone.close()
    assert lone.faults == []


class Client:
    """One HTTP/1.1 connection."""

    def __init__(self, gateway: LoneGateway) -> None:
        self._socket = socket.create_connection(gateway.tcp, timeout=60)
        self._rest = b""

    def ask(
        self, *lines: str, path: str = INFER, method: str = "POST", body: bytes = BODY, length: int = -1
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request; return status, headers and body of the answer. length: what it says of its body, where that is not so."""
        head = "".join(f"{line}\r\n" for line in ("Host: h", f"Content-Length: {len(body) if length < 0 else length}", *lines))
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        return self.answer()

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        got = self._rest
        while b"\r\n\r\n" not in got:
            got += self._socket.recv(65536)
        text, _, rest = got.partition(b"\r\n\r\n")
        first, *lines = text.decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"])
        while len(rest) < length:
            rest += self._socket.recv(65536)
        self._rest = rest[length:]
        return int(first.split()[1]), headers, rest[:length]

    def get(self, path: str, *lines: str) -> int:
        return self.ask(*lines, path=path, method="GET", body=b"")[0]

    def ended(self) -> bool:
        return self._socket.recv(1) == b""

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def client(gateway: LoneGateway) -> Iterator[Client]:
    one = Client(gateway)
    yield one
    one.close()


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}"


def basic(key: str) -> str:
    return "Authorization: Basic " + b64encode(f"me:{key}".encode()).decode()


def test_a_stranger_is_told_how_to_ask(client: Client) -> None:
    status, headers, body = client.ask()
    assert status == 401
    assert headers["www-authenticate"] == 'Bearer realm="serving", Basic realm="serving"'
    assert headers["content-type"] == "application/json"
    assert "x-api-key" in json.loads(body)["error"]
    assert client.get("/v2/health/live") == client.get("/v2/health/ready") == 200
    assert client.get("/v2") == client.get("/v2/models/m") == client.get("/nowhere") == 401


@pytest.mark.parametrize(
    "line", [bearer(CI), basic(CI), f"x-api-key: {CI}", f"X-API-Key: {CI}"], ids=["bearer", "basic", "header", "HEADER"]
)
def test_a_key_opens_however_it_is_sent(client: Client, line: str) -> None:
    assert [client.ask(line)[0] for _ in range(3)] == [200, 200, 200]


def test_a_role_is_for_its_models(client: Client) -> None:
    assert client.ask(bearer(LOOK))[0] == 403
    assert client.get("/v2/models/m", bearer(LOOK)) == 200
    status, _, body = client.ask(bearer(OTHER))
    assert (status, json.loads(body)) == (403, {"error": "'other' needs the role predictor for model 'm'"})
    assert client.get("/v2/models/m", bearer(OTHER)) == 403
    assert client.ask(bearer(OTHER), path="/v2/models/nought/infer")[0] == 404
    assert client.ask(bearer(ADMIN))[0] == 200


def test_a_body_that_nobody_wants_is_not_received(gateway: LoneGateway) -> None:
    for line in ("X: y", bearer(LOOK)):
        client = Client(gateway)
        status, headers, _ = client.ask(line, body=b"x" * 1000, length=10**9)
        assert (status, headers["connection"]) == (401 if line == "X: y" else 403, "close")
        assert client.ended()
        client.close()
    client = Client(gateway)
    client._socket.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    client._socket.sendall(b"4\r\nabcd\r\n0\r\n\r\n")
    assert client.answer()[0] == 401
    client.close()


def test_refused_heads_take_no_room(gateway: LoneGateway, client: Client) -> None:
    before = len(gateway.host.heads)
    for _ in range(5):
        assert client.ask(bearer(made("x", "admin")[0]))[0] == 401
    assert len(gateway.host.heads) == before


def test_what_is_revoked_is_refused_at_once(gateway: LoneGateway, client: Client) -> None:
    assert client.ask(bearer(CI))[0] == 200
    gateway.limit(GatewayLimits(), AccessRules((ADMIN_HASH,)))
    assert client.ask(bearer(CI))[0] == 401
    assert client.ask(bearer(ADMIN))[0] == 200
    gateway.limit(GatewayLimits())
    assert client.ask()[0] == 200, "access is off again"


def test_what_expires_is_refused_from_then_on(gateway: LoneGateway, client: Client) -> None:
    key, kept = made("brief", "predictor", until=time.time() + 0.4)
    gateway.limit(GatewayLimits(), AccessRules((kept,)))
    assert client.ask(bearer(key))[0] == 200
    limit = time.monotonic() + 60
    while (status := client.ask(bearer(key))[0]) == 200:
        assert time.monotonic() < limit
    assert status == 401


def test_a_token_opens_until_it_expires(client: Client) -> None:
    good = token(exp=time.time() + 60, roles=["predictor:m"])
    assert client.ask(bearer(good))[0] == 200
    assert client.ask(bearer(token(exp=time.time() - 60)))[0] == 401
    assert client.ask(bearer(token(exp=time.time() + 60, which="stranger")))[0] == 401


def test_a_key_has_limits_of_its_own(client: Client) -> None:
    assert [client.ask(bearer(SLOW))[0] for _ in range(3)] == [200, 200, 429]
    # the same key sent otherwise is the same client
    assert client.ask(f"x-api-key: {SLOW}")[0] == 429
    assert client.ask(bearer(CI))[0] == 200


def call(x: float = 1.0, model: str = "m") -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1]).contents.fp32_contents.append(x)
    return request


@pytest.fixture
def stub(gateway: LoneGateway) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.tcp[1]}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def code(refused: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    return refused.value.code()  # type: ignore[no-any-return]


@pytest.mark.parametrize("metadata", [("authorization", f"Bearer {CI}"), ("authorization", basic(CI)[15:]), ("x-api-key", CI)])
def test_grpc_takes_the_same_as_metadata(stub: service_pb2_grpc.GRPCInferenceServiceStub, metadata: tuple[str, str]) -> None:
    for _ in range(3):
        assert stub.ModelInfer(call(), metadata=[metadata], timeout=60).model_name == "m"


def test_grpc_refuses_in_its_own_words(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=60).live
    for request in (call(), call(1.0)):
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request, timeout=60)
        assert code(refused) is grpc.StatusCode.UNAUTHENTICATED
    for key, allowed in ((LOOK, False), (OTHER, False), (ADMIN, True), (CI, True)):
        if allowed:
            stub.ModelInfer(call(), metadata=[("x-api-key", key)], timeout=60)
            continue
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(call(), metadata=[("x-api-key", key)], timeout=60)
        assert code(refused) is grpc.StatusCode.PERMISSION_DENIED


def test_grpc_calls_about_a_model_look_at_its_name(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    ask = service_pb2.ModelMetadataRequest(name="m")
    assert stub.ModelMetadata(ask, metadata=[("x-api-key", CI)], timeout=60).name == "m"
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelMetadata(ask, metadata=[("x-api-key", OTHER)], timeout=60)
    assert code(refused) is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as refused:
        stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="m"), metadata=[("x-api-key", CI)], timeout=60)
    assert code(refused) is grpc.StatusCode.PERMISSION_DENIED


def test_each_request_of_a_stream_is_looked_at(gateway: LoneGateway, stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    answers: list[str] = []
    note = answers.append

    def requests() -> Iterator[service_pb2.ModelInferRequest]:
        yield call()
        yield call(model="n")
        while len(answers) < 2:
            time.sleep(0.002)
        gateway.limit(GatewayLimits(), AccessRules((ADMIN_HASH,)))
        yield call()

    for answer in stub.ModelStreamInfer(requests(), metadata=[("x-api-key", CI)], timeout=60):
        note(answer.error_message)
    assert answers[0] == ""
    assert "needs the role predictor for model 'n'" in answers[1]
    assert "not known here" in answers[2]
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.ModelStreamInfer(iter([call()]), timeout=60))
    assert code(refused) is grpc.StatusCode.UNAUTHENTICATED
