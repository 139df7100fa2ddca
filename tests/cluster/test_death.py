"""Processes that are killed or stop answering, under load and from outside. Bounds are for a busy machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster.running import RunningEngine, wait
from tests.cluster.traffic import ECHO, Traffic, grpc_answers

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")]
REPLACED_S = 120.0
SOURCE = '''
import numpy as np


class Echo:
    def predict(self, inputs):
        return {"y": inputs["x"]}


class Hangs:
    """Never comes back from a batch with a row that begins with 1."""
    def predict(self, inputs):
        while (inputs["x"][:, 0] == 1).any():
            pass
        return {"y": inputs["x"]}
'''
HAPROXY = "haproxy.cfg"
"""Stands in the command line of the process, where there is one."""
SOLO, HANGS, BESIDE = "solo", "hangs", "beside"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """Two gateways; `echo_fp32` on two replicas, `solo` on one, `hangs` in the loop of its replica, `beside` in a thread beside it."""
    folder = tmp_path_factory.mktemp("death")
    (folder / "model.py").write_text(SOURCE)
    tensor = {"dtype": "FP32", "shape": [4]}

    def model(entry: str, **words: object) -> dict[str, object]:
        return {
            "versions": {"1": {"artefact": "model.py", "runtime": "python", "entry": entry}},
            "signature": {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]},
            "batching": {"max_batch_size": 16},
            **words,
        }

    models = {ECHO: model("Echo", replicas=2, execution="inline"), SOLO: model("Echo"), HANGS: model("Hangs", execution="inline")}
    models[BESIDE] = model("Hangs", predict_timeout_s=2)
    file = folder / "death.yaml"
    file.write_text(json.dumps({"gateways": 2, "models": models}))
    with RunningEngine(folder / "state", file) as running:
        asyncio.run(grpc_answers(running))
        yield running


def replicas(engine: RunningEngine, model: str) -> list[int]:
    return engine.processes(f"ray::ServeReplica:{model}@1")


def signalled(engine: RunningEngine, title: str, number: int) -> int:
    pid = engine.processes(title)[0]
    os.kill(pid, number)
    return pid


def replaced(engine: RunningEngine, title: str, gone: int, count: int) -> bool:
    now = engine.processes(title)
    return gone not in now and len(now) == count


def settled(engine: RunningEngine) -> bool:
    try:
        status = engine.status()
    except httpx.HTTPError:
        return False
    return bool(status["settled"] and status["ready"])


async def until(condition: object, what: str) -> None:
    await asyncio.to_thread(wait, condition, REPLACED_S, what)


def ask(engine: RunningEngine, model: str, first: float = 0.0, timeout_s: float = 60.0) -> httpx.Response:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [first, 1, 1, 1]}]}
    return httpx.post(f"http://127.0.0.1:{engine.http}/v2/models/{model}/infer", json=body, timeout=timeout_s)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_one_of_two_replicas_may_go_and_no_request_fails(engine: RunningEngine, number: int) -> None:
    load = Traffic(engine).start()
    await load.more()
    title = f"ray::ServeReplica:{ECHO}@1"
    gone = signalled(engine, title, number)
    await until(lambda: replaced(engine, title, gone, 2), "the replica is replaced")
    await load.end()
    await until(lambda: settled(engine), "settled")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_the_only_replica_goes_its_callers_are_told_and_others_notice_nothing(engine: RunningEngine, number: int) -> None:
    load = Traffic(engine).start()
    await load.more()
    title = f"ray::ServeReplica:{SOLO}@1"
    gone = signalled(engine, title, number)
    answers = []

    def back() -> bool:
        answers.append(ask(engine, SOLO))
        return answers[-1].status_code == 200 and gone not in engine.processes(title)

    await until(back, "it is back")
    assert {a.status_code for a in answers} <= {200, 503}
    assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 503)
    await load.end()
    await until(lambda: settled(engine), "settled")


async def test_a_model_that_hangs_in_the_loop_of_its_replica_costs_its_own_caller_an_answer(engine: RunningEngine) -> None:
    load = Traffic(engine).start()
    title = f"ray::ServeReplica:{HANGS}@1"
    gone = engine.processes(title)[0]
    hung = await asyncio.to_thread(ask, engine, HANGS, 1.0, REPLACED_S)
    assert hung.status_code == 503
    # sent once more, as any request of a lost replica: the second replica may hang of it too
    await until(lambda: ask(engine, HANGS, timeout_s=REPLACED_S).status_code == 200, "it is back")
    await until(lambda: replaced(engine, title, gone, 1), "the replica is replaced")
    await load.end()
    await until(lambda: settled(engine), "settled")


async def test_a_model_that_hangs_in_a_thread_is_given_up_after_its_time(engine: RunningEngine) -> None:
    load = Traffic(engine).start()
    title = f"ray::ServeReplica:{BESIDE}@1"
    gone = engine.processes(title)[0]
    hung = asyncio.create_task(asyncio.to_thread(ask, engine, BESIDE, 1.0, REPLACED_S))
    behind = asyncio.create_task(asyncio.to_thread(ask, engine, BESIDE, 0.0, REPLACED_S))
    answer = await hung
    assert (answer.status_code, answer.json()["error"]) == (
        500,
        "model 'beside' has not answered for 2 s (predict_timeout_s); its replica is replaced",
    )
    assert (await behind).status_code in (200, 500, 503)  # before it, with it in the batch, or behind it
    await until(lambda: ask(engine, BESIDE, timeout_s=REPLACED_S).status_code == 200, "it is back")
    await until(lambda: replaced(engine, title, gone, 1), "the replica is replaced")
    await load.end()
    await until(lambda: settled(engine), "settled")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_one_of_two_gateways_goes_and_only_what_was_in_it_fails(engine: RunningEngine, number: int) -> None:
    load = Traffic(engine).start()
    await load.more()
    title = "ray::ServeReplica:gateways"
    gone = signalled(engine, title, number)
    # new connections wait, for the other gateway or the next one
    fresh = await asyncio.gather(*(asyncio.to_thread(ask, engine, ECHO, 0.0, REPLACED_S) for _ in range(16)))
    assert [a.status_code for a in fresh] == [200] * 16
    await until(lambda: replaced(engine, title, gone, 2), "the gateway is replaced")
    await until(lambda: settled(engine), "settled")
    await load.stop()
    # each client had one request under way; it stops at its first failure
    assert len(load.failed) <= 12
    after = Traffic(engine).start()
    await after.end()


async def test_the_edge_goes_rest_is_untouched_grpc_is_back_and_there_is_no_orphan(engine: RunningEngine) -> None:
    load = Traffic(engine).start(unary=0, streams=0)
    await load.more()
    title = "ray::ServeReplica:edge"
    proxies = engine.processes(HAPROXY)
    gone = signalled(engine, title, signal.SIGKILL)
    await until(lambda: replaced(engine, title, gone, 1), "the edge is replaced")
    refused = await asyncio.wait_for(grpc_answers(engine), REPLACED_S)
    assert all("UNAVAILABLE" in words for words in refused)
    await until(lambda: settled(engine), "settled")
    await load.end()
    await until(
        lambda: len(engine.processes(HAPROXY)) == len(proxies) and not set(engine.processes(HAPROXY)) & set(proxies), "its HAProxy, too"
    )


async def test_the_controller_goes_predictions_never_notice_and_the_state_is_whole(engine: RunningEngine) -> None:
    load = Traffic(engine).start()
    await load.more()
    before = engine.status()
    title = "ray::ServeReplica:controller"
    gone = signalled(engine, title, signal.SIGKILL)
    processes = set(replicas(engine, ECHO) + replicas(engine, SOLO))
    await until(lambda: replaced(engine, title, gone, 1) and settled(engine), "the controller is replaced")
    after = engine.status()
    assert (after["revision"], len(after["versions"]), len(after["gateways"])) == (before["revision"], 4, 2)
    assert after["published"] > before["published"]
    assert set(replicas(engine, ECHO) + replicas(engine, SOLO)) == processes
    await load.end()
