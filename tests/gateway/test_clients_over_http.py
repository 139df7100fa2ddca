"""Limits per client as clients see them: 429 with Retry-After, by address, by header, and by what the edge tells."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from serving.state import GatewayLimits
from tests.gateway.alone import LoneGateway

BODY = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'


def ask(where: socket.socket, *lines: str, path: str = "/v2/models/m/infer") -> tuple[int, dict[str, str]]:
    """Send one request and return status and headers of its answer."""
    head = "".join(f"{line}\r\n" for line in ("Host: h", f"Content-Length: {len(BODY)}", *lines))
    where.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + BODY)
    got = b""
    while b"\r\n\r\n" not in got:
        got += where.recv(65536)
    text, _, body = got.partition(b"\r\n\r\n")
    first, *rest = text.decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in rest)}
    while len(body) < int(headers["content-length"]):
        body += where.recv(65536)
    return int(first.split()[1]), headers


@pytest.fixture
def limited(request: pytest.FixtureRequest) -> Iterator[LoneGateway]:
    gateway = LoneGateway(GatewayLimits(**request.param))
    yield gateway
    gateway.close()
    assert gateway.faults == []


def tcp(gateway: LoneGateway) -> socket.socket:
    return socket.create_connection(gateway.tcp)


def unix(gateway: LoneGateway) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(gateway.unix)
    return made


@pytest.mark.parametrize("limited", [{"client_requests_per_s": 0.01, "client_burst": 2}], indirect=True)
def test_by_address(limited: LoneGateway) -> None:
    with tcp(limited) as one, tcp(limited) as two:
        assert [ask(one)[0], ask(two)[0]] == [200, 200]
        for where in (one, two):
            status, headers = ask(where, "x-serving-client: 10.0.0.1")  # only the edge is believed
            assert (status, headers["retry-after"]) == (429, "100")
        where.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
        assert where.recv(65536).startswith(b"HTTP/1.1 200")
    rejected = [s for s in limited.server.report() if s[0] == "serving_rejected_total"]
    assert rejected == [["serving_rejected_total", "counter", {"model": "m", "version": "1", "reason": "client"}, 2]]


@pytest.mark.parametrize("limited", [{"client_requests_per_s": 0.01, "client_burst": 1}], indirect=True)
def test_by_the_address_that_the_edge_tells(limited: LoneGateway) -> None:
    with unix(limited) as edge:
        statuses = [ask(edge, f"x-serving-client: {address}")[0] for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1", "::ffff:10.0.0.2")]
    assert statuses == [200, 200, 429, 429]


@pytest.mark.parametrize("limited", [{"client_requests_per_s": 0.01, "client_burst": 1, "client_header": "x-api-key"}], indirect=True)
def test_by_header(limited: LoneGateway) -> None:
    with tcp(limited) as where, tcp(limited) as other:
        assert [ask(where, "X-API-Key: a")[0], ask(where, "X-API-Key: b")[0], ask(where)[0]] == [200, 200, 200]
        assert [ask(other, "X-API-Key: a")[0], ask(other, "X-API-Key: b")[0], ask(other)[0]] == [429, 429, 429]


@pytest.mark.parametrize("limited", [{"client_inflight_requests": 1}], indirect=True)
def test_requests_that_have_ended_do_not_count(limited: LoneGateway) -> None:
    with tcp(limited) as where:
        assert [ask(where)[0] for _ in range(5)] == [200] * 5
        assert ask(where, path="/v2/models/nobody/infer")[0] == 404
        assert ask(where)[0] == 200
    clients = limited.host.service.clients
    assert [c.requests for c in clients._clients.values()] == [0]


@pytest.mark.parametrize("limited", [{}], indirect=True)
def test_limits_come_and_go_with_the_state(limited: LoneGateway) -> None:
    with tcp(limited) as where:
        assert [ask(where)[0] for _ in range(3)] == [200] * 3
        limited.limit(GatewayLimits(client_requests_per_s=0.01, client_burst=1))
        assert [ask(where)[0] for _ in range(2)] == [200, 429]
        limited.limit(GatewayLimits())
        assert [ask(where)[0] for _ in range(2)] == [200, 200]
