"""Parameters of requests reach the model and those of the model the client, over both protocols."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp

from .rig import DataPath

SENT = {"name": "grün", "add": 2.5, "deep": 7, "flag": True, "one": 1, "whole": 3.0, "most": (1 << 63) - 1, "least": -(1 << 63)}


def told(sent: dict[str, object], rows: int = 1) -> dict[str, object]:
    """Return what the model `told` says to these parameters."""
    return {"rows": rows, **{f"got_{key}": value for key, value in sent.items()}}


def typed(values: dict[str, object]) -> dict[str, tuple[type, object]]:
    """Return the values with their types: 1, 1.0 and True are equal."""
    return {key: (type(value), value) for key, value in values.items()}


def post(path: DataPath, parameters: dict[str, object], binary: bool = False) -> dict[str, object]:
    """Infer over REST; return the answer, less its binary part."""
    outputs = [{"name": "y", "parameters": {"binary_data": binary}}]
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    body = json.dumps({"inputs": [x], "outputs": outputs, "parameters": parameters}).encode()
    with urllib.request.urlopen(f"http://{path.rest}/v2/models/told/infer", body, timeout=60) as answer:
        size = int(answer.headers.get("Inference-Header-Content-Length", -1))
        text = answer.read()
        found: dict[str, object] = json.loads(text[:size] if size >= 0 else text)
        return found


@pytest.mark.parametrize("binary", [False, True])
def test_over_rest(path: DataPath, binary: bool) -> None:
    answer = post(path, {**SENT, "priority": 3, "timeout": 10_000_000}, binary)
    assert typed(answer["parameters"]) == typed(told(SENT))  # type: ignore[arg-type]
    if not binary:
        assert answer["outputs"][0]["data"] == [3.5, 4.5]  # type: ignore[index]
    assert post(path, {})["parameters"] == {"rows": 1}


def test_over_grpc(path: DataPath) -> None:
    x = tgrpc.InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(np.array([[1, 2]], np.float32))
    with tgrpc.InferenceServerClient(path.grpc) as client:
        answer = client.infer("told", [x], parameters=SENT, priority=2)
    np.testing.assert_array_equal(answer.as_numpy("y"), np.array([[3.5, 4.5]], np.float32))
    got = {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in answer.get_response().parameters.items()}
    assert typed(got) == typed(told(SENT))


def test_the_rest_client_reads_them(path: DataPath) -> None:
    x = thttp.InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(np.array([[1, 2]], np.float32))
    with thttp.InferenceServerClient(path.rest) as client:
        answer = client.infer("told", [x], parameters={"add": 1, "word": "w"})
    assert answer.get_response()["parameters"] == {"rows": 1, "got_add": 1, "got_word": "w"}


def test_equal_values_of_other_types_stay_apart(path: DataPath) -> None:
    for value in (1, True, 1.0, 0, False, 0.0, True, 1):
        assert typed(post(path, {"v": value})["parameters"]) == typed(told({"v": value}))  # type: ignore[arg-type]


def test_only_equal_parameters_share_a_batch(path: DataPath) -> None:
    def ask(n: int) -> None:
        answer = post(path, {"add": n % 3})
        assert answer["outputs"][0]["data"] == [1 + n % 3, 2 + n % 3]  # type: ignore[index]
        assert answer["parameters"]["got_add"] == n % 3  # type: ignore[index]

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(ask, n) for n in range(300)]:
            done.result()
