"""The HTTP/2 driver: gRPC answers in all forms, header tables, flow control, and servers that break off."""

from __future__ import annotations

from concurrent import futures
from urllib.parse import unquote

import grpc
import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bench import http2_frames as h2
from serving.bench.arrivals import Constant
from serving.bench.http2_answers import around_data
from serving.bench.http2_headers import AnswerHeaders, Fields, RequestHeaders
from serving.bench.load import Closed, Load, Open
from serving.bench.recording import Recording
from serving.bench.request import GRPC_INFER, BadAnswer, grpc_body
from tests.bench.drive import drive, few, request
from tests.bench.servers import Answer, Asked, FakeServer


def kinds(recording: Recording) -> dict[str, int]:
    return {kind: errors.count for kind, errors in recording.errors.items()}


def must_be_ok(body: bytes) -> str | None:
    return None if body == grpc_body(b"ok") else f"got {body!r}"


GOOD = {
    "plain": Answer(),
    "no bytes in the message": Answer(body=b""),
    "padding": Answer(padding=9),
    "huffman and dates": Answer(headers=(("date", "Sun, 22 Nov 2026 10:00:00 GMT"), ("server", "fake/1.0"))),
    "large": Answer(body=b"x" * 300_000),
    "byte by byte": Answer(pieces=100),
    "status by number of three digits": Answer(grpc_status="000"),
}


@pytest.mark.parametrize("stateful", [False, True], ids=["no header table", "with header table"])
@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD.keys())
def test_right_answers_are_counted(answer: Answer, stateful: bool) -> None:
    with FakeServer(lambda asked: answer, "h2", stateful=stateful) as server:
        recording = drive(server.address, "grpc", [request("grpc")], few(8, concurrency=2))
    assert kinds(recording) == {}
    assert recording.answers == recording.answered == 8
    for asked in server.asked:
        assert (asked.path, asked.body, asked.headers["x-test"]) == (GRPC_INFER, grpc_body(b"question"), "1")
        assert (asked.headers["te"], asked.headers["content-type"], asked.headers[":method"]) == ("trailers", "application/grpc", "POST")
    assert server.pings == 2


BAD = {
    "status": (Answer(grpc_status="14", grpc_message="no%20replica", trailers_only=True), "grpc UNAVAILABLE", "no replica"),
    "status behind data": (Answer(grpc_status="13", grpc_message="late"), "grpc INTERNAL", "late"),
    "unknown status": (Answer(grpc_status="77", trailers_only=True), "grpc status 77", ""),
    "OK without a message": (Answer(trailers_only=True), "bad answer", "not one message"),
    "no status": (Answer(grpc_status=""), "bad answer", "no grpc-status"),
    "status that is no number": (Answer(grpc_status="two"), "bad answer", "grpc-status"),
    "HTTP status": (Answer(status=502, trailers_only=True), "http 5xx", "502"),
    "reset": (Answer(reset=h2.ErrorCode.REFUSED_STREAM), "rst_stream REFUSED_STREAM", ""),
    "goaway before": (Answer(goaway=h2.ErrorCode.ENHANCE_YOUR_CALM, close=True), "goaway", "ENHANCE_YOUR_CALM going"),
    "garbage": (Answer(raw=b"\xff" * 40), "bad answer", "not an HTTP/2 frame"),
    "HTTP/1.1": (Answer(raw=b"HTTP/1.1 400 Bad Request\r\n\r\n"), "bad answer", "HTTP/1.1 400"),
    "data first": (Answer(raw=h2.frame(h2.Frame.DATA, b"x", 0, b"\0\0\0\1")), "bad answer", "DATA before HEADERS"),
    "push": (Answer(raw=h2.frame(h2.Frame.PUSH_PROMISE, b"\0\0\0\2", 4, b"\0\0\0\1")), "bad answer", "PUSH_PROMISE"),
    "bad headers": (Answer(raw=h2.frame(h2.Frame.HEADERS, b"\xff\xff\xff\xff", 5, b"\0\0\0\1")), "bad answer", "headers"),
    "lone continuation": (Answer(raw=h2.frame(h2.Frame.CONTINUATION, b"", 4, b"\0\0\0\1")), "bad answer", "CONTINUATION"),
    "half an answer": (Answer(raw=h2.frame(h2.Frame.HEADERS, b"\x88", 4, b"\0\0\0\1"), close=True), "closed", "closed the connection"),
    "half a frame": (Answer(raw=b"\0\0\x05\1", close=True), "closed", "closed the connection"),
    "nothing": (Answer(raw=b"", close=True), "closed", "closed the connection"),
}


