"""Tensors in clients' shared memory with tritonclient's own tools: registered over one protocol, used over the other."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.grpc.aio as agrpc
import tritonclient.http as thttp
import tritonclient.http.aio as ahttp
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from .rig import DataPath

N = 16
A = np.arange(N, dtype=np.int32).reshape(1, N)
B = np.ones((1, N), np.int32)


@pytest.fixture
def allowed(path: DataPath) -> Iterator[DataPath]:
    """Clients may register shared memory; what they have registered is gone afterwards."""
    path.shares_memory = True
    path.tell()
    yield path
    with thttp.InferenceServerClient(path.rest) as client:
        client.unregister_system_shared_memory()
    path.shares_memory = False
    path.tell()


@pytest.fixture
def memory() -> Iterator[Any]:
    """A region of 1 MiB, as tritonclient makes them, whose first bytes are A and B."""
    handle = shm.create_shared_memory_region("all", f"/serving-{secrets.token_hex(6)}", 1 << 20)
    shm.set_shared_memory_region(handle, [A, B])
    yield handle
    shm.destroy_shared_memory_region(handle)


def key_of(handle: Any) -> str:
    return str(handle._shm_key)


def tensors(kind: Any) -> dict[str, Any]:
    a = kind.InferInput("a", [1, N], "INT32")
    a.set_shared_memory("all", 64)
    b = kind.InferInput("b", [1, N], "INT32")
    b.set_shared_memory("all", 64, offset=64)
    total = kind.InferRequestedOutput("sum")
    total.set_shared_memory("all", 64, offset=4096)
    return {"inputs": [a, b], "outputs": [total, kind.InferRequestedOutput("difference")]}


def test_registered_over_grpc_and_used_over_everything(allowed: DataPath, memory: Any) -> None:
    with tgrpc.InferenceServerClient(allowed.grpc) as grpc, thttp.InferenceServerClient(allowed.rest) as rest:
        grpc.unregister_system_shared_memory()
        grpc.unregister_cuda_shared_memory()
        grpc.register_system_shared_memory("all", key_of(memory), 1 << 20)
        assert rest.get_system_shared_memory_status() == [{"name": "all", "key": key_of(memory), "offset": 0, "byte_size": 1 << 20}]
        assert rest.get_system_shared_memory_status("all")[0]["name"] == "all"
        assert grpc.get_system_shared_memory_status("all").regions["all"].byte_size == 1 << 20
        assert "system_shared_memory" in rest.get_server_metadata()["extensions"]
        for client, kind in ((rest, thttp), (grpc, tgrpc)):
            for _ in range(6):  # both gateways get some
                shm.set_shared_memory_region(memory, [np.zeros((1, N), np.int32)], offset=4096)
                result = client.infer("pair", **tensors(kind))
                assert shm.get_contents_as_numpy(memory, np.int32, [1, N], offset=4096).tolist() == (A + B).tolist()
                assert result.as_numpy("difference").tolist() == (A - B).tolist()
                assert result.get_output("sum") is not None
        grpc.unregister_system_shared_memory("all")
        with pytest.raises(InferenceServerException, match="Unable to find shared memory region: 'all'"):
            rest.infer("pair", **tensors(thttp))
        assert rest.get_system_shared_memory_status() == []


async def test_registered_over_rest_and_used_by_the_async_clients_and_a_stream(allowed: DataPath, memory: Any) -> None:
    async with ahttp.InferenceServerClient(allowed.rest) as rest, agrpc.InferenceServerClient(allowed.grpc) as grpc:
        await rest.register_system_shared_memory("all", key_of(memory), 1 << 20)
        assert (await grpc.get_system_shared_memory_status()).regions["all"].key == key_of(memory)
        for client, kind in ((rest, ahttp), (grpc, agrpc)):
            result = await client.infer("pair", **tensors(kind))
            assert result.as_numpy("difference").tolist() == (A - B).tolist()
        assert shm.get_contents_as_numpy(memory, np.int32, [1, N], offset=4096).tolist() == (A + B).tolist()
        assert await rest.get_cuda_shared_memory_status() == []
        await rest.unregister_cuda_shared_memory()
        await grpc.unregister_system_shared_memory("nobody")
    found: list[Any] = []
    came = threading.Event()
    with tgrpc.InferenceServerClient(allowed.grpc) as stream:

        def take(result: Any, error: Any) -> None:
            found.append(error or result)
            came.set()

        stream.start_stream(take)
        stream.async_stream_infer("pair", **tensors(tgrpc))
        assert came.wait(60)
        stream.stop_stream()
    assert found[0].as_numpy("difference").tolist() == (A - B).tolist()


def test_large_tensors_both_ways(allowed: DataPath) -> None:
    values = np.arange(1 << 18, dtype=np.float32).reshape(1, -1)
    handle = shm.create_shared_memory_region("big", f"/serving-{secrets.token_hex(6)}", values.nbytes * 2)
    try:
        shm.set_shared_memory_region(handle, [values])
        with thttp.InferenceServerClient(allowed.rest) as rest, tgrpc.InferenceServerClient(allowed.grpc) as grpc:
            rest.register_system_shared_memory("big", key_of(handle), values.nbytes * 2)
            for client, kind in ((rest, thttp), (grpc, tgrpc)):
                shm.set_shared_memory_region(handle, [np.zeros_like(values)], offset=values.nbytes)
                x = kind.InferInput("x", list(values.shape), "FP32")
                x.set_shared_memory("big", values.nbytes)
                y = kind.InferRequestedOutput("y")
                y.set_shared_memory("big", values.nbytes, offset=values.nbytes)
                result = client.infer("echo_fp32", [x], outputs=[y])
                assert np.array_equal(shm.get_contents_as_numpy(handle, np.float32, values.shape, offset=values.nbytes), values)
                assert result.get_output("y") is not None
                y.set_shared_memory("big", 100, offset=values.nbytes)
                with pytest.raises(InferenceServerException, match="should be at least 1048576 bytes to hold the results"):
                    client.infer("echo_fp32", [x], outputs=[y])
                x.set_shared_memory("big", values.nbytes, offset=values.nbytes + 4)
                with pytest.raises(InferenceServerException, match="Invalid offset \\+ byte size for shared memory region"):
                    client.infer("echo_fp32", [x])
    finally:
        shm.destroy_shared_memory_region(handle)


def test_a_client_that_cuts_its_file_short_hurts_itself_alone(allowed: DataPath, memory: Any) -> None:
    with thttp.InferenceServerClient(allowed.rest) as rest:
        rest.register_system_shared_memory("all", key_of(memory), 1 << 20)
        os.truncate(Path("/dev/shm") / key_of(memory).lstrip("/"), 80)
        with pytest.raises(InferenceServerException, match="Invalid offset"):
            rest.infer("pair", **tensors(thttp))
        os.truncate(Path("/dev/shm") / key_of(memory).lstrip("/"), 1 << 20)
        assert rest.infer("pair", **tensors(thttp)) is not None


def test_texts_of_what_cannot_be_registered(allowed: DataPath, memory: Any) -> None:
    key = key_of(memory)
    with thttp.InferenceServerClient(allowed.rest) as rest, tgrpc.InferenceServerClient(allowed.grpc) as grpc:
        rest.register_system_shared_memory("all", key, 1 << 20)
        for client in (rest, grpc):
            for (name, where, size, offset), text in (
                (("all", key, 64, 0), "shared memory region 'all' already in manager"),
                (("r", key, (1 << 20) + 1, 0), "failed to register shared memory region 'r': invalid args"),
                (("r", key, 1 << 20, 1), "failed to register shared memory region 'r': invalid args"),
                (("r", key, 0, 0), "failed to register shared memory region 'r': invalid args"),
                (("r", "/nobody-has-it", 64, 0), "Unable to open shared memory region: '/nobody-has-it'"),
                (("r", "///", 64, 0), "cannot register shared memory region 'r' - invalid shm key '///'"),
                (("r", "/../etc/passwd", 64, 0), "cannot register shared memory region 'r' - invalid shm key '/../etc/passwd'"),
            ):
                with pytest.raises(InferenceServerException) as refused:
                    client.register_system_shared_memory(name, where, size, offset)
                assert text in refused.value.message()
                if "Unable to open" in text:
                    assert refused.value.status() in ("500", "StatusCode.INTERNAL")
            with pytest.raises(InferenceServerException, match="failed to register CUDA shared memory region 'c': GPUs not supported"):
                client.register_cuda_shared_memory("c", b"AAAA" * 16, 0, 64)
            with pytest.raises(InferenceServerException, match="Unable to find system shared memory region: 'zz'"):
                client.get_system_shared_memory_status("zz")
    with httpx.Client(base_url=f"http://{allowed.rest}/v2/systemsharedmemory") as client:
        for body, text in (
            (b"", "attempt to access non-existing object member 'key'"),
            (b"[]", "the document is not an object"),
            (b'{"key":"/k"}', "attempt to access non-existing object member 'byte_size'"),
            (b'{"key":"/k","byte_size":-1}', "attempt to access JSON non-unsigned-integer as unsigned-integer"),
            (b'{"key":1,"byte_size":1}', "attempt to access JSON non-string as string"),
        ):
            form = {"Content-Type": "application/x-www-form-urlencoded"}  # as the C++ client says
            refused = client.post("/region/r/register", content=body, headers=form)
            assert (refused.status_code, text in refused.json()["error"]) == (400, True), body
        assert client.get("/region/r/register").status_code == 405
        assert client.post("/status").status_code == 405
        assert client.get("/nowhere").status_code == 404


def test_while_it_is_off(path: DataPath, memory: Any) -> None:
    with thttp.InferenceServerClient(path.rest) as rest, tgrpc.InferenceServerClient(path.grpc) as grpc:
        for client, kind in ((rest, thttp), (grpc, tgrpc)):
            client.unregister_system_shared_memory()
            for act in (
                lambda c=client: c.register_system_shared_memory("all", key_of(memory), 64),
                lambda c=client, k=kind: c.infer("pair", **tensors(k)),
            ):
                with pytest.raises(InferenceServerException, match="Client shared memory is disabled") as refused:
                    act()
                assert refused.value.status() in ("501", "StatusCode.UNIMPLEMENTED")
        assert rest.get_system_shared_memory_status() == []
        assert "system_shared_memory" not in rest.get_server_metadata()["extensions"]
