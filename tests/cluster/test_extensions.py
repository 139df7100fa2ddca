"""What clients ask of the whole engine, against a real one with two gateways: shared memory, settings, configs, reflection."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
import tritonclient.utils.shared_memory as shm
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from tests.cluster.running import RunningEngine, wait, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")]
X = np.arange(4, dtype=np.float32).reshape(1, 4)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    folder = tmp_path_factory.mktemp("extensions")
    settings = folder / "engine.yaml"
    settings.write_text("gateways: 2\n")
    with RunningEngine(folder / "state", write_model(folder, "echo"), settings, "--allow-client-shm") as running:
        yield running


@pytest.fixture
def memory() -> Iterator[Any]:
    handle = shm.create_shared_memory_region("io", f"/serving-{secrets.token_hex(6)}", 4096)
    shm.set_shared_memory_region(handle, [X])
    yield handle
    shm.destroy_shared_memory_region(handle)


def infer_shared(engine: RunningEngine) -> None:
    """Ask over new connections, so that every gateway gets some."""
    for _ in range(6):
        with thttp.InferenceServerClient(f"127.0.0.1:{engine.http}") as client:
            x = thttp.InferInput("x", [1, 4], "FP32")
            x.set_shared_memory("io", 16)
            y = thttp.InferRequestedOutput("y")
            y.set_shared_memory("io", 16, offset=1024)
            client.infer("echo", [x], outputs=[y])


def test_registered_with_one_gateway_and_used_with_all_even_while_the_controller_is_replaced(engine: RunningEngine, memory: Any) -> None:
    with tgrpc.InferenceServerClient(f"127.0.0.1:{engine.grpc}") as client:
        client.register_system_shared_memory("io", memory._shm_key, 4096)
        infer_shared(engine)
        assert shm.get_contents_as_numpy(memory, np.float32, [1, 4], offset=1024).tolist() == X.tolist()
        (controller,) = engine.processes("controller")
        os.kill(controller, signal.SIGKILL)
        infer_shared(engine)
        wait(lambda: bool(set(engine.processes("controller")) - {controller}), 120)
        wait(lambda: unregistered(client), 120)
        assert httpx.get(f"http://127.0.0.1:{engine.http}/v2/systemsharedmemory/status").json() == []


def unregistered(client: Any) -> bool:
    """Try to unregister; the controller may not be back."""
    with suppress(InferenceServerException):
        client.unregister_system_shared_memory("io")
        return True
    return False


def test_settings_reach_every_gateway(engine: RunningEngine) -> None:
    base = f"http://127.0.0.1:{engine.http}/v2"
    assert httpx.post(f"{base}/models/echo/trace/setting", json={"trace_rate": "9"}, timeout=60).json()["trace_rate"] == "9"
    assert httpx.post(f"{base}/logging", json={"log_verbose_level": 1}, timeout=60).json()["log_verbose_level"] == 1
    for _ in range(6):
        assert httpx.get(f"{base}/models/echo/trace/setting").json()["trace_rate"] == "9"
        assert httpx.get(f"{base}/logging").json()["log_verbose_level"] == 1
    assert httpx.post(f"{base}/logging", json={"log_verbose_level": None}, timeout=60).json()["log_verbose_level"] == 0


def test_config_and_reflection(engine: RunningEngine) -> None:
    config = httpx.get(f"http://127.0.0.1:{engine.http}/v2/models/echo/config").json()
    assert (config["backend"], config["max_batch_size"], config["default_model_filename"]) == ("python", 8, "echo.py")
    with grpc.insecure_channel(f"127.0.0.1:{engine.grpc}") as channel:
        assert "inference.GRPCInferenceService" in ProtoReflectionDescriptorDatabase(channel).get_services()