@pytest.mark.parametrize(("answer", "kind", "text"), BAD.values(), ids=BAD.keys())
def test_wrong_answers_are_errors_by_kind_and_the_run_goes_on(answer: Answer, kind: str, text: str) -> None:
    """Every second connection or request gets it; raw ones speak of stream 1, so each request has a connection of its own."""
    with FakeServer(lambda asked: answer if asked.number % 2 else Answer(), "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc")], few(6, new_connection=True))
    assert kinds(recording) == {kind: 3}
    assert text in "".join(recording.errors[kind].texts)
    assert recording.answers == 3


def test_several_streams_on_a_connection() -> None:
    """Answers overtake one another: odd ones come at once, even ones 20 ms later."""
    with FakeServer(lambda asked: Answer(b"%d" % asked.number, 0.02 * (asked.number % 2)), "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc")], few(200, concurrency=16, streams=8))
    assert kinds(recording) == {}
    assert recording.answers == 200
    assert server.connections == recording.connections == 2


def test_reset_streams_leave_the_connection_to_the_others() -> None:
    with FakeServer(lambda asked: Answer(reset=h2.ErrorCode.CANCEL) if asked.number % 3 == 0 else Answer(), "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc")], few(30, concurrency=4, streams=4))
    assert kinds(recording) == {"rst_stream CANCEL": 10}
    assert (recording.answers, server.connections) == (20, 1)


def test_after_goaway_the_answers_under_way_are_taken_and_a_new_connection_is_made() -> None:
    with FakeServer(lambda asked: Answer(goaway=h2.ErrorCode.NO_ERROR) if asked.number % 5 == 4 else Answer(), "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc")], few(20))
    assert kinds(recording) == {}
    assert recording.answers == 20
    assert server.connections in (4, 5)


def test_a_timeout_cancels_its_stream_alone() -> None:
    with FakeServer(lambda asked: Answer(silent=asked.number == 1), "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc")], few(40, concurrency=4, streams=4, timeout_s=2.0))
    assert kinds(recording) == {"timeout": 1}
    assert (recording.answers, server.connections) == (39, 1)
    assert server.resets == [h2.ErrorCode.CANCEL]


@pytest.mark.parametrize("windows", [{}, {h2.Setting.INITIAL_WINDOW_SIZE: 1000}, {h2.Setting.MAX_FRAME_SIZE: 20_000}])
def test_bodies_larger_than_the_windows_arrive_whole(windows: dict[h2.Setting, int]) -> None:
    bodies = [bytes([number]) * (70_000 * number + 1) for number in range(4)]
    settings = {key: value for key, value in windows.items() if key is not h2.Setting.MAX_FRAME_SIZE}
    with FakeServer(lambda asked: Answer(), "h2", settings=settings) as server:
        requests = [request("grpc", body, name=f"r{len(body)}") for body in bodies]
        recording = drive(server.address, "grpc", requests, few(40, concurrency=6, streams=3))
    assert kinds(recording) == {}
    assert recording.answers == 40
    assert {asked.body for asked in server.asked} <= {grpc_body(body) for body in bodies}


@pytest.mark.parametrize("pieces", [1, 7])
def test_answers_come_in_frames_as_large_as_were_asked_for(pieces: int) -> None:
    body = bytes(range(256)) * 3000
    seen: list[bytes] = []
    answer = Answer(body, frame_bytes=h2.LARGEST_FRAME, pieces=pieces)
    with FakeServer(lambda asked: answer, "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc", check=lambda got: seen.append(got))], few(4, streams=2, check_share=1.0))
    assert kinds(recording) == {}
    assert set(seen) == {grpc_body(body)}


def test_64_MB_there_and_back() -> None:
    large = b"x" * (64 << 20)
    with FakeServer(lambda asked: Answer(body=asked.body[5:]), "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc", large, check=_is_64_mb)], few(2, check_share=1.0))
    assert kinds(recording) == {}
    assert recording.answers == 2


