"""Three times what a model can do: in virtual time, where every figure is exact; and with a replica and a gateway in this process."""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from serving.batching.entry import Entry
from serving.batching.queue import Queue
from serving.errors import Code, DeadlineExceeded, QueueFull, Unavailable
from serving.gateway.call import Call
from serving.gateway.load import QUEUED_US, RANKS, new_loads
from serving.gateway.peers import PeerAddress
from serving.gateway.service import Service
from serving.gateway.tally import Tally
from serving.hosting import BatchPolicy, HostPlan, VersionPlan
from serving.inference import InferRequest, InferResponse, Layout, TensorLayout
from serving.replica.host import ReplicaHost
from serving.routing import Route, RouteTable
from serving.state import GatewayLimits, GatewayState
from serving.tensor import DType, Signature, TensorSpec
from tests.batching.entries import entry
from tests.gateway.replica import FakeReplica, Seen, on_uvloop

ROWS = 8
BATCH_S = 0.02
CAPACITY = ROWS / BATCH_S
QUEUE = 64
BOUND_S = (QUEUE / ROWS + 2) * BATCH_S
"""The queue's bound in time: a full queue, the batch that runs, and the own one."""


class World:
    """Gateways with their forecasts, one queue, one model: requests come at random times, and time costs nothing."""

    def __init__(self, seed: int, gateways: int = 1) -> None:
        self.dice = random.Random(seed)
        self.queue = Queue("m", BatchPolicy(max_batch_size=ROWS, max_queue_requests=QUEUE))
        self.loads = [new_loads() for _ in range(gateways)]
        self.now = 1000.0
        self.free_at = self.now
        self.running: list[Entry] = []
        self.asked: dict[Entry, tuple[int, int, float]] = {}
        """(gateway, requests ahead, when it came)"""
        self.fates: Counter[tuple[str, int]] = Counter()
        """By what became of it, and priority."""
        self.took_s: list[float] = []

    def run(self, seconds: float, rate: float, deadline_s: float = 0.0, levels: tuple[int, ...] = (0,)) -> None:
        end = self.now + seconds
        arrivals = []
        at = self.now
        while (at := at + self.dice.expovariate(rate)) < end:
            arrivals.append(at)
        while arrivals or self.running:
            if arrivals and (not self.running or arrivals[0] < self.free_at):
                self.now = heapq.heappop(arrivals)
                self._come(deadline_s, self.dice.choice(levels))
            else:
                self.now = self.free_at
                self._answer()
            if not self.running:
                self._start()

    def _come(self, deadline_s: float, level: int) -> None:
        gateway = self.dice.randrange(len(self.loads))
        load = self.loads[gateway][RANKS[level]]
        if load.capped(self.now) or (deadline_s and load.forecast(self.now)[0] > deadline_s):
            self.fates["refused", level] += 1
            return
        asked = entry(level=level, deadline=self.now + deadline_s if deadline_s else 0.0)
        self.asked[asked] = gateway, load.requests, self.now
        load.requests += 1
        try:
            self.queue.push(asked, self.now)
        except QueueFull:
            self._end(asked, Code.QUEUE_FULL)
        for gone in self.queue.expire(self.now):
            self._end(gone, gone.code)

    def _start(self) -> None:
        batch = self.queue.take(self.now)
        for gone in self.queue.expire(self.now):
            self._end(gone, gone.code)
        if batch is not None:
            self.running = batch.entries
            self.free_at = self.now + BATCH_S

    def _answer(self) -> None:
        running, self.running = self.running, []
        for done in running:
            gateway, ahead, came = self.asked[done]
            load = self.loads[gateway][RANKS[done.level]]
            waited = self.now - BATCH_S - done.arrived
            if waited * 1e6 > QUEUED_US and (waited > BATCH_S or (load.seen and ahead)):
                load.waited(ahead, self.now - came, waited, BATCH_S / len(running), self.now)
            else:
                load.seen = 0.0
            self.took_s.append(self.now - came)
            self._end(done, Code.DEADLINE_EXCEEDED if 0 < done.deadline < self.now else Code.OK)

    def _end(self, ended: Entry, code: Code) -> None:
        gateway, _, _ = self.asked.pop(ended)
        load = self.loads[gateway][RANKS[ended.level]]
        load.requests -= 1
        if code is Code.QUEUE_FULL:
            load.full(self.now)
        self.fates[code.name.lower(), 0 if ended.level == 128 else ended.level] += 1

    def count(self, fate: str) -> int:
        return sum(n for (name, _), n in self.fates.items() if name == fate)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gateways", [1, 4])
