"""Listening sockets outlive the gateways that serve them, and the keeper that hands them out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from serving.edge import Adopt, SlotClaim
from serving.edge.claim import Release
from serving.edge.listeners import open_unix
from serving.errors import Unavailable

from .conftest import Edge, eventually
from .fake_gateway import FakeGateway

REQUEST = b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"


async def ask_rest(edge: Edge) -> str:
    """Return the name of the gateway that answered one request on a new connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.config.http_port)
    try:
        writer.write(REQUEST)
        answer = await reader.read(-1)
        return str(json.loads(answer.partition(b"\r\n\r\n")[2])["name"])
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


class Load:
    """Clients that open one connection after the other. `answered` counts by gateway, `failures` should stay empty."""

    def __init__(self, edge: Edge, workers: int = 8) -> None:
        self.edge = edge
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self.running = [asyncio.create_task(self.work()) for _ in range(workers)]
        self.stopping = False

    async def work(self) -> None:
        while not self.stopping:
            try:
                self.answered[await asyncio.wait_for(ask_rest(self.edge), 60)] += 1
            except (OSError, TimeoutError, ValueError) as error:
                self.failures.append(repr(error))

    async def goes_on(self, more: int = 60) -> None:
        """Return when so many more have been answered."""
        before = self.answered.total()
        await eventually(lambda: self.answered.total() - before >= more)

    async def stop(self) -> None:
        self.stopping = True
        await asyncio.gather(*self.running)


def listeners(edge: Edge) -> dict[str, list[int]]:
    assert edge.keeper is not None
    return {gateway["name"]: gateway["listeners"] for gateway in edge.keeper.status()["gateways"]}


async def test_a_gateway_gets_its_slot_and_both_listeners(edge: Edge) -> None:
    await edge.start(edge="off", grpc_port=0)
    claim = await SlotClaim.claim(edge.config.run_dir, "a")
    tcp, unix = claim.listeners
    assert claim.slot == 0
    assert tcp.getsockname() == ("127.0.0.1", edge.config.http_port)
    assert unix.getsockname() == edge.config.gateway_path(0)
    assert edge.keeper is not None
    assert [g["slot"] for g in edge.keeper.status()["gateways"]] == [0]
    claim.close()
    for listener in (tcp, unix):
        listener.close()
    await eventually(lambda: listeners(edge) == {})


async def test_listeners_of_both_ports_move_together(edge: Edge) -> None:
    await edge.start(edge="off", slots=2)
    config = edge.config
    first = await SlotClaim.claim(config.run_dir, "a")
    rest, grpc, unix = first.listeners
    assert [s.getsockname() for s in (rest, grpc)] == [("127.0.0.1", config.http_port), ("127.0.0.1", config.grpc_port)]
    adopted = [await anext(first), await anext(first)]
    assert [change.number for change in adopted] == [1, 3]
    assert [change.listener.getsockname()[1] for change in adopted if isinstance(change, Adopt)] == [config.http_port, config.grpc_port]
    second = await SlotClaim.claim(config.run_dir, "b")
    assert [await anext(first), await anext(first)] == [Release(1), Release(3)]
    assert [s.getsockname()[1] for s in second.listeners[:2]] == [config.http_port, config.grpc_port]
    # a new keeper gets both back from both
    assert edge.keeper is not None
    await asyncio.to_thread(edge.keeper.close)
    await edge.start()
    await eventually(lambda: listeners(edge) == {"a": [0], "b": [1]})
    second.draining()
    await eventually(lambda: listeners(edge) == {"a": [0, 1], "b": []})
    for claim in (first, second):
        claim.close()
    for sock in (rest, grpc, unix, *second.listeners, *[c.listener for c in adopted if isinstance(c, Adopt)]):
        sock.close()


async def test_listeners_are_shared_evenly_as_gateways_come_and_go(edge: Edge) -> None:
    await edge.start(edge="off", grpc_port=0, slots=6)
    first = await edge.gateway("a")
    await eventually(lambda: len(first.servers) == 7)
    second = await edge.gateway("b")
    await eventually(lambda: len(first.servers) == len(second.servers) == 4)
    third = await edge.gateway("c")
    await eventually(lambda: [len(g.servers) for g in (first, second, third)] == [3, 3, 3])
    await second.close()
    await eventually(lambda: len(first.servers) == len(third.servers) == 4)
    assert sorted(n for numbers in listeners(edge).values() for n in numbers) == [0, 1, 2, 3, 4, 5]


async def test_new_connections_reach_all_gateways(edge: Edge) -> None:
    await edge.start(edge="off", grpc_port=0)
    a, b = await edge.gateway("a"), await edge.gateway("b")
    await eventually(lambda: len(a.servers) == len(b.servers) == 7)
    names = Counter([await ask_rest(edge) for _ in range(200)])
    assert set(names) == {"a", "b"}
    assert min(names.values()) > 50