def _is_64_mb(body: bytes) -> str | None:
    return None if len(body) == (64 << 20) + 5 and body.count(b"x") == 64 << 20 else f"{len(body)} bytes"


def test_a_server_that_gives_no_window_is_a_timeout() -> None:
    with FakeServer(lambda asked: Answer(), "h2", give_windows=False) as server:
        recording = drive(server.address, "grpc", [request("grpc", b"x" * 100_000)], few(1, timeout_s=0.3))
    assert kinds(recording) == {"timeout": 1}


def test_fewer_streams_than_asked_for_is_said() -> None:
    with FakeServer(lambda asked: Answer(), "h2", settings={h2.Setting.MAX_CONCURRENT_STREAMS: 2}) as server:
        recording = drive(server.address, "grpc", [request("grpc")], few(20, concurrency=8, streams=8))
    assert recording.answers == 20
    assert recording.warnings == ["the server allows 2 streams on a connection, not 8"]


def test_a_server_of_another_protocol_is_an_error() -> None:
    with FakeServer(lambda asked: Answer(), "h2", greeting=b"SSH-2.0-OpenSSH_9.2 hello\r\n") as server:
        recording = drive(server.address, "grpc", [request("grpc")], few(2))
    assert kinds(recording) == {"bad answer": 2}
    assert "SSH-2.0" in recording.errors["bad answer"].texts[0]


def test_pings_and_windows_between_equal_answers_keep_their_effect() -> None:
    """Each answer comes behind a PING, in one piece with it; each PING is answered."""
    with FakeServer(lambda asked: Answer(before=h2.frame(h2.Frame.PING, b"12345678")), "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc")], few(30))
    assert kinds(recording) == {}
    assert recording.answers == 30
    assert server.pings == 31


def test_an_answer_after_its_timeout_is_not_the_next_ones() -> None:
    """Every fifth answer comes late, on a stream that was given up, and looks like all others."""
    delays = {4: 1.3, 9: 1.3, 14: 1.3}
    with FakeServer(lambda asked: Answer(delay_s=delays.get(asked.number, 0.0)), "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc")], few(20, timeout_s=1.0))
    assert kinds(recording) == {"timeout": 3}
    assert recording.answers == 17


def test_wrong_bodies() -> None:
    with FakeServer(lambda asked: Answer(body=b"ok" if asked.number % 2 else b"no"), "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc", check=must_be_ok)], few(10, check_share=1.0))
    assert kinds(recording) == {"wrong body": 5}
    assert recording.answers == 5


def test_answers_with_other_numbers_count_and_a_share_of_them_is_checked() -> None:
    """Each answer differs from the one before; the second, in full, is the first whose shape is known."""
    seen: list[bytes] = []

    def behave(asked: Asked) -> Answer:
        return Answer(body=b"%04d" % asked.number, grpc_status="13" if asked.number in (40, 41) else "0")

    with FakeServer(behave, "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc", check=lambda body: seen.append(body))], few(100, check_share=0.1))
    assert kinds(recording) == {"grpc INTERNAL": 2}
    assert recording.answers == 98
    assert len(set(seen)) == len(seen)
    assert 8 <= len(seen) <= 12


def test_what_stands_around_the_data_of_an_answer() -> None:
    head, data, end = (size.to_bytes(3, "big") + bytes(rest) for size, rest in ((2, (1, 4)), (9, (0, 0)), (1, (1, 5))))
    assert around_data([head, b"hh" + data, b"12345abcd" + end, b"t"]) == ((head, b"hh" + data, b"12345"), 4, (end, b"t"))
    small = (5).to_bytes(3, "big") + bytes((0, 0))
    assert around_data([head, b"hh" + small, b"12345" + end, b"t"]) == ((head, b"hh" + small, b"12345"), 0, (end, b"t"))
    assert around_data([head, b"hh" + end, b"t"]) is None
    assert around_data([data, b"12345abcd" + data, b"12345abcd"]) is None


