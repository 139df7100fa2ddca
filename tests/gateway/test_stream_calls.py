"""Calls with several answers, between a service and replicas that do what the test says."""

from __future__ import annotations

import asyncio

from serving.errors import Code
from serving.gateway.call import Call, StreamCall
from serving.inference import InferRequest, InferResponse
from tests.gateway.replica import FakeReplica, on_uvloop
from tests.gateway.test_service import SHAPE, Owner, Stage


class Reader(Owner):
    """Collects parts too."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[bytes] = []

    def part(self, call: StreamCall, response: InferResponse) -> None:
        assert not self.answers
        self.parts.append(bytes(response.payload))
        self._changed.set()

    async def wait_parts(self, n: int) -> None:
        async with asyncio.timeout(60):
            while len(self.parts) < n:
                self._changed.clear()
                await self._changed.wait()


def replica() -> FakeReplica:
    """Return one whose version is decoupled."""
    made = FakeReplica()
    made.details = {"decoupled": True}
    return made


def ask(stage: Stage, reader: Reader) -> Call:
    served = stage.service.versions.resolve("mlp", "")
    assert served.decoupled
    return stage.service.calls.submit(served, InferRequest("mlp", "", SHAPE, (b"abcd",)), reader, None, "grpc")


@on_uvloop
async def test_parts_come_in_order_and_the_end_last() -> None:
    async with Stage(one := replica()) as stage:
        reader = Reader()
        call = ask(stage, reader)
        await one.wait(lambda: len(one.seen) == 1)
        (seen,) = one.seen
        for n in range(5):
            seen.part(b"part %d" % n)
        seen.over()
        (end,) = await reader.wait(1)
        assert reader.parts == [b"part %d" % n for n in range(5)]
        assert (end.code, end.layout, call.parts, call.open) == (Code.OK, None, 5, False)
        assert stage.service.calls.admission.inflight_requests == 0


@on_uvloop
async def test_what_was_taken_is_told_in_one_frame_a_turn() -> None:
    async with Stage(one := replica()) as stage:
        reader = Reader()
        call = ask(stage, reader)
        assert isinstance(call, StreamCall)
        await one.wait(lambda: len(one.seen) == 1)
        (seen,) = one.seen
        seen.part(b"a")
        await reader.wait_parts(1)
        call.took(1)
        call.took(2)
        await one.wait(lambda: bool(one.taken))
        assert one.taken == [(seen.key, 3)]
        seen.over()
        await reader.wait(1)
        call.took(1)  # it is over: nobody to tell
        stage.service.tick()
        await stage.until(lambda: one.pings >= 1)
        assert one.taken == [(seen.key, 3)]


@on_uvloop
async def test_an_error_may_come_behind_parts() -> None:
    async with Stage(one := replica()) as stage:
        reader = Reader()
        ask(stage, reader)
        await one.wait(lambda: len(one.seen) == 1)
        one.seen[0].part(b"a")
        one.seen[0].fail(Code.MODEL_FAILED, "no more")
        (end,) = await reader.wait(1)
        assert (reader.parts, end.code, end.message) == ([b"a"], Code.MODEL_FAILED, "no more")


@on_uvloop
async def test_a_lost_call_moves_before_its_first_part_and_never_after() -> None:
    async with Stage(one := replica(), two := replica()) as stage:
        readers = [Reader(), Reader()]
        for reader in readers:
            ask(stage, reader)
        await one.wait(lambda: len(one.seen) + len(two.seen) == 2)
        (first,), (second,) = one.seen, two.seen
        assert first.connection is not second.connection
        first.part(b"begun")
        async with asyncio.timeout(60):
            while not (readers[0].parts or readers[1].parts):
                await asyncio.sleep(0.001)
        begun = readers[0] if readers[0].parts else readers[1]
        other = readers[1] if begun is readers[0] else readers[0]
        one.kill()
        (lost,) = await begun.wait(1)
        assert lost.code is Code.REPLICA_LOST
        assert len(two.seen) == 1
        third = replica()
        await third.__aenter__()
        stage.publish(two, third)
        await stage.until(lambda: len(stage.service._peers.pool("mlp/1") or ()) == 2)
        two.kill()
        await third.wait(lambda: len(third.seen) == 1)
        assert third.seen[0].attempt == 1
        third.seen[0].part(b"from the third")
        third.seen[0].over()
        (end,) = await other.wait(1)
        assert (other.parts, end.code) == ([b"from the third"], Code.OK)
        await third.__aexit__()


@on_uvloop
async def test_after_cancel_nothing_comes() -> None:
    async with Stage(one := replica()) as stage:
        reader = Reader()
        call = ask(stage, reader)
        await one.wait(lambda: len(one.seen) == 1)
        one.seen[0].part(b"a")
        await reader.wait_parts(1)
        call.cancel()
        one.seen[0].part(b"b")
        await one.wait(lambda: one.cancelled == [one.seen[0].key])
        one.seen[0].fail(Code.CANCELLED, "cancelled")
        stage.service.tick()
        await stage.until(lambda: one.pings >= 1)
        assert (reader.parts, reader.answers) == ([b"a"], [])
        assert stage.service.calls.admission.inflight_requests == 0


@on_uvloop
async def test_the_bound_is_on_the_time_between_two_parts() -> None:
    async with Stage(one := replica(), request_timeout_s=100) as stage:
        reader = Reader()
        call = ask(stage, reader)
        assert isinstance(call, StreamCall)
        await one.wait(lambda: len(one.seen) == 1)
        call.started -= 1000
        one.seen[0].part(b"a")
        await reader.wait_parts(1)
        stage.service.tick()
        assert not reader.answers
        call.note(call.started)
        stage.service.tick()
        assert reader.codes == [Code.DEADLINE_EXCEEDED]
        await one.wait(lambda: one.cancelled == [one.seen[0].key])


@on_uvloop
async def test_a_part_for_an_ordinary_call_costs_the_connection() -> None:
    one = FakeReplica()
    async with Stage(one, retry_wait_s=0.05) as stage:
        reader = Reader()
        served = stage.service.versions.resolve("mlp", "")
        stage.service.calls.submit(served, InferRequest("mlp", "", SHAPE, (b"abcd",)), reader, None, "grpc")
        await one.wait(lambda: len(one.seen) == 1)
        one.seen[0].part(b"a")
        await stage.until(lambda: not one.connections or len(one.seen) == 2)
        assert not reader.parts


@on_uvloop
async def test_a_reader_that_fails_hurts_no_other() -> None:
    class Broken(Reader):
        def part(self, call: StreamCall, response: InferResponse) -> None:
            raise RuntimeError("a bug")

    async with Stage(one := replica()) as stage:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, fault: faults.append(fault["exception"]))
        broken, whole = Broken(), Reader()
        ask(stage, broken)
        ask(stage, whole)
        await one.wait(lambda: len(one.seen) == 2)
        for seen in one.seen:
            seen.part(b"a")
            seen.over()
        await whole.wait(1)
        await broken.wait(1)
        assert whole.parts == [b"a"]
        assert [str(fault) for fault in faults] == ["a bug"]