async def test_no_connection_is_lost_when_a_gateway_drains_and_a_successor_claims(edge: Edge) -> None:
    await edge.start(edge="off", grpc_port=0)
    await edge.gateway("stays")
    load = Load(edge)
    for number in range(5):
        leaver = await edge.gateway(f"leaver {number}")
        await load.goes_on()
        await leaver.drain(checks_s=0.05)
        assert leaver.connections == set()
    await load.goes_on()
    await load.stop()
    assert load.failures == []
    assert len(load.answered) == 6


async def test_connections_of_a_dead_gateways_queue_are_answered_by_another(edge: Edge) -> None:
    """A stopped gateway accepts nothing; its queue is taken over as soon as it is dead."""
    await edge.start(edge="off", grpc_port=0)
    victim = await edge.gateway_process("victim")
    victim.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(_await_stopped, victim.pid)
    waiting = [asyncio.create_task(ask_rest(edge)) for _ in range(20)]
    other = await edge.gateway("other")
    # the home of `other` is the only listener that nobody else accepts on
    await eventually(lambda: len(other.servers) == 7)
    done = sum(task.done() for task in waiting)
    assert done < 20
    victim.kill()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 60) == ["other"] * 20


def _await_stopped(pid: int) -> None:
    while "State:\tT" not in Path(f"/proc/{pid}/status").read_text():
        pass


async def test_connections_wait_while_there_is_no_gateway(edge: Edge) -> None:
    await edge.start(edge="off", grpc_port=0)
    waiting = asyncio.create_task(ask_rest(edge))
    await edge.gateway("first")
    assert await asyncio.wait_for(waiting, 60) == "first"


async def test_a_killed_gateway_loses_only_what_it_had_accepted(edge: Edge) -> None:
    await edge.start(edge="off", grpc_port=0)
    victim = await edge.gateway_process("victim")
    await edge.gateway("stays")
    load = Load(edge)
    await load.goes_on()
    victim.kill()
    await load.goes_on()
    await load.stop()
    assert set(load.answered) == {"victim", "stays"}
    assert len(load.failures) <= 8, load.failures
    await eventually(lambda: len(listeners(edge)["stays"]) == 12)


async def test_when_all_slots_are_held_a_gateway_waits_for_one(edge: Edge) -> None:
    await edge.start(edge="off", grpc_port=0, slots=1)
    first = await edge.gateway("a")
    with pytest.raises(Unavailable, match="all 1 are held"):
        await SlotClaim.claim(edge.config.run_dir, "b", timeout_s=0.3)
    second = asyncio.create_task(FakeGateway(edge.config.run_dir, "b").start())
    await first.close()
    edge.gateways.append(await asyncio.wait_for(second, 60))
    assert edge.gateways[-1].claim.slot == 0


async def test_without_a_keeper_a_claim_says_where_it_looked(run_dir: str) -> None:
    with pytest.raises(Unavailable, match=r"edge\.sock"):
        await SlotClaim.claim(run_dir, "a", timeout_s=0.1)


async def test_garbage_on_the_socket_hurts_only_its_own_connection(edge: Edge) -> None:
    await edge.start(edge="off", grpc_port=0)
    gateway = await edge.gateway("a")
    for garbage in (
        b"x\n",
        b'{"claim":"gateway"}\n',
        b'{"claim":"gateway","name":"x","pid":1,"reclaim":7,"tcp":[99]}\n',
        b'{"report":[7]}\n',
    ):
        reader, writer = await asyncio.open_unix_connection(edge.config.path("edge.sock"))
        writer.write(garbage)
        answer = await asyncio.wait_for(reader.read(-1) if b"tcp" not in garbage else reader.readline(), 60)
        assert answer == b"" or b"error" in answer
        writer.close()
    assert await ask_rest(edge) == "a"
    assert not gateway.following.done()


async def test_reports_are_added_up_and_outlive_their_gateway(edge: Edge) -> None:
    await edge.start(edge="off", grpc_port=0)
    for name, value in (("a", 3), ("b", 4)):
        gateway = await edge.gateway(name)
        gateway.claim.report_from(counting(value))
    await edge.gateways[0].claim.leave()
    await edge.gateways[0].close()
    page = await metrics(edge)
    assert 'serving_requests_total{model="m"} 7.0' in page
    assert "serving_edge_gateways 1.0" in page


def counting(value: int) -> Callable[[], Awaitable[list[list[object]]]]:
    async def samples() -> list[list[object]]:
        return [["serving_requests_total", "counter", {"model": "m"}, value]]

    return samples


