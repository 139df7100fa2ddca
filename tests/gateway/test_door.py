"""What is refused unread while the queue is full, and what is read all the same because it may be urgent."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection
from time import monotonic

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from serving.gateway.call import Description, Served
from serving.gateway.door import QUOTES, WINDOW_BYTES
from serving.gateway.load import NORMAL
from serving.gateway.local import LocalChannel
from serving.inference import Buffer, InferResponse, Layout
from serving.protocol.json_slices import SLICED_BYTES
from serving.routing import PLAIN, Route, RouteTable, Rule, Share, Traffic
from serving.state import GatewayLimits, GatewayState
from tests.gateway.alone import SIGNATURE, LoneGateway

FULL = b'{"error":"Exceeds maximum queue size"}'
TENSOR = b'"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]'
LARGE = b'{"inputs":[{"name":"%s","shape":[1,200000],"datatype":"FP32","data":[1' + b",1" * 199_999 + b"]}]%s}"
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
    served = gateway.host.service.versions.resolve("m", "")
    gateway.in_loop(lambda: fill(served))
    yield gateway
    gateway.in_loop(lambda: empty(served))


def fill(served: Served) -> None:
    load = served.loads[NORMAL]
    load.requests += 1
    load.full(monotonic() + 3600)


def empty(served: Served) -> None:
    load = served.loads[NORMAL]
    load.requests -= 1
    load.capped(monotonic() + 7200)


def ask(gateway: LoneGateway, body: bytes, path: str = "/v2/models/m/infer", **headers: str) -> tuple[int, str | None, bytes]:
    """Return status, Retry-After and body of the answer."""
    connection = HTTPConnection(*gateway.tcp, timeout=60)
    try:
        connection.request("POST", path, body, headers)
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
    calls = full.host.service.calls
    full.in_loop(lambda: setattr(calls, "draining", True))
    try:
        assert b"Server is stopping" in ask(full, b"{%s}" % TENSOR)[2]
    finally:
        full.in_loop(lambda: setattr(calls, "draining", False))


def test_large_json_is_not_read_either(full: LoneGateway) -> None:
    """A body that would be read in slices: what is wrong with it is not found."""
    body = LARGE % (b"nothing", b"")
    assert len(body) > SLICED_BYTES
    assert ask(full, body) == (503, "1", FULL)
    assert ask(full, LARGE % (b"nothing", b',"parameters":{"priority":1}'))[0] == 400
    assert ask(full, LARGE % (b"x", b',"parameters":{"priority":1}'))[0] == 200


def test_large_json_is_read_where_there_is_room(gateway: LoneGateway) -> None:
    assert ask(gateway, LARGE % (b"nothing", b""))[0] == 400
    assert ask(gateway, LARGE % (b"x", b""))[0] == 200


@pytest.mark.parametrize("before", range(-12, 3))
def test_a_long_text_is_looked_at_in_windows_that_overlap(full: LoneGateway, before: int) -> None:
    urgent = b'{"parameters":{"priority":1},'
    space = WINDOW_BYTES + before - urgent.index(b'"priority"')
    assert ask(full, b" " * space + urgent + TENSOR + b"}")[0] == 200


@pytest.fixture
def shared(gateway: LoneGateway) -> Iterator[LoneGateway]:
    """The requests are shared out among two versions."""

    def echo(layout: Layout, payload: Buffer) -> InferResponse:
        return InferResponse("m", "2", layout, payload)

    def attach() -> None:
        service, loop = gateway.host.service, gateway.server._loop
        service.attach(LocalChannel(loop, service.calls.deliver, [Description("m", "2", SIGNATURE, "here")], echo))

    gateway.in_loop(attach)
    yield gateway
    gateway.limit(GatewayLimits())


@pytest.mark.parametrize(
    "traffic",
    [Traffic((Share("1", 5000), Share("2", 5000))), Traffic(rules=(Rule("2", "parameter", "who", "is", "me"),))],
    ids=["split", "rule"],
)
def test_unread_large_json_is_refused_where_all_refuse_it(shared: LoneGateway, traffic: Traffic) -> None:
    """Which version answers may depend on what is in it."""
    for kind in (traffic, PLAIN):
        shared.revision += 1
        routes = RouteTable(shared.revision, {"m": Route("m", "1", ("1", "2"), traffic=kind)})
        shared.server.apply(GatewayState(routes, GatewayLimits()))
        first, second = (shared.host.service.versions.resolve("m", version) for version in ("1", "2"))
        shared.in_loop(lambda served=first: fill(served))
        wrong = LARGE % (b"nothing", b"")
        assert ask(shared, wrong)[0] == (503 if kind is PLAIN else 400)
        assert ask(shared, wrong, "/v2/models/m/versions/1/infer")[0] == 503
        assert ask(shared, wrong, "/v2/models/m/versions/2/infer")[0] == 400
        shared.in_loop(lambda served=second: fill(served))
        assert ask(shared, wrong) == (503, "1", FULL)
        for served in (first, second):
            shared.in_loop(lambda served=served: empty(served))
        assert ask(shared, wrong)[0] == 400