@pytest.mark.parametrize("deadline_s", [0.0, 0.1, 0.15, 1.0])
def test_goodput_stays_at_capacity(seed: int, gateways: int, deadline_s: float) -> None:
    world = World(seed, gateways)
    world.run(20, 3 * CAPACITY, deadline_s)
    assert world.count("ok") >= 0.9 * 20 * CAPACITY
    assert max(world.took_s) <= BOUND_S
    if deadline_s:  # what is let in is answered in time, as a rule
        assert world.count("deadline_exceeded") <= 0.15 * world.count("ok")
    assert world.asked == {}


@pytest.mark.parametrize("deadline_s", [0.0, 0.1])
def test_a_full_queue_is_known_at_the_door(deadline_s: float) -> None:
    world = World(1)
    world.run(20, 10 * CAPACITY, deadline_s)
    assert world.count("refused") > 0.8 * (10 * CAPACITY * 20 - world.count("ok"))


@pytest.mark.parametrize("load", [0.3, 0.7])
@pytest.mark.parametrize("deadline_s", [0.0, 0.1])
def test_normal_service_is_back_at_once(load: float, deadline_s: float) -> None:
    world = World(2)
    world.run(10, 3 * CAPACITY, deadline_s)
    world.run(0.25, load * CAPACITY, deadline_s)
    world.fates.clear()
    world.run(20, load * CAPACITY, deadline_s)
    missed = sum(world.fates.values()) - world.count("ok")
    assert missed <= 0.01 * world.count("ok")


def test_the_urgent_are_served_while_the_patient_are_refused() -> None:
    """A third each of urgent, ordinary and patient requests, each of them 0.9 of what the model can do."""
    world = World(3)
    world.run(20, 2.7 * CAPACITY, 0.15, (1, 0, 200))
    of = {level: {name: n for (name, lv), n in world.fates.items() if lv == level} for level in (1, 0, 200)}
    assert of[1]["ok"] >= 0.95 * sum(of[1].values())
    assert of[200].get("ok", 0) <= 0.1 * sum(of[200].values())
    assert world.count("ok") >= 0.9 * 20 * CAPACITY


def test_a_slow_answer_does_not_shut_the_door_for_good() -> None:
    """Everybody has a deadline that the first answer has missed by far: the next who finds nobody ahead is let in."""
    world = World(4)
    load = world.loads[0][RANKS[0]]
    load.waited(ahead=0, took_s=60.0, waited_s=59.0, each_s=1.0, now=world.now)
    world.run(2, 0.3 * CAPACITY, 0.1)
    assert world.count("ok") >= 0.9 * sum(world.fates.values())


# ---- the same with all of our code, and the time that it really takes

SIGNATURE = Signature((TensorSpec("x", DType.FP32, (4,)),), (TensorSpec("y", DType.FP32, (4,)),), ROWS)
SHAPE = Layout((TensorLayout.fixed("x", DType.FP32, (1, 4)),))
SLOW = f"import time\nclass Model:\n    def predict(self, inputs):\n        time.sleep({BATCH_S})\n        return {{'y': inputs['x']}}\n"


class Client:
    """Owner of all calls: each answer has to belong to its request."""

    def __init__(self) -> None:
        self.codes: Counter[Code] = Counter()
        self.took_s: list[float] = []

    def answer(self, call: Call, response: InferResponse) -> None:
        self.codes[response.code] += 1
        if response.code is Code.OK:
            self.took_s.append(monotonic() - call.started)
            assert bytes(response.payload) == bytes(call.request.payload[0])
        elif response.code is Code.QUEUE_FULL:
            assert (response.message, response.retry_after_s) == ("Exceeds maximum queue size", 1.0)


