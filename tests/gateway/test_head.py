from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import DecodeError
from serving.gateway.head import MAX_CACHED_HEADS, NO_ACTION, HeadCache, parse_head


def head(*lines: str, start: str = "POST /v2/models/m/infer HTTP/1.1") -> bytes:
    return "\r\n".join((start, "Host: h", *lines, "", "")).encode()


def test_a_head_tells_method_path_length_and_headers() -> None:
    h = parse_head(head("Content-Length: 12", "Inference-Header-Content-Length: 7", start="POST /v2/models/a%2Fb/infer?x=1 HTTP/1.1"))
    assert (h.method, h.path, h.content_length, h.inference_header_length) == (b"POST", "/v2/models/a/b/infer", 12, 7)
    assert h.keep_alive
    assert repr(h) == "Head(POST /v2/models/a/b/infer, body 12)"


@pytest.mark.parametrize(
    ("block", "keep_alive"),
    [
        (head(), True),
        (head("Connection: close"), False),
        (head(start="GET / HTTP/1.0"), False),
        (head("Connection: keep-alive", start="GET / HTTP/1.0"), True),
    ],
)
def test_keep_alive_follows_version_and_connection(block: bytes, keep_alive: bool) -> None:
    assert parse_head(block).keep_alive is keep_alive


@pytest.mark.parametrize(
    "block",
    [
        head("Content-Length: 5", "Transfer-Encoding: chunked"),
        head("Content-Length: 5", "Content-Length: 6"),
        head("Content-Length: 5, 6"),
        head("Content-Length: -5"),
        head("Content-Length: +5"),
        head("Content-Length: 5_0"),
        head("Content-Length: 99999999999999999999"),
        head("Transfer-Encoding: gzip"),
        head("Transfer-Encoding: gzip, chunked"),
        head("Transfer-Encoding: chunked, chunked"),
        head("Host: h"),
        head("Host: other"),
        head("Bad Header: x"),
        head(": x"),
        b"GET / HTTP/1.1\nHost: h\n\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
        b"POST /%ff HTTP/1.1\r\nHost: h\r\n\r\n",
        head("X: a\x00b"),
    ],
)
def test_what_is_ambiguous_or_malformed_is_refused(block: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_head(block)


@given(data=st.binary(max_size=300))
def test_garbage_raises_decode_error_or_parses(data: bytes) -> None:
    try:
        parse_head(data + b"\r\n\r\n")
    except DecodeError:
        pass


@pytest.mark.parametrize(("value", "length"), [("0", 0), ("17", 17), ("17 \t", 17), ("abc", -1), ("-3", -1), ("", -1), ("9" * 30, -1)])
def test_the_inference_header_length_is_a_number_or_marked(value: str, length: int) -> None:
    assert parse_head(head(f"Inference-Header-Content-Length: {value}")).inference_header_length == length


def test_a_client_of_http_1_0_is_not_told_to_go_on() -> None:
    assert parse_head(head("Expect: 100-Continue")).expect_continue
    assert not parse_head(head("Expect: 100-continue", start="POST / HTTP/1.0")).expect_continue


def test_an_offer_to_upgrade_is_ignored() -> None:
    h = parse_head(head("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"))
    assert h.path == "/v2/models/m/infer"


def test_the_cache_gives_the_same_head_for_the_same_bytes_and_stays_bounded() -> None:
    cache = HeadCache(lambda h: NO_ACTION)
    first = cache.get(head())
    assert cache.get(head()) is first
    for i in range(MAX_CACHED_HEADS + 10):
        cache.get(head(f"X: {i}"))
    assert len(cache) <= MAX_CACHED_HEADS
    big = head("X: " + "y" * 3000)
    before = len(cache)
    cache.get(big)
    assert len(cache) == before
