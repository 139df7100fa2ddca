"""Large bodies straight into shared memory, and what comes on the same connection before, between and behind them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.gateway.body import ALIGNED, BodySink
from serving.gateway.sharing import SharedMemory
from serving.state import GatewayLimits
from tests.data_path.rig import wait_for
from tests.gateway.alone import LoneGateway

LARGE = 20_000
"""Numbers in a row that makes a body for shared memory (80 KB); a row of 5 makes a small one."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[LoneGateway]:
    found = LoneGateway()
    yield found
    found.close()


def request(count: int, seed: int, more: str = "") -> tuple[bytes, bytes]:
    """One prediction with the bytes of its tensor; requests of one size and `more` have the same head."""
    raw = np.random.default_rng(seed).random((1, count), np.float32).tobytes()
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, count], "parameters": {"binary_data_size": len(raw)}}]
    text = orjson.dumps({"inputs": inputs, "outputs": [{"name": "y", "parameters": {"binary_data": True}}]})
    head = (
        f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(text)}\r\n{more}"
        f"Content-Length: {len(text) + len(raw)}\r\n\r\n"
    )
    return head.encode() + text + raw, raw


def answer(answers: BinaryIO) -> bytes:
    """Return the tensor bytes of the next answer."""
    assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
    headers = dict(line.split(b": ") for line in iter(answers.readline, b"\r\n"))
    body = answers.read(int(headers[b"Content-Length"]))
    return body[int(headers[b"Inference-Header-Content-Length"]) :]


def settled(gateway: LoneGateway) -> bool:
    """Nothing is held for anybody: neither slots nor bodies."""
    memory = gateway.host.service._memory
    return bool(gateway.in_loop(lambda: memory.arena.used_bytes == 0 and gateway.host.arriving_bytes == 0))


sizes = st.sampled_from([LARGE, LARGE, LARGE, 2 * LARGE, 5])
extra = st.sampled_from(["", "", "", "X-One: 1\r\n", "X-Long: " + "a" * 3000 + "\r\n"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.tuples(sizes, extra), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 6 * 8 * LARGE), max_size=8),
    at_once=st.booleans(),
)
def test_every_request_of_a_connection_gets_its_own_answer(
    gateway: LoneGateway, kinds: list[tuple[int, str]], cuts: list[int], at_once: bool
) -> None:
    made = [request(count, seed, more) for seed, (count, more) in enumerate(kinds)]
    with socket.create_connection(gateway.tcp) as client, client.makefile("rb") as answers:
        client.settimeout(30)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if at_once:  # pipelined, cut anywhere; all of it fits into the buffers of the sockets and the gateway or is read meanwhile
            stream = b"".join(data for data, _ in made[:2])
            places = [0, *sorted({cut % len(stream) for cut in cuts}), len(stream)]
            for start, stop in pairwise(places):
                client.sendall(stream[start:stop])
            made = made[:2]
            for _, raw in made:
                assert answer(answers) == raw
        else:
            for data, raw in made:
                places = [0, *sorted({cut % len(data) for cut in cuts}), len(data)]
                for start, stop in pairwise(places):
                    client.sendall(data[start:stop])
                assert answer(answers) == raw
    wait_for(lambda: settled(gateway))
    assert gateway.faults == []


def test_a_client_that_leaves_in_the_middle_of_its_next_body_holds_no_memory(gateway: LoneGateway) -> None:
    data, raw = request(LARGE, 1)
    for kept in (10, 500, len(data) // 2, len(data) - 1):
        with socket.create_connection(gateway.tcp) as client, client.makefile("rb") as answers:
            client.settimeout(30)
            client.sendall(data)
            assert answer(answers) == raw
            client.sendall(data[:kept])
        wait_for(lambda: settled(gateway))
    assert gateway.faults == []


def test_a_client_that_sends_no_more_still_gets_its_answer(gateway: LoneGateway) -> None:
    data, raw = request(LARGE, 2)
    with socket.create_connection(gateway.tcp) as client, client.makefile("rb") as answers:
        client.settimeout(30)
        client.sendall(data)
        assert answer(answers) == raw
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert answer(answers) == raw
        assert answers.read() == b""


def test_limits_that_change_hold_for_the_next_body_of_a_connection() -> None:
    gateway = LoneGateway()
    try:
        data, raw = request(LARGE, 3)
        with socket.create_connection(gateway.tcp) as client, client.makefile("rb") as answers:
            client.settimeout(30)
            client.sendall(data)
            assert answer(answers) == raw
            gateway.limit(GatewayLimits(max_body_bytes=LARGE))
            client.sendall(data)
            assert answers.readline().startswith(b"HTTP/1.1 413 ")
    finally:
        gateway.close()


class Place:
    """A host with shared memory, and a connection that wants to know where the body lies."""

    idle = True
    head_bytes = 0

    def __init__(self) -> None:
        memory = SharedMemory.create(1 << 20)
        assert memory is not None
        self.memory = memory
        self.bodies: list[memoryview] = []
        self.rests: list[bytes] = []
        self.length = 0

    def body_buffer(self, nbytes: int) -> memoryview | None:
        return self.memory.buffer(nbytes)

    def body_begins(self, prefix: bytes) -> tuple[int, int]:
        return self.head_bytes, self.length

    def body_grows(self, nbytes: int) -> bool:
        return True

    def body_arrived(self, body: memoryview, rest: bytes) -> None:
        self.bodies.append(body)
        self.rests.append(rest)


def test_tensors_of_a_body_are_aligned_and_what_follows_is_kept() -> None:
    place = Place()
    any_place: Any = place
    head_bytes, lead, length = 117, 91, 50_000
    sink = BodySink(any_place, any_place, length, lead)
    sink.expect(head_bytes, length)
    sink.take(memoryview(b"a" * 10))
    buffer = sink.get_buffer(-1)
    buffer[: length - 10] = b"a" * (length - 10)
    sink.buffer_updated(length - 10)
    place.head_bytes, place.length = head_bytes, length
    whole = b"h" * head_bytes + b"b" * length + b"next"
    buffer = sink.get_buffer(-1)
    assert len(buffer) > len(whole), "a read that leaves room spares the one behind it"
    buffer[: len(whole)] = whole
    sink.buffer_updated(len(whole))
    assert [bytes(body[:1]) * len(body) for body in place.bodies] == [b"a" * length, b"b" * length]
    assert place.rests == [b"", b"next"]
    for body in place.bodies:
        assert (place.memory.locate(body) + lead) % ALIGNED == 0
