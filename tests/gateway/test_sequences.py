"""Lanes, with replicas that are objects: what is sent where, in which order, and who is told to forget."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from serving.errors import Code
from serving.gateway.call import Call, Description
from serving.gateway.client_limits import Client
from serving.gateway.load import new_loads
from serving.gateway.sequences import SLOTS, Lane, Lanes, order_of, slot_of
from serving.gateway.tally import Tally
from serving.inference import InferRequest, InferResponse, Layout, SequenceRequest, TensorLayout
from serving.sequence import Step, sequence_key
from serving.tensor import DType, Signature, TensorSpec

X = Signature((TensorSpec("x", DType.FP32, (1,)),), (TensorSpec("y", DType.FP32, (1,)),), 8)
DESCRIPTION = Description("m", "1", X, "python", {"sequence": {"max_idle_s": 1.0}})
LAYOUT = Layout((TensorLayout.fixed("x", DType.FP32, (1, 1)),))


class Replica:
    """A replica with its sequences. Answers when it is told to; forgets at once unless `slow`."""

    def __init__(self, name: str, room: int = 100) -> None:
        self.replica = name
        self.since = 0.0
        self.usable = True
        self.paused = False
        self.inflight = 0
        self.versions = {DESCRIPTION.key: DESCRIPTION}
        self.queue: list[Call] = []
        self.live: set[bytes] = set()
        self.seen: list[tuple[int | str, int]] = []
        self.slow = False
        self.untold: list[Callable[[], None]] = []
        self._room = room

    def send(self, call: Call) -> None:
        self.queue.append(call)

    def cancel(self, call: Call) -> None:
        call.channel = None
        self.queue.remove(call)

    def forget(self, key: str, sequence: bytes, done: Callable[[], None]) -> None:
        self.live.discard(sequence)
        self.untold.append(done) if self.slow else done()

    def took(self, call: Call, answers: int) -> None: ...
    def room(self) -> bool:
        return True

    def calls(self) -> list[Call]:
        return list(self.queue)

    def tick(self) -> None: ...
    def retire(self) -> None: ...
    def close(self, reason: str) -> None: ...

    def outcome(self, call: Call) -> Code:
        assert isinstance(call.request, SequenceRequest)
        step = call.request.step
        if not step.start and step.key not in self.live:
            return Code.SEQUENCE_UNKNOWN
        if step.start and step.key not in self.live and len(self.live) >= self._room:
            return Code.SEQUENCES_FULL
        self.live.add(step.key)
        self.seen.append((step.id, int(call.request.id)))
        if step.end:
            self.live.discard(step.key)
        return Code.OK


class Gateway:
    """Lanes over some replicas, and a service that only delivers."""

    def __init__(self, *replicas: Replica) -> None:
        self.replicas = list(replicas)
        self.lanes = Lanes(asyncio.get_running_loop(), DESCRIPTION, self, self.deliver, max_lanes=4)  # type: ignore[arg-type]
        self.answers: list[tuple[int, Code]] = []
        self._number = 0

    channels = property(lambda self: self.replicas)

    def ready(self) -> bool:
        return bool(self.replicas)

    def deliver(self, call: Call, response: InferResponse, now: float) -> None:
        assert call.lane is not None
        settled = call.lane.answered(call, response)
        if settled is not None:
            call.open = False
            self.answers.append((int(call.request.id), settled.code))

    def ask(self, id: int | str, start: bool = False, end: bool = False) -> Call:
        self._number += 1
        request = SequenceRequest(InferRequest("m", "1", LAYOUT, [bytes(4)], str(self._number)), Step(sequence_key(id), start, end))
        cell = Tally().version("m", "1")["rest"]
        client: Client | None = None
        served = type("Served", (), {"model": "m", "version": "1", "key": "m/1", "at_most_once": False})()
        call = Call(served, request, None, None, cell, 4, 0.0, None, new_loads()[1], self.lanes, client)  # type: ignore[arg-type]
        self.lanes.send(call)
        return call

    def run(self) -> None:
        """Let all replicas answer until nothing is under way."""
        while any(replica.queue for replica in self.replicas):
            for replica in self.replicas:
                self.answer(replica)

    def answer(self, replica: Replica) -> None:
        queue, replica.queue = replica.queue, []
        for call in queue:
            self.deliver(call, InferResponse("m", "1", None, b"", replica.outcome(call)), 0.0)

    def lane(self, id: int | str) -> Lane:
        return self.lanes._lanes[sequence_key(id)]


def home_of(id: int | str, *replicas: Replica) -> Replica:
    by_name = {replica.replica: replica for replica in replicas}
    return by_name[order_of(slot_of(sequence_key(id)), list(by_name))[0]]


def test_a_replica_that_comes_takes_its_share_of_the_slots_and_no_others_change() -> None:
    before = {slot: order_of(slot, ["a", "b", "c"])[0] for slot in range(SLOTS)}
    after = {slot: order_of(slot, ["d", "c", "b", "a"])[0] for slot in range(SLOTS)}
    assert all(after[slot] in (before[slot], "d") for slot in range(SLOTS))
    assert min(Counter(before.values()).values()) > SLOTS // 3 - 80
    assert abs(Counter(after.values())["d"] - SLOTS // 4) < 80


async def test_requests_leave_in_order_and_wait_for_the_answer_to_their_start() -> None:
    a, b = Replica("a"), Replica("b")
    gateway = Gateway(a, b)
    home = home_of(7, a, b)
    for n in range(5):
        gateway.ask(7, start=n == 0, end=n == 4)
    assert len(home.queue) == 1
    gateway.answer(home)
    assert len(home.queue) == 4
    gateway.run()
    assert home.seen == [(7, n) for n in range(1, 6)]
    assert gateway.answers == [(n, Code.OK) for n in range(1, 6)]
    assert gateway.lanes._lanes == {}


async def test_a_live_sequence_is_found_by_a_gateway_that_has_not_seen_it() -> None:
    replicas = [Replica(name) for name in "abc"]
    first = Gateway(*replicas[:2])
    ids = list(range(1, 30))
    for id in ids:
        first.ask(id, start=True)
    first.run()
    second = Gateway(*replicas)
    for id in ids:
        for _ in range(3):
            second.ask(id)
    second.run()
    assert {code for _, code in second.answers} == {Code.OK}
    assert replicas[2].seen == []
    assert all(count == 4 for count in Counter(id for r in replicas for id, _ in r.seen).values())


async def test_only_one_replica_knows_a_sequence_after_start() -> None:
    a, b = Replica("a"), Replica("b")
    away = home_of(7, a, b)
    other = b if away is a else a
    alone, both = Gateway(other), Gateway(a, b)
    alone.ask(7, start=True)
    alone.run()
    away.slow = other.slow = True
    both.ask(7, start=True)
    both.answer(away)
    assert both.answers == []  # held back until the other replica has forgotten it
    assert other.live == set()
    other.untold.pop()()
    assert both.answers == [(1, Code.OK)]
    both.ask(7)
    both.run()
    assert away.seen == [(7, 1), (7, 2)]


async def test_a_start_finds_room_elsewhere_and_says_when_there_is_none() -> None:
    a, b = Replica("a", room=1), Replica("b", room=1)
    gateway = Gateway(a, b)
    for id in (1, 2, 3):
        gateway.ask(id, start=True)
        gateway.run()
        gateway.ask(id)
        gateway.run()
    assert [code for _, code in gateway.answers] == [Code.OK] * 4 + [Code.SEQUENCES_FULL, Code.SEQUENCE_UNKNOWN]


async def test_a_lost_replica_takes_its_sequences_along() -> None:
    a, b = Replica("a"), Replica("b")
    gateway = Gateway(a, b)
    home = home_of(7, a, b)
    gateway.ask(7, start=True)
    gateway.run()
    call = gateway.ask(7)
    gateway.replicas.remove(home)
    home.queue.clear()
    gateway.deliver(call, InferResponse("m", "1", None, b"", Code.REPLICA_LOST, "lost"), 0.0)
    gateway.ask(7)
    gateway.run()
    assert gateway.answers[1:] == [(2, Code.REPLICA_LOST), (3, Code.UNAVAILABLE)]
    gateway.ask(7, start=True)
    gateway.run()
    gateway.ask(7)
    gateway.run()
    assert gateway.answers[3:] == [(4, Code.OK), (5, Code.OK)]


async def test_a_start_that_was_lost_goes_to_another_replica_once() -> None:
    a, b = Replica("a"), Replica("b")
    gateway = Gateway(a, b)
    home = home_of(7, a, b)
    call = gateway.ask(7, start=True)
    gateway.ask(7)
    gateway.replicas.remove(home)
    gateway.deliver(call, InferResponse("m", "1", None, b"", Code.REPLICA_LOST, "lost"), 0.0)
    gateway.run()
    assert gateway.answers == [(1, Code.OK), (2, Code.OK)]


async def test_a_replica_that_was_away_forgets_what_began_elsewhere() -> None:
    a, b = Replica("a"), Replica("b")
    gateway = Gateway(a, b)
    home = home_of(7, a, b)
    gateway.ask(7, start=True)
    gateway.run()
    gateway.replicas.remove(home)
    gateway.ask(7, start=True)
    gateway.run()
    assert len(a.live) == len(b.live) == 1
    back = Replica(home.replica)  # the same replica on a new connection
    back.live = home.live
    gateway.replicas.append(back)
    gateway.ask(7)
    gateway.run()
    assert back.live == set()
    assert [code for _, code in gateway.answers] == [Code.OK] * 3


@pytest.mark.parametrize("at", ["sent", "waiting", "held"])
async def test_a_caller_that_goes_leaves_the_others_their_way(at: str) -> None:
    a, b = Replica("a"), Replica("b")
    gateway = Gateway(a, b)
    home = home_of(7, a, b)
    other = b if home is a else a
    calls = [gateway.ask(7, start=True), gateway.ask(7), gateway.ask(7)]
    gone = calls[1] if at == "waiting" else calls[0]
    if at == "held":
        other.slow = True
        gateway.replicas.remove(other)
        gateway.replicas.append(other)
        gateway.run()
        calls = [gateway.ask(7, start=True), gateway.ask(7)]
        gateway.answer(home)
        gone = calls[0]
        assert gateway.lane(7).held is not None
    assert gone.channel is not None
    gone.open = False
    gone.channel.cancel(gone)
    assert gone.lane is not None
    gone.lane.left(gone)
    home.live.add(sequence_key(7))
    gateway.run()
    answered = [n for n, _ in gateway.answers]
    assert int(gone.request.id) not in answered
    assert all(int(call.request.id) in answered for call in calls if call is not gone)
    assert not gateway.lane(7).busy


async def test_idle_lanes_are_bounded() -> None:
    gateway = Gateway(Replica("a"))
    for id in range(1, 50):
        gateway.ask(id, start=True)
        gateway.run()
    assert len(gateway.lanes._lanes) == 4
    gateway.ask(1)
    gateway.run()
    assert gateway.answers[-1][1] is Code.OK
