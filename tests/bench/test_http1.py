"""The HTTP/1.1 driver against servers that answer in all ways that are right, and in many that are not."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.arrivals import Constant
from serving.bench.http1 import encode
from serving.bench.http1_answer import CHUNKED, UNTIL_CLOSE, Chunks, Head, Heads, check_beginning
from serving.bench.load import Load, Open
from serving.bench.recording import Recording
from serving.bench.request import BadAnswer
from tests.bench.drive import drive, few, request
from tests.bench.servers import Answer, Asked, FakeServer


def kinds(recording: Recording) -> dict[str, int]:
    return {kind: errors.count for kind, errors in recording.errors.items()}


def must_be_ok(body: bytes) -> str | None:
    return None if body == b"ok" else f"got {body[:20]!r}"


GOOD = {
    "plain": Answer(),
    "no body": Answer(body=b"", status=204),
    "empty body": Answer(body=b""),
    "chunked": Answer(chunked=True),
    "chunked, empty": Answer(body=b"", chunked=True),
    "until close": Answer(headers=(("Content-Length", ""),), close=True),
    "connection close": Answer(close=True),
    "byte by byte": Answer(pieces=60),
    "chunked in pieces": Answer(chunked=True, pieces=30),
    "100 first": Answer(
        raw=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    ),
    "HTTP/1.0": Answer(raw=b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", close=True),
    "no reason": Answer(raw=b"HTTP/1.1 200\r\ncontent-length:2\r\n\r\nok"),
    "length twice": Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
}


@pytest.mark.parametrize("answer", GOOD.values(), ids=GOOD.keys())
def test_right_answers_are_counted(answer: Answer) -> None:
    with FakeServer(lambda asked: answer) as server:
        recording = drive(server.address, "rest", [request()], few(6, concurrency=2))
    assert kinds(recording) == {}
    assert recording.answers == recording.answered == 6
    assert [asked.body for asked in server.asked] == [b"question"] * 6
    assert server.asked[0].headers["x-test"] == "1"


BAD = {
    "garbage": (Answer(raw=b"\x00\x01garbage\r\n\r\n"), "bad answer", "garbage"),
    "status line": (Answer(raw=b"HTTP/1.1 2OO OK\r\n\r\n"), "bad answer", "status line"),
    "header line": (Answer(raw=b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), "bad answer", "header line"),
    "length": (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), "bad answer", "content-length"),
    "two lengths": (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), "bad answer", "content-length"),
    "coding": (Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"), "bad answer", "transfer-encoding"),
    "chunk size": (Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), "bad answer", "chunk size"),
    "endless head": (Answer(raw=b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20000), "bad answer", "a head of more"),
    "too long": (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay"), "bad answer", "behind an answer"),
    "half an answer": (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nok", close=True), "closed", "within an answer"),
    "half a head": (Answer(raw=b"HTTP/1.1 200 OK\r\nConte", close=True), "closed", "within an answer"),
    "half a chunk": (Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok", close=True), "closed", "within an answer"),
    "nothing": (Answer(raw=b"", close=True), "closed", "before an answer"),
    "503": (Answer(status=503, body=b"too busy"), "http 5xx", "503 Reason: too busy"),
    "404, chunked": (Answer(status=404, body=b"no such model", chunked=True), "http 4xx", "no such model"),
    "302": (Answer(status=302, body=b""), "http 3xx", "302"),
    "101": (Answer(raw=b"HTTP/1.1 101 Switching\r\n\r\n"), "bad answer", "101"),
}


@pytest.mark.parametrize(("answer", "kind", "text"), BAD.values(), ids=BAD.keys())
def test_wrong_answers_are_errors_by_kind_and_the_run_goes_on(answer: Answer, kind: str, text: str) -> None:
    with FakeServer(lambda asked: answer if asked.number % 2 else Answer()) as server:
        recording = drive(server.address, "rest", [request()], few(6))
    assert kinds(recording) == {kind: 3}
    assert text in recording.errors[kind].texts[0]
    assert recording.answers == 3


def test_a_wrong_body_is_found_also_where_only_a_share_is_checked() -> None:
    """The first answer is checked, and behind a wrong one the next."""
    with FakeServer(lambda asked: Answer(body=b"wrong")) as server:
        recording = drive(server.address, "rest", [request(check=must_be_ok)], few(20, check_share=0.01))
    assert kinds(recording) == {"wrong body": 20}
    assert recording.errors["wrong body"].texts == ["got b'wrong'"]


def test_an_answer_that_differs_from_the_checked_one_is_checked_by_its_share() -> None:
    seen: list[bytes] = []

    def check(body: bytes) -> str | None:
        seen.append(body)
        return None

    with FakeServer(lambda asked: Answer(body=b"%04d" % asked.number)) as server:
        recording = drive(server.address, "rest", [request(check=check)], few(100, check_share=0.1))
    assert recording.answers == 100
    assert seen == [b"%04d" % number for number in range(0, 100, 10)]


def test_equal_answers_need_one_check() -> None:
    seen: list[bytes] = []
    with FakeServer() as server:
        recording = drive(server.address, "rest", [request(check=lambda body: seen.append(body))], few(50, check_share=1.0))
    assert recording.answers == 50
    assert seen == [b"ok"]


def test_a_refused_connection_is_an_error_and_is_tried_again() -> None:
    with FakeServer() as server:
        address = server.address
    recording = drive(address, "rest", [request()], few(4, concurrency=2))
    assert kinds(recording) == {"connect refused": 4}
    assert recording.answers == 0


def test_no_answer_within_the_timeout() -> None:
    with FakeServer(lambda asked: Answer(silent=asked.number == 1)) as server:
        recording = drive(server.address, "rest", [request()], few(5, timeout_s=2.0))
    assert kinds(recording) == {"timeout": 1}
    assert recording.answers == 4
    assert server.connections == 2


def test_a_connection_for_each_request() -> None:
    with FakeServer() as server:
        recording = drive(server.address, "rest", [request()], few(10, concurrency=2, new_connection=True))
    assert kinds(recording) == {}
    assert recording.answers == 10
    assert server.connections >= 10
    assert all(asked.headers["connection"] == "close" for asked in server.asked)


def test_keep_alive_uses_one_connection() -> None:
    with FakeServer() as server:
        recording = drive(server.address, "rest", [request()], few(10))
    assert (recording.answers, server.connections, recording.reconnects) == (10, 1, 0)


def test_64_MB_there_and_back() -> None:
    large = b"x" * (64 << 20)
    lengths: list[int] = []
    with FakeServer(lambda asked: Answer(body=asked.body)) as server:
        check = lambda body: lengths.append(len(body)) if body == large else "not what was sent"  # noqa: E731
        recording = drive(server.address, "rest", [request(body=large, check=check)], few(2, check_share=1.0))
        unchecked = drive(server.address, "rest", [request(body=large)], few(2))
    assert kinds(recording) == kinds(unchecked) == {}
    assert lengths == [64 << 20] * 2
    assert unchecked.received_bytes > 128 << 20


def test_an_answer_to_half_a_request() -> None:
    """413 while the body is still on its way: the answer counts, and the connection ends."""
    large = b"x" * (64 << 20)

    def behave(asked: Asked) -> Answer:
        return Answer()

    with FakeServer(behave, greeting=b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge") as server:
        recording = drive(server.address, "rest", [request(body=large)], few(1))
    assert recording.answers == 0
    assert recording.failed == 1


def test_weights_share_the_requests() -> None:
    with FakeServer() as server:
        requests = [request(name="a", body=b"a", weight=3), request(name="b", body=b"b", weight=1)]
        recording = drive(server.address, "rest", requests, few(800, concurrency=4))
    assert recording.answers == 800
    assert 500 < recording.requests["a"].answers < 700
    assert recording.requests["a"].answers == sum(asked.body == b"a" for asked in server.asked)


def test_a_server_that_closes_idle_connections_is_no_error() -> None:
    """Within an open loop at 20 a second, each connection is idle when the server closes it, silently, after its first answer."""
    with FakeServer(lambda asked: Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", close=True)) as server:
        recording = drive(server.address, "rest", [request()], Load(Open(Constant(20)), duration_s=0, max_requests=10))
    assert kinds(recording) == {}
    assert recording.answers == 10
    assert server.connections >= 10


def test_a_server_that_goes_away_costs_the_rest_of_the_requests() -> None:
    gone = threading.Event()
    with FakeServer(lambda asked: Answer(close=True)) as first:
        address = first.address

        def behave(asked: Asked) -> Answer:
            if asked.number == 2:
                first.shutdown_listener()
                gone.set()
            return Answer(close=True)

        first.behave = behave
        recording = drive(address, "rest", [request()], few(6))
    assert gone.is_set()
    assert recording.answers == 3
    assert recording.failed == 3
    assert kinds(recording).keys() <= {"connect refused", "reset"}  # reset: it lay in the queue of the listener that was closed


def test_the_bytes_of_a_request() -> None:
    assert encode(request(), "h:1", False) == (
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h:1\r\nx-test: 1\r\nContent-Length: 8\r\n\r\nquestion"
    )


HEADS = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", Head(200, "OK", 12, False)),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nConnection: Close, x\r\n\r\n", Head(200, "OK", CHUNKED, True)),
    (b"HTTP/1.1 200 \r\n\r\n", Head(200, "", UNTIL_CLOSE, True)),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", Head(200, "OK", 1, False)),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", Head(304, "Not Modified", 0, False)),
]


@pytest.mark.parametrize(("raw", "head"), HEADS)
def test_heads(raw: bytes, head: Head) -> None:
    heads = Heads()
    assert heads.read(raw) == head
    assert heads.read(raw) is heads.read(raw)


@given(st.binary(max_size=80))
def test_any_head_is_read_or_refused(garbage: bytes) -> None:
    try:
        check_beginning(garbage)
        Heads().read(garbage + b"\r\n\r\n")
        Heads().read(b"HTTP/1.1 200 OK\r\n" + garbage + b"\r\n\r\n")
    except BadAnswer:
        pass


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.lists(st.integers(1, 30), max_size=30), st.binary(max_size=5))
def test_chunks_cut_anywhere_give_the_body(pieces: list[bytes], cuts: list[int], behind: bytes) -> None:
    wire = b"".join(b"%X ; a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nx: y\r\n\r\n" + behind
    chunks = Chunks(keep=True)
    for cut in cuts:
        if not chunks.done:
            chunks.feed(wire[:cut])
            wire = wire[cut:]
    if not chunks.done:
        chunks.feed(wire)
        wire = b""
    assert chunks.done
    assert bytes(chunks.body) == b"".join(pieces)
    assert chunks.rest + wire == behind


@given(st.binary(max_size=60))
def test_garbage_chunks_are_refused_or_wait_for_more(garbage: bytes) -> None:
    try:
        Chunks(keep=False).feed(garbage)
    except BadAnswer:
        pass
