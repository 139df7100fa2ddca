from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import Code, DeadlineExceeded, NotFound, QueueFull, QueueTimeout, ServingError, Unavailable
from serving.gateway.call import Call, Description, Served
from serving.gateway.local import LocalChannel
from serving.gateway.service import Service
from serving.gateway.tally import Tally
from serving.inference import Buffer, InferRequest, InferResponse, Layout, TensorLayout
from serving.routing import Route, RouteTable
from serving.state import GatewayLimits, GatewayState
from serving.tensor import DType
from tests.gateway.replica import SIGNATURE, FakeReplica, Seen, on_uvloop

SHAPE = Layout((TensorLayout("x", DType.UINT8, (4,), 4),))


class Owner:
    """Collects answers."""

    def __init__(self) -> None:
        self.answers: list[tuple[Call, InferResponse]] = []
        self._changed = asyncio.Event()

    def answer(self, call: Call, response: InferResponse) -> None:
        self.answers.append((call, response))
        self._changed.set()

    async def wait(self, n: int, timeout_s: float = 60.0) -> list[InferResponse]:
        async with asyncio.timeout(timeout_s):
            while len(self.answers) < n:
                self._changed.clear()
                await self._changed.wait()
        return [r for _, r in self.answers]

    @property
    def codes(self) -> list[Code]:
        return [r.code for _, r in self.answers]


