"""Extensions of the protocol as tritonclient uses them, over both protocols."""

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


async def test_the_config_of_a_model_is_the_same_over_all_clients(path: DataPath) -> None:
    with thttp.InferenceServerClient(path.rest) as client:
        rest = client.get_model_config("pair", "2")
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'nobody' is not found"):
            client.get_model_config("nobody")
    async with ahttp.InferenceServerClient(path.rest) as client:
        assert await client.get_model_config("pair", "2") == rest
    with tgrpc.InferenceServerClient(path.grpc) as client:
        config = client.get_model_config("pair", "2", as_json=True)["config"]
        with pytest.raises(InferenceServerException, match="failed to get model version from specified version string 'two'"):
            client.get_model_config("pair", "two")
    async with agrpc.InferenceServerClient(path.grpc) as client:
        assert (await client.get_model_config("pair", "2")).config.max_batch_size == 8
    assert rest["max_batch_size"] == config["max_batch_size"] == 8
    assert rest["version_policy"] == {"specific": {"versions": [1, 2]}}
    assert [(i["name"], i["data_type"], i["dims"]) for i in rest["input"]] == [("a", "TYPE_INT32", [16]), ("b", "TYPE_INT32", [16])]
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 2048
    assert rest["instance_group"][0]["count"] == 1


def test_a_config_is_only_to_be_read(path: DataPath) -> None:
    with httpx.Client(base_url=f"http://{path.rest}") as client:
        assert client.get("/v2/models/whole/config").json()["max_batch_size"] == 0
        assert "dynamic_batching" not in client.get("/v2/models/whole/versions/1/config").json()
        assert client.post("/v2/models/whole/config").status_code == 405


async def test_outputs_as_classes(path: DataPath) -> None:
    values = np.array([[0.5, 3.0, 1.0], [9.0, -1.0, 4.0]], np.float32)
    expected = [[b"3.000000:1", b"1.000000:2"], [b"9.000000:0", b"4.000000:2"]]

    def asked(kind: Any, **output: bool) -> dict[str, Any]:
        tensor = kind.InferInput("x", [2, 3], "FP32").set_data_from_numpy(values)
        return {"inputs": [tensor], "outputs": [kind.InferRequestedOutput("y", class_count=2, **output)]}

    with thttp.InferenceServerClient(path.rest) as client:
        for binary in (True, False):
            found = client.infer("echo_fp32", **asked(thttp, binary_data=binary)).as_numpy("y")
            assert [[t if isinstance(t, bytes) else t.encode() for t in row] for row in found] == expected
        text = thttp.InferInput("x", [1, 1], "BYTES").set_data_from_numpy(np.array([[b"a"]], dtype=np.object_))
        with pytest.raises(InferenceServerException, match="class result not available for output due to unsupported type 'BYTES'"):
            client.infer("echo_bytes", [text], outputs=[thttp.InferRequestedOutput("y", class_count=1)])
    async with ahttp.InferenceServerClient(path.rest) as client:
        assert (await client.infer("echo_fp32", **asked(thttp))).as_numpy("y").tolist() == expected
    with tgrpc.InferenceServerClient(path.grpc) as client:
        assert client.infer("echo_fp32", **asked(tgrpc)).as_numpy("y").tolist() == expected
    async with agrpc.InferenceServerClient(path.grpc) as client:
        assert (await client.infer("echo_fp32", **asked(agrpc))).as_numpy("y").tolist() == expected


def test_classes_of_a_large_output_do_not_hold_others_up(path: DataPath) -> None:
    values = np.arange(1_000_000, dtype=np.float32).reshape(1, -1)
    with thttp.InferenceServerClient(path.rest) as client:
        tensor = thttp.InferInput("x", values.shape, "FP32").set_data_from_numpy(values)
        found = client.infer("echo_fp32", [tensor], outputs=[thttp.InferRequestedOutput("y", class_count=1000)]).as_numpy("y")
        assert (found.shape, found[0][0]) == ((1, 1000), b"999999.000000:999999")
        more = thttp.InferInput("x", [1, 1_000_001], "FP32").set_data_from_numpy(np.zeros((1, 1_000_001), np.float32))
        with pytest.raises(InferenceServerException, match="classification output tensor too large"):
            client.infer("echo_fp32", [more], outputs=[thttp.InferRequestedOutput("y", class_count=1)])


def test_a_raw_body_is_the_only_input(path: DataPath) -> None:
    values = np.arange(5, dtype=np.float32)
    with httpx.Client(base_url=f"http://{path.rest}") as client:
        raw = {"Inference-Header-Content-Length": "0"}
        answer = client.post("/v2/models/echo_fp32/infer", content=values.tobytes(), headers=raw)
        cut = int(answer.headers["Inference-Header-Content-Length"])
        assert answer.content[cut:] == values.tobytes()
        assert b'"shape":[1,5]' in answer.content[:cut]
        text = client.post("/v2/models/word/infer", content=b"hello", headers=raw)
        assert text.content[int(text.headers["Inference-Header-Content-Length"]) :] == b"\5\0\0\0hello"
        for model, said in (
            ("pair", "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in"),
            ("echo_bytes", "For BYTE datatype raw input 'x', the model must have input shape [1]"),
            ("whole", "The shape of the raw input 'x' can not be deduced because there are more than one variable-sized dimension"),
        ):
            refused = client.post(f"/v2/models/{model}/infer", content=bytes(64), headers=raw)
            assert refused.status_code == 400
            assert said in refused.json()["error"]
