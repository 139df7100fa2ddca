"""An HTTP/2 connection between a fake transport and a fake server."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from serving.gateway import http2
from serving.gateway import http2_frames as h2
from serving.gateway.http2 import HASTY, LINGER_S, MAX_CONTROL, MAX_RESETS, MAX_SHUT, MAX_STREAMS, PATIENCE, SHUT_TICKS, WINDOW_BYTES
from serving.gateway.http2_frames import Http2Code
from serving.gateway.http2_reader import MAX_STRAIN
from serving.gateway.http2_writer import HIGH_WATER_BYTES, MAX_UNREAD_BYTES
from serving.state import GatewayLimits

from .http2_fakes import FIELDS, Answers, Client, FakeGateway, Frame, data, frames, message

PING = h2.frame(h2.PING, 0, 0, b"12345678")
PING_ACK = h2.frame(h2.PING, h2.ACK, 0, b"draining")


def greeted(client: Client, window: int = 1 << 24, limits: GatewayLimits | None = None) -> FakeGateway:
    gateway = FakeGateway(limits)
    gateway.feed(client.hello(window))
    return gateway


def cut_block(number: int, block: bytes) -> bytes:
    return b"".join(
        (
            h2.frame(h2.HEADERS, 0, number, block[:5]),
            h2.frame(h2.CONTINUATION, 0, number, block[5:9]),
            h2.frame(h2.CONTINUATION, h2.END_HEADERS, number, block[9:]),
        )
    )


def conversation() -> bytes:
    """All that a client may do, in one."""
    client = Client()
    padded = message(b"padded")
    # in the order in which they are sent: each block changes the table
    client_bytes = [
        client.hello(1 << 20, HEADER_TABLE_SIZE=4096),
        client.call(1, b"one"),
        client.call(3, b"three", extra=[("grpc-timeout", "5S")]),
        PING,
        client.head(5) + data(5, message(b"fi"), False) + data(5, b"", True),
        cut_block(7, client.block(extra=[("x-a", "1" * 50)])) + data(7, message(b"")),
        client.head(9) + h2.frame(h2.DATA, h2.PADDED | h2.END_STREAM, 9, b"\x05" + padded + bytes(5)),
        h2.frame(h2.HEADERS, h2.END_HEADERS | h2.PADDED | h2.HAS_PRIORITY, 11, b"\x03" + bytes(5) + client.block() + bytes(3)),
        h2.frame(h2.DATA, h2.PADDED, 11, b"\x00" + message(b"eleven")[:4]) + data(11, message(b"eleven")[4:]),
        client.head(13, "/stream") + data(13, message(b"a") + message(b"b")[:3], False) + data(13, message(b"b")[3:]),
        client.head(15, "/plain", h2.END_HEADERS | h2.END_STREAM),
        client.head(17) + data(17, message(bytes(70_000))[:9000], False) + data(17, message(bytes(70_000))[9000:]),
        h2.settings({h2.HEADER_TABLE_SIZE: 0, h2.INITIAL_WINDOW_SIZE: 1 << 21, 99: 1}),
        client.head(19) + data(19, message(b"x"), False) + h2.frame(h2.HEADERS, 5, 19, client.encoder.encode([("t", "1")])),
        client.head(21, "/wait") + h2.rst_stream(21, Http2Code.CANCEL),
        client.head(23) + data(23, b"no message at all"),
        h2.frame(h2.PRIORITY, 0, 23, bytes(5)) + h2.frame(77, 3, 1, b"unknown") + h2.frame(h2.SETTINGS, h2.ACK, 0),
        client.call(25, b"last"),
    ]  # fmt: skip
    return b"".join(client_bytes)


def test_a_conversation() -> None:
    gateway = FakeGateway()
    gateway.feed(conversation())
    answers = gateway.answers()
    assert {n: answers.bodies[n] for n in (1, 3, 5, 7, 9, 11, 13, 15, 19, 25)} == {
        1: message(b"one"), 3: message(b"three"), 5: message(b"fi"), 7: message(b""), 9: message(b"padded"), 11: message(b"eleven"),
        13: message(b"a") + message(b"b"), 15: b"no gRPC", 19: message(b"x"), 25: message(b"last"),
    }  # fmt: skip
    assert len(answers.bodies[17]) == 70_005
    assert {answers.status(n) for n in answers.trailers if n not in {15, 23}} == {"0"}
    assert answers.status(23) == "3"
    assert answers.goaways == []
    assert gateway.held() == (0, 0, 0, 0, 0)


def said(gateway: FakeGateway) -> list[Frame]:
    """All that was written but window updates, and resets of what was refused before it had come whole."""
    frames = gateway.answers().frames
    return [f for f in frames if f.kind != h2.WINDOW_UPDATE and (f.kind, f.payload) != (h2.RST_STREAM, bytes(4))]


def test_it_means_the_same_wherever_the_network_cuts_it() -> None:
    whole = conversation()
    reference = FakeGateway()
    reference.feed(whole)
    expected = said(reference)
    bulk = whole.index(bytes(2000))
    for cut in [*range(bulk + 20), *range(bulk + 70_000 - 20, len(whole))]:
        gateway = FakeGateway()
        gateway.feed(whole[:cut])
        gateway.feed(whole[cut:])
        assert said(gateway) == expected, cut
    for size in (1, 2, 3, 7, 9, 10, 100, 5000):
        gateway = FakeGateway()
        for at in range(0, len(whole), size):
            gateway.feed(whole[at : at + size])
        assert said(gateway) == expected, size


@pytest.mark.parametrize("seed_of", range(10))
def test_mutated_conversations_hurt_nobody(seed_of: int) -> None:
    """No exception leaves the connection, what it writes is whole frames in a legal order, and nothing is left over."""
    plain = conversation()
    bulk = plain.index(bytes(2000))
    plain = plain[:bulk] + plain[bulk + 69_000 :]
    for seed in range(seed_of * 200, seed_of * 200 + 200):
        dice = random.Random(seed)
        whole = bytearray(plain)
        for _ in range(dice.choice((1, 1, 2, 5))):
            at = dice.randrange(len(whole) + 1)
            match dice.randrange(5):
                case 0 if at < len(whole):
                    whole[at] ^= 1 << dice.randrange(8)
                case 1:
                    del whole[at : at + dice.choice((1, 4, 9, 60))]
                case 2:
                    whole[at:at] = whole[at : at + 30] * dice.choice((1, 40))
                case 3:
                    whole[at:at] = dice.randbytes(dice.choice((1, 9, 40)))
                case 4:
                    del whole[at:]
        gateway = FakeGateway()
        at = 0
        while at < len(whole):
            size = dice.choice((1, 9, 50, 1000, 100_000))
            gateway.feed(bytes(whole[at : at + size]))
            at += size
        for work in list(gateway.works):
            work.done()
        gateway.answers()
        gateway.connection.connection_lost(None)
        assert gateway.held() == (0, 0, 0, 0, 0), seed
        assert not gateway.host.connections


def frame_of(kind: int, payload: bytes = b"", number: int = 0, flags: int = 0) -> Callable[[Client], bytes]:
    return lambda client: h2.frame(kind, flags, number, payload)


def test_a_flood_is_found_out_also_where_its_turns_take_long() -> None:
    """Time that passes between the turns does not make its frames forgotten."""
    client = Client()
    gateway = greeted(client)
    steps: list[Callable[[], bool]] = []
    gateway.host.turns.join = steps.append  # type: ignore[method-assign]
    gateway.feed(PING * MAX_CONTROL)
    (step,) = steps
    while step():
        gateway.tick(0.5)
    assert [code for _, code in gateway.answers().goaways] == [Http2Code.ENHANCE_YOUR_CALM]
    assert gateway.connection.closed


def test_frames_of_control_take_turns_and_keep_their_order() -> None:
    """A call behind ten times as many pings as are taken in one turn gets its answer behind theirs, wherever the bytes were cut."""
    pings = b"".join(h2.frame(h2.PING, 0, 0, n.to_bytes(8)) for n in range(10 * PATIENCE))
    for cut in (0, 17 * PATIENCE + 5, len(pings) + 4):
        client = Client()
        gateway = greeted(client)
        sent = pings + client.head(1) + data(1, message(b"call"), True) + PING
        gateway.feed(sent[:cut])
        gateway.feed(sent[cut:])
        answers = gateway.answers()
        assert [int.from_bytes(f.payload) for f in answers.frames if f.kind == h2.PING][:-1] == list(range(10 * PATIENCE))
        assert answers.bodies[1] == message(b"call")
        assert gateway.host.turns.count >= 8
        assert not gateway.transport.reading_paused


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (frame_of(h2.DATA, b"x", 1), Http2Code.PROTOCOL_ERROR),
        (frame_of(h2.DATA, b"x", 0), Http2Code.PROTOCOL_ERROR),
        (frame_of(h2.RST_STREAM, bytes(4), 9), Http2Code.PROTOCOL_ERROR),
        (frame_of(h2.RST_STREAM, bytes(3), 1), Http2Code.FRAME_SIZE_ERROR),
        (frame_of(h2.WINDOW_UPDATE, bytes(4)), Http2Code.PROTOCOL_ERROR),
        (frame_of(h2.WINDOW_UPDATE, b"\0\0\1\0", 9), Http2Code.PROTOCOL_ERROR),
        (frame_of(h2.WINDOW_UPDATE, b"\x7f\xff\xff\xff"), Http2Code.FLOW_CONTROL_ERROR),
        (frame_of(h2.PING, bytes(7)), Http2Code.FRAME_SIZE_ERROR),
        (frame_of(h2.PING, bytes(8), 1), Http2Code.PROTOCOL_ERROR),
        (frame_of(h2.SETTINGS, bytes(5)), Http2Code.FRAME_SIZE_ERROR),
        (frame_of(h2.SETTINGS, bytes(6), 0, h2.ACK), Http2Code.FRAME_SIZE_ERROR),
        (frame_of(h2.SETTINGS, bytes(6), 1), Http2Code.PROTOCOL_ERROR),
        (lambda client: h2.settings({h2.INITIAL_WINDOW_SIZE: 1 << 31}), Http2Code.FLOW_CONTROL_ERROR),
        (lambda client: h2.settings({h2.MAX_FRAME_SIZE: 100}), Http2Code.PROTOCOL_ERROR),
        (lambda client: h2.settings({h2.ENABLE_PUSH: 2}), Http2Code.PROTOCOL_ERROR),
        (frame_of(h2.PUSH_PROMISE, bytes(4), 1), Http2Code.PROTOCOL_ERROR),
        (frame_of(h2.CONTINUATION, b"", 1), Http2Code.PROTOCOL_ERROR),
        (lambda client: client.head(2), Http2Code.PROTOCOL_ERROR),
        (lambda client: client.head(0), Http2Code.PROTOCOL_ERROR),
        (lambda client: client.head(1) + client.head(1), Http2Code.PROTOCOL_ERROR),
        (lambda client: client.head(1, flags=0) + PING, Http2Code.PROTOCOL_ERROR),
        (lambda client: client.head(1) + h2.frame(h2.DATA, h2.PADDED, 1, b"\x09abc"), Http2Code.PROTOCOL_ERROR),
        (lambda client: h2.frame(h2.HEADERS, h2.END_HEADERS, 1, b"\xff\xff\xff"), Http2Code.COMPRESSION_ERROR),
        (lambda client: h2.FRAME.pack(0xFF, 0xFFFF, h2.HEADERS, 4, 1), Http2Code.FRAME_SIZE_ERROR),
        (lambda client: h2.FRAME.pack(0x20, 0, h2.DATA, 0, 1), Http2Code.FRAME_SIZE_ERROR),
        (lambda client: client.head(1, flags=0) + h2.frame(h2.CONTINUATION, 0, 1) * 1000, Http2Code.ENHANCE_YOUR_CALM),
        (lambda client: client.head(1, flags=0) + h2.frame(h2.CONTINUATION, 0, 1, bytes(16_000)) * 9, Http2Code.ENHANCE_YOUR_CALM),
        (lambda client: PING * (MAX_CONTROL + 1), Http2Code.ENHANCE_YOUR_CALM),
        (lambda client: h2.settings({}) * (MAX_CONTROL + 1), Http2Code.ENHANCE_YOUR_CALM),
        (lambda client: h2.window_update(0, 1) * (MAX_CONTROL + 1), Http2Code.ENHANCE_YOUR_CALM),
        (lambda client: client.head(1, "/stream") + data(1, b"", False) * (MAX_CONTROL + 1), Http2Code.ENHANCE_YOUR_CALM),
        (
            lambda client: h2.frame(h2.HEADERS, 5, 1, h2.literal(b"b", b"x" * 4000, 0x40)) + h2.frame(h2.HEADERS, 5, 3, b"\xbe" * 999),
            Http2Code.ENHANCE_YOUR_CALM,
        ),
        (
            lambda client: b"".join(client.head(n, "/wait", 5) + h2.rst_stream(n, Http2Code.CANCEL) for n in range(1, 3 * MAX_RESETS, 2)),
            Http2Code.ENHANCE_YOUR_CALM,
        ),
        (
            lambda client: b"".join(client.head(n, "/wait", 5) + h2.window_update(n, 0) for n in range(1, 3 * MAX_RESETS, 2)),
            Http2Code.ENHANCE_YOUR_CALM,
        ),
    ],
)
def test_who_breaks_the_protocol_hears_why_and_all_of_his_ends(attack: Callable[[Client], bytes], code: Http2Code) -> None:
    client = Client()
    gateway = greeted(client)
    gateway.feed(attack(client))
    answers = gateway.answers()
    assert [code for _, code in answers.goaways] == [code]
    assert gateway.transport.eof
    assert gateway.held() == (0, 0, 0, 0, 0)
    before = len(gateway.transport.all)
    gateway.feed(PING + b"whatever" * 100)
    assert len(gateway.transport.all) == before
    gateway.tick(LINGER_S + 1)
    assert gateway.transport.aborted


def test_the_first_frame_must_be_settings() -> None:
    for first in (PING, h2.frame(h2.SETTINGS, h2.ACK, 0), b"GET / HTTP/1.1\r\n"):
        gateway = FakeGateway()
        gateway.feed(first)
        assert gateway.answers().goaways == [(0, Http2Code.PROTOCOL_ERROR)]


def test_what_breaks_a_stream_costs_that_stream_alone() -> None:
    client = Client()
    gateway = greeted(client)
    gateway.feed(client.head(1, "/wait", 5))
    gateway.feed(client.head(3, "/wait", 5) + h2.window_update(3, 0))
    gateway.feed(client.head(5, "/wait", 5) + h2.window_update(5, h2.LARGEST_WINDOW))
    gateway.feed(client.head(7, "/wait", 5) + data(7, b"late"))
    gateway.feed(client.head(9, "/wait", 5) + client.head(9, "/wait", 5))
    gateway.feed(h2.frame(h2.HEADERS, 5, 11, h2.literal(b":method", b"POST")))
    gateway.feed(client.head(13, extra=[("content-length", "3")]) + data(13, message(b"four")))
    for work in gateway.works:
        work.done()
    answers = gateway.answers()
    assert answers.resets == {
        3: Http2Code.PROTOCOL_ERROR, 5: Http2Code.FLOW_CONTROL_ERROR, 7: Http2Code.STREAM_CLOSED,
        9: Http2Code.STREAM_CLOSED, 11: Http2Code.PROTOCOL_ERROR,
    }  # fmt: skip
    assert answers.status(1) == "0"
    assert answers.status(13) == "3"
    assert answers.goaways == []


def test_a_reserved_bit_says_nothing() -> None:
    client = Client()
    gateway = greeted(client)
    call = bytearray(client.call(1, b"a"))
    call[5] |= 0x80
    gateway.feed(bytes(call))
    assert gateway.answers().status(1) == "0"


# Windows ---------------------------------------------------------------------------------------------------------------


def test_an_answer_leaves_as_the_windows_allow_and_streams_take_turns() -> None:
    client = Client()
    gateway = greeted(client, window=0)
    for n in (1, 3):
        gateway.feed(client.call(n, bytes([n]) * 50_000))
    assert gateway.answers().bodies == {1: b"", 3: b""}
    gateway.feed(h2.window_update(1, 10) + h2.window_update(3, 7))
    answers = gateway.answers()
    assert (len(answers.bodies[1]), len(answers.bodies[3])) == (10, 7)
    gateway.feed(h2.settings({h2.INITIAL_WINDOW_SIZE: 20_000}))
    answers = gateway.answers()
    assert (len(answers.bodies[1]), len(answers.bodies[3])) == (20_010, 20_007)
    # a window that shrinks becomes negative, and nothing leaves before it is positive again
    gateway.feed(h2.settings({h2.INITIAL_WINDOW_SIZE: 0}) + h2.window_update(1, 20_000))
    assert len(gateway.answers().bodies[1]) == 20_010
    gateway.feed(h2.settings({h2.INITIAL_WINDOW_SIZE: 1 << 20}))
    answers = gateway.answers()
    assert answers.bodies == {n: message(bytes([n]) * 50_000) for n in (1, 3)}
    assert max(len(f.payload) for f in answers.frames if f.kind == h2.DATA) == h2.DEFAULT_FRAME_BYTES
    assert gateway.held() == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("table", [None, 4096, 0])
def test_an_answer_is_one_write_whether_the_client_has_a_table_or_none(table: int | None) -> None:
    gateway, client = FakeGateway(), Client()
    gateway.feed(client.hello(**{} if table is None else {"HEADER_TABLE_SIZE": table}))
    gateway.feed(client.call(1, b"teaches the table"))
    writes: list[bytes] = []
    gateway.connection._out._write = writes.append
    gateway.feed(client.call(3, b"three") + client.call(5, b"other"))
    assert [[(f.kind, f.stream) for f in frames(write)] for write in writes] == [
        [(h2.HEADERS, n), (h2.DATA, n), (h2.HEADERS, n)] for n in (3, 5)
    ]  # fmt: skip
    answers = Answers(bytes(gateway.transport.all) + b"".join(writes))
    assert (answers.bodies[3], answers.bodies[5]) == (message(b"three"), message(b"other"))
    assert {answers.status(n) for n in (1, 3, 5)} == {"0"}


def test_padding_counts_for_the_window_and_is_given_back() -> None:
    client = Client()
    gateway = greeted(client)
    gateway.feed(client.head(1, "/stream"))
    frame = h2.frame(h2.DATA, h2.PADDED, 1, b"\xff" + b"\0" + bytes(255))[:-1]
    frame = h2.frame(h2.DATA, h2.PADDED, 1, b"\xff" + message(b"x") + bytes(255))
    for _ in range(WINDOW_BYTES // 2 // 262 + 1):
        gateway.feed(frame)
    updates = [f for f in gateway.answers().frames if f.kind == h2.WINDOW_UPDATE and f.stream == 1]
    assert len(updates) == 1
    assert int.from_bytes(updates[0].payload, "big") > WINDOW_BYTES // 2


def test_a_client_that_ignores_its_window_loses_the_stream() -> None:
    client = Client()
    gateway = greeted(client, window=0)
    gateway.feed(client.head(1, "/stream"))
    piece = data(1, message(bytes(16_000)), False)
    for _ in range(WINDOW_BYTES // len(piece) + 2):
        gateway.feed(piece)
    answers = gateway.answers()
    assert answers.resets == {1: Http2Code.FLOW_CONTROL_ERROR}
    assert gateway.held() == (0, 0, 0, 0, 0)


def test_a_byte_of_a_body_holds_a_byte() -> None:
    client = Client()
    gateway = greeted(client)
    for n in range(1, 200, 2):
        gateway.feed(client.head(n) + data(n, b"\0\0", False) + h2.frame(99, 0, 0, bytes(10_000)))
    held = [s._body for s in gateway.connection.streams.values()]
    assert all(isinstance(body, bytearray) and len(body) == 2 for body in held)
    assert gateway.host.arriving_bytes == 200
    gateway.connection.connection_lost(None)
    assert gateway.host.arriving_bytes == 0


@pytest.mark.parametrize("size", [10, 70_000])
def test_a_body_byte_by_byte(size: int) -> None:
    client = Client()
    gateway = greeted(client)
    body = message(bytes(range(256)) * (size // 256) + b"z" * (size % 256))
    gateway.feed(client.head(1) + b"".join(data(1, body[at : at + 1], False) for at in range(9)))
    for at in range(9, len(body), 16_000):
        gateway.feed(data(1, body[at : at + 16_000], False))
    gateway.feed(data(1, b""))
    assert gateway.answers().bodies[1] == body
    assert gateway.host.arriving_bytes == 0


def test_bodies_together_are_bounded_and_a_second_message_is_refused() -> None:
    client = Client()
    gateway = greeted(client, limits=GatewayLimits(max_inflight_bytes=10_000, max_body_bytes=8000))
    gateway.feed(client.head(1) + data(1, message(bytes(7000))[:7000], False))
    gateway.feed(client.head(3) + data(3, message(bytes(7000))[:7000], False))
    gateway.feed(client.head(5) + data(5, message(bytes(9000))[:100], False))
    gateway.feed(client.head(7) + data(7, message(b"a"), False) + data(7, message(b"b"), False))
    answers = gateway.answers()
    assert [answers.status(n) for n in (3, 5, 7)] == ["14", "8", "3"]
    assert answers.resets == dict.fromkeys((3, 5, 7), Http2Code.NO_ERROR)
    assert gateway.host.arriving_bytes == 7000
    gateway.feed(data(1, message(bytes(7000))[7000:]))
    assert gateway.answers().status(1) == "0"


# Clients that are slow or gone -----------------------------------------------------------------------------------------


def test_answers_wait_for_a_client_that_does_not_read() -> None:
    client = Client()
    gateway = greeted(client)
    gateway.feed(client.call(1, b"warm") + h2.settings({h2.MAX_FRAME_SIZE: 1 << 20}))
    gateway.transport.stalled = True
    for n in range(3, 203, 2):
        for piece in (
            client.head(n),
            *(data(n, message(bytes(100_000))[at : at + 16_000], False) for at in range(0, 100_005, 16_000)),
            data(n, b""),
        ):
            gateway.feed(piece)
    assert gateway.transport.unread < 2 * HIGH_WATER_BYTES
    assert len(gateway.connection._out.blocked) > 80
    while gateway.transport.unread:
        gateway.transport.take()
    answers = gateway.answers()
    assert {answers.status(n) for n in range(3, 203, 2)} == {"0"}
    assert gateway.held() == (0, 0, 0, 0, 0)


def test_a_client_that_asks_and_never_reads_is_cut_off() -> None:
    client = Client()
    gateway = greeted(client)
    gateway.transport.stalled = True
    block = b"".join(h2.literal(n.encode(), v.encode()) for n, v in FIELDS)
    number = 1
    while not gateway.transport.aborted:
        gateway.feed(b"".join(h2.frame(h2.HEADERS, 5, n, block) for n in range(number, number + 100, 2)) + PING * 5000)
        number += 100
        gateway.tick(0.5)
        assert gateway.transport.unread < HIGH_WATER_BYTES + 2 * MAX_UNREAD_BYTES
    assert gateway.held() == (0, 0, 0, 0, 0)


def test_half_bodies_and_unread_answers_end_with_their_time() -> None:
    client = Client()
    limits = GatewayLimits()
    gateway = greeted(client, window=0)
    for n in range(1, 2 * MAX_STREAMS, 2):
        gateway.feed(client.head(n) + data(n, message(b"1234")[:3], False))
    gateway.feed(client.head(2 * MAX_STREAMS + 1, flags=5))
    assert gateway.answers().resets == {2 * MAX_STREAMS + 1: Http2Code.REFUSED_STREAM}
    gateway.tick(0.5)
    gateway.tick(limits.body_timeout_s + 1)
    answers = gateway.answers()
    assert {answers.status(n) for n in range(1, 2 * MAX_STREAMS, 2)} == {"4"}
    assert gateway.held() == (0, 0, 0, 0, 0)
    number = 2 * MAX_STREAMS + 3
    gateway.feed(client.call(number, b"answer"))
    gateway.tick(0.5)
    gateway.tick(limits.body_timeout_s + 1)
    assert gateway.answers().resets[number] == Http2Code.CANCEL


def test_half_a_frame_is_waited_for_as_long_as_a_head() -> None:
    for start in (b"\0\0", h2.frame(h2.HEADERS, 0, 1, b"\x83"), PING[:12]):
        gateway = greeted(Client())
        gateway.feed(start)
        gateway.tick(10)
        assert not gateway.transport.eof
        gateway.tick(10)
        assert gateway.answers().goaways == [(0, Http2Code.PROTOCOL_ERROR)]


def test_a_cancelled_call_frees_what_waits_for_it() -> None:
    client = Client()
    gateway = greeted(client, window=0)
    gateway.feed(client.head(1, "/wait", 5) + client.call(3, b"blocked") + client.head(5, "/stream") + client.head(7))
    gateway.feed(data(7, b"\0\0\0", False))
    assert gateway.held() == (4, 1, 1, 1, 3)
    gateway.feed(b"".join(h2.rst_stream(n, Http2Code.CANCEL) for n in (1, 3, 5, 7)))
    assert gateway.held() == (0, 0, 0, 0, 0)
    assert gateway.cancelled == 2
    # what was on its way already is dropped
    gateway.feed(h2.window_update(3, 5) + data(7, b"\0", False) + h2.rst_stream(7, Http2Code.CANCEL))
    assert gateway.answers().goaways == []


def shut(gateway: FakeGateway, client: Client, calls: int) -> int:
    """A client that asks so often and takes nothing for a while; return the number of its next stream."""
    gateway.feed(b"".join(client.call(n, b"answer") for n in range(1, 2 * calls, 2)))
    for _ in range(SHUT_TICKS + 1):
        gateway.tick(0.5)
    return 2 * calls + 1


def test_who_asks_on_and_takes_no_answers_gets_nothing_done_any_more() -> None:
    client = Client()
    gateway = greeted(client, window=0)
    number = shut(gateway, client, MAX_SHUT)
    gateway.feed(client.call(number, b"one more"))
    answers = gateway.answers()
    assert answers.resets == {number: Http2Code.REFUSED_STREAM}
    assert len(gateway.seen) == MAX_SHUT
    gateway.feed(b"".join(client.call(n, b"more") for n in range(number + 2, number + 2 + 2 * MAX_RESETS // HASTY, 2)))
    assert [code for _, code in gateway.answers().goaways] == [Http2Code.ENHANCE_YOUR_CALM]
    assert len(gateway.seen) == MAX_SHUT
    assert gateway.held() == (0, 0, 0, 0, 0)


def test_who_was_slow_for_a_moment_gets_all_answers_and_may_ask_again() -> None:
    client = Client()
    gateway = greeted(client, window=0)
    number = shut(gateway, client, 3 * MAX_SHUT)
    gateway.feed(client.call(number, b"too early"))
    gateway.feed(h2.settings({h2.INITIAL_WINDOW_SIZE: 1 << 20}))
    gateway.tick(0.5)
    gateway.feed(client.call(number + 2, b"again"))
    answers = gateway.answers()
    assert answers.resets == {number: Http2Code.REFUSED_STREAM}
    assert {answers.status(n) for n in [*range(1, number, 2), number + 2]} == {"0"}
    assert gateway.held() == (0, 0, 0, 0, 0)
    assert gateway.connection._out.waiting_bytes == 0


def test_a_client_that_takes_a_little_is_not_shut() -> None:
    client = Client()
    gateway = greeted(client, window=0)
    gateway.feed(b"".join(client.call(n, b"answer") for n in range(1, 4 * MAX_SHUT, 2)))
    for n in range(1, 20, 2):
        gateway.feed(h2.window_update(n, 1))
        gateway.tick(0.5)
    number = 4 * MAX_SHUT + 1
    gateway.feed(client.call(number, b"one more") + h2.window_update(number, 100))
    assert gateway.answers().bodies[number] == message(b"one more")


def test_answers_that_wait_for_windows_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "MAX_WAITING_BYTES", 10_000)
    client = Client()
    gateway = greeted(client, window=0)
    gateway.feed(b"".join(client.call(n, bytes(3000)) for n in (1, 3, 5, 7, 9)))
    assert gateway.answers().resets == {9: Http2Code.REFUSED_STREAM}
    gateway.feed(h2.rst_stream(1, Http2Code.CANCEL) + h2.rst_stream(3, Http2Code.CANCEL))
    gateway.tick(0.5)
    gateway.feed(client.call(11, bytes(10)) + h2.settings({h2.INITIAL_WINDOW_SIZE: 1 << 20}))
    assert {n: len(body) for n, body in gateway.answers().bodies.items() if n > 3} == {5: 3005, 7: 3005, 11: 15}
    assert gateway.connection._out.waiting_bytes == 0


def test_calls_that_strain_take_turns_and_keep_their_order() -> None:
    """Blocks that are new each time, and answers that have to wait; wherever the bytes were cut."""
    for window in (0, 1 << 20):
        for cut in (0, 999, 5001):
            client = Client(huffman=False)
            gateway = greeted(client, window)
            numbers = range(1, 8 * MAX_STRAIN, 2)
            sent = b"".join(client.call(n, b"%d" % n, extra=[("x-trace", f"{n:05}")]) for n in numbers)
            gateway.feed(sent[:cut])
            gateway.feed(sent[cut:])
            assert gateway.host.turns.count >= 2
            assert not gateway.transport.reading_paused
            gateway.feed(h2.settings({h2.INITIAL_WINDOW_SIZE: 1 << 20}))
            assert gateway.answers().bodies == {n: message(b"%d" % n) for n in numbers}
            assert [head.headers[b"x-trace"] for head in gateway.seen] == [b"%05d" % n for n in numbers]


def test_calls_that_are_like_the_last_ones_do_not_take_turns() -> None:
    client = Client()
    gateway = greeted(client)
    gateway.feed(client.call(1, b"a") + client.call(3, b"b"))
    gateway.feed(b"".join(client.call(n, b"c") for n in range(5, 2001, 2)))
    assert gateway.host.turns.count == 0
    assert len(gateway.answers().bodies) == 1000


# The end ---------------------------------------------------------------------------------------------------------------


def test_a_connection_leaves_without_a_loss() -> None:
    client = Client()
    gateway = greeted(client)
    gateway.feed(client.head(1, "/wait", 5))
    gateway.connection.drain()
    # opened before the client heard of it
    gateway.feed(client.head(3, "/wait", 5))
    assert gateway.answers().goaways == [(h2.LAST_STREAM, 0)]
    gateway.feed(PING_ACK)
    assert gateway.answers().goaways[1:] == [(3, 0)]
    # comes too late, may be sent elsewhere, and hurts nobody
    gateway.feed(client.call(5, b"late") + h2.rst_stream(5, Http2Code.CANCEL) + h2.window_update(7, 5000) + data(9, b"x"))
    assert not gateway.transport.eof
    for work in list(gateway.works):
        work.done()
    answers = gateway.answers()
    assert (answers.status(1), answers.status(3)) == ("0", "0")
    assert len(answers.goaways) == 2
    assert gateway.transport.eof
    assert gateway.host.answered == 2


def test_a_client_that_does_not_hear_is_told_the_end_all_the_same() -> None:
    client = Client()
    gateway = FakeGateway(draining=True)
    gateway.feed(client.hello() + client.head(1, "/wait", 5))
    gateway.tick(0.5)
    assert gateway.answers().goaways == [(h2.LAST_STREAM, 0)]
    gateway.tick(2)
    assert gateway.answers().goaways[1:] == [(1, 0)]
    gateway.works[0].done()
    assert gateway.transport.eof


def test_an_idle_connection_closes_and_a_busy_one_does_not() -> None:
    client = Client()
    gateway = greeted(client)
    gateway.feed(client.head(1, "/wait", 5))
    assert not gateway.connection.close_if_idle()
    gateway.works[0].done()
    assert gateway.connection.close_if_idle()
    assert gateway.connection.close_if_idle()
    assert gateway.answers().goaways == [(1, 0)]


def test_a_connection_that_is_lost_takes_all_with_it() -> None:
    client = Client()
    gateway = greeted(client, window=0)
    gateway.feed(
        client.head(1, "/wait", 5) + client.call(3, b"blocked") + client.head(5, "/stream") + client.head(7) + data(7, b"a", False)
    )
    gateway.connection.connection_lost(None)
    assert gateway.held() == (0, 0, 0, 0, 0)
    assert gateway.cancelled == 2
    assert not gateway.host.connections


def opened_and_reset(client: Client, first: int, count: int) -> bytes:
    numbers = range(first, first + 2 * count, 2)
    return b"".join(client.head(n, "/wait", 5) + h2.rst_stream(n, Http2Code.CANCEL) for n in numbers)


def test_streams_that_are_reset_as_soon_as_they_are_opened_weigh_more() -> None:
    client = Client()
    gateway = greeted(client)
    gateway.feed(opened_and_reset(client, 1, MAX_RESETS // HASTY))
    assert gateway.answers().goaways == []
    gateway.feed(opened_and_reset(client, 2 * MAX_RESETS // HASTY + 1, 1))
    assert [code for _, code in gateway.answers().goaways] == [Http2Code.ENHANCE_YOUR_CALM]


def test_a_client_that_gives_up_all_it_has_under_way_is_no_attacker() -> None:
    client = Client()
    gateway = greeted(client)
    numbers = range(1, 2 * MAX_STREAMS, 2)
    gateway.feed(b"".join(client.head(n, "/wait", 5) for n in numbers))
    gateway.feed(b"".join(h2.rst_stream(n, Http2Code.CANCEL) for n in numbers))
    assert gateway.answers().goaways == []
