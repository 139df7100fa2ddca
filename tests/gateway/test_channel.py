"""The channel against bytes: a transport that records, frames made by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import Code
from serving.gateway.call import Call, Channel, Description, Served
from serving.gateway.channel import JOIN_BYTES, SILENT_TICKS, SocketChannel
from serving.gateway.layouts import LayoutCache
from serving.gateway.peers import PeerPool
from serving.gateway.tally import Cell, VersionTally
from serving.inference import InferRequest, InferResponse, Layout, TensorLayout
from serving.state import GatewayLimits
from serving.tensor import DType
from serving.wire import frame
from serving.wire.frame import FrameReader
from tests.gateway.replica import SIGNATURE

ANSWER = Layout((TensorLayout.fixed("y", DType.FP32, (1, 2)),))


class Wire:
    """A transport that records, and the owner of the channel."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.written = b""
        self.aborted = False
        self.writes = 0
        self.answers: list[tuple[Call, InferResponse]] = []
        self.events: list[str] = []
        self.sent: list[Call] = []
        self.unsent: list[Call] = []
        self.channel = SocketChannel(self.loop, self, self.deliver, LayoutCache(), "g0")
        self.channel.connection_made(self)  # type: ignore[arg-type]

    # transport
    def write(self, data: bytes) -> None:
        self.written += data
        self.writes += 1

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert high > low

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted = True

    # owner
    def connected(self, channel: Channel) -> None:
        self.events.append("connected")

    def ready(self, channel: Channel) -> None:
        self.events.append("ready")

    def draining(self, channel: Channel) -> None:
        self.events.append("draining")

    def lost(self, channel: Channel, sent: list[Call], unsent: list[Call], reason: str) -> None:
        self.events.append(f"lost: {reason}")
        self.sent, self.unsent = sent, unsent

    def deliver(self, call: Call, response: InferResponse, now: float) -> None:
        call.channel = None
        self.answers.append((call, response))

    # steps
    def turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def frames(self) -> list[frame.Frame]:
        found = list(FrameReader().feed(self.written))
        self.written = b""
        return found

    def hello(self, **changes: Any) -> None:
        version = {"model": "mlp", "version": "1", "signature": SIGNATURE.to_json(), "platform": "torch"}
        hello = {"protocol": 1, "replica": "r", "versions": [version]} | changes
        self.channel.data_received(frame.encode_json(frame.HELLO, json.dumps(hello).encode()))

    def define(self, layout_id: int = 0, layout: Layout = ANSWER) -> None:
        self.channel.data_received(frame.encode_define(layout_id, json.dumps(layout.to_json()).encode()))

    def respond(self, *answers: tuple[int, bytes], code: int = 0, layout_id: int = 0, retry_ms: int = 0) -> None:
        table = b"".join([frame.RESPONSE.pack(k, layout_id, len(p), 5, 6, 3, code, 0, retry_ms) for k, p in answers])
        payload = b"".join(p for _, p in answers)
        self.channel.data_received(frame.encode(frame.RESPONSES, len(answers), table, len(payload)) + payload)


SERVED = Served(Description("mlp", "1", SIGNATURE, "torch"), PeerPool(), VersionTally("mlp", "1"), GatewayLimits().max_json_bytes)


def layout(n: int) -> Layout:
    return Layout((TensorLayout("x", DType.UINT8, (n,), n),))


SMALL = layout(4)


class Nobody:
    def answer(self, call: Call, response: InferResponse) -> None:
        raise AssertionError

    def cancelled(self, call: Call) -> None:
        raise AssertionError


def send(wire: Wire, payload: bytes = b"abcd", of: Layout | None = None, **fields: Any) -> Call:
    shape = of or (SMALL if len(payload) == 4 else layout(len(payload)))
    request = InferRequest("mlp", "1", shape, (payload,), **fields)
    call = Call(SERVED, request, Nobody(), None, Cell(), shape.payload_bytes, 0.0, Nobody(), SERVED.loads[1], wire.channel)
    wire.channel.send(call)
    return call


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.loop.close()


