from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import DecodeError, TooLarge
from serving.gateway.chunked import ChunkedDecoder


def encode(chunks: list[bytes], extension: bytes = b"", trailers: bytes = b"") -> bytes:
    body = b"".join(b"%x%s\r\n%s\r\n" % (len(c), extension, c) for c in chunks if c)
    return body + b"0\r\n" + trailers + b"\r\n"


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=50), max_size=8),
    rest=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 600), max_size=12),
    extension=st.sampled_from([b"", b";a=b", b' ; x="y"']),
    trailers=st.sampled_from([b"", b"a: b\r\n", b"a: b\r\nc: d\r\n"]),
)
def test_any_cutting_of_the_stream_gives_the_same_body(
    chunks: list[bytes], rest: bytes, cuts: list[int], extension: bytes, trailers: bytes
) -> None:
    stream = encode(chunks, extension, trailers) + rest
    decoder = ChunkedDecoder(1 << 20)
    bounds = sorted({0, len(stream), *(c for c in cuts if c < len(stream))})
    over = False
    seen = b""
    for start, stop in pairwise(bounds):
        if over:
            seen += stream[start:stop]
        elif decoder.feed(stream[start:stop]):
            over = True
            seen = decoder.rest
    assert over
    assert b"".join(decoder.parts) == b"".join(chunks)
    assert seen == rest


@given(chunks=st.lists(st.binary(min_size=1, max_size=2000), max_size=20), most=st.integers(1, 5), cut=st.integers(0, 4000))
def test_a_body_taken_in_slices_is_the_same(chunks: list[bytes], most: int, cut: int) -> None:
    stream = encode(chunks) + b"GET"
    decoder = ChunkedDecoder(1 << 20)
    turns = 0
    over = decoder.feed(stream[:cut], most)
    while decoder.more:
        assert not over
        turns += 1
        over = decoder.feed(b"", most)
    if not over:
        over = decoder.feed(stream[cut:], most)
        while decoder.more:
            assert not over
            turns += 1
            over = decoder.feed(b"", most)
    assert b"".join(decoder.parts) == b"".join(chunks)
    assert over
    assert decoder.rest in b"GET"
    assert turns >= len(chunks) // (most + 1) - 2


def test_chunks_are_counted_in_whatever_way_they_are_taken() -> None:
    stream = encode([b"x"] * 100 + [b"y" * 3000] * 3)
    decoder = ChunkedDecoder(1 << 20, 103)
    assert decoder.feed(stream)
    assert decoder.total == 100 + 9000
    with pytest.raises(DecodeError, match="exceeds maximum of 102 non-empty chunks"):
        ChunkedDecoder(1 << 20, 102).feed(stream)
    with pytest.raises(TooLarge, match="9099 bytes"):
        ChunkedDecoder(9099).feed(stream)


@given(data=st.binary(max_size=200))
def test_garbage_is_refused_or_waits_but_never_raises_anything_else(data: bytes) -> None:
    decoder = ChunkedDecoder(1 << 20)
    try:
        decoder.feed(data)
    except (DecodeError, TooLarge):
        pass
    assert decoder.total <= 1 << 20


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"5\nhello\r\n0\r\n\r\n", "CR LF"),
        (b"xyz\r\n", "hexadecimal"),
        (b"-5\r\nhello", "hexadecimal"),
        (b"+5\r\nhello", "hexadecimal"),
        (b"0x5\r\nhello", "hexadecimal"),
        (b"5_0\r\nhello", "hexadecimal"),
        (b"\r\n", "hexadecimal"),
        (b"ffffffffffffffff\r\n", "hexadecimal"),
        (b"5\r\nhelloX\r\n", "longer than its size"),
        (b"3\r\nabc\r\n0\r\na: b\n\r\n", "CR LF"),
        (b"3" + b" " * 5000, "longer than"),
        (b"0\r\n" + b"a: b\r\n" * 4000, "trailers longer"),
    ],
)
def test_what_two_parties_could_read_differently_is_refused(stream: bytes, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        ChunkedDecoder(1 << 20).feed(stream)


def test_the_body_is_bounded_before_it_arrives() -> None:
    with pytest.raises(TooLarge, match="1000 bytes"):
        ChunkedDecoder(1000).feed(b"400\r\n")


def test_the_number_of_chunks_is_bounded() -> None:
    decoder = ChunkedDecoder(1 << 20, max_chunks=3)
    decoder.feed(b"1\r\na\r\n" * 3)
    with pytest.raises(DecodeError, match="maximum of 3 non-empty chunks"):
        decoder.feed(b"1\r\na\r\n")
