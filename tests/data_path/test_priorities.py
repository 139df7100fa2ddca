"""Priorities and time-outs of requests, over both protocols, as tritonclient sends them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
from tritonclient.utils import InferenceServerException

from .rig import DataPath, wait_for

WAITS = np.zeros((1, 2), np.float32)


def rest(path: DataPath, priority: int = 0, timeout: int | None = None) -> None:
    x = thttp.InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(WAITS)
    with thttp.InferenceServerClient(path.rest) as client:
        client.infer("gate", [x], priority=priority, timeout=timeout)


def grpc(path: DataPath, priority: int = 0, timeout: int | None = None) -> None:
    x = tgrpc.InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(WAITS)
    with tgrpc.InferenceServerClient(path.grpc) as client:
        client.infer("gate", [x], priority=priority, timeout=timeout)


def test_one_comes_first_then_what_says_nothing_then_the_patient(path: DataPath, gate: Path) -> None:
    done: list[int] = []
    with ThreadPoolExecutor(8) as pool:

        def ask(number: int, priority: int) -> None:
            (rest if number % 2 else grpc)(path, priority)
            done.append(priority)

        first = pool.submit(ask, 0, 7)
        wait_for(lambda: path.open("gate") == 1 and path.queued("gate") == 0)
        later = [pool.submit(ask, n, priority) for n, priority in enumerate((200, 1 << 40, 0, 2, 1))]
        wait_for(lambda: path.queued("gate") == 5)
        batcher = path.replicas[0]._batchers["gate/1"]
        order = sorted(batcher._queue._entries(), key=lambda entry: entry.order)
        path.open_gate()
        for future in (first, *later):
            future.result()
    assert [entry.level for entry in order] == [1, 2, 128, 200, 255]
    assert sorted(done) == [0, 1, 2, 7, 200, 1 << 40]


def test_a_request_whose_timeout_is_over_in_the_queue_is_refused(path: DataPath, gate: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(grpc, path)
        wait_for(lambda: path.open("gate") == 1 and path.queued("gate") == 0)
        errors = [pool.submit(ask, path, timeout=2000).exception(10) for ask in (rest, grpc)]
        path.open_gate()
        first.result()
    for error, status in zip(errors, ("503", "StatusCode.UNAVAILABLE"), strict=True):
        assert isinstance(error, InferenceServerException)
        assert (error.status(), error.message()[:23]) == (status, "Request timeout expired")
    rest(path, timeout=10_000_000)


@pytest.mark.parametrize("name", ["priority", "timeout"])
def test_what_is_no_priority_and_no_timeout(path: DataPath, name: str) -> None:
    with thttp.InferenceServerClient(path.rest) as client:
        for bad in (-1, 1.5, "1", True, None):
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0, 0]}], "parameters": {name: bad}}
            response = client._post("v2/models/gate/infer", json.dumps(body), {}, None)
            assert response.status_code == 400
            assert f"'{name}'" in json.loads(response.read())["error"]