def test_it_answers_the_first_hello_with_its_own_before_anything_else(wire: Wire) -> None:
    wire.channel.tick()
    assert wire.written == b""
    assert not wire.channel.usable
    wire.hello()
    wire.hello()
    (hello,) = wire.frames()
    assert hello.kind == frame.HELLO
    assert json.loads(bytes(hello.payload)) == {"protocol": 1, "gateway": "g0"}
    assert wire.channel.usable
    assert wire.channel.versions == {"mlp/1": Description("mlp", "1", SIGNATURE, "torch")}
    assert wire.events == ["connected", "ready", "ready"]


def test_calls_of_one_turn_leave_in_one_frame_and_one_write(wire: Wire) -> None:
    wire.hello()
    wire.frames()
    before = wire.writes
    calls = [send(wire, bytes([i]) * 4, priority=i) for i in range(5)]
    assert wire.written == b""
    wire.turn()
    assert wire.writes == before + 1
    define, requests = wire.frames()
    assert (define.kind, requests.kind, requests.count) == (frame.DEFINE, frame.REQUESTS, 5)
    records = list(frame.REQUEST.iter_unpack(requests.table))
    assert [r[0] for r in records] == [c.key for c in calls]
    assert [r[4] for r in records] == [0, 1, 2, 3, 4]
    assert bytes(requests.payload) == b"".join(bytes([i]) * 4 for i in range(5))
    send(wire)
    wire.turn()
    (requests,) = wire.frames()
    assert requests.kind == frame.REQUESTS


def test_an_answer_carries_layout_times_and_rows(wire: Wire) -> None:
    wire.hello()
    call = send(wire)
    wire.turn()
    wire.define()
    wire.respond((call.key, b"12345678"))
    ((answered, response),) = wire.answers
    assert answered is call
    assert response.layout == ANSWER
    assert bytes(response.payload) == b"12345678"
    assert (response.code, response.queue_us, response.compute_us, response.batch_rows) == (Code.OK, 5, 6, 3)
    assert wire.channel.inflight == 0


def test_an_error_carries_its_words_and_when_to_try_again(wire: Wire) -> None:
    wire.hello()
    call = send(wire)
    wire.turn()
    wire.respond((call.key, "zu viel é".encode()), code=Code.QUEUE_FULL, retry_ms=1500)
    ((_, response),) = wire.answers
    assert (response.code, response.message, response.retry_after_s) == (Code.QUEUE_FULL, "zu viel é", 1.5)
    assert response.layout is None


def test_an_unknown_code_is_internal(wire: Wire) -> None:
    wire.hello()
    call = send(wire)
    wire.turn()
    wire.respond((call.key, b"?"), code=200)
    assert wire.answers[0][1].code is Code.INTERNAL


def test_the_deadline_leaves_as_time_to_go(wire: Wire) -> None:
    wire.hello()
    wire.frames()
    send(wire, deadline=monotonic() + 2.0, timeout_us=77)
    send(wire, deadline=monotonic() - 1.0)
    send(wire)
    wire.turn()
    _, requests = wire.frames()
    budgets = [(r[2], r[7]) for r in frame.REQUEST.iter_unpack(requests.table)]
    assert 1_000_000 < budgets[0][0] <= 2_000_000
    assert budgets[0][1] == 77
    assert [b[0] for b in budgets[1:]] == [1, 0]


def test_a_cancelled_call_is_forgotten_and_its_late_answer_dropped(wire: Wire) -> None:
    wire.hello()
    calls = [send(wire) for _ in range(3)]
    wire.turn()
    wire.frames()
    wire.channel.cancel(calls[0])
    wire.channel.cancel(calls[2])
    wire.turn()
    (cancel,) = wire.frames()
    assert cancel.kind == frame.CANCEL
    assert [k for (k,) in frame.KEY.iter_unpack(cancel.table)] == [calls[0].key, calls[2].key]
    wire.define()
    wire.respond(*((c.key, b"12345678") for c in calls))
    assert [c for c, _ in wire.answers] == [calls[1]]
    assert wire.channel.inflight == 0
    assert not wire.aborted


