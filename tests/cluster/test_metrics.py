"""Statistics and the metrics page of a whole engine, while its processes are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp

from tests.cluster.running import RunningEngine, wait, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")]
REPLACED_S = 120.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """Two gateways, one model with two replicas."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "gateways.yaml").write_text("gateways: 2\n")
    with RunningEngine(folder / "state", write_model(folder, "echo", replicas=2), folder / "gateways.yaml") as running:
        yield running


def page(engine: RunningEngine) -> dict[str, float]:
    """Return the samples by name with labels."""
    text = httpx.get(f"http://127.0.0.1:{engine.metrics}/metrics", timeout=60).raise_for_status().text
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {told: float(value) for told, _, value in lines}


def counted(engine: RunningEngine) -> tuple[int, int, int]:
    """Return (answers, rows, requests in the queue) as a client over REST reads them; one over gRPC must read the same."""
    with thttp.InferenceServerClient(f"127.0.0.1:{engine.http}") as client:
        (rest,) = client.get_inference_statistics("echo")["model_stats"]
    with tgrpc.InferenceServerClient(f"127.0.0.1:{engine.grpc}") as client:
        (grpc,) = client.get_inference_statistics("echo", "1").model_stats
    stats = rest["inference_stats"]
    found = stats["success"]["count"], rest["inference_count"], stats["queue"]["count"]
    assert found == (grpc.inference_stats.success.count, grpc.inference_count, grpc.inference_stats.queue.count)
    return found


def ask(engine: RunningEngine, times: int) -> None:
    for _ in range(times):
        assert engine.predict("echo").status_code == 200


def kill_one(engine: RunningEngine, title: str) -> None:
    before = engine.processes(title)
    os.kill(before[0], signal.SIGKILL)
    wait(lambda: len(set(engine.processes(title)) - set(before[:1])) >= len(before), REPLACED_S, f"{title} is not replaced")


def test_counts_are_those_of_all_gateways_and_outlive_them(engine: RunningEngine) -> None:
    ask(engine, 30)
    assert counted(engine) == (30, 30, 30)
    kill_one(engine, "ray::ServeReplica:gateways")
    wait(lambda: engine.status()["settled"], REPLACED_S)
    assert counted(engine) == (30, 30, 30)
    ask(engine, 20)
    assert counted(engine) == (50, 50, 50)
    assert page(engine)['nv_inference_count{model="echo",version="1"}'] == 50


def test_batches_of_a_replica_that_was_killed_stay_on_the_page(engine: RunningEngine) -> None:
    ask(engine, 10)
    batches = 'serving_batch_rows_count{model="echo",version="1"}'
    before = page(engine)[batches]
    assert before >= 10
    kill_one(engine, "ray::ServeReplica:echo@1")
    wait(lambda: page(engine).get('serving_replicas{model="echo",state="running",version="1"}') == 2, REPLACED_S)
    assert page(engine)[batches] >= before
    wait(lambda: page(engine).get('serving_processes{process="replica"}') == 2, REPLACED_S)


def test_the_page_goes_on_without_the_controller(engine: RunningEngine) -> None:
    ask(engine, 1)
    before = counted(engine)[0]
    wait(lambda: 'serving_processes{process="controller"}' in page(engine), REPLACED_S)
    (pid,) = engine.processes("ray::ServeReplica:controller")
    os.kill(pid, signal.SIGSTOP)
    try:
        ask(engine, 5)
        assert counted(engine)[0] == before + 5
        assert sum(v for k, v in page(engine).items() if k.startswith('serving_requests_total{model="echo",outcome="ok"')) == before + 5
    finally:
        os.kill(pid, signal.SIGKILL)
    wait(lambda: page(engine).get("serving_settled") == 1, REPLACED_S)
    assert counted(engine)[0] == before + 5
