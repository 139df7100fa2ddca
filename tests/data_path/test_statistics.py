"""Statistics as tritonclient reads them, with two gateways that both count."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.grpc.aio as agrpc
import tritonclient.http as thttp
import tritonclient.http.aio as ahttp
from tritonclient.utils import InferenceServerException

from .rig import DataPath

DURATIONS = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}


def ask(rest: str, rows: int = 1, model: str = "pair") -> None:
    """One request on a connection of its own, so that either gateway may get it."""
    tensor = {"name": "", "datatype": "INT32", "shape": [rows, 16], "data": [1] * rows * 16}
    inputs = [{**tensor, "name": name} for name in "ab"]
    httpx.post(f"http://{rest}/v2/models/{model}/infer", json={"inputs": inputs}).raise_for_status()


def rest_statistics(path: DataPath, model: str = "pair", version: str = "") -> dict[str, Any]:
    with thttp.InferenceServerClient(path.rest) as client:
        (found,) = client.get_inference_statistics(model, version)["model_stats"]
        return dict(found)


def test_every_gateway_tells_the_sums_of_all(path: DataPath) -> None:
    before = rest_statistics(path, version="1")
    for _ in range(20):
        ask(path.rest, rows=2)
    for _ in range(6):
        now = rest_statistics(path, version="1")
        stats = now["inference_stats"]
        assert set(stats) == DURATIONS
        grown = {name: stats[name]["count"] - before["inference_stats"][name]["count"] for name in DURATIONS}
        counted = {"success", "queue", "compute_input", "compute_infer", "compute_output"}
        assert grown == {name: 20 * (name in counted) for name in DURATIONS}
        assert all(isinstance(stats[name][unit], int) and stats[name][unit] >= 0 for name in DURATIONS for unit in ("count", "ns"))
        assert stats["success"]["ns"] >= stats["queue"]["ns"] + stats["compute_infer"]["ns"]
        assert now["inference_count"] - before["inference_count"] == 40
        assert now["execution_count"] - before["execution_count"] == 20
        assert now["last_inference"] > before["last_inference"]
    sizes = {b["batch_size"]: b for b in now["batch_stats"]}
    assert sizes[2]["compute_infer"]["count"] >= 20
    assert sizes[2]["compute_infer"]["ns"] > 0


async def test_all_clients_of_tritonclient_read_the_same(path: DataPath) -> None:
    ask(path.rest)
    rest = rest_statistics(path, version="1")
    async with ahttp.InferenceServerClient(path.rest) as client:
        assert (await client.get_inference_statistics("pair", "1"))["model_stats"] == [rest]
    with tgrpc.InferenceServerClient(path.grpc) as client:
        (grpc,) = client.get_inference_statistics("pair", "1").model_stats
        plain = client.get_inference_statistics("pair", "1", as_json=True)["model_stats"][0]
    async with agrpc.InferenceServerClient(path.grpc) as client:
        (other,) = (await client.get_inference_statistics("pair", "1")).model_stats
    assert grpc == other
    assert (grpc.name, grpc.version, grpc.inference_count) == ("pair", "1", rest["inference_count"])
    assert grpc.execution_count == rest["execution_count"]
    assert grpc.last_inference == rest["last_inference"]
    assert grpc.inference_stats.queue.ns == rest["inference_stats"]["queue"]["ns"]
    assert len(grpc.batch_stats) == len(rest["batch_stats"])
    assert plain["inference_stats"]["success"]["count"] == str(rest["inference_stats"]["success"]["count"])


def test_all_models_and_all_versions_are_there(path: DataPath) -> None:
    with thttp.InferenceServerClient(path.rest) as client:
        everything = client.get_inference_statistics()["model_stats"]
        assert "statistics" in client.get_server_metadata()["extensions"]
        assert [(m["name"], m["version"]) for m in client.get_inference_statistics("pair")["model_stats"]] == [("pair", "1"), ("pair", "2")]
    with tgrpc.InferenceServerClient(path.grpc) as client:
        same = client.get_inference_statistics().model_stats
    assert sorted((m.name, m.version) for m in same) == sorted((m["name"], m["version"]) for m in everything)
    assert {"pair", "gate", "whole"} <= {m["name"] for m in everything}
    assert httpx.get(f"http://{path.rest}/v2/models/pair/stats").json().keys() == {"model_stats"}


@pytest.mark.parametrize(
    ("model", "version", "message"),
    [
        ("nobody", "", "requested model 'nobody' is not available"),
        ("pair", "77", "requested model 'pair' version 77 is not available"),
        ("pair", "two", "failed to get model version from specified version string 'two'"),
    ],
)
def test_what_is_not_there_is_a_bad_request(path: DataPath, model: str, version: str, message: str) -> None:
    with thttp.InferenceServerClient(path.rest) as client, pytest.raises(InferenceServerException, match=message) as raised:
        client.get_inference_statistics(model, version)
    assert raised.value.status() == "400"
    with tgrpc.InferenceServerClient(path.grpc) as client, pytest.raises(InferenceServerException, match=message) as raised:
        client.get_inference_statistics(model, version)
    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert httpx.post(f"http://{path.rest}/v2/models/pair/stats").status_code == 405


def test_failures_are_counted_as_such_and_in_the_queue(path: DataPath) -> None:
    before = rest_statistics(path, "marked")["inference_stats"]
    for first in (-1, 1):
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [first, 0, 0]}
        httpx.post(f"http://{path.rest}/v2/models/marked/infer", json={"inputs": [tensor]})
    now = rest_statistics(path, "marked")["inference_stats"]
    grown = {name: now[name]["count"] - before[name]["count"] for name in ("success", "fail", "queue")}
    assert grown == {"success": 1, "fail": 1, "queue": 2}
    assert now["fail"]["ns"] > before["fail"]["ns"]


def test_numpy_requests_over_grpc_count_in_rows(path: DataPath) -> None:
    before = rest_statistics(path, version="1")
    with tgrpc.InferenceServerClient(path.grpc) as client:
        inputs = [tgrpc.InferInput(name, [3, 16], "INT32") for name in "ab"]
        for one in inputs:
            one.set_data_from_numpy(np.ones((3, 16), np.int32))
        client.infer("pair", inputs, "1")
    assert rest_statistics(path, version="1")["inference_count"] - before["inference_count"] == 3