async def metrics(edge: Edge) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.config.metrics_port)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    answer = (await reader.read(-1)).decode()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_new_keeper_takes_the_listeners_back_and_nothing_is_lost(edge: Edge) -> None:
    keeper = await edge.keeper_process()
    a, b = await edge.gateway("a"), await edge.gateway("b")
    await eventually(lambda: len(a.servers) == len(b.servers) == 7)
    load = Load(edge)
    await load.goes_on()
    keeper.kill()
    await asyncio.to_thread(keeper.wait)
    await load.goes_on()
    await edge.start()
    await load.goes_on()
    await load.stop()
    assert load.failures == []
    assert set(load.answered) == {"a", "b"}
    assert {name: len(numbers) for name, numbers in listeners(edge).items()} == {"a": 6, "b": 6}
    # taken back, not opened anew: the listeners of the first keeper are the only ones on the port
    assert await asyncio.to_thread(count_listening, edge.config.http_port) == 12
    # and the new keeper goes on as the old one did
    await a.close()
    await eventually(lambda: listeners(edge) == {"b": list(range(12))})
    c = await edge.gateway("c")
    assert c.claim.slot == 0
    assert {await ask_rest(edge) for _ in range(60)} == {"b", "c"}


def count_listening(port: int) -> int:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[3] == "0A" and int(row[1].split(":")[1], 16) == port for row in rows)


async def test_a_gateway_whose_path_was_removed_meanwhile_is_reached_by_a_new_one(edge: Edge) -> None:
    keeper = await edge.keeper_process()
    gateway = await edge.gateway("a")
    keeper.kill()
    await asyncio.to_thread(keeper.wait)
    before = gateway.servers[-1]
    os.unlink(edge.config.gateway_path(0))
    await edge.start()
    await eventually(lambda: gateway.servers[-1] is not before)
    await edge.up(1)


async def test_a_draining_gateway_is_handed_nothing_more(edge: Edge) -> None:
    await edge.start(edge="off", grpc_port=0)
    claim = await SlotClaim.claim(edge.config.run_dir, "a")
    claim.draining()
    other = await edge.gateway("b")
    await eventually(lambda: len(other.servers) == 13)
    for listener in claim.listeners:
        listener.close()
    claim.close()
    assert [type(change).__name__ async for change in claim if isinstance(change, Adopt)] == []


async def test_a_gateway_that_drains_while_the_keeper_is_away_gets_nothing_back(edge: Edge) -> None:
    keeper = await edge.keeper_process()
    leaver, stays = await edge.gateway("leaver"), await edge.gateway("stays")
    await eventually(lambda: len(leaver.servers) == len(stays.servers) == 7)
    keeper.kill()
    await asyncio.to_thread(keeper.wait)
    leaver.claim.draining()
    await edge.start()
    await eventually(lambda: listeners(edge) == {"leaver": [], "stays": list(range(12))})


async def test_a_gateway_that_is_late_holds_up_neither_the_keeper_nor_its_own_listeners(edge: Edge) -> None:
    keeper = await edge.keeper_process()
    late = await edge.gateway_process("late")
    prompt = await edge.gateway("prompt")
    await eventually(lambda: len(prompt.servers) == 7)
    late.send_signal(signal.SIGSTOP)
    keeper.kill()
    await asyncio.to_thread(keeper.wait)
    await edge.start(reclaim_s=0.3)
    assert {name: len(numbers) for name, numbers in listeners(edge).items()} == {"prompt": 6}
    assert await asyncio.to_thread(count_listening, edge.config.http_port) == 12
    late.send_signal(signal.SIGCONT)
    await eventually(lambda: {name: len(numbers) for name, numbers in listeners(edge).items()} == {"prompt": 6, "late": 6})
    assert await asyncio.to_thread(count_listening, edge.config.http_port) == 12
    assert {await ask_rest(edge) for _ in range(60)} == {"prompt", "late"}


async def test_a_gateway_that_died_with_its_keeper_leaves_no_gap(edge: Edge) -> None:
    keeper = await edge.keeper_process()
    dead = await edge.gateway_process("dead")
    stays = await edge.gateway("stays")
    await eventually(lambda: len(stays.servers) == 7)
    keeper.kill()
    dead.kill()
    await asyncio.to_thread(keeper.wait)
    await asyncio.to_thread(dead.wait)
    await edge.start()
    await eventually(lambda: listeners(edge) == {"stays": list(range(12))})
    assert await asyncio.to_thread(count_listening, edge.config.http_port) == 12
    assert [await ask_rest(edge) for _ in range(40)] == ["stays"] * 40


async def test_a_slot_whose_socket_still_answers_is_not_given_away(edge: Edge) -> None:
    await edge.start(edge="off", grpc_port=0, slots=2)
    with open_unix(edge.config.gateway_path(0)) as stranger:
        claim = await SlotClaim.claim(edge.config.run_dir, "a")
        assert claim.slot == 1
        for listener in claim.listeners:
            listener.close()
        claim.close()
        assert stranger.family == socket.AF_UNIX
