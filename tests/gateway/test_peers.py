from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from serving.gateway.call import Call
from serving.gateway.peers import PeerAddress, PeerPool, Peers
from serving.gateway.tally import Tally
from serving.inference import InferResponse
from tests.gateway.replica import FakeReplica, on_uvloop


class Lane:
    """A channel, as far as a pool knows it."""

    def __init__(self, inflight: int = 0, paused: bool = False, full: bool = False) -> None:
        self.inflight = inflight
        self.paused = paused
        self.full = full

    def room(self) -> bool:
        return not self.full


def pool(*lanes: Lane) -> PeerPool:
    made = PeerPool()
    for lane in lanes:
        made.add(lane)  # type: ignore[arg-type]
    return made


def test_pick_takes_the_least_in_flight() -> None:
    lanes = [Lane(3), Lane(1), Lane(2)]
    assert [pool(*lanes).pick() for _ in range(3)] == [lanes[1]] * 3


def test_equals_take_turns() -> None:
    lanes = [Lane(), Lane(), Lane()]
    made = pool(*lanes)
    picked = [made.pick() for _ in range(6)]
    assert [picked.count(lane) for lane in lanes] == [2, 2, 2]


def test_a_congested_channel_is_taken_only_when_all_are() -> None:
    busy, free = Lane(0, paused=True), Lane(9)
    made = pool(busy, free)
    assert [made.pick() for _ in range(4)] == [free] * 4
    free.paused = True
    assert [made.pick() for _ in range(4)] == [busy] * 4


def test_no_channel_with_room_means_none() -> None:
    assert pool().pick() is None
    assert pool(Lane(paused=True, full=True)).pick() is None
    assert pool(Lane(paused=True, full=True), Lane(paused=True, full=True)).pick() is None
    assert pool(Lane(paused=True)).pick() is not None


class Owner:
    """The service, as far as peers know it."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()

    def pools_changed(self, keys: Iterable[str]) -> None:
        self.changed.set()

    def peer_lost(self, sent: list[Call], unsent: list[Call]) -> None:
        raise AssertionError("no call was made")


class Stage:
    """Peers, and a wait for what they see."""

    def __init__(self) -> None:
        self.owner = Owner()
        self.tally = Tally()
        self.peers = Peers(asyncio.get_running_loop(), self.owner, self.deliver, self.tally, "g0", "node-a")

    def deliver(self, call: Call, response: InferResponse, now: float) -> None:
        raise AssertionError("no call was made")

    async def until_size(self, key: str, size: int) -> None:
        async with asyncio.timeout(60):
            while len(self.peers.pool(key) or ()) != size:
                self.owner.changed.clear()
                await self.owner.changed.wait()

    async def __aenter__(self) -> Stage:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.peers.close("end of test")


@on_uvloop
async def test_versions_appear_with_the_first_hello() -> None:
    async with Stage() as stage, FakeReplica(("mlp/1", "mlp/2")) as replica:
        stage.peers.publish({"mlp/1": [replica.address], "mlp/2": [replica.address]})
        assert stage.peers.served == {}
        await stage.until_size("mlp/1", 1)
        await stage.until_size("mlp/2", 1)
        served = stage.peers.served["mlp/2"]
        assert (served.model, served.version, served.key, served.platform, served.ready) == ("mlp", "2", "mlp/2", "torch", True)
        assert served.tally is stage.tally.version("mlp", "2")
        await replica.wait(lambda: bool(replica.hellos))
        assert replica.hellos == [{"protocol": 1, "gateway": "g0"}]
        assert len(replica.connections) == 1


@on_uvloop
async def test_a_version_that_is_not_published_here_gets_no_pool() -> None:
    async with Stage() as stage, FakeReplica(("mlp/1", "mlp/2")) as replica:
        stage.peers.publish({"mlp/1": [replica.address]})
        await stage.until_size("mlp/1", 1)
        assert list(stage.peers.served) == ["mlp/1"]


@on_uvloop
async def test_a_second_replica_joins_the_pool_of_the_same_served() -> None:
    async with Stage() as stage, FakeReplica() as one, FakeReplica() as two:
        stage.peers.publish({"mlp/1": [one.address]})
        await stage.until_size("mlp/1", 1)
        served = stage.peers.served["mlp/1"]
        stage.peers.publish({"mlp/1": [one.address, two.address]})
        await stage.until_size("mlp/1", 2)
        assert stage.peers.served["mlp/1"] is served


@on_uvloop
async def test_a_replica_that_comes_back_is_connected_again() -> None:
    async with Stage() as stage, FakeReplica() as replica:
        stage.peers.publish({"mlp/1": [replica.address]})
        await stage.until_size("mlp/1", 1)
        replica.kill()
        await stage.until_size("mlp/1", 0)
        served = stage.peers.served["mlp/1"]
        assert not served.ready
        await replica.listen()
        await stage.until_size("mlp/1", 1)
        assert stage.peers.served["mlp/1"] is served
        assert served.ready


@on_uvloop
async def test_an_address_taken_back_is_closed_and_its_version_forgotten() -> None:
    async with Stage() as stage, FakeReplica() as replica:
        stage.peers.publish({"mlp/1": [replica.address]})
        await stage.until_size("mlp/1", 1)
        served = stage.peers.served["mlp/1"]
        stage.peers.publish({})
        assert not served.ready
        assert stage.peers.served == {}
        assert stage.peers.channels() == []


@on_uvloop
async def test_a_description_that_changes_makes_a_new_served_with_the_same_counts() -> None:
    async with Stage() as stage, FakeReplica() as replica:
        stage.peers.publish({"mlp/1": [replica.address]})
        await stage.until_size("mlp/1", 1)
        before = stage.peers.served["mlp/1"]
        replica.platform = "python"
        stage.owner.changed.clear()
        replica.connections[0].hello()
        await asyncio.wait_for(stage.owner.changed.wait(), 60)
        after = stage.peers.served["mlp/1"]
        assert after is not before
        assert after.platform == "python"
        assert after.tally is before.tally
        assert after.rest is not before.rest


@on_uvloop
async def test_a_drained_replica_leaves_the_pool_and_the_connection_is_closed() -> None:
    async with Stage() as stage, FakeReplica() as replica:
        stage.peers.publish({"mlp/1": [replica.address]})
        await stage.until_size("mlp/1", 1)
        replica.drain()
        await stage.until_size("mlp/1", 0)
        assert stage.peers.channels() == []


@on_uvloop
async def test_a_replica_of_another_node_is_reached_over_tcp() -> None:
    async with Stage() as stage, FakeReplica() as replica:
        tcp = await replica.listen_tcp()
        stage.peers.publish({"mlp/1": [PeerAddress("r", replica.path + ".elsewhere", tcp, "node-b")]})
        await stage.until_size("mlp/1", 1)


@on_uvloop
async def test_the_unix_socket_is_taken_on_the_same_node() -> None:
    async with Stage() as stage, FakeReplica() as replica:
        stage.peers.publish({"mlp/1": [PeerAddress("r", replica.path, "127.0.0.1:1", "node-a")]})
        await stage.until_size("mlp/1", 1)


@pytest.mark.parametrize("tcp", ["", "nonsense", "127.0.0.1:none"])
@on_uvloop
async def test_an_address_that_leads_nowhere_hurts_no_other(tcp: str) -> None:
    async with Stage() as stage, FakeReplica() as replica:
        stage.peers.publish({"mlp/1": [PeerAddress("r", "", tcp, "node-b"), replica.address]})
        await stage.until_size("mlp/1", 1)