class Stage:
    def __init__(self, host: ReplicaHost) -> None:
        self.host = host
        self.service = Service(Tally(), GatewayLimits(), asyncio.get_running_loop())
        self.service.apply(GatewayState(RouteTable(1, {"m": Route("m", "1", ("1",))})))
        self.service.set_peers({"m/1": [PeerAddress("r", **host.address)]})
        self.client = Client()
        self.refused = 0
        self.sent = 0

    async def send(self, count: int, rate: float, deadline_s: float = 0.0) -> None:
        """Send `count` requests, `rate` a second, whatever becomes of them."""
        start = monotonic()
        for n in range(count):
            while (ahead := start + n / rate - monotonic()) > 0:
                await asyncio.sleep(ahead)
            self.sent += 1
            payload = np.full(4, self.sent, np.float32).tobytes()
            request = InferRequest("m", "", SHAPE, (payload,), deadline=monotonic() + deadline_s if deadline_s else 0.0)
            try:
                self.service.calls.submit(self.service.versions.resolve("m", ""), request, self.client, None, "rest")
            except (QueueFull, DeadlineExceeded):
                self.refused += 1
            if not n % 64:
                await asyncio.sleep(0)  # however late we are, answers are to be read

    async def settle(self) -> None:
        async with asyncio.timeout(60):
            while self.service.calls.admission.inflight_requests:
                await asyncio.sleep(0.005)

    def worked(self) -> tuple[float, float]:
        """Return (batches, rows in them) so far."""
        counts = self.host.statistics()["m/1"]
        return counts["batches"], counts["rows"]


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[ReplicaHost]:
    """A replica whose model takes BATCH_S for up to ROWS rows."""
    path = tmp_path / "slow.py"
    path.write_text(SLOW)
    policy = BatchPolicy(max_batch_size=ROWS, max_queue_requests=QUEUE)
    version = VersionPlan("m", "1", "python", str(path), "Model", signature=SIGNATURE, batching=policy)
    host = ReplicaHost(HostPlan((version,)), "r", str(tmp_path))
    host.start()
    yield host
    host.stop()


@pytest.mark.parametrize("deadline_s", [0.0, 0.4])
def test_a_gateway_and_a_replica_under_three_times_the_load(slow: ReplicaHost, deadline_s: float) -> None:
    on_uvloop(_overload)(slow, deadline_s)


async def _overload(slow: ReplicaHost, deadline_s: float) -> None:
    stage = Stage(slow)
    async with asyncio.timeout(60):
        while not stage.service.ready:
            await asyncio.sleep(0.002)
    await stage.send(20, 100)
    await stage.settle()
    assert (stage.client.codes, stage.refused) == ({Code.OK: 20}, 0)

    batches, rows = stage.worked()
    await stage.send(1200, 3 * CAPACITY, deadline_s)
    await stage.settle()
    more_batches, more_rows = stage.worked()
    # the model is never asked for less than it can do: this holds however slow the machine is; how much of the time it works, and how
    # many are late, is told by the same forecasts in virtual time above
    assert more_rows - rows >= 0.8 * ROWS * (more_batches - batches)
    assert stage.client.codes.total() + stage.refused == stage.sent
    assert stage.refused > 0.3 * stage.sent
    assert set(stage.client.codes) <= {Code.OK, Code.QUEUE_FULL, Code.DEADLINE_EXCEEDED}
    # nothing is left of those who were refused, and the next are served
    gc.collect()
    assert sum(type(o) is Call for o in gc.get_objects()) == 0  # not isinstance: it looks into lazy modules of others
    codes = stage.client.codes.copy()
    refused = stage.refused
    await stage.send(20, 100)
    await stage.settle()
    assert stage.client.codes - codes == {Code.OK: 20}
    assert stage.refused == refused
    stage.service.close()


@on_uvloop
async def test_the_flood_of_one_model_is_refused_and_another_is_served() -> None:
    flooded = FakeReplica(("mlp/1",))
    other = FakeReplica(("other/1",), on_request=Seen.answer)
    async with flooded, other:
        limits = GatewayLimits(max_inflight_requests=90)
        service = Service(Tally(), limits, asyncio.get_running_loop())
        service.apply(GatewayState(RouteTable(1, {m: Route(m, "1", ("1",)) for m in ("mlp", "other")}), limits))
        service.set_peers({"mlp/1": [flooded.address], "other/1": [other.address]})
        async with asyncio.timeout(60):
            while not service.ready:
                await asyncio.sleep(0)
        client = Client()
        refused = []
        for model in ["mlp"] * 200 + ["other"] * 5:
            try:
                service.calls.submit(
                    service.versions.resolve(model, ""), InferRequest(model, "", SHAPE, (bytes(16),)), client, None, "rest"
                )
            except Unavailable as error:
                refused.append((model, error.retry_after_s))
        assert refused == [("mlp", 1.0)] * 120
        async with asyncio.timeout(60):
            while client.codes[Code.OK] < 5:
                await asyncio.sleep(0)
        service.close()