def test_a_call_cancelled_in_its_own_turn_never_leaves(wire: Wire) -> None:
    wire.hello()
    wire.frames()
    wire.channel.cancel(send(wire))
    wire.turn()
    assert wire.written == b""
    assert wire.channel.inflight == 0


def test_keys_wrap_around_and_pass_over_those_in_flight(wire: Wire) -> None:
    wire.hello()
    early = send(wire)
    wire.turn()
    assert early.key == 1
    wire.channel._key = 0xFFFFFFFE
    calls = [send(wire) for _ in range(3)]
    wire.turn()
    assert [c.key for c in calls] == [0xFFFFFFFF, 2, 3]


def test_more_layouts_than_ids_reuse_the_oldest_and_never_mix(wire: Wire) -> None:
    wire.hello()
    wire.frames()
    layouts = [layout(i + 1) for i in range(frame.MAX_LAYOUTS + 50)]
    calls = [send(wire, b"z" * (i + 1), of) for i, of in enumerate(layouts)]
    calls.append(send(wire, b"z", layouts[0]))
    wire.turn()
    known: dict[int, Layout] = {}
    seen = []
    for f in wire.frames():
        if f.kind == frame.DEFINE:
            known[frame.KEY.unpack(f.table)[0]] = Layout.from_json(json.loads(bytes(f.payload)))
        else:
            for key, layout_id, _, nbytes, *_ in frame.REQUEST.iter_unpack(f.table):
                assert known[layout_id].payload_bytes == nbytes
                seen.append((key, nbytes))
    assert seen == [(c.key, c.payload_bytes) for c in calls]
    assert len(known) == frame.MAX_LAYOUTS


