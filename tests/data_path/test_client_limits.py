"""Limits for each client hold over gRPC as over REST: unary calls and the requests of a stream, straight and through HAProxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2_grpc

from serving.access.key import KeyHash, new_key
from serving.access.settings import AccessRules
from serving.state import GatewayLimits

from .models import plan
from .rig import DataPath
from .test_grpc import request

CALL = request("echo_fp32", np.ones((1, 4)))


@pytest.fixture(params=["auto", "grpc"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DataPath]:
    """A node that lets each client, known by its header, ask twice an hour."""
    with DataPath(edge=request.param) as path:
        path.limits = GatewayLimits(client_requests_per_s=2 / 3600, client_burst=2, client_header="x-client")
        path.replica(plan(tmp_path, path.gate), "r1")
        path.gateway("a")
        yield path


def test_one_client_is_refused_and_another_is_served(node: DataPath) -> None:
    with grpc.insecure_channel(node.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(2):
            stub.ModelInfer(CALL, metadata=[("x-client", "one")], timeout=60)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(CALL, metadata=[("x-client", "one")], timeout=60)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc-retry-pushback-ms" in dict(refused.value.trailing_metadata())
        stub.ModelInfer(CALL, metadata=[("x-client", "two")], timeout=60)


def test_each_request_of_a_stream_counts(node: DataPath) -> None:
    with grpc.insecure_channel(node.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = list(stub.ModelStreamInfer(iter([CALL] * 3), metadata=[("x-client", "three")], timeout=60))
        assert [bool(answer.error_message) for answer in answers] == [False, False, True]


def test_a_key_has_its_quota_once_however_many_gateways_there_are(tmp_path: Path) -> None:
    key, number, digest = new_key()
    path = DataPath()
    path.access = AccessRules((KeyHash(number, digest, "ci", ("predictor",), requests_per_s=1 / 3600, burst=5),))
    try:
        path.replica(plan(tmp_path, path.gate), "r1")
        for name in "abc":
            path.gateway(name)
        body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
        status = [
            httpx.post(f"http://{path.rest}/v2/models/echo_fp32/infer", json=body, headers={"x-api-key": key}).status_code
            for _ in range(12)
        ]
        assert sorted(status) == [200] * 5 + [429] * 7
        assert path.faults() == []
    finally:
        path.close()