class Stage:
    """A service with replicas behind it."""

    def __init__(self, *replicas: FakeReplica, at_most_once: bool = False, retry_wait_s: float = 2.0, **limits: Any) -> None:
        self.replicas = replicas
        self.tally = Tally()
        self.state = GatewayState(RouteTable(1, {"mlp": Route("mlp", "1", ("1",), at_most_once)}), GatewayLimits(**limits))
        self.service = Service(self.tally, self.state.limits, asyncio.get_running_loop(), retry_wait_s=retry_wait_s)
        self.service.apply(self.state)
        self.owner = Owner()

    async def __aenter__(self) -> Stage:
        for replica in self.replicas:
            await replica.__aenter__()
        self.publish(*self.replicas)
        await self.until(lambda: len(self.service._peers.pool("mlp/1") or ()) == len(self.replicas))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.service.close()
        for replica in self.replicas:
            await replica.__aexit__()

    def publish(self, *replicas: FakeReplica) -> None:
        self.service.set_peers({"mlp/1": [r.address for r in replicas]})

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Turn the loop until the condition holds."""
        end = monotonic() + timeout_s
        while not condition():
            assert monotonic() < end, "it never came about"
            await asyncio.sleep(0)

    def submit(self, payload: bytes = b"abcd", owner: Owner | None = None, **fields: Any) -> Call:
        request = InferRequest("mlp", "", SHAPE, (payload,), **fields)
        return self.service.calls.submit(self.served, request, owner or self.owner, None, "rest")

    @property
    def served(self) -> Served:
        return self.service.versions.resolve("mlp", "")

    def outcomes(self) -> dict[str, int]:
        return {s[2]["outcome"]: s[3] for s in self.tally.samples() if s[0] == "serving_requests_total"}

    def rejected(self) -> dict[str, int]:
        return {s[2]["reason"]: s[3] for s in self.tally.samples() if s[0] == "serving_rejected_total"}

    def check_empty(self) -> None:
        """Nothing is counted as in flight any more."""
        assert (self.service.calls.admission.inflight_requests, self.service.calls.admission.inflight_bytes) == (0, 0)
        assert [s[3] for s in self.tally.samples() if s[0] == "serving_inflight_requests"] == [0]
        assert all(c.inflight == 0 for c in self.service._peers.channels())
        assert len(self.service.calls._deadlines) == 0


@on_uvloop
async def test_a_call_is_answered_with_what_the_replica_said() -> None:
    async with Stage(FakeReplica(on_request=lambda s: s.answer(rows=3))) as stage:
        call = stage.submit()
        assert stage.owner.answers == []
        (response,) = await stage.owner.wait(1)
        assert bytes(response.payload) == b"abcd"
        assert (response.model, response.version, response.batch_rows, response.queue_us) == ("mlp", "1", 3, 7)
        assert stage.owner.answers[0][0] is call
        assert not call.open
        assert stage.outcomes() == {"ok": 1}
        stage.check_empty()


@on_uvloop
async def test_equal_answers_of_two_replicas_share_their_layout() -> None:
    async with Stage(*(FakeReplica(on_request=lambda s: s.answer()) for _ in range(2))) as stage:
        for _ in range(4):
            stage.submit()
        responses = await stage.owner.wait(4)
        assert {len(r.seen) for r in stage.replicas} == {2}
        assert all(r.layout is responses[0].layout for r in responses)


@on_uvloop
async def test_an_error_of_the_replica_reaches_the_owner() -> None:
    async with Stage(FakeReplica(on_request=lambda s: s.fail(Code.QUEUE_FULL, "Exceeds maximum queue size"))) as stage:
        stage.submit()
        (response,) = await stage.owner.wait(1)
        assert (response.code, response.message, response.retry_after_s) == (Code.QUEUE_FULL, "Exceeds maximum queue size", 1.5)
        assert stage.outcomes() == {"queue_full": 1}


@on_uvloop
async def test_resolve_tells_unknown_from_not_ready() -> None:
    replica = FakeReplica()
    async with Stage(replica) as stage:
        service = stage.service
        assert service.versions.resolve("mlp", "1") is service.versions.resolve("mlp", "")
        with pytest.raises(NotFound, match="Request for unknown model: 'nope' is not found"):
            service.versions.resolve("nope", "")
        with pytest.raises(NotFound, match="'mlp' version 9 is not found"):
            service.versions.resolve("mlp", "9")
        service.apply(GatewayState(RouteTable(2, {"mlp": Route("mlp", "2", ("1", "2"))})))
        with pytest.raises(Unavailable, match="Request for unknown model: 'mlp' version 2 is not at ready state") as e:
            service.versions.resolve("mlp", "")
        assert e.value.retry_after_s == 1.0
        assert service.versions.resolve("mlp", "1").version == "1"
        assert not service.ready
        ((route, versions),) = service.versions.models()
        assert route.stable == "2"
        assert versions["1"] is service.versions.resolve("mlp", "1")
        assert versions["2"] is None
        assert service.versions.ready_of("mlp") == ["1"]


@on_uvloop
async def test_an_older_state_changes_nothing() -> None:
    async with Stage() as stage:
        assert stage.service.apply(GatewayState(RouteTable(5, {"a": Route("a", "1", ("1",))}))) == 5
        assert stage.service.apply(GatewayState(RouteTable(4))) == 5
        assert [r.endpoint for r, _ in stage.service.versions.models()] == ["a"]


@on_uvloop
async def test_without_a_live_replica_a_new_request_is_refused_at_once() -> None:
    replica = FakeReplica()
    async with Stage(replica) as stage:
        served = stage.served
        replica.kill()
        await stage.until(lambda: not served.ready)
        with pytest.raises(Unavailable, match="version 1 is not at ready state"):
            stage.submit()
        assert stage.rejected() == {"not_ready": 1}
        stage.check_empty()


@on_uvloop
async def test_calls_of_a_killed_replica_move_once_to_another() -> None:
    dead, alive = FakeReplica(), FakeReplica()
    async with Stage(dead, alive) as stage:
        for i in range(20):
            stage.submit(b"%04d" % i)
        await dead.wait(lambda: len(dead.seen) + len(alive.seen) == 20)
        assert len(dead.seen) == 10
        alive.on_request = Seen.answer
        moved = {s.payload for s in dead.seen}
        for seen in alive.seen:
            seen.answer()
        dead.kill()
        responses = await stage.owner.wait(20)
        assert stage.owner.codes == [Code.OK] * 20
        assert {bytes(r.payload) for r in responses} == {b"%04d" % i for i in range(20)}
        assert {s.payload for s in alive.seen if s.attempt == 1} == moved
        stage.check_empty()


@on_uvloop
async def test_at_most_once_is_never_sent_twice() -> None:
    dead, alive = FakeReplica(), FakeReplica(on_request=Seen.answer)
    async with Stage(dead, alive, at_most_once=True) as stage:
        for _ in range(10):
            stage.submit()
        await dead.wait(lambda: len(dead.seen) == 5)
        dead.kill()
        responses = await stage.owner.wait(10)
        assert sorted(stage.owner.codes) == [Code.OK] * 5 + [Code.REPLICA_LOST] * 5
        assert all(r.retry_after_s == 1.0 for r in responses if r.code)
        assert len(alive.seen) == 5


@on_uvloop
async def test_at_most_once_moves_what_had_not_left() -> None:
    replicas = FakeReplica(on_request=Seen.answer), FakeReplica(on_request=Seen.answer)
    async with Stage(*replicas, at_most_once=True) as stage:
        call = stage.submit()
        assert call.channel is not None
        call.channel.close("gone before the turn is over")
        await stage.owner.wait(1)
        assert stage.owner.codes == [Code.OK]
        assert [s.attempt for r in replicas for s in r.seen] == [0]


@on_uvloop
async def test_a_call_lost_twice_is_answered_replica_lost() -> None:
    one, two = FakeReplica(), FakeReplica()
    async with Stage(one, two) as stage:
        stage.submit()
        await stage.until(lambda: bool(one.seen or two.seen))
        first, second = (one, two) if one.seen else (two, one)
        first.kill()
        await second.wait(lambda: bool(second.seen))
        assert second.seen[0].attempt == 1
        second.kill()
        (response,) = await stage.owner.wait(1)
        assert (response.code, response.retry_after_s) == (Code.REPLICA_LOST, 1.0)
        stage.check_empty()


@on_uvloop
async def test_a_lost_call_waits_for_a_replica_to_appear() -> None:
    first, second = FakeReplica(), FakeReplica(on_request=Seen.answer)
    async with Stage(first) as stage, second:
        stage.submit()
        await first.wait(lambda: bool(first.seen))
        first.kill()
        await stage.until(lambda: bool(stage.service.calls.relocation._waiting))
        stage.publish(first, second)
        await stage.owner.wait(1)
        assert stage.owner.codes == [Code.OK]
        assert second.seen[0].attempt == 1
        stage.check_empty()


@on_uvloop
async def test_a_lost_call_does_not_wait_for_ever() -> None:
    replica = FakeReplica()
    async with Stage(replica, retry_wait_s=0.8) as stage:
        stage.submit()
        cancelled = stage.submit()
        await replica.wait(lambda: len(replica.seen) == 2)
        replica.kill()
        await stage.until(lambda: len(stage.service.calls.relocation._waiting) == 2)
        cancelled.cancel()
        (response,) = await stage.owner.wait(1)
        assert response.code is Code.REPLICA_LOST
        stage.check_empty()


@on_uvloop
async def test_the_gateway_answers_at_the_deadline_and_cancels_in_the_replica() -> None:
    replica = FakeReplica()
    async with Stage(replica) as stage:
        deadline = monotonic() + 0.2
        stage.submit(deadline=deadline)
        stage.submit()
        (response,) = await stage.owner.wait(1)
        assert monotonic() >= deadline
        assert (response.code, response.message) == (Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        await replica.wait(lambda: bool(replica.cancelled))
        late, other = replica.seen
        assert replica.cancelled == [late.key]
        assert 0 < late.budget_us <= 200_000
        late.answer()
        other.answer()
        await stage.owner.wait(2)
        assert stage.owner.codes == [Code.DEADLINE_EXCEEDED, Code.OK]
        assert stage.outcomes() == {"deadline_exceeded": 1, "ok": 1}
        stage.check_empty()


@on_uvloop
async def test_a_deadline_also_ends_a_call_that_waits_for_a_replica() -> None:
    replica = FakeReplica()
    async with Stage(replica) as stage:
        stage.submit(deadline=monotonic() + 0.5)
        await replica.wait(lambda: bool(replica.seen))
        replica.kill()
        await stage.owner.wait(1)
        assert stage.owner.codes == [Code.DEADLINE_EXCEEDED]
        stage.check_empty()


@on_uvloop
async def test_a_deadline_that_is_over_is_refused_at_once() -> None:
    replica = FakeReplica()
    async with Stage(replica) as stage:
        with pytest.raises(DeadlineExceeded, match="Deadline Exceeded"):
            stage.submit(deadline=monotonic() - 1)
        assert replica.seen == []
        assert stage.rejected() == {"deadline": 1}


@on_uvloop
async def test_no_call_outlives_the_bound_of_the_gateway() -> None:
    replica = FakeReplica()
    async with Stage(replica, request_timeout_s=0.4) as stage:
        stage.submit()
        stage.submit(deadline=monotonic() + 1e6)
        await replica.wait(lambda: len(replica.seen) == 2)
        await stage.owner.wait(2)
        assert stage.owner.codes == [Code.DEADLINE_EXCEEDED] * 2
        await replica.wait(lambda: len(replica.cancelled) == 2)
        stage.check_empty()


@on_uvloop
async def test_after_cancel_the_owner_hears_nothing() -> None:
    replica = FakeReplica()
    async with Stage(replica) as stage:
        gone, kept = stage.submit(), stage.submit()
        await replica.wait(lambda: len(replica.seen) == 2)
        gone.cancel()
        gone.cancel()
        await replica.wait(lambda: bool(replica.cancelled))
        for seen in replica.seen:
            seen.answer()
        await stage.owner.wait(1)
        kept.cancel()
        assert [c for c, _ in stage.owner.answers] == [kept]
        assert stage.outcomes() == {"ok": 1, "cancelled": 1}
        stage.check_empty()


@on_uvloop
async def test_a_call_cancelled_in_its_own_turn_never_reaches_the_replica() -> None:
    replica = FakeReplica(on_request=Seen.answer)
    async with Stage(replica) as stage:
        stage.submit(b"gone").cancel()
        stage.submit(b"kept")
        await stage.owner.wait(1)
        assert [s.payload for s in replica.seen] == [b"kept"]
        assert replica.cancelled == []
        stage.check_empty()


@on_uvloop
async def test_bounds_refuse_at_the_door() -> None:
    async with Stage(FakeReplica(), max_inflight_requests=2) as stage:
        stage.submit()
        last = stage.submit()
        with pytest.raises(Unavailable) as e:
            stage.submit()
        assert e.value.retry_after_s == 1.0
        assert stage.rejected() == {"overload": 1}
        last.cancel()
        stage.submit()


@on_uvloop
async def test_a_full_queue_is_refused_at_the_door_until_it_may_have_room() -> None:
    async with Stage(FakeReplica()) as stage:
        for _ in range(4):
            stage.submit()
        replica = stage.replicas[0]
        await replica.wait(lambda: len(replica.seen) == 4)
        replica.seen[3].fail(Code.QUEUE_FULL, "Exceeds maximum queue size")
        await stage.owner.wait(1)
        with pytest.raises(QueueFull, match="Exceeds maximum queue size") as e:
            stage.submit()
        assert e.value.retry_after_s == 1.0
        assert stage.rejected() == {"queue_full": 1}
        stage.submit(priority=1)  # whose places are others
        replica.seen[0].answer()
        await stage.owner.wait(2)
        stage.submit()
        await replica.wait(lambda: len(replica.seen) == 6)
        for seen in replica.seen[1:3] + replica.seen[4:]:
            seen.answer()
        await stage.owner.wait(6)
        stage.check_empty()


@on_uvloop
async def test_a_request_that_would_be_late_is_refused_at_the_door() -> None:
    async with Stage(FakeReplica()) as stage:
        calls = [stage.submit() for _ in range(4)]
        replica = stage.replicas[0]
        await replica.wait(lambda: len(replica.seen) == 4)
        calls[1].started -= 41
        replica.seen[1].answer(queue_us=40_000_000, compute_us=1_000_000)
        await stage.owner.wait(1)
        for hurry, text in (
            ({"deadline": monotonic() + 10}, r"^Exceeds maximum queue size: the request would be \d+\.\d ms late"),
            ({"timeout_us": 10_000_000}, r"^Request timeout expired: the request would start \d+\.\d ms late"),
        ):
            with pytest.raises((QueueFull, QueueTimeout), match=text) as e:
                stage.submit(**hurry)
            assert e.value.retry_after_s > 5
        assert stage.rejected() == {"late": 2}
        stage.submit()
        stage.submit(deadline=monotonic() + 10, priority=1)
        stage.submit(deadline=monotonic() + 1000)
        await replica.wait(lambda: len(replica.seen) == 7)
        for seen in (replica.seen[0], *replica.seen[2:]):
            seen.answer()
        await stage.owner.wait(7)
        # nobody is ahead any more
        stage.submit(deadline=monotonic() + 10).cancel()
        stage.check_empty()


@on_uvloop
async def test_an_owner_that_fails_hurts_no_other() -> None:
    class Broken(Owner):
        def answer(self, call: Call, response: InferResponse) -> None:
            raise RuntimeError("write to a client that has gone")

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with Stage(FakeReplica(on_request=Seen.answer)) as stage:
        stage.submit(owner=Broken())
        stage.submit()
        await stage.owner.wait(1)
        assert len(stage.replicas[0].connections) == 1
        assert [str(c["exception"]) for c in reported] == ["write to a client that has gone"]
        stage.check_empty()


@on_uvloop
async def test_garbage_of_one_replica_costs_only_its_connection() -> None:
    bad, good = FakeReplica(), FakeReplica(on_request=Seen.answer)
    async with Stage(bad, good) as stage:
        for _ in range(6):
            stage.submit()
        await bad.wait(lambda: len(bad.seen) == 3)
        bad.connections[0].transport.write(b"\xff" * 64)
        await stage.owner.wait(6)
        assert stage.owner.codes == [Code.OK] * 6
        stage.check_empty()


@on_uvloop
async def test_a_silent_replica_is_left_and_its_calls_move() -> None:
    silent, good = FakeReplica(), FakeReplica(on_request=Seen.answer)
    async with Stage(silent, good) as stage:
        silent.silent = True
        for _ in range(6):
            stage.submit()
        await stage.owner.wait(3)
        for _ in range(5):
            pings = good.pings
            stage.service.tick()
            await stage.until(lambda pings=pings: good.pings > pings)  # type: ignore[misc]
        await stage.owner.wait(6)
        assert stage.owner.codes == [Code.OK] * 6
        assert len(good.connections) == 1


@on_uvloop
async def test_a_draining_replica_answers_what_it_has_and_gets_nothing_new() -> None:
    leaving, staying = FakeReplica(), FakeReplica(on_request=Seen.answer)
    async with Stage(leaving, staying) as stage:
        for _ in range(4):
            stage.submit()
        await leaving.wait(lambda: len(leaving.seen) == 2)
        leaving.drain()
        await stage.until(lambda: len(stage.service._peers.pool("mlp/1") or ()) == 1)
        for _ in range(4):
            stage.submit()
        await stage.owner.wait(6)
        assert len(leaving.seen) == 2
        for seen in leaving.seen:
            seen.answer()
        await stage.owner.wait(8)
        assert stage.owner.codes == [Code.OK] * 8
        await stage.until(lambda: len(stage.service._peers.channels()) == 1)
        stage.check_empty()


@on_uvloop
async def test_drain_refuses_new_calls_and_waits_for_the_others() -> None:
    replica = FakeReplica()
    async with Stage(replica) as stage:
        stage.submit()
        await replica.wait(lambda: bool(replica.seen))
        assert stage.service.ready
        draining = asyncio.ensure_future(stage.service.drain(5.0))
        await asyncio.sleep(0)
        assert not draining.done()
        assert not stage.service.ready
        with pytest.raises(Unavailable, match="Server is stopping, scheduler for model has stopped accepting new inference requests"):
            stage.submit()
        replica.seen[0].answer()
        assert await draining
        assert stage.owner.codes == [Code.OK]
        assert await stage.service.drain(0.0)


@on_uvloop
async def test_drain_ends_after_its_time_and_close_answers_the_rest() -> None:
    async with Stage(FakeReplica()) as stage:
        stage.submit()
        assert not await stage.service.drain(0.01)
        stage.service.close()
        assert stage.owner.codes == [Code.UNAVAILABLE]
        stage.check_empty()


@on_uvloop
async def test_other_limits_reach_the_codecs() -> None:
    async with Stage(FakeReplica()) as stage:
        before = stage.served
        limits = GatewayLimits(max_json_bytes=1000)
        stage.service.apply(GatewayState(RouteTable(2, stage.state.routes.routes), limits))
        assert stage.served is not before
        with pytest.raises(ServingError, match="1000"):
            stage.served.rest.decode(b" " * 2000, None)


@on_uvloop
async def test_the_whole_walk_runs_on_a_local_channel() -> None:
    def predict(layout: Layout, payload: Buffer) -> InferResponse:
        if bytes(payload) == b"fail":
            raise Unavailable("asked for")
        return InferResponse("mlp", "1", layout, bytes(payload)[::-1])

    async with Stage() as stage:
        description = Description("mlp", "1", SIGNATURE, "local")
        stage.service.attach(LocalChannel(asyncio.get_running_loop(), stage.service.calls.deliver, [description], predict))
        stage.submit(b"abcd")
        stage.submit(b"fail")
        stage.submit(b"gone").cancel()
        assert stage.owner.answers == []
        ok, failed = await stage.owner.wait(2)
        assert bytes(ok.payload) == b"dcba"
        assert (failed.code, failed.message) == (Code.UNAVAILABLE, "asked for")
        stage.check_empty()


class Chaos:
    """Three replicas, and a list of steps drawn beforehand that say what happens next."""

    def __init__(self, stage: Stage, replicas: list[FakeReplica], random: Random) -> None:
        self.stage = stage
        self.replicas = replicas
        self.random = random
        self.owners: list[tuple[Call, Owner]] = []
        self.cancelled: set[Call] = set()

    async def step(self, action: str) -> None:
        replica = self.random.choice(self.replicas)
        match action:
            case "submit":
                for _ in range(self.random.randint(1, 4)):
                    self.submit()
            case "answer":
                self.answer(replica, 1)
            case "answer twice":
                self.answer(replica, 2)
            case "cancel" if self.owners:
                call, owner = self.random.choice(self.owners)
                if not owner.answers:
                    self.cancelled.add(call)
                call.cancel()
            case "kill":
                replica.kill()
                await replica.listen()
            case "garbage" if replica.connections:
                replica.connections[-1].transport.write(b"\xfe" * 40)
            case "drain":
                replica.drain()
            case "turn":
                await asyncio.sleep(self.random.choice([0, 0, 0.001]))

    def submit(self) -> None:
        owner = Owner()
        deadline = monotonic() + self.random.uniform(0.001, 0.05) if self.random.random() < 0.3 else 0.0
        try:
            self.owners.append((self.stage.submit(b"%04d" % len(self.owners), owner, deadline=deadline), owner))
        except Unavailable:
            assert not self.stage.served.ready
        except DeadlineExceeded:
            assert 0.0 < deadline <= monotonic()

    def answer(self, replica: FakeReplica, times: int) -> None:
        if replica.seen:
            seen = replica.seen.pop(self.random.randrange(len(replica.seen)))
            if not seen.connection.transport.is_closing():
                for _ in range(times):
                    seen.answer()


STEPS = ["submit", "submit", "submit", "answer", "answer", "answer twice", "cancel", "kill", "garbage", "drain", "turn", "turn", "turn"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(STEPS), max_size=60), st.integers())
@on_uvloop
async def test_every_call_is_answered_exactly_once_whatever_happens(steps: list[str], seed: int) -> None:
    replicas = [FakeReplica() for _ in range(3)]
    async with Stage(*replicas, retry_wait_s=0.05) as stage:
        chaos = Chaos(stage, replicas, Random(seed))
        for action in steps:
            await chaos.step(action)
        for replica in replicas:
            replica.on_request = Seen.answer
            while replica.seen:
                chaos.answer(replica, 1)
        async with asyncio.timeout(60):
            while stage.service.calls.admission.inflight_requests:
                for replica in replicas:
                    while replica.seen:
                        chaos.answer(replica, 1)
                await asyncio.sleep(0.001)
        for call, owner in chaos.owners:
            assert not call.open
            assert len(owner.answers) == (0 if call in chaos.cancelled else 1)
            for _, response in owner.answers:
                if response.code is Code.OK:
                    assert bytes(response.payload) == bytes(call.request.payload[0])
                else:
                    assert response.code in (Code.REPLICA_LOST, Code.DEADLINE_EXCEEDED)
        if chaos.owners:
            stage.check_empty()
