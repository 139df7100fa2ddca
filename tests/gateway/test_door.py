"""What is refused unread while the queue is full, and what is read all the same because it may be urgent."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection
from time import monotonic

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from serving.gateway.door import QUOTES
from serving.gateway.load import NORMAL
from tests.gateway.alone import LoneGateway

FULL = b'{"error":"Exceeds maximum queue size"}'
TENSOR = b'"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]'
MANY_WORDS = b'"id":"' + b'","id":"'.join([b"i"] * QUOTES) + b'",'


@pytest.fixture(scope="module")
def gateway() -> Iterator[LoneGateway]:
    lone = LoneGateway()
    yield lone
    lone.close()
    assert lone.faults == []


@pytest.fixture
def full(gateway: LoneGateway) -> Iterator[LoneGateway]:
    """The queue of ordinary requests is full for as long as the test takes."""
    load = gateway.host.service.resolve("m", "").loads[NORMAL]

    def fill() -> None:
        load.requests += 1
        load.full(monotonic() + 3600)

    def empty() -> None:
        load.requests -= 1

    gateway.in_loop(fill)
    yield gateway
    gateway.in_loop(empty)


def ask(gateway: LoneGateway, body: bytes, **headers: str) -> tuple[int, str | None, bytes]:
    """Return status, Retry-After and body of the answer."""
    connection = HTTPConnection(*gateway.tcp, timeout=60)
    try:
        connection.request("POST", "/v2/models/m/infer", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Retry-After"), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("body", [b"{%s}" % TENSOR, b"no JSON at all", b"", b'{%s"x":"priority ' % MANY_WORDS])
def test_an_ordinary_request_is_not_read(full: LoneGateway, body: bytes) -> None:
    assert ask(full, body) == (503, "1", FULL)


@pytest.mark.parametrize(
    "parameters",
    [b'"parameters":{"priority":1}', b'"parameters":{"\\u0070riority":1}', b'%s"parameters":{"priority":1}' % MANY_WORDS],
    ids=["plain", "escaped", "behind many words"],
)
def test_an_urgent_request_has_a_queue_of_its_own(full: LoneGateway, parameters: bytes) -> None:
    assert ask(full, b"{%s,%s}" % (TENSOR, parameters))[0] == 200


def test_of_a_binary_request_only_the_header_counts(full: LoneGateway) -> None:
    header = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}]}'
    assert ask(full, header + b'"priority":1234.', **{"Inference-Header-Content-Length": str(len(header))}) == (503, "1", FULL)


def test_where_there_is_room_all_are_read(gateway: LoneGateway) -> None:
    assert ask(gateway, b"{%s}" % TENSOR)[0] == 200
    assert ask(gateway, b"no JSON at all")[0] == 400


def test_it_is_counted_as_a_full_queue(full: LoneGateway) -> None:
    def refused() -> float:
        return sum(s[3] for s in full.server.report() if s[0] == "serving_rejected_total" and s[2]["reason"] == "queue_full")

    before = refused()
    assert ask(full, b"{%s}" % TENSOR)[0] == 503
    assert refused() == before + 1


def test_grpc_is_refused_likewise(full: LoneGateway) -> None:
    x = InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(np.ones((1, 2), np.float32))
    host, port = full.tcp
    with InferenceServerClient(f"{host}:{port}") as client:
        with pytest.raises(InferenceServerException, match="Exceeds maximum queue size") as refused:
            client.infer("m", [x], client_timeout=60)
        assert "UNAVAILABLE" in str(refused.value.status())
        assert client.infer("m", [x], client_timeout=60, priority=1).as_numpy("y").tolist() == [[1, 1]]


def test_while_draining_it_says_so(full: LoneGateway) -> None:
    service = full.host.service
    full.in_loop(lambda: setattr(service, "_draining", True))
    try:
        assert b"Server is stopping" in ask(full, b"{%s}" % TENSOR)[2]
    finally:
        full.in_loop(lambda: setattr(service, "_draining", False))
