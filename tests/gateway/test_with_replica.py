"""The service and real replicas in this process: what fakes on either side cannot show, above all shared memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from time import monotonic

import numpy as np
import pytest

from serving.errors import Code, DeadlineExceeded, QueueFull
from serving.gateway.call import Call
from serving.gateway.peers import PeerAddress
from serving.gateway.service import Service
from serving.gateway.tally import Tally
from serving.hosting import BatchPolicy, HostPlan, VersionPlan
from serving.inference import InferRequest, InferResponse, Layout, TensorLayout
from serving.replica.host import ReplicaHost
from serving.routing import Route, RouteTable
from serving.state import GatewayLimits, GatewayState
from serving.tensor import DType, Signature, TensorSpec
from tests.gateway.replica import on_uvloop

SIGNATURE = Signature((TensorSpec("x", DType.FP32, (-1,)),), (TensorSpec("y", DType.FP32, (-1,)),), 8)
NEGATE = "class Model:\n    def predict(self, inputs):\n        return {'y': -inputs['x']}\n"
SMALL, LARGE = 16, 40_000


class Owner:
    """Checks each answer as it comes, and keeps none of them."""

    def __init__(self) -> None:
        self.codes: list[Code] = []
        self.shared = 0
        self._changed = asyncio.Event()

    def answer(self, call: Call, response: InferResponse) -> None:
        self.codes.append(response.code)
        if response.code is Code.OK:
            sent = np.frombuffer(call.request.payload[0], np.float32)
            np.testing.assert_array_equal(np.frombuffer(response.payload, np.float32), -sent)
            self.shared += isinstance(response.payload, memoryview) and type(response.payload.obj).__name__ == "Slab"
        self._changed.set()

    async def wait(self, n: int) -> None:
        async with asyncio.timeout(60):
            while len(self.codes) < n:
                self._changed.clear()
                await self._changed.wait()


class Stage:
    """A service, and hosts that it knows."""

    def __init__(self, hosts: list[ReplicaHost], arena_bytes: int) -> None:
        self.hosts = hosts
        self.service = Service(Tally(), GatewayLimits(), asyncio.get_running_loop(), arena_bytes=arena_bytes)
        self.service.apply(GatewayState(RouteTable(1, {"m": Route("m", "1", ("1",))})))
        self.service.set_peers({"m/1": [PeerAddress(h.replica_id, **h.address) for h in hosts]})
        self.owner = Owner()

    def submit(self, size: int, value: float, deadline: float = 0.0) -> Call:
        layout = Layout((TensorLayout.fixed("x", DType.FP32, (1, size)),))
        head = 35  # a request's tensors lie behind its JSON, at any offset
        body = self.service.body_buffer(head + 4 * size)
        if body is None:
            body = memoryview(bytearray(head + 4 * size))
        body[head:] = np.full(size, value, np.float32).tobytes()
        request = InferRequest("m", "", layout, (body[head:],), deadline=deadline)
        return self.service.calls.submit(self.service.versions.resolve("m", ""), request, self.owner, None, "rest")

    async def until(self, condition: Callable[[], bool]) -> None:
        end = monotonic() + 60
        while not condition():
            assert monotonic() < end, "it never came about"
            await asyncio.sleep(0)

    def sharing(self) -> bool:
        """Every connection may write into our memory, and reads theirs."""
        return all(c._sharing.writable for c in self.service._peers.channels())  # type: ignore[attr-defined]

    def used(self) -> int:
        """Bytes in use in our memory."""
        gc.collect()
        return self.service._memory.arena.used_bytes if self.service._memory is not None else 0

    def theirs(self) -> int:
        """Bytes in use in the replicas' memories."""
        arenas = [h._site.arena for h in self.hosts if h._site is not None]
        return sum(a.used_bytes for a in arenas if a is not None)


@asynccontextmanager
async def stage(tmp_path: Path, replicas: int = 1, arena_bytes: int = 1 << 24) -> AsyncIterator[Stage]:
    (tmp_path / "model.py").write_text(NEGATE)
    policy = BatchPolicy(max_batch_size=8)
    plan = HostPlan((VersionPlan("m", "1", "python", str(tmp_path / "model.py"), "Model", signature=SIGNATURE, batching=policy),))
    hosts = [ReplicaHost(plan, f"r{n}", str(tmp_path), arena_bytes=arena_bytes) for n in range(replicas)]
    for host in hosts:
        host.start()
    made = Stage(hosts, arena_bytes)
    try:
        await made.until(lambda: len(made.service._peers.pool("m/1") or ()) == replicas)
        if arena_bytes:
            await made.until(made.sharing)
        yield made
    finally:
        made.service.close()
        for host in hosts:
            host.stop()


@pytest.mark.parametrize("arena_bytes", [0, 1 << 20, 1 << 24])
@on_uvloop
async def test_answers_of_all_sizes_are_right_with_little_memory_and_with_none(tmp_path: Path, arena_bytes: int) -> None:
    async with stage(tmp_path, arena_bytes=arena_bytes) as s:
        for n in range(60):
            s.submit(LARGE if n % 3 else SMALL, float(n))
        await s.owner.wait(60)
        assert s.owner.codes == [Code.OK] * 60
        assert (s.owner.shared > 0) == (arena_bytes > 0)
        await s.until(lambda: s.used() == 0 and s.theirs() == 0)


@on_uvloop
async def test_no_slot_is_lost_to_cancels_and_deadlines(tmp_path: Path) -> None:
    random = Random(7)
    async with stage(tmp_path) as s:
        for n in range(120):
            try:
                call = s.submit(LARGE, float(n), monotonic() + 0.005 if random.random() < 0.3 else 0.0)
            except (DeadlineExceeded, QueueFull):
                continue  # on a slow machine it is over before it begins
            if random.random() < 0.4:
                await asyncio.sleep(random.choice([0, 0, 0.001]))
                call.cancel()
            del call
        await s.until(lambda: s.service.calls.admission.inflight_requests == 0)
        assert set(s.owner.codes) <= {Code.OK, Code.DEADLINE_EXCEEDED}
        await s.until(lambda: s.used() == 0 and s.theirs() == 0)


@on_uvloop
async def test_a_drained_replica_loses_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path, replicas=2) as s:
        for n in range(40):
            s.submit(LARGE if n % 2 else SMALL, float(n))
        drained = asyncio.get_running_loop().run_in_executor(None, s.hosts[0].drain, 5.0)
        for n in range(40):
            await asyncio.sleep(0)
            s.submit(LARGE if n % 2 else SMALL, float(n))
        await s.owner.wait(80)
        assert await drained
        assert s.owner.codes == [Code.OK] * 80
        await s.until(lambda: s.used() == 0)


@on_uvloop
async def test_calls_of_a_stopped_replica_move_with_their_memory(tmp_path: Path) -> None:
    async with stage(tmp_path, replicas=2) as s:
        for n in range(20):
            s.submit(LARGE, float(n))
        await asyncio.sleep(0)
        channel = s.service._peers.channels()[0]
        assert channel.inflight > 0
        channel.close("as if it had been killed")
        await s.owner.wait(20)
        assert s.owner.codes == [Code.OK] * 20
        await s.until(lambda: s.used() == 0)
