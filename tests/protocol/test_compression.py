"""Compression of HTTP bodies: bounded, and only for those who mean it."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Code, DecodeError, TooLarge, Unsupported
from serving.protocol.compression import PIECE_BYTES, Encoding, compress, decompress, decompress_body, response_encoding, supported


@given(st.lists(st.binary(max_size=300), max_size=4), st.sampled_from(["gzip", "deflate"]))
def test_what_is_compressed_comes_back(parts: list[bytes], encoding: Encoding) -> None:
    joined = b"".join(parts)
    data = compress(parts, encoding)
    assert decompress(data, encoding, len(joined)) == joined
    assert (gzip.decompress if encoding == "gzip" else zlib.decompress)(data) == joined


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_pieces_meet_without_a_gap(encoding: Encoding, excess: int) -> None:
    sizes = [PIECE_BYTES + excess, 3 * PIECE_BYTES + excess, 5_000_000]
    for data in [bytes(size) for size in sizes] + [random.Random(size).randbytes(size) for size in sizes]:
        packed = compress([data], encoding)
        assert decompress(packed, encoding, len(data)) == data
        with pytest.raises(TooLarge):
            decompress(packed, encoding, len(data) - 1)
        with pytest.raises(DecodeError, match="ends too early"):
            decompress(packed[:-1], encoding, len(data))
    twice = gzip.compress(data) + gzip.compress(b"end")
    assert decompress(twice, "gzip", len(data) + 3) == data + b"end"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_stops_at_the_limit(encoding: Encoding) -> None:
    bomb = compress([bytes(50_000_000)], encoding)
    with pytest.raises(TooLarge, match="Decompressed data size exceeds the maximum allowed value of 1000 bytes"):
        decompress(bomb, encoding, 1000)
    with pytest.raises(DecodeError) as caught:
        decompress_body(bomb, encoding, 1000)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_members_of_gzip_are_joined_but_not_without_end() -> None:
    member = gzip.compress(b"ab")
    assert decompress(member * 3, "gzip", 6) == b"ababab"
    with pytest.raises(TooLarge):
        decompress(member * 3, "gzip", 5)
    with pytest.raises(DecodeError, match="bytes follow its end"):
        decompress(member * 1000, "gzip", 10_000)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"plain", "gzip"), (b"", "gzip"), (b"", "deflate"), (gzip.compress(b"abc", mtime=0)[:-1], "gzip"), (zlib.compress(b"abc") + b"x",
        "deflate"),
        (gzip.compress(b"abc", mtime=0) + b"x", "gzip"), (zlib.compress(b"abc", wbits=-15), "deflate"), (zlib.compress(b"abc"), "gzip"),
    ],
)  # fmt: skip
def test_broken_data_is_refused(data: bytes, encoding: Encoding) -> None:
    with pytest.raises(DecodeError, match="failed to decompress"):
        decompress(data, encoding, 1000)


def test_encodings_by_name() -> None:
    assert [supported(e) for e in ("", "identity", "gzip", "GZIP ", "x-gzip", "deflate")] == [None, None, "gzip", "gzip", "gzip", "deflate"]
    with pytest.raises(Unsupported, match="Unsupported compression type 'br'"):
        supported("br")
    body = b"as it is"
    assert decompress_body(body, "identity", 1) is body
    assert decompress_body(gzip.compress(body), "gzip", 100) == body


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("", None), ("identity", None), ("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate, br", None), ("gzip, deflate", None),
        ("gzip, br", "gzip"), ("br", None), ("*", None), ("gzip;q=0", None), ("gzip;q=0.0, deflate;q=0.5", "deflate"), ("gzip;q=1.0",
        "gzip"),
        ("identity, deflate", "deflate"), ("gzip, gzip", "gzip"), ("gzip; q=0.000, deflate;q=1", "deflate"), ("GZip", "gzip"),
    ],
)  # fmt: skip
def test_answers_are_compressed_for_those_who_name_one_encoding(accept: str, encoding: str | None) -> None:
    assert response_encoding(accept) == encoding
