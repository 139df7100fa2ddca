"""Large messages over HTTP/2, received into their place: by a fake transport that reads as uvloop does, and over a real socket."""

from __future__ import annotations

import random
import socket
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from serving.gateway import http2_frames as h2
from serving.gateway.http2_frames import Http2Code
from serving.gateway.http2_reader import OUR_FRAME_BYTES
from serving.gateway.http2_sink import SCRATCH_BYTES, FrameSink
from serving.gateway.http2_stream import PLACED_BYTES, WINDOW_BYTES
from serving.gateway.sharing import SharedMemory
from serving.state import GatewayLimits
from tests.data_path.rig import wait_for

from .alone import LoneGateway
from .http2_fakes import Answers, Client, FakeGateway, data, frames, message
from .test_garbage import SERVICE

LARGE = 5 * PLACED_BYTES
WINDOW = (1 << 31) - 1


def pattern(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def parts(number: int, body: bytes, sizes: list[int], ends: bool = True) -> list[bytes]:
    """DATA frames of these sizes, over and over."""
    found = []
    at = turn = 0
    while at < len(body):
        size = sizes[turn % len(sizes)]
        found.append(data(number, body[at : at + size], ends and at + size >= len(body)))
        at += size
        turn += 1
    return found


def begun() -> tuple[Client, FakeGateway]:
    client = Client()
    gateway = FakeGateway()
    gateway.feed(client.hello(WINDOW, MAX_FRAME_SIZE=1 << 20))
    return client, gateway


frame_sizes = st.lists(st.sampled_from([20_000, PLACED_BYTES + SCRATCH_BYTES, 200_000, OUR_FRAME_BYTES]), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.tuples(st.sampled_from([5, 1000, LARGE, 3 * LARGE]), frame_sizes), min_size=1, max_size=5),
    turns=st.randoms(use_true_random=False),
    most=st.sampled_from([1000, 9_001, 70_000, 1 << 20]),
    at_once=st.booleans(),
)
def test_large_and_small_messages_arrive_whole_however_they_are_cut(
    calls: list[tuple[int, list[int]]], turns: random.Random, most: int, at_once: bool
) -> None:
    client, gateway = begun()
    bodies = {2 * n + 1: pattern(size, n) for n, (size, _) in enumerate(calls)}
    waiting = {number: parts(number, message(body), calls[number // 2][1]) for number, body in bodies.items()}
    sent = [client.head(number) for number in bodies]
    while waiting:  # frames of several streams take turns
        number = turns.choice(list(waiting))
        sent.append(waiting[number].pop(0))
        if not waiting[number]:
            del waiting[number]
    for piece in [b"".join(sent)] if at_once else sent:
        gateway.feed(piece, most)
    assert gateway.answers().bodies == {number: message(body) for number, body in bodies.items()}
    assert gateway.held() == (0, 0, 0, 0, 0)


def test_a_large_message_is_not_handed_over_as_bytes() -> None:
    """All but the first piece and the heads of frames goes into its place."""
    client, gateway = begun()
    copied = 0
    received = gateway.connection.data_received

    def count(data: bytes) -> None:
        nonlocal copied
        copied += len(data)
        received(data)

    gateway.connection.data_received = count  # type: ignore[method-assign]
    for number in (1, 3):
        gateway.feed(client.head(number) + b"".join(parts(number, message(bytes(3 << 20)), [OUR_FRAME_BYTES])), most=100_000)
        assert isinstance(gateway.transport.protocol, FrameSink)
    assert copied < 100_000 + 2 * SCRATCH_BYTES
    gateway.feed(client.call(5, b"small"))
    assert gateway.transport.protocol is gateway.connection
    assert gateway.answers().bodies[5] == message(b"small")


def test_all_of_a_large_message_is_allowed_at_its_beginning() -> None:
    for size in (LARGE, WINDOW_BYTES - 5, WINDOW_BYTES, 3 * WINDOW_BYTES):
        client, gateway = begun()
        before = len(gateway.transport.all)
        body = message(bytes(size))
        gateway.feed(client.head(1) + data(1, body[:100_000], False))
        allowed = sum(h2.U32.unpack(f.payload)[0] for f in frames(bytes(gateway.transport.all[before:])) if f.kind == h2.WINDOW_UPDATE)
        assert allowed == max(0, len(body) - WINDOW_BYTES)
        for frame in parts(1, body[100_000:], [OUR_FRAME_BYTES]):
            gateway.feed(frame)
        answers = gateway.answers()
        assert answers.bodies[1] == body
        updates = [f for f in answers.frames if f.kind == h2.WINDOW_UPDATE and f.stream]
        assert len(updates) == (allowed > 0)


def test_padding_between_the_frames_of_a_large_message_is_allowed_too() -> None:
    client, gateway = begun()
    body = message(bytes(LARGE))
    gateway.feed(client.head(1) + data(1, body[: LARGE // 2], False))
    before = len(gateway.transport.all)
    gateway.feed(h2.frame(h2.DATA, h2.PADDED | h2.END_STREAM, 1, b"\xc8" + body[LARGE // 2 :] + bytes(200)), most=9000)
    update = frames(bytes(gateway.transport.all[before:]))[0]
    assert (update.kind, update.stream, h2.U32.unpack(update.payload)[0]) == (h2.WINDOW_UPDATE, 1, 201)
    assert gateway.answers().bodies[1] == body


@pytest.mark.parametrize("most", [5000, 100_000])
def test_what_is_wrong_with_a_large_message_costs_its_stream_alone(most: int) -> None:
    client, gateway = begun()
    body = message(bytes(LARGE))
    longer = data(1, body + b"more", True)
    cut = data(3, body[: LARGE - 7], True)
    gateway.feed(client.head(1) + longer + client.head(3) + cut + client.call(5, b"small"), most)
    gateway.feed(client.head(7) + data(7, body[: LARGE // 2], False) + h2.rst_stream(7, Http2Code.CANCEL), most)
    gateway.feed(data(7, body[LARGE // 2 :]), most)
    gateway.feed(client.head(9) + data(9, body), most)
    answers = gateway.answers()
    assert answers.status(1) == "3"
    assert answers.bodies[3] == message(b"")
    assert (answers.bodies[5], answers.bodies[9]) == (message(b"small"), body)
    assert answers.goaways == []
    assert gateway.held() == (0, 0, 0, 0, 0)


def test_large_messages_together_are_bounded() -> None:
    client, gateway = begun()
    gateway.host.limits = GatewayLimits(max_inflight_bytes=LARGE * 3 // 2)
    body = message(bytes(LARGE))
    for number in (1, 3):
        gateway.feed(client.head(number) + data(number, body)[: LARGE * 2 // 3])
        gateway.feed(data(number, body)[LARGE * 2 // 3 :] if number == 1 else b"")
    gateway.feed(data(3, body)[LARGE * 2 // 3 :])
    assert gateway.answers().bodies == {1: body, 3: body}
    gateway.host.limits = GatewayLimits(max_inflight_bytes=LARGE // 2)
    gateway.feed(client.head(5) + data(5, body), most=20_000)
    assert gateway.answers().status(5) == "14"
    assert gateway.held() == (0, 0, 0, 0, 0)
    gateway.feed(client.call(7, b"small"))
    assert gateway.answers().bodies[7] == message(b"small")


def test_a_body_that_ends_early_holds_no_shared_memory() -> None:
    memory = SharedMemory.create(1 << 22)
    assert memory is not None
    body = message(bytes(LARGE))
    for most in (5000, 1 << 20):
        for end in ("lost", "reset", "broken", "late"):
            client, gateway = begun()
            host: Any = gateway.host
            host.body_buffer = memory.buffer
            gateway.feed(client.head(1) + data(1, body)[: LARGE // 2], most)
            assert memory.arena.used_bytes > 0
            if end == "lost":
                gateway.transport.protocol.connection_lost(None)
            elif end == "late":
                gateway.tick(0.5)
                gateway.tick(10_000)
                gateway.feed(data(1, body)[LARGE // 2 :], most)
            else:
                gateway.feed(data(1, body)[LARGE // 2 : LARGE - 500], most)
                gateway.connection.give_up(Http2Code.INTERNAL_ERROR, "a test") if end == "broken" else gateway.connection.reset(
                    gateway.connection.streams[1], Http2Code.CANCEL
                )
                gateway.feed(data(1, body)[LARGE - 500 :], most)
            assert memory.arena.used_bytes == 0, end
            assert gateway.host.arriving_bytes == 0


def test_mutated_large_conversations_hurt_nobody() -> None:
    for seed in range(300):
        dice = random.Random(f"large {seed}")
        client, gateway = begun()
        body = message(pattern(LARGE, seed))
        whole = bytearray(
            client.head(1) + b"".join(parts(1, body, [100_000])) + client.call(3, b"a") + client.head(5, "/wait") + data(5, body)
        )
        for _ in range(dice.choice((1, 2, 5))):
            at = dice.choice((dice.randrange(400), dice.randrange(len(whole)), len(whole) - dice.randrange(400)))
            match dice.randrange(3):
                case 0 if at < len(whole):
                    whole[at] ^= 1 << dice.randrange(8)
                case 1:
                    del whole[at : at + dice.choice((1, 9, 5000))]
                case 2:
                    whole[at:at] = dice.randbytes(dice.choice((1, 9, 40)))
        at = 0
        while at < len(whole):
            size = dice.choice((9, 1000, 100_000))
            gateway.feed(bytes(whole[at : at + size]), dice.choice((777, 1 << 18)))
            at += size
        for work in list(gateway.works):
            work.done()
        gateway.answers()
        gateway.transport.protocol.connection_lost(None)
        assert gateway.held() == (0, 0, 0, 0, 0), seed


def test_large_and_small_calls_over_a_socket() -> None:
    gateway = LoneGateway()
    client = Client()
    try:
        with socket.create_connection(gateway.tcp) as peer:
            peer.settimeout(30)
            peer.sendall(h2.PREFACE + client.hello(WINDOW, MAX_FRAME_SIZE=1 << 20))
            number = 1
            expected: dict[int, bytes] = {}
            got = bytearray()
            for count in (300_000, 5, 300_000, 40_000, 700_000):
                raw = pattern(4 * count, count)
                request = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[raw])
                request.inputs.add(name="x", datatype="FP32", shape=[1, count])
                body = message(request.SerializeToString())
                peer.sendall(client.head(number, f"{SERVICE}ModelInfer") + b"".join(parts(number, body, [1 << 20])))
                expected[number] = raw
                while not _ends(got, number):
                    piece = peer.recv(1 << 20)
                    assert piece
                    got += piece
                number += 2
        answers = Answers(bytes(got))
        for number, raw in expected.items():
            assert answers.status(number) == "0"
            assert raw in answers.bodies[number]
        memory = gateway.host.service._memory
        wait_for(lambda: bool(gateway.in_loop(lambda: memory.arena.used_bytes == 0 and gateway.host.arriving_bytes == 0)))
        assert gateway.faults == []
    finally:
        gateway.close()


def _ends(got: bytearray, number: int) -> bool:
    """Whether what has come ends with a whole frame that ends the stream."""
    at = 0
    while at + h2.FRAME_BYTES <= len(got):
        high, low, _, flags, stream = h2.FRAME.unpack_from(got, at)
        at += h2.FRAME_BYTES + (high << 16 | low)
        if at == len(got) and stream == number and flags & h2.END_STREAM:
            return True
    return False
