"""Large tensors both ways, and what they do to others: nothing."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import orjson
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp

from serving.state import GatewayLimits

from .rig import DataPath

MB = 1 << 20


def tensor(kind: object, mbytes: int, seed: int) -> tuple[np.ndarray, object]:
    value = np.full((4, mbytes * MB // 16), seed, np.float32)
    value[:, ::1000] = np.arange(len(value[0, ::1000]))
    x = kind.InferInput("x", value.shape, "FP32")  # type: ignore[attr-defined]
    x.set_data_from_numpy(value)
    return value, x


@pytest.mark.parametrize("kind", [thttp, tgrpc], ids=["rest", "grpc"])
def test_64_megabytes_both_ways(path: DataPath, kind: object) -> None:
    value, x = tensor(kind, 64, 1)
    with kind.InferenceServerClient(path.rest if kind is thttp else path.grpc) as client:  # type: ignore[attr-defined]
        np.testing.assert_array_equal(client.infer("echo_fp32", [x]).as_numpy("y"), value)


def test_16_megabytes_beside_small_calls(path: DataPath) -> None:
    served = threading.Event()

    def large(kind: object, address: str, seed: int) -> None:
        value, x = tensor(kind, 16, seed)
        with kind.InferenceServerClient(address) as client:  # type: ignore[attr-defined]
            for count in itertools.count():
                if count >= 3 and served.is_set():
                    break
                np.testing.assert_array_equal(client.infer("echo_fp32", [x]).as_numpy("y"), value)

    def small(kind: object, address: str, seed: int) -> None:
        value = np.full((1, 4), seed, np.float32)
        x = kind.InferInput("x", value.shape, "FP32")  # type: ignore[attr-defined]
        x.set_data_from_numpy(value)
        with kind.InferenceServerClient(address) as client:  # type: ignore[attr-defined]
            for _ in range(100):
                np.testing.assert_array_equal(client.infer("echo_fp32", [x]).as_numpy("y"), value)

    both = [(thttp, path.rest), (tgrpc, path.grpc)]
    with ThreadPoolExecutor(8) as pool:
        heavy = [pool.submit(large, *which, seed) for seed, which in enumerate(both * 2)]
        light = [pool.submit(small, *which, seed) for seed, which in enumerate(both * 2)]
        try:
            for job in light:  # while the large ones go on and on
                job.result(120)
        finally:
            served.set()
        for job in heavy:
            job.result()


@pytest.mark.parametrize("way", ["plain", "gzip", "chunked"])
@pytest.mark.parametrize("wrong", ["", "Shape does not match true shape", "non-number as number"])
def test_large_json_both_ways(path: DataPath, way: str, wrong: str) -> None:
    """A body that is read in slices, in turns of the loop, and an answer that is written so."""
    value = np.random.default_rng(1).random((2, 75_000), np.float32)
    shape = [1, 2] if "Shape" in wrong else list(value.shape)
    body = orjson.dumps({"id": "big", "inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": value.tolist()}]})
    if "number" in wrong:
        body = body.replace(b"]]", b",null]]")
    headers = {"Content-Encoding": "gzip"} if way == "gzip" else {}
    sent = gzip.compress(body, 1) if way == "gzip" else iter([body[:MB], body[MB:]]) if way == "chunked" else body
    answer = httpx.post(f"http://{path.rest}/v2/models/echo_fp32/infer", content=sent, headers=headers, timeout=60)
    if wrong:
        assert (answer.status_code, wrong in answer.json()["error"]) == (400, True), answer.text[:300]
    else:
        found = answer.json()
        assert found["id"] == "big"
        np.testing.assert_array_equal(np.array(found["outputs"][0]["data"], np.float32).reshape(value.shape), value)


@pytest.fixture
def limited(path: DataPath) -> object:
    """Gateways with bounds that a test can reach."""
    path.limits = replace(GatewayLimits(), max_body_bytes=MB, max_json_bytes=10_000, max_inflight_bytes=4 * MB)
    path.tell()
    yield path
    path.limits = GatewayLimits()
    path.tell()


def test_a_body_over_the_limit_is_refused_in_so_many_words(limited: DataPath) -> None:
    """Also to a client that sends it all before it reads: it must not be reset instead."""
    _, x = tensor(thttp, 8, 1)
    with thttp.InferenceServerClient(limited.rest) as client:
        for _ in range(5):
            with pytest.raises(thttp.InferenceServerException, match="exceeds the maximum allowed size of 1048576 bytes") as failure:
                client.infer("echo_fp32", [x])
            assert failure.value.status() == "413"
    _, y = tensor(tgrpc, 8, 1)
    with tgrpc.InferenceServerClient(limited.grpc) as rpc:
        for _ in range(5):
            with pytest.raises(tgrpc.InferenceServerException, match="exceeds the maximum allowed size of 1048576 bytes") as status:
                rpc.infer("echo_fp32", [y])
            assert status.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_a_chunked_body_over_the_limit(limited: DataPath) -> None:
    def chunks() -> object:
        for _ in range(100):
            yield bytes(MB // 10)

    answer = httpx.post(f"http://{limited.rest}/v2/models/echo_fp32/infer", content=chunks())  # type: ignore[arg-type]
    assert answer.status_code == 413
    assert "exceeds the maximum allowed size" in answer.json()["error"]


def test_a_compressed_bomb_is_refused(limited: DataPath) -> None:
    value = np.zeros((4, MB), np.float32)
    with thttp.InferenceServerClient(limited.rest) as client:
        x = thttp.InferInput("x", value.shape, "FP32")
        x.set_data_from_numpy(value)
        with pytest.raises(thttp.InferenceServerException, match="Decompressed data size exceeds the maximum allowed value"):
            client.infer("echo_fp32", [x], request_compression_algorithm="gzip")


async def test_bodies_that_never_end_cost_what_they_sent(limited: DataPath) -> None:
    """Announcing is free; what has come is counted, and bounded over all connections."""
    head = b"POST /v2/models/echo_fp32/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % MB
    members = [m.server._host for m in limited.members if m.server._host is not None]
    writers = []
    answers: set[asyncio.Task[bytes]] = set()
    for number in range(24):
        reader, writer = await asyncio.open_connection(*limited.rest.split(":"))
        writers.append(writer)
        writer.write(head + bytes(MB - 100_000))
        await writer.drain()
        answers.add(asyncio.create_task(reader.readuntil(b"\r\n\r\n")))
        refused, _ = await asyncio.wait(answers, timeout=0.1 if number < 23 else 60, return_when=asyncio.FIRST_COMPLETED)
        if refused:
            break
    assert all(b"503 Service Unavailable" in answer.result() for answer in refused)
    assert refused
    assert all(host.arriving_bytes <= limited.limits.max_inflight_bytes + MB for host in members)
    for writer in writers:
        writer.close()
    await asyncio.gather(*answers, return_exceptions=True)
    async with asyncio.timeout(60):
        while any(host.arriving_bytes for host in members):
            await asyncio.sleep(0.005)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://{limited.rest}/v2/health/live")).status_code == 200


def test_a_gigabyte_that_is_only_announced_costs_nothing(path: DataPath) -> None:
    def resident() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmRSS"))

    before = resident()
    clients = []
    for _ in range(8):
        sock = socket.create_connection(("127.0.0.1", path.config.http_port))
        sock.sendall(b"POST /v2/models/echo_fp32/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n" + bytes(1000))
        clients.append(sock)
    with thttp.InferenceServerClient(path.rest) as client:
        assert client.is_server_live()
    assert resident() - before < 200
    for sock in clients:
        sock.close()