def test_large_payloads_are_not_joined_and_arrive_whole(wire: Wire) -> None:
    wire.hello()
    wire.frames()
    big = bytes(range(256)) * (JOIN_BYTES // 256 + 1)
    send(wire, big)
    send(wire)
    wire.turn()
    requests = wire.frames()[-1]
    assert requests.count == 2
    assert bytes(requests.payload) == big + b"abcd"


@pytest.mark.parametrize("size", [3, JOIN_BYTES + 1])
def test_a_payload_that_lies_about_its_size_fails_alone(wire: Wire, size: int) -> None:
    wire.hello()
    wire.frames()
    good = [send(wire, b"g" * 4), send(wire, b"h" * 4)]
    liar = send(wire, b"x" * size, layout(size + 1))
    wire.turn()
    ((answered, response),) = wire.answers
    assert answered is liar
    assert response.code is Code.INTERNAL
    wire.turn()
    requests = wire.frames()[-1]
    assert bytes(requests.payload) == b"gggghhhh"
    assert [r[0] for r in frame.REQUEST.iter_unpack(requests.table)] == [c.key for c in good]
    assert wire.channel.inflight == 2


def test_a_silent_replica_is_lost_after_some_pings(wire: Wire) -> None:
    wire.hello()
    wire.frames()
    call = send(wire)
    wire.turn()
    wire.frames()
    for _ in range(SILENT_TICKS):
        wire.channel.tick()
    assert [f.kind for f in wire.frames()] == [frame.PING] * SILENT_TICKS
    assert not wire.aborted
    wire.channel.tick()
    assert wire.aborted
    assert wire.sent == [call]
    assert wire.events[-1] == "lost: silent"


def test_a_replica_that_pongs_is_kept(wire: Wire) -> None:
    wire.hello()
    for _ in range(5 * SILENT_TICKS):
        wire.channel.tick()
        wire.channel.data_received(frame.encode_json(frame.PONG))
    assert not wire.aborted


def test_a_peer_that_never_says_hello_is_lost(wire: Wire) -> None:
    for _ in range(SILENT_TICKS + 1):
        wire.channel.tick()
    assert wire.aborted


def test_a_lost_connection_hands_back_what_left_and_what_did_not(wire: Wire) -> None:
    wire.hello()
    sent = [send(wire), send(wire)]
    wire.turn()
    unsent = [send(wire)]
    wire.channel.connection_lost(None)
    assert (wire.sent, wire.unsent) == (sent, unsent)
    assert all(c.channel is None for c in sent + unsent)
    assert wire.channel.inflight == 0
    wire.turn()
    wire.channel.connection_lost(None)
    assert wire.events.count("lost: connection closed by the replica") == 1
    assert wire.channel.closed.result() == "connection closed by the replica"


def test_drain_takes_nothing_new_and_closes_after_the_last_answer(wire: Wire) -> None:
    wire.hello()
    calls = [send(wire), send(wire)]
    wire.turn()
    wire.define()
    wire.channel.data_received(frame.encode_json(frame.DRAIN))
    assert not wire.channel.usable
    assert wire.events[-1] == "draining"
    wire.respond((calls[0].key, b"12345678"))
    assert not wire.aborted
    wire.respond((calls[1].key, b"12345678"))
    assert wire.aborted
    assert wire.events[-1] == "lost: drained"
    assert len(wire.answers) == 2


def test_an_idle_channel_closes_at_drain(wire: Wire) -> None:
    wire.hello()
    wire.channel.data_received(frame.encode_json(frame.DRAIN))
    assert wire.aborted


def test_a_drained_channel_closes_when_the_last_call_is_cancelled(wire: Wire) -> None:
    wire.hello()
    call = send(wire)
    wire.turn()
    wire.channel.retire()
    assert not wire.aborted
    wire.channel.cancel(call)
    wire.turn()
    assert wire.aborted


GARBAGE = {
    "not a frame": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "frame of the wrong direction": frame.encode(frame.REQUESTS, 0, b"", 0),
    "answer with an unknown layout": frame.encode(frame.RESPONSES, 1, frame.RESPONSE.pack(1, 9, 8, 0, 0, 0, 0, 0, 0), 8) + b"12345678",
    "answer of another size than its layout": frame.encode(frame.RESPONSES, 1, frame.RESPONSE.pack(1, 0, 4, 0, 0, 0, 0, 0, 0), 4) + b"1234",
    "records that claim more": frame.encode(frame.RESPONSES, 1, frame.RESPONSE.pack(1, 0, 8, 0, 0, 0, 0, 0, 0), 4) + b"1234",
    "records that claim less": frame.encode(frame.RESPONSES, 0, b"", 4) + b"1234",
    "layout id out of range": frame.encode_define(frame.MAX_LAYOUTS, b"{}"),
    "layout that is none": frame.encode_define(1, b"{}"),
    "two layouts in one": frame.encode(frame.DEFINE, 2, b"12345678", 0),
    "hello that is none": frame.encode_json(frame.HELLO, b"[1]"),
    "hello of another protocol": frame.encode_json(frame.HELLO, b'{"protocol":2,"replica":"r","versions":[]}'),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_loses_the_connection_and_hands_the_calls_back(wire: Wire, data: bytes) -> None:
    wire.hello()
    wire.define()
    call = send(wire)
    wire.turn()
    wire.channel.data_received(data)
    assert wire.aborted
    assert wire.events[-1].startswith("lost: garbage")
    assert wire.sent == [call]
    assert wire.answers == []


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_either_wait_for_more_or_lose_the_connection(data: bytes, step: int) -> None:
    wire = Wire()
    try:
        wire.hello()
        call = send(wire)
        wire.turn()
        for at in range(0, len(data), step):
            if not wire.aborted:
                wire.channel.data_received(data[at : at + step])
        assert len(wire.answers) + len(wire.sent) + wire.channel.inflight == 1
        assert call.request.payload == (b"abcd",)
    finally:
        wire.loop.close()


def test_pausing_marks_the_channel(wire: Wire) -> None:
    wire.channel.pause_writing()
    assert wire.channel.paused
    wire.channel.resume_writing()
    assert not wire.channel.paused
    assert wire.channel.room()
