"""Changes under load from outside: REST on kept and on new connections, gRPC calls and streams. No request fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.cluster.running import RunningEngine, wait
from tests.cluster.traffic import ECHO, Traffic, grpc_answers
from tests.data_path.test_grpc import ALONE, request

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")]
REQUESTS = int(os.environ.get("SERVING_DRAIN_REQUESTS", "5000"))
"""Answers during and after each change; the long form sets more."""
SOURCE = """
class Echo:
    def predict(self, inputs):
        return {"y": inputs["x"]}
"""


class Declared:
    """The YAML of the engine, rewritten for each change."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "steady.yaml"
        (folder / "model.py").write_text(SOURCE)
        self.gateways = 2
        self.replicas = 2
        self.versions = "1"
        self.stable = 1
        self.batching: dict[str, object] = {"max_batch_size": 16}
        self.write()

    def write(self, **changes: object) -> Path:
        for name, value in changes.items():
            assert hasattr(self, name)
            setattr(self, name, value)
        tensor = {"dtype": "FP32", "shape": [4]}
        model = {
            "versions": {v: {"artefact": "model.py", "runtime": "python", "entry": "Echo"} for v in self.versions.split()},
            "signature": {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]},
            "traffic": {"stable": self.stable},
            "batching": self.batching,
            "replicas": self.replicas,
        }
        self.file.write_text(json.dumps({"gateways": self.gateways, "models": {ECHO: model}}))
        return self.file


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Declared:
    return Declared(tmp_path_factory.mktemp("draining"))


@pytest.fixture(scope="module")
def engine(declared: Declared) -> Iterator[RunningEngine]:
    with RunningEngine(declared.file.parent / "state", declared.file) as running:
        asyncio.run(grpc_answers(running))
        yield running


@asynccontextmanager
async def steady(engine: RunningEngine) -> AsyncIterator[Traffic]:
    """Traffic before, while and after the block runs: at least REQUESTS answers, and none failed; streams end as they should."""
    traffic = Traffic(engine)
    traffic.pause_s = 0.0  # as much as it takes, for so many answers are waited for
    traffic.start()
    await traffic.more()
    before = traffic.done.total()
    yield traffic
    async with asyncio.timeout(60 + REQUESTS / 100):
        while traffic.done.total() - before < REQUESTS and not traffic.failed:
            await asyncio.sleep(0.01)
    await traffic.more()
    await traffic.stop()
    assert traffic.failed == []
    assert {status for _, status in traffic.ended_streams} <= {"UNAVAILABLE"}


@pytest.mark.parametrize(
    "change",
    [
        {"batching": {"max_batch_size": 16, "max_delay_ms": 2, "max_queue_requests": 4096}},
        {"replicas": 3},
        {"replicas": 1},
        {"gateways": 3},
        {"gateways": 1},
        {"versions": "1 2", "stable": 2},
        {"versions": "2"},
        {"versions": "1", "stable": 1},
        {"batching": {"max_batch_size": 32}, "gateways": 2, "replicas": 2},
    ],
    ids=lambda change: " ".join(change),
)
async def test_apply_costs_no_request(engine: RunningEngine, declared: Declared, change: dict[str, object]) -> None:
    async with steady(engine):
        applied = await asyncio.to_thread(engine.serving, "apply", str(declared.write(**change)))
        assert applied.returncode == 0, applied.stderr
        await asyncio.to_thread(
            wait, lambda: shape(engine) == (declared.gateways, declared.replicas * len(declared.versions.split())), 120, "the new shape"
        )
    assert engine.predict(ECHO).json()["model_version"] == str(declared.stable)


def shape(engine: RunningEngine) -> tuple[int, int]:
    return len(engine.processes("ray::ServeReplica:gateways")), len(engine.processes(f"ray::ServeReplica:{ECHO}@"))


@pytest.mark.parametrize("how", ["down", "SIGTERM"])
async def test_the_end_cuts_nobody_off(declared: Declared, tmp_path: Path, how: str) -> None:
    """What was sent before the doors closed is answered, a slow stream to its last answer; who comes later is refused at once."""
    engine = RunningEngine(tmp_path / "state", declared.write(versions="1", stable=1, gateways=2, replicas=2), slow(tmp_path))
    try:
        await asyncio.to_thread(engine.wait_ready)
        await grpc_answers(engine)
        traffic = Leaving(engine).start()
        await traffic.more()
        stream = SlowStream(engine)
        await asyncio.to_thread(stream.under_way)
        if how == "down":
            assert (await asyncio.to_thread(engine.serving, "down")).returncode == 0
        else:
            engine.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(engine.process.wait, 60) == 0
        await traffic.stop()
        assert traffic.failed == []
        assert {status for _, status in traffic.ended_streams} <= {"UNAVAILABLE"}
        assert (stream.answers, stream.status) == (SlowStream.REQUESTS, "UNAVAILABLE")
        assert engine.processes() == []
    finally:
        engine.stop()


class Leaving(Traffic):
    """Traffic whose clients end when the doors are closed. Refused is who could not connect; anything else is a failure."""

    async def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except ConnectionRefusedError:
            self.done["refused"] += 1
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                self.failed.append(f"{name}: {error!r}")
            self.done["refused"] += 1
        except Exception as error:
            self.failed.append(f"{name}: {error!r}")


def slow(folder: Path) -> Path:
    """Write a model that takes a third of a second for a request."""
    (folder / "slow.py").write_text(
        "import time\nclass Slow:\n def predict(self, inputs):\n  time.sleep(0.3)\n  return {'y': inputs['x']}\n"
    )
    tensor = {"dtype": "FP32", "shape": [4]}
    model = {
        "versions": {"1": {"artefact": "slow.py", "runtime": "python", "entry": "Slow"}},
        "signature": {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]},
        "batching": {"max_batch_size": 1},
    }
    file = folder / "slow.yaml"
    file.write_text(json.dumps({"models": {"slow": model}}))
    return file


class SlowStream:
    """A stream that sends all it has at once and then stays open."""

    REQUESTS = 6

    def __init__(self, engine: RunningEngine) -> None:
        self.answers = 0
        self.status = "open"
        self._first = threading.Event()
        self._ended = threading.Event()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{engine.grpc}", options=ALONE)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def under_way(self) -> None:
        """Return when it has had its first answer."""
        assert self._first.wait(60)

    def _run(self) -> None:
        def requests() -> Iterator[service_pb2.ModelInferRequest]:
            for number in range(self.REQUESTS):
                yield request("slow", np.full((1, 4), number))
            self._ended.wait(60)

        try:
            for _ in service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelStreamInfer(requests()):
                self.answers += 1
                self._first.set()
            self.status = "closed"
        except grpc.RpcError as error:
            self.status = error.code().name
        self._ended.set()
        self._channel.close()