@pytest.mark.parametrize(("stateful", "checks"), [(False, 2), (True, 50)], ids=["no header table", "with header table"])
def test_equal_answers_need_one_check_where_their_bytes_say_all(stateful: bool, checks: int) -> None:
    """The first headers also say the size of the header table, so the second ones differ from them; the third are the second again."""
    seen: list[bytes] = []
    with FakeServer(lambda asked: Answer(), "h2", stateful=stateful) as server:
        recording = drive(server.address, "grpc", [request("grpc", check=lambda body: seen.append(body))], few(50, check_share=1.0))
    assert recording.answers == 50
    assert seen == [grpc_body(b"ok")] * checks


def test_the_open_loop_opens_connections_as_it_needs_them() -> None:
    with FakeServer(lambda asked: Answer(delay_s=0.1), "h2") as server:
        load = Load(Open(Constant(100), max_in_flight=64), duration_s=0.5, streams=4)
        recording = drive(server.address, "grpc", [request("grpc")], load)
    assert kinds(recording) == {}
    assert recording.answers == 50
    assert recording.connections == server.connections <= 16


def test_grpcio_understands_and_is_understood() -> None:
    """Google's own server: header tables, its windows, trailers, a status and large messages."""

    def infer(message: bytes, context: grpc.ServicerContext) -> bytes:
        if message == b"fail":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full: ü")
        return message * 2

    handler = grpc.unary_unary_rpc_method_handler(infer)
    server = grpc.server(
        futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        requests = [
            request("grpc", b"a", "small", check=_is_doubled_a),
            request("grpc", b"b" * 3_000_000, "large"),
            request("grpc", b"fail", "failing"),
        ]
        load = Load(Closed(6), duration_s=0, max_requests=60, streams=3, check_share=1.0, seed=4)
        recording = drive(f"127.0.0.1:{port}", "grpc", requests, load)
    finally:
        server.stop(0).wait(5)
    assert kinds(recording) == {"grpc RESOURCE_EXHAUSTED": recording.requests["failing"].failed}
    assert recording.errors["grpc RESOURCE_EXHAUSTED"].texts == ["queue is full: ü"]
    assert recording.requests["small"].answers > 5
    assert recording.requests["large"].answers > 5
    assert recording.answers + recording.failed == 60


def _is_doubled_a(body: bytes) -> str | None:
    return None if body == grpc_body(b"aa") else repr(body)


names = st.sampled_from(["date", "x-a", "grpc-message", "server", "content-type"])
header_lists = st.lists(st.tuples(names, st.text("abc%20", max_size=12)), max_size=5)


@given(st.lists(header_lists, min_size=1, max_size=12), st.sampled_from([0, 64, 4096]))
def test_answers_headers_mean_the_same_with_and_without_the_memory(lists: list[list[tuple[str, str]]], table: int) -> None:
    encoder = Encoder()
    encoder.header_table_size = table
    remembering = AnswerHeaders({})
    for number, headers in enumerate(lists):
        status = [(":status", "200"), ("grpc-status", str(number % 17))]
        block = encoder.encode(status + headers)
        found = remembering.read(block)
        assert (found.status, found.grpc_status) == (200, number % 17)
        assert found.message == unquote(dict(headers).get("grpc-message", ""))


def test_known_blocks_are_not_used_where_the_header_table_has_entries() -> None:
    known: dict[bytes, Fields] = {}
    block = Encoder().encode([(":status", "200"), ("grpc-status", "0")])
    first = AnswerHeaders(known)
    first.read(block)
    assert known == {}
    assert not first.stateless
    with pytest.raises(BadAnswer):
        AnswerHeaders(known).read(b"\xbe")  # an entry that only the first one has


def test_requests_headers_are_sent_in_full_once() -> None:
    headers = RequestHeaders("h:1", "http")
    one, two = request("grpc"), request("grpc", name="b")
    full, again = headers.block(0, one)
    assert not again
    short, again = headers.block(0, one)
    assert again
    assert len(short) < len(full) / 4
    assert headers.block(1, two) == (short, True)
    assert headers.settled == 2


@settings(max_examples=40)
@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_an_error(garbage: bytes) -> None:
    """Through a whole connection, behind a right greeting."""
    behave = lambda asked: Answer(raw=garbage, close=True)  # noqa: E731
    with FakeServer(behave, "h2") as server:
        recording = drive(server.address, "grpc", [request("grpc")], few(1, timeout_s=20.0))
    assert recording.answers + recording.failed == 1
    assert isinstance(server.asked[0], Asked)
