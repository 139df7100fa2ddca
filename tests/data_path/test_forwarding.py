"""Headers and metadata that reach a model as parameters, over all ways to ask."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
from tritonclient.utils import InferenceServerException

from .rig import DataPath

HEADERS = {"x-tenant": "blue", "x-other": "no"}
X = np.zeros((1, 2), np.float32)


@pytest.fixture
def forwards(path: DataPath) -> Iterator[DataPath]:
    path.forward_headers = "x-tenant|priority"
    path.tell()
    yield path
    path.forward_headers = ""
    path.tell()


def x_input(kind: Any) -> list[Any]:
    return [kind.InferInput("x", [1, 2], "FP32").set_data_from_numpy(X)]


def test_a_header_is_a_parameter(forwards: DataPath) -> None:
    with thttp.InferenceServerClient(forwards.rest) as rest:
        for _ in range(3):
            told = rest.infer("told", x_input(thttp), headers=dict(HEADERS), parameters={"own": 1}).get_response()["parameters"]
            assert (told["got_x-tenant"], told["got_own"]) == ("blue", 1)
            assert "got_x-other" not in told
        with pytest.raises(InferenceServerException, match="header 'priority' cannot be forwarded"):
            rest.infer("told", x_input(thttp), headers={"Priority": "1"})
        zipped = rest.infer("told", x_input(thttp), headers=dict(HEADERS), request_compression_algorithm="gzip").get_response()[
            "parameters"
        ]
        assert zipped["got_x-tenant"] == "blue"
    with tgrpc.InferenceServerClient(forwards.grpc) as grpc:
        answer = grpc.infer("told", x_input(tgrpc), headers=dict(HEADERS)).get_response()
        assert answer.parameters["got_x-tenant"].string_param == "blue"
        came: list[Any] = []
        done = threading.Event()
        grpc.start_stream(lambda result, error: (came.append(error or result), done.set()), headers=dict(HEADERS))
        grpc.async_stream_infer("told", x_input(tgrpc))
        assert done.wait(10)
        grpc.stop_stream()
    assert came[0].get_response().parameters["got_x-tenant"].string_param == "blue"


def test_nothing_is_forwarded_where_nobody_asked(path: DataPath) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0, 0]}]}
    answer = httpx.post(f"http://{path.rest}/v2/models/told/infer", json=body, headers=dict(HEADERS)).json()
    assert not any(name.startswith("got_") for name in answer["parameters"])
