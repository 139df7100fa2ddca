"""Sequences end to end: two gateways, several replicas, both protocols, the clients as they are."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.grpc.aio as agrpc
import tritonclient.http as thttp
import tritonclient.http.aio as ahttp
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from serving.gateway.sequences import SETTLE_S, order_of, slot_of
from serving.hosting import BatchPolicy, HostPlan, SequencePolicy, VersionPlan
from serving.sequence import sequence_key
from serving.tensor import DType, Signature, TensorSpec

from .rig import DataPath, eventually, wait_for

SOURCE = '''
import os
import time

import numpy as np


class Sum:
    """Answers with the sum so far, the number of requests so far, and what the request said."""

    def __init__(self, gate=""):
        self.gate = gate

    def predict(self, inputs, sequences):
        while self.gate and os.path.exists(self.gate):
            time.sleep(0.002)
        rows = []
        for x, s in zip(inputs["x"].reshape(-1), sequences, strict=True):
            s.state["sum"] = s.state.get("sum", 0) + int(x)
            s.state["count"] = s.state.get("count", 0) + 1
            if x == -1:
                raise ValueError("minus one")
            rows.append([s.state["sum"], s.state["count"], s.start, s.end, len(str(s.id))])
        return {"y": np.array(rows, np.int64)}
'''
START = "must specify the START flag on the first request of the sequence"


def plan(directory: Path, gate: Path | None = None) -> HostPlan:
    """Return `sum` (8 sequences to a batch), `few` (2 live ones), `brief` (forgets after 0.2 s), `slow` (waits at the gate)."""
    source = directory / "sum.py"
    source.write_text(SOURCE)
    signature = Signature((TensorSpec("x", DType.INT64, (1,)),), (TensorSpec("y", DType.INT64, (5,)),), 8)

    def version(name: str, options: dict[str, Any] | None = None, **policy: Any) -> VersionPlan:
        sequence = SequencePolicy(**policy)
        batching = BatchPolicy(8, max_delay_s=0.001)
        return VersionPlan(
            name, "1", "python", str(source), "Sum", options=options or {}, signature=signature, batching=batching, sequence=sequence
        )

    slow = {"gate": str(gate)} if gate else {}
    return HostPlan((version("sum"), version("few", max_sequences=2), version("brief", max_idle_s=0.2), version("slow", slow)))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPath]:
    with DataPath(edge="auto") as node:
        held = plan(tmp_path_factory.mktemp("models"), node.gate)
        node.replica(held, "r1")
        node.replica(held, "r2")
        node.gateway("a")
        node.gateway("b")
        wait_for(lambda: settled(node, 2))
        yield node


def settled(path: DataPath, replicas: int) -> bool:
    """Say whether all gateways give new sequences to so many replicas. Until then one may know less than the other, and send elsewhere."""
    since = monotonic() - SETTLE_S
    pools = [member.server._host.service._peers.pool("sum/1") for member in path.members]
    known = [[c.replica for c in pool.channels if c.since <= since] for pool in pools if pool is not None]
    return [len(names) for names in known] == [replicas] * len(path.members)


def rest_input(value: int, rows: int = 1) -> thttp.InferInput:
    x = thttp.InferInput("x", [rows, 1], "INT64")
    x.set_data_from_numpy(np.full((rows, 1), value, np.int64))
    return x


def grpc_input(value: int) -> tgrpc.InferInput:
    x = tgrpc.InferInput("x", [1, 1], "INT64")
    x.set_data_from_numpy(np.full((1, 1), value, np.int64))
    return x


def ask(path: DataPath, value: int, id: int | str, start: bool = False, end: bool = False, model: str = "sum", **more: Any) -> list[int]:
    """Ask on a connection of its own, so that both gateways get their share."""
    with thttp.InferenceServerClient(path.rest) as client:
        result = client.infer(model, [rest_input(value)], sequence_id=id, sequence_start=start, sequence_end=end, **more)
        return [int(n) for n in result.as_numpy("y")[0]]


def refused(path: DataPath, *args: Any, **more: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        ask(path, *args, **more)
    return str(caught.value)


def live(path: DataPath, model: str = "sum") -> list[int]:
    """Return how many sequences each replica has."""
    return [int(host.statistics()[f"{model}/1"]["sequences"]) for host in path.replicas]


@pytest.mark.parametrize("id", [7, "seven", (1 << 64) - 1, "é" * 64])
def test_a_sequence_keeps_its_state_across_gateways_and_protocols(path: DataPath, id: int | str) -> None:
    wide = len(str(id))
    assert ask(path, 5, id, start=True) == [5, 1, 1, 0, wide]
    for n in range(2, 10):
        assert ask(path, 1, id) == [4 + n, n, 0, 0, wide]
    if isinstance(id, str) or id < 1 << 63:  # the client writes numbers as int64
        with tgrpc.InferenceServerClient(path.grpc) as client:
            result = client.infer("sum", [grpc_input(1)], sequence_id=id)
            assert list(result.as_numpy("y")[0]) == [14, 10, 0, 0, wide]
    assert ask(path, 0, id, end=True)[3] == 1
    assert START in refused(path, 1, id)
    wait_for(lambda: sum(live(path)) == 0)


def test_a_number_and_the_same_text_are_two_sequences(path: DataPath) -> None:
    ask(path, 1, 12, start=True)
    ask(path, 100, "12", start=True)
    assert ask(path, 1, 12, end=True)[0] == 2
    assert ask(path, 1, "12", end=True)[0] == 101


def test_start_again_starts_afresh(path: DataPath) -> None:
    ask(path, 1, "again", start=True)
    ask(path, 1, "again")
    assert ask(path, 3, "again", start=True)[:2] == [3, 1]
    assert ask(path, 1, "again")[:2] == [4, 2]
    assert ask(path, 1, "again", start=True, end=True)[:4] == [1, 1, 1, 1]
    assert START in refused(path, 1, "again")


def test_what_a_request_of_a_sequence_must_say(path: DataPath) -> None:
    assert f"inference request for sequence 99 to model 'sum' {START}" in refused(path, 1, 99)
    assert f"inference request for sequence abc to model 'sum' {START}" in refused(path, 1, "abc", end=True)
    nothing = "inference request to model 'sum' must specify a non-zero or non-empty correlation ID"
    for id in (0, ""):
        assert nothing in refused(path, 1, id, start=True)
        with (
            tgrpc.InferenceServerClient(path.grpc) as client,
            pytest.raises(InferenceServerException, match=r"StatusCode\.INVALID_ARGUMENT"),
        ):
            client.infer("sum", [grpc_input(1)], sequence_id=id, sequence_start=True)
    with thttp.InferenceServerClient(path.rest) as client:
        with pytest.raises(InferenceServerException, match="must specify batch-size 1 due to requirements of sequence batcher"):
            client.infer("sum", [rest_input(1, 2)], sequence_id=1, sequence_start=True)
        for bad in ({"sequence_id": "x" * 129}, {"sequence_id": -1}, {"sequence_id": 1.5}, {"sequence_id": 1, "sequence_start": 1}):
            body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [1]}], "parameters": bad}
            response = client._post("v2/models/sum/infer", json.dumps(body), {}, None)
            assert response.status_code == 400
            assert "sequence_" in json.loads(response.read())["error"]
    with grpc.insecure_channel(path.grpc) as channel:
        message = tgrpc._utils._get_inference_request("sum", [grpc_input(1)], "", "", None, 99, False, False, 0, None, None)
        with pytest.raises(grpc.RpcError, match=START) as caught:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_idle_sequence_is_forgotten(path: DataPath) -> None:
    ask(path, 1, 5, start=True, model="brief")
    wait_for(lambda: sum(live(path, "brief")) == 0)
    assert START in refused(path, 1, 5, model="brief")
    assert ask(path, 1, 5, start=True, model="brief")[:2] == [1, 1]


def test_live_sequences_are_bounded_and_the_bounds_of_replicas_add_up(path: DataPath) -> None:
    for id in range(1, 5):
        ask(path, id, id, start=True, model="few")
    assert live(path, "few") == [2, 2]
    assert "has 2 live sequences, which is its limit" in refused(path, 1, 5, start=True, model="few")
    with tgrpc.InferenceServerClient(path.grpc) as client, pytest.raises(InferenceServerException, match=r"StatusCode\.UNAVAILABLE"):
        client.infer("few", [grpc_input(1)], sequence_id=5, sequence_start=True)
    assert ask(path, 1, 3, model="few", end=True)[0] == 4
    ask(path, 1, 5, start=True, model="few")
    for id in (1, 2, 4):
        assert ask(path, 1, id, model="few", end=True)[0] == id + 1
    ask(path, 1, 5, model="few", end=True)


def test_a_request_that_fails_leaves_the_state_as_it_was(path: DataPath) -> None:
    ask(path, 10, "fails", start=True)
    assert "minus one" in refused(path, -1, "fails")
    assert ask(path, 1, "fails", end=True)[:2] == [11, 2]


def test_two_interleaved_sequences_on_one_stream(path: DataPath) -> None:
    """As Triton's simple_grpc_sequence_stream_infer_client does it: nothing is waited for."""
    answers: queue.Queue[Any] = queue.Queue()
    values = [11, 7, 5, 3, 2, 0, 1]
    with tgrpc.InferenceServerClient(path.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for n, value in enumerate(values):
            for id, sign in ((1000, 1), ("text", -2)):
                client.async_stream_infer(
                    "sum", [grpc_input(sign * value)], request_id=f"{id}_{n}", sequence_id=id,
                    sequence_start=n == 0, sequence_end=n == len(values) - 1,
                )  # fmt: skip
        got = [answers.get(timeout=60) for _ in range(2 * len(values))]
        client.stop_stream()
    assert [error for _, error in got] == [None] * len(got)
    assert [r.get_response().id for r, _ in got] == [f"{id}_{n}" for n in range(len(values)) for id in (1000, "text")]
    sums = np.cumsum(values)
    assert [int(r.as_numpy("y")[0, 0]) for r, _ in got] == [int(s) for total in sums for s in (total, -2 * total)]


async def test_many_sequences_in_many_streams_never_mix(path: DataPath) -> None:
    async def one(client: agrpc.InferenceServerClient, id: int) -> None:
        async def messages() -> AsyncIterator[dict[str, Any]]:
            for n in range(30):
                flags = {"sequence_id": id, "sequence_start": n % 10 == 0, "sequence_end": n == 29}
                yield {"model_name": "sum", "inputs": [grpc_input(id)], **flags}

        seen = []
        async for result, error in client.stream_infer(messages()):
            assert error is None
            seen.append(int(result.as_numpy("y")[0, 0]))
        assert seen == [id * (n % 10 + 1) for n in range(30)]

    async with agrpc.InferenceServerClient(path.grpc) as a, agrpc.InferenceServerClient(path.grpc) as b:
        await asyncio.gather(*(one((a, b)[id % 2], id) for id in range(1, 41)))
    wait_for(lambda: sum(live(path)) == 0)


async def test_the_aio_clients(path: DataPath) -> None:
    async with ahttp.InferenceServerClient(path.rest) as client:
        for n in range(5):
            result = await client.infer("sum", [rest_input(2)], sequence_id="aio", sequence_start=n == 0, sequence_end=n == 4)
            assert result.as_numpy("y")[0, 0] == 2 * (n + 1)
    async with agrpc.InferenceServerClient(path.grpc) as client:
        for n in range(5):
            result = await client.infer("sum", [grpc_input(2)], sequence_id=77, sequence_start=n == 0, sequence_end=n == 4)
            assert result.as_numpy("y")[0, 0] == 2 * (n + 1)


def test_both_replicas_get_sequences_by_the_slot_table(path: DataPath) -> None:
    ids = list(range(500, 540))
    before = live(path)
    for id in ids:
        ask(path, 1, id, start=True)
    first = [order_of(slot_of(sequence_key(id)), ["r1", "r2"])[0] for id in ids]
    assert [n - m for n, m in zip(live(path), before, strict=True)] == [first.count("r1"), first.count("r2")]
    assert min(first.count("r1"), first.count("r2")) > 8
    for id in ids:
        ask(path, 1, id, end=True)


def test_live_sequences_stay_when_a_replica_comes_and_are_lost_when_theirs_dies(path: DataPath, tmp_path: Path) -> None:
    ids = [f"s{n}" for n in range(30)]
    for id in ids:
        ask(path, 1, id, start=True)
    before = live(path)
    third = path.replica(plan(tmp_path), "r3")
    try:
        for n in range(2, 6):
            for id in ids:
                assert ask(path, 1, id)[:2] == [n, n]
        assert live(path) == [*before, 0]

        moved = [n for n in range(3000, 3100) if order_of(slot_of(sequence_key(n)), ["r1", "r2", "r3"])[0] == "r3"]
        assert 15 < len(moved) < 55

        wait_for(lambda: settled(path, 3))
        for id in moved:
            ask(path, 1, id, start=True)
            assert ask(path, 1, id)[:2] == [2, 2]
        assert live(path) == [*before, len(moved)]
        for id in ids[:10]:  # restarted: some go to the third, and nobody finds the old state
            ask(path, 100, id, start=True)
            for n in range(4):
                assert ask(path, 1, id)[0] == 101 + n
        assert sum(live(path)) == len(ids) + len(moved)
    finally:
        path.forget(third)
    for id in moved:
        assert "START flag" in refused(path, 1, id)
        assert ask(path, 1, id, start=True, end=True)[:2] == [1, 1]
    for id in ids[10:]:
        assert ask(path, 1, id, end=True)[:2] == [6, 6]


async def test_requests_of_one_sequence_run_one_at_a_time_and_others_share_batches(path: DataPath) -> None:
    path.gate.touch()
    async with grpc.aio.insecure_channel(path.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def message(id: int, start: bool = False, **more: Any) -> service_pb2.ModelInferRequest:
            get = tgrpc._utils._get_inference_request
            return get("slow", [grpc_input(id)], "", "", None, id, start, False, more.get("priority", 0), more.get("timeout"), None)

        opened = [asyncio.ensure_future(stub.ModelInfer(message(id, True))) for id in (1, 2, 3)]
        await eventually(lambda: path.open("slow") == 3)
        path.open_gate()
        await asyncio.gather(*opened)
        path.gate.touch()
        first = asyncio.ensure_future(stub.ModelInfer(message(1)))
        await eventually(lambda: path.open("slow") == 1 and path.queued("slow") == 0)
        more = [asyncio.ensure_future(stub.ModelInfer(message(1))) for _ in range(5)]
        await eventually(lambda: path.queued("slow") == 5)
        hasty = stub.ModelInfer(message(1, timeout=1000))
        with pytest.raises(grpc.aio.AioRpcError, match="Request timeout expired") as caught:
            await hasty
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        gone = stub.ModelInfer(message(1))
        await eventually(lambda: path.queued("slow") == 6)
        gone.cancel()
        await eventually(lambda: path.queued("slow") == 5)
        path.open_gate()
        answers = [np.frombuffer(a.raw_output_contents[0], np.int64)[1] for a in await asyncio.gather(first, *more)]
        assert sorted(answers) == [2, 3, 4, 5, 6, 7]
        for id in (1, 2, 3):
            request = message(id)
            request.parameters["sequence_end"].bool_param = True
            await stub.ModelInfer(request)
