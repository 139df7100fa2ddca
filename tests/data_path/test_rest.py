"""REST as its clients use it: metadata, health, compression, versions, many clients at once, and every error with its text."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as thttp
import tritonclient.http.aio as ahttp

from .rig import DataPath, eventually

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def x_input(kind: object, value: np.ndarray = X, name: str = "x") -> object:
    tensor = kind.InferInput(name, value.shape, "FP32")  # type: ignore[attr-defined]
    tensor.set_data_from_numpy(value)
    return tensor


def test_health_and_metadata(path: DataPath) -> None:
    with thttp.InferenceServerClient(path.rest) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("pair")
        assert client.is_model_ready("pair", "2")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata()["name"] == "serving"
        model = client.get_model_metadata("pair")
        assert model["versions"] == ["1", "2"]
        assert model["platform"] == "python"
        assert model["inputs"] == [{"name": n, "datatype": "INT32", "shape": [-1, 16]} for n in ("a", "b")]
        assert model["outputs"] == [{"name": n, "datatype": "INT32", "shape": [-1, 16]} for n in ("sum", "difference")]
        assert client.get_model_metadata("pair", "2")["versions"] == ["2"]


def test_paths_and_methods_that_are_not_there(path: DataPath) -> None:
    url = f"http://{path.rest}"
    with httpx.Client(base_url=url) as client:
        for method, where, status, text in (
            ("GET", "/nowhere", 404, "Not Found"),
            ("GET", "/v2/models/pair/nowhere", 404, "Not Found"),
            ("GET", "/edge/health", 404, "Not Found"),
            ("GET", "/v2/models/pair/infer", 405, "Method Not Allowed"),
            ("POST", "/v2/health/live", 405, "Method Not Allowed"),
        ):
            answer = client.request(method, where)
            assert (answer.status_code, answer.json()) == (status, {"error": text})
            assert (answer.headers.get("allow") is not None) == (status == 405)
        assert client.delete("/v2").headers["allow"] == "GET, HEAD"
        assert client.get("/v2/models/pair/infer").headers["allow"] == "POST"
        assert client.delete("/v2/logging").headers["allow"] == "GET, HEAD, POST"
        for where in ("/v2/", "/v2?x=y", "/v2/health/live/"):
            assert client.get(where).status_code == 200
        assert client.get("/v2/health/live").json() == {"live": True}


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_and_answers(path: DataPath, algorithm: str) -> None:
    value = np.zeros((4, 1000), np.float32)
    with thttp.InferenceServerClient(path.rest) as client:
        for binary in (True, False):
            x = thttp.InferInput("x", value.shape, "FP32")
            x.set_data_from_numpy(value, binary_data=binary)
            answer = client.infer("echo_fp32", [x], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm)
            np.testing.assert_array_equal(answer.as_numpy("y"), value)
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 900], "datatype": "FP32", "data": [0.5] * 900}]}).encode()
    with httpx.Client(base_url=f"http://{path.rest}/v2/models") as raw:
        answers = [raw.post("/echo_fp32/infer", content=body, headers={"Accept-Encoding": a}) for a in (algorithm, "gzip, deflate", "")]
    assert [a.headers.get("content-encoding") for a in answers] == [algorithm, None, None]
    assert answers[0].json() == answers[1].json() == answers[2].json()


def test_encodings_that_cannot_be_read(path: DataPath) -> None:
    good = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]}'
    deflate = zlib.compressobj(wbits=-15)
    bare = deflate.compress(good) + deflate.flush()
    with httpx.Client(base_url=f"http://{path.rest}/v2/models/echo_fp32") as client:
        for coding, body, status, text in (
            ("gzip", good, 400, "failed to decompress"),
            ("deflate", bare, 400, "failed to decompress"),
            ("gzip", gzip.compress(good)[:-3], 400, "failed to decompress"),
            ("br", good, 415, "Unsupported compression type"),
        ):
            answer = client.post("/infer", content=body, headers={"Content-Encoding": coding})
            assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text
            if status == 415:
                assert answer.headers["accept-encoding"] == "gzip, deflate"


async def test_the_asynchronous_client(path: DataPath) -> None:
    async with ahttp.InferenceServerClient(path.rest, conn_limit=20) as client:
        assert await client.is_server_ready()

        async def one(number: int) -> None:
            value = np.full((1 + number % 5, 3), number, np.float32)
            answer = await client.infer("echo_fp32", [x_input(ahttp, value)], request_id=str(number))
            np.testing.assert_array_equal(answer.as_numpy("y"), value)
            assert answer.get_response()["id"] == str(number)

        await asyncio.gather(*(one(n) for n in range(200)))


def infer_json(**changes: object) -> dict[str, object]:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3], **changes}
    return {"inputs": [{k: v for k, v in tensor.items() if v is not None}]}


ERRORS = [
    ("nobody", infer_json(), 404, "Request for unknown model: 'nobody' is not found"),
    ("marked/versions/9", infer_json(), 404, "Request for unknown model: 'marked' version 9 is not found"),
    ("marked/versions/abc", infer_json(), 400, "failed to get model version from specified version string 'abc'"),
    ("marked", b"", 400, "request JSON is empty"),
    ("marked", b'{"inputs":[', 400, "failed to parse the request JSON buffer"),
    ("marked", {}, 400, "Unable to parse 'inputs'"),
    ("marked", infer_json(shape=None), 400, "Unable to parse 'shape'"),
    ("marked", infer_json(shape=[1, -3]), 400, "Unable to parse 'shape'"),
    ("marked", infer_json(data=[1, 2]), 400, "hape does not match true shape"),
    ("marked", infer_json(datatype="FP99"), 400, "invalid datatype for input x"),
    ("marked", infer_json(datatype="INT32"), 400, "input 'x' data-type is 'INT32', but model 'marked' expects 'FP32'"),
    (
        "marked",
        infer_json(shape=[1, 4], data=[1] * 4),
        400,
        "shape for input 'x' for model 'marked'. Expected [-1,3], got [1,4]",
    ),
    ("marked", infer_json(shape=[9, 3], data=[1] * 27), 400, "inference request batch-size must be <= 8 for 'marked'"),
    ("marked", infer_json(name="z"), 400, "unexpected inference input 'z' for model 'marked'"),
    ("marked", {"inputs": []}, 400, "expected 1 inputs but got 0 inputs for model 'marked'"),
    ("marked", {**infer_json(), "outputs": [{"name": "q"}]}, 400, "unexpected inference output 'q' for model 'marked'"),
    ("marked", infer_json(data=[[-1, 0, 0]]), 500, "a row is marked"),
]


@pytest.mark.parametrize(("model", "body", "status", "text"), ERRORS, ids=[e[3][:40] for e in ERRORS])
def test_errors(path: DataPath, model: str, body: dict[str, object] | bytes, status: int, text: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with httpx.Client(base_url=f"http://{path.rest}/v2/models/") as client:
        answer = client.post(f"{model}/infer", content=content)
        assert answer.status_code == status
        assert text in answer.json()["error"]
        assert list(answer.json()) == ["error"]
        # the connection lives on
        assert client.post("marked/infer", json=infer_json()).json()["outputs"][0]["data"] == [2, 4, 6]


@pytest.mark.parametrize(("length", "text"), [("99999", "header size should be in range"), ("abc", "Unable to parse Inference-")])
def test_lies_about_the_header(path: DataPath, length: str, text: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    answer = httpx.post(f"http://{path.rest}/v2/models/marked/infer", json=infer_json(), headers=headers)
    assert (answer.status_code, text in answer.json()["error"]) == (400, True)


def test_a_marked_row_does_not_fail_its_neighbours(path: DataPath) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(base_url=f"http://{path.rest}/v2/models/") as client:

            async def one(number: int) -> None:
                first = -1 if number % 7 == 0 else number
                answer = await client.post("marked/infer", json=infer_json(data=[first, 1, 2]))
                assert answer.status_code == (500 if first == -1 else 200), answer.text

            await asyncio.gather(*(one(n) for n in range(100)))

    asyncio.run(run())


async def test_a_full_queue_is_503_and_says_when_to_come_again(path: DataPath, gate: Path) -> None:
    async with httpx.AsyncClient(base_url=f"http://{path.rest}/v2/models/", timeout=60) as client:
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
        waiting = [asyncio.ensure_future(client.post("narrow/infer", json=body))]
        await eventually(lambda: (path.open("narrow"), path.queued("narrow")) == (1, 0))
        waiting += [asyncio.ensure_future(client.post("narrow/infer", json=body)) for _ in range(2)]
        await eventually(lambda: path.queued("narrow") == 2)
        answer = await client.post("narrow/infer", json=body)
        assert answer.status_code == 503
        assert "Exceeds maximum queue size" in answer.json()["error"]
        assert int(answer.headers["retry-after"]) >= 1
        path.open_gate()
        assert {(await w).status_code for w in waiting} == {200}


async def test_the_time_out_of_a_request_ends_it_in_the_queue(path: DataPath, gate: Path) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    async with httpx.AsyncClient(base_url=f"http://{path.rest}/v2/models/", timeout=60) as client:
        first = asyncio.ensure_future(client.post("gate/infer", json=body))
        await eventually(lambda: (path.open("gate"), path.queued("gate")) == (1, 0))
        answer = await client.post("gate/infer", json={**body, "parameters": {"timeout": 50_000}})
        assert (answer.status_code, answer.json()["error"]) == (503, "Request timeout expired")
        path.open_gate()
        assert (await first).status_code == 200
    await eventually(lambda: path.open("gate") == 0)


def test_rest_through_the_edge(path: DataPath) -> None:
    """The edge's port takes REST too; with TLS or `edge: always` all of it goes this way."""
    value = np.arange(4 << 20, dtype=np.float32).reshape(4, -1)
    with thttp.InferenceServerClient(path.grpc) as client:
        assert client.is_server_ready()
        for data in (X, value, X):
            x = thttp.InferInput("x", data.shape, "FP32")
            x.set_data_from_numpy(data)
            np.testing.assert_array_equal(client.infer("echo_fp32", [x]).as_numpy("y"), data)
        with pytest.raises(thttp.InferenceServerException, match="unknown model"):
            client.infer("nobody", [x])
    with socket.create_connection(("127.0.0.1", path.config.grpc_port), 5) as sock:
        sock.sendall(b"POST /v2/models/marked/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000000\r\n\r\n{")
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"exceeds the maximum allowed size" in answer
