"""Compression both ways and both algorithms, as tritonclient asks for it, and where nobody asked for it."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
import tritonclient.http.aio as ahttp
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .rig import DataPath

ALGORITHMS = ["gzip", "deflate"]


def values(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count, dtype=np.float32).reshape(1, -1) % 7


def x_input(kind: Any, array: np.ndarray[Any, Any]) -> list[Any]:
    return [kind.InferInput("x", list(array.shape), "FP32").set_data_from_numpy(array)]


@pytest.mark.parametrize("count", [4, 5_000, 200_000])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_ways_over_both_protocols(path: DataPath, algorithm: str, count: int) -> None:
    array = values(count)
    with thttp.InferenceServerClient(path.rest) as rest:
        for asked in ({"request_compression_algorithm": algorithm}, {"response_compression_algorithm": algorithm}):
            assert np.array_equal(rest.infer("echo_fp32", x_input(thttp, array), **asked).as_numpy("y"), array)
    with tgrpc.InferenceServerClient(path.grpc) as client:
        found = client.infer("echo_fp32", x_input(tgrpc, array), compression_algorithm=algorithm).as_numpy("y")
        assert np.array_equal(found, array)


@pytest.mark.parametrize(
    ("accept", "encoding"), [("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate, br", None), ("br", None), ("", None)]
)
def test_an_answer_is_compressed_where_one_algorithm_is_named(path: DataPath, accept: str, encoding: str | None) -> None:
    body = values(5_000)
    raw = {"Inference-Header-Content-Length": "0", "Accept-Encoding": accept}
    with (
        httpx.Client(base_url=f"http://{path.rest}") as client,
        client.stream("POST", "/v2/models/echo_fp32/infer", content=body.tobytes(), headers=raw) as answer,
    ):
        data = b"".join(answer.iter_raw())
    assert answer.headers.get("content-encoding") == encoding
    plain = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(encoding or "", bytes)(data)
    assert plain[int(answer.headers["inference-header-content-length"]) :] == body.tobytes()


async def test_what_is_no_prediction_is_never_compressed(path: DataPath) -> None:
    async with ahttp.InferenceServerClient(path.rest) as client:  # names gzip, deflate and br on every call
        assert (await client.get_model_config("pair"))["max_batch_size"] == 8
        assert (await client.get_server_metadata())["name"] == "serving"
        found = await client.infer("echo_fp32", x_input(ahttp, values(5_000)))
        assert found.as_numpy("y").shape == (1, 5_000)
    async with httpx.AsyncClient(base_url=f"http://{path.rest}", headers={"Accept-Encoding": "gzip"}) as one:
        for where in ("/v2/models/pair/config", "/v2", "/openapi.json", "/v2/models/nobody"):
            assert "content-encoding" not in (await one.get(where)).headers


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression])
@pytest.mark.parametrize("count", [4, 5_000, 200_000])
def test_grpc_messages_compressed_by_grpcio(path: DataPath, compression: Any, count: int) -> None:
    array = values(count)
    request = service_pb2.ModelInferRequest(model_name="echo_fp32", raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    with grpc.insecure_channel(path.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(3):  # the first answers teach the client's table of headers
            assert stub.ModelInfer(request, compression=compression).raw_output_contents[0] == array.tobytes()


@pytest.mark.parametrize(
    ("encoding", "body", "status", "text"),
    [
        ("br", b"x", 415, "Unsupported compression type"),
        ("gzip", b"not gzip", 400, "failed to decompress"),
        ("deflate", zlib.compress(b"{}")[2:-4], 400, "failed to decompress"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4], 400, "failed to decompress"),
    ],
    ids=["unknown", "not gzip", "raw deflate", "cut off"],
)
def test_bodies_that_are_not_what_they_say(path: DataPath, encoding: str, body: bytes, status: int, text: str) -> None:
    answer = httpx.post(f"http://{path.rest}/v2/models/echo_fp32/infer", content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code == status
    assert text in answer.json()["error"]
    assert ("accept-encoding" in answer.headers) == (status == 415)
