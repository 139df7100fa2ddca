"""Large tensors between a replica and a gateway of the same node."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from serving.errors import Code
from serving.replica.host import ReplicaHost
from serving.tensor import DType, Signature, TensorSpec
from serving.wire import frame as wire
from serving.wire.arena import MIN_BLOCK, Arena
from tests.replica.conftest import Start
from tests.replica.peer import Peer, SharingPeer, requests, vector
from tests.replica.test_host import DOUBLE, GATED, MODES, gate

SIGNATURE = Signature((TensorSpec("x", DType.FP32, (-1,)),), (TensorSpec("y", DType.FP32, (-1,)),), 8)
WIDTH = 100_000
ECHO = "class Model:\n    def predict(self, inputs):\n        return {'y': inputs['x']}\n"


def arena(host: ReplicaHost) -> Arena:
    assert host._site is not None
    assert host._site.arena is not None
    return host._site.arena


@MODES
def test_tensors_go_both_ways_through_memory_and_every_slot_comes_back(start: Start, execution: str) -> None:
    host = start(DOUBLE, signature=SIGNATURE, execution=execution)
    sent = {key: np.full((1, WIDTH), key, np.float32) for key in range(8)}
    with SharingPeer(host.address["uds"]) as peer:
        assert peer.attached is True
        peer.define(0, "m/1", vector(1, WIDTH))
        for _ in range(3):
            offsets = peer.share(0, {key: x.tobytes() for key, x in sent.items()})
            for reply in peer.wait(*sent):
                np.testing.assert_array_equal(reply.array(), 2 * sent[reply.key])
            while sorted(peer.frees) != sorted(offsets.values()):
                peer.read(wire.FREE)
            for offset in peer.frees:
                peer.arena.free(offset)
            assert len(peer.taken) == 8
            peer.send(wire.encode_offsets(peer.taken))
            peer.ping()
            assert arena(host).used_bytes == 0
            peer.frees, peer.taken, peer.replies = [], [], {}
        assert peer.arena.used_bytes == 0


def test_an_answer_that_is_the_input_itself_is_safe(start: Start) -> None:
    host = start(ECHO, signature=SIGNATURE, execution="inline", host={"arena_bytes": MIN_BLOCK})  # no room for the answer
    payload = np.arange(WIDTH, dtype=np.float32).tobytes()
    with SharingPeer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1, WIDTH))
        peer.share(0, {1: payload})
        assert peer.wait(1)[0].payload == payload
        assert peer.taken == []
        assert peer.frames.index(wire.RESPONSES) < (peer.read(wire.FREE) and peer.frames.index(wire.FREE))


def test_a_gateway_that_cannot_open_the_memory_gets_its_answers_inline(start: Start) -> None:
    host = start(DOUBLE, signature=SIGNATURE)
    with SharingPeer(host.address["uds"], attach=False) as peer:
        peer.define(0, "m/1", vector(1, WIDTH))
        peer.share(0, {1: bytes(4 * WIDTH)})
        assert peer.wait(1)[0].array().shape == (1, WIDTH)
        assert peer.taken == []


def test_a_gateway_whose_memory_cannot_be_opened_is_not_told_that_it_was(start: Start) -> None:
    host = start(DOUBLE, signature=SIGNATURE)
    with Peer(host.address["uds"], greet=False) as peer:
        hello = {"protocol": 1, "gateway": "g", "arena": {"pid": 1 << 22, "fd": 3, "bytes": 4096}}
        peer.send(wire.encode_json(wire.HELLO, orjson.dumps(hello)))
        peer.ping()
        assert peer.frames == [wire.HELLO, wire.PONG]
        peer.define(0, "m/1", vector(1, WIDTH))
        peer.request(0, {1: bytes(4 * WIDTH)})
        assert peer.wait(1)[0].code == Code.OK


def test_small_payloads_stay_inline(start: Start) -> None:
    host = start(DOUBLE, signature=SIGNATURE)
    with SharingPeer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1))
        peer.request(0, {1: bytes(16)})
        assert peer.wait(1)[0].code == Code.OK
        assert peer.taken == []


def test_slots_of_refused_and_cancelled_requests_come_back(start: Start) -> None:
    host = start(GATED, signature=SIGNATURE)
    entered, leave = gate(host)
    with SharingPeer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1, WIDTH))
        peer.define(1, "gone/1", vector(1, WIDTH))
        payload = bytes(4 * WIDTH)
        running = peer.share(0, {1: payload})
        assert entered.wait(60)
        offsets = peer.share(0, {2: payload, 3: payload[:-4]}) | peer.share(1, {4: payload}) | peer.share(0, {5: payload}, timeout_us=1000)
        peer.send(wire.encode_keys(wire.CANCEL, [2]))
        assert [r.code for r in peer.wait(2, 3, 4, 5)] == [Code.CANCELLED, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.QUEUE_TIMEOUT]
        while sorted(peer.frees) != sorted(offsets.values()):
            peer.read(wire.FREE)
        leave.set()
        peer.wait(1)
        while peer.frees[-1] != running[1]:
            peer.read(wire.FREE)


BAD = {
    "outside": requests([(1, 0, wire.SLOT.pack(1 << 24, 16))], flags=wire.FLAG_SHM),
    "longer than the memory": requests([(1, 0, wire.SLOT.pack(0, 1 << 40))], flags=wire.FLAG_SHM),
    "overflow": requests([(1, 0, wire.SLOT.pack((1 << 64) - 8, 16))], flags=wire.FLAG_SHM),
    "not a slot": requests([(1, 0, bytes(8))], flags=wire.FLAG_SHM),
    "free of nothing": wire.encode_offsets([0]),
}


@pytest.mark.parametrize("garbage", BAD.values(), ids=BAD)
def test_a_lie_about_memory_closes_the_connection(start: Start, garbage: bytes) -> None:
    host = start(DOUBLE, signature=SIGNATURE)
    with SharingPeer(host.address["uds"]) as bad, Peer(host.address["uds"]) as good:
        bad.define(0, "m/1", vector(1))
        bad.send(garbage)
        assert bad.ended()
        good.define(0, "m/1", vector(1))
        good.request(0, {1: bytes(16)})
        assert good.wait(1)[0].code == Code.OK


def test_memory_that_was_not_opened_cannot_be_used(start: Start) -> None:
    host = start(DOUBLE, signature=SIGNATURE)
    with Peer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1))
        peer.send(requests([(1, 0, wire.SLOT.pack(0, 16))], flags=wire.FLAG_SHM))
        assert peer.ended()


def test_slots_of_a_gateway_that_is_gone_stay_as_they_are_for_a_while(start: Start) -> None:
    host = start(DOUBLE, signature=SIGNATURE)
    with SharingPeer(host.address["uds"]) as dying:
        dying.define(0, "m/1", vector(1, WIDTH))
        dying.share(0, {1: bytes(4 * WIDTH)})
        dying.wait(1)
    with SharingPeer(host.address["uds"]) as peer:
        assert host._site is not None
        while len(host._site.connections) > 1:
            peer.ping()
        assert arena(host).used_bytes > 0
        peer.define(0, "m/1", vector(1, WIDTH))
        peer.share(0, {1: bytes(4 * WIDTH)})
        peer.wait(1)
        assert not set(peer.taken) & set(dying.taken)
