"""Traffic between the two versions of `pair`: over REST, gRPC and streams, through two gateways, straight and through HAProxy."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import sqrt
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.routing import Rule, Shadow, Share, Sticky, Traffic, keyed_parts, point_of
from serving.state import GatewayLimits

from .rig import DataPath, wait_for

N = 400
ALONE = [("grpc.use_local_subchannel_pool", 1)]
SPLIT = (Share("1", 7500), Share("2", 2500))
KEYED = keyed_parts({"1": 7500, "2": 2500})
Ask = Callable[..., list[str]]


def version_of(key: str) -> str:
    """Return the version that a caller with this key has, by the rule that all gateways follow."""
    return KEYED[point_of(b"pair\0", key.encode())]


KEYS = [f"user-{i}" for i in range(12)]
assert {version_of(key) for key in KEYS} == {"1", "2"}


def message(parameters: Mapping[str, Any], version: str = "") -> service_pb2.ModelInferRequest:
    found = service_pb2.ModelInferRequest(model_name="pair", model_version=version)
    for name in ("a", "b"):
        found.inputs.add(name=name, datatype="INT32", shape=(1, 16))
        found.raw_input_contents.append(bytes(64))
    for key, value in parameters.items():
        if isinstance(value, str):
            found.parameters[key].string_param = value
        else:
            found.parameters[key].int64_param = value
    return found


def document(parameters: Mapping[str, Any]) -> bytes:
    inputs = [{"name": name, "datatype": "INT32", "shape": [1, 16], "data": [0] * 16} for name in ("a", "b")]
    return json.dumps({"inputs": inputs, "parameters": dict(parameters)}).encode()


class Asked:
    """Asks `pair` so many times and returns the versions that answered, of several connections."""

    def __init__(self, path: DataPath) -> None:
        self._path = path

    def rest(self, count: int, headers: Mapping[str, str] | None = None, version: str = "", **parameters: Any) -> list[str]:
        return self._rest(count, document(parameters), dict(headers or {}), version)

    def binary(self, count: int, headers: Mapping[str, str] | None = None, version: str = "", **parameters: Any) -> list[str]:
        inputs = [
            {"name": n, "datatype": "INT32", "shape": [1, 16], "parameters": {"binary_data_size": 64}} for n in ("a", "b")
        ]  # fmt: skip
        header = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        extra = {"inference-header-content-length": str(len(header))}
        return self._rest(count, header + bytes(128), {**(headers or {}), **extra}, version)

    def compressed(self, count: int, headers: Mapping[str, str] | None = None, version: str = "", **parameters: Any) -> list[str]:
        return self._rest(count, gzip.compress(document(parameters)), {**(headers or {}), "content-encoding": "gzip"}, version)

    def _rest(self, count: int, body: bytes, headers: dict[str, str], version: str) -> list[str]:
        where = f"/v2/models/pair{f'/versions/{version}' if version else ''}/infer"
        found = []
        while len(found) < count:
            with httpx.Client(base_url=f"http://{self._path.rest}") as client:
                for _ in range(min(50, count - len(found))):
                    answer = client.post(where, content=body, headers=headers)
                    assert answer.status_code == 200, answer.text
                    found.append(answer.json()["model_version"])
        return found

    def grpc(self, count: int, headers: Mapping[str, str] | None = None, version: str = "", **parameters: Any) -> list[str]:
        call, metadata = message(parameters, version), list((headers or {}).items())
        found = []
        while len(found) < count:
            with grpc.insecure_channel(self._path.grpc, ALONE) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                found += [stub.ModelInfer(call, metadata=metadata, timeout=60).model_version for _ in range(min(50, count - len(found)))]
        return found

    def stream(self, count: int, headers: Mapping[str, str] | None = None, version: str = "", **parameters: Any) -> list[str]:
        call, metadata = message(parameters, version), list((headers or {}).items())
        found = []
        while len(found) < count:
            with grpc.insecure_channel(self._path.grpc, ALONE) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                answers = stub.ModelStreamInfer(iter([call] * min(50, count - len(found))), metadata=metadata, timeout=10)
                found += [answer.infer_response.model_version for answer in answers]
        return found


WAYS = ["rest", "binary", "compressed", "grpc", "stream"]


@pytest.fixture
def asked(path: DataPath) -> Iterator[Asked]:
    yield Asked(path)
    path.traffic.clear()
    path.limits = GatewayLimits()
    path.tell()


def have(path: DataPath, traffic: Traffic) -> None:
    path.traffic["pair"] = traffic
    path.tell()


def band(count: int, points: int) -> tuple[float, float]:
    """Return the bounds in which 99.9 % of binomial counts lie (normal approximation)."""
    share = points / 10_000
    wide = 3.2905 * sqrt(count * share * (1 - share))
    return count * share - wide, count * share + wide


def test_every_way_has_its_shares(path: DataPath, asked: Asked) -> None:
    have(path, Traffic(SPLIT))
    for way in WAYS:
        low, high = band(N, 2500)
        assert low <= getattr(asked, way)(N).count("2") <= high, way


@pytest.mark.parametrize("way", WAYS)
def test_a_key_has_its_version_in_a_header_and_in_a_parameter(path: DataPath, asked: Asked, way: str) -> None:
    ask: Ask = getattr(asked, way)
    have(path, Traffic(SPLIT, Sticky("header", "x-user")))
    for key in KEYS:
        assert set(ask(3, {"x-user": key})) == {version_of(key)}
    have(path, Traffic(SPLIT, Sticky("parameter", "user")))
    for key in KEYS:
        assert set(ask(3, user=key)) == {version_of(key)}
    assert set(ask(3, user=7)) == {version_of("7")}


@pytest.mark.parametrize("way", WAYS)
def test_who_has_no_key_is_shared_out_and_an_address_is_one_key(path: DataPath, asked: Asked, way: str) -> None:
    ask: Ask = getattr(asked, way)
    have(path, Traffic(SPLIT, Sticky("header", "x-user")))
    assert set(ask(60)) == {"1", "2"}
    have(path, Traffic(SPLIT, Sticky("parameter", "user")))
    assert set(ask(60)) == {"1", "2"}
    have(path, Traffic(SPLIT, Sticky("address")))
    assert set(ask(60)) == {version_of("127.0.0.1")}


@pytest.mark.parametrize("way", WAYS)
def test_rules_come_first_and_a_version_in_the_path_before_them(path: DataPath, asked: Asked, way: str) -> None:
    ask: Ask = getattr(asked, way)
    rules = (
        Rule("2", "header", "x-tester", "equals", "yes"),
        Rule("1", "parameter", "land", "equals", "at"),
        Rule("2", "parameter", "land", "matches", "a.*|de"),
    )
    have(path, Traffic(rules=rules))
    assert set(ask(3)) == {"1"}
    assert set(ask(3, {"x-tester": "yes"})) == {"2"}
    assert set(ask(3, {"x-tester": "no"})) == {"1"}
    assert set(ask(3, land="ad")) == {"2"}
    assert set(ask(3, land="at")) == {"1"}
    assert set(ask(3, {"x-tester": "yes"}, land="at")) == {"2"}
    assert set(ask(3, {"x-tester": "yes"}, version="1")) == {"1"}


def test_an_edit_counts_for_the_next_request_of_open_connections_and_streams(path: DataPath, asked: Asked) -> None:
    have(path, Traffic((Share("1", 0), Share("2", 10_000))))
    edits = iter(
        [Traffic(), Traffic((Share("1", 0), Share("2", 10_000))), Traffic(rules=(Rule("2", "header", "x-tester", "equals", "yes"),))]
    )
    seen: list[str] = []

    def requests() -> Iterator[service_pb2.ModelInferRequest]:
        for sent in range(4):
            wait_for(lambda sent=sent: len(seen) == sent)  # type: ignore[misc]
            yield message({})
            wait_for(lambda sent=sent: len(seen) == sent + 1)  # type: ignore[misc]
            if edit := next(edits, None):
                have(path, edit)

    with grpc.insecure_channel(path.grpc, ALONE) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = stub.ModelStreamInfer(requests(), metadata=[("x-tester", "yes")], timeout=20)
        while (answer := next(answers, None)) is not None:
            seen.append(answer.infer_response.model_version)
    assert seen == ["2", "1", "2", "2"]


def test_metadata_and_readiness_are_those_of_the_endpoint(path: DataPath, asked: Asked) -> None:
    have(path, Traffic(SPLIT, Sticky("parameter", "user"), (Rule("2", "header", "x", "equals", "y"),)))
    with httpx.Client(base_url=f"http://{path.rest}") as client:
        assert client.get("/v2/models/pair").json()["versions"] == ["1", "2"]
        assert client.get("/v2/models/pair/ready").status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"parameters": 7}', b'{"parameters": {"user": {}}}', b"\xff"])
def test_what_cannot_be_read_is_refused_as_ever(path: DataPath, asked: Asked, body: bytes) -> None:
    plain = httpx.post(f"http://{path.rest}/v2/models/pair/infer", content=body)
    have(path, Traffic(SPLIT, Sticky("parameter", "user")))
    for headers in ({}, {"inference-header-content-length": "99"}, {"inference-header-content-length": str(len(body))}):
        answer = httpx.post(f"http://{path.rest}/v2/models/pair/infer", content=body, headers=headers)
        assert answer.status_code == 400
        assert headers or answer.text == plain.text


def test_a_shadow_gets_copies_and_nobody_sees_them(path: DataPath, asked: Asked) -> None:
    def copies() -> Counter[str]:
        found: Counter[str] = Counter()
        for member in path.members:
            for name, _, labels, value in member.server.report():
                if name == "serving_requests_total" and labels["model"] == "pair" and labels["protocol"] == "shadow":
                    found[f"{labels['version']} {labels['outcome']}"] += value
        return found

    before = copies()
    have(path, Traffic(shadows=(Shadow("2", 10_000),)))
    for way in WAYS:
        assert set(getattr(asked, way)(20)) == {"1"}
    wait_for(lambda: (copies() - before)["2 ok"] == 20 * len(WAYS))
    assert set(asked.rest(5, version="2")) == {"2"}
    assert set(copies() - before) == {"2 ok"}
    assert path.open("pair", "2") == 0
