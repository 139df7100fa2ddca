"""gRPC framing: messages come out whole however the bytes arrive."""

from __future__ import annotations

import gzip
import zlib
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import DecodeError, Internal, TooLarge, Unsupported
from serving.protocol.grpc_frame import (
    Message,
    MessageReader,
    decompress,
    encode_status_message,
    parse_timeout,
    prefixed,
    prefixed_compressed,
    whole_message,
)  # fmt: skip


def framed(*messages: bytes) -> bytes:
    return b"".join(bytes(part) for m in messages for part in prefixed([m]))


@given(st.lists(st.binary(max_size=30), max_size=5), st.lists(st.integers(0, 200), max_size=8))
def test_messages_come_out_whole_however_the_bytes_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    data = framed(*messages)
    places = sorted(min(c, len(data)) for c in cuts)
    reader = MessageReader()
    got = [bytes(m.data) for a, b in zip([0, *places], [*places, len(data)], strict=True) for m in reader.feed(data[a:b])]
    assert got == messages
    reader.finish()
    assert repr(reader) == "MessageReader(0 bytes of an unfinished message)"


def test_a_whole_message_is_not_copied() -> None:
    data = framed(b"abc")
    (message,) = MessageReader().feed(data)
    assert message.data.obj is data
    assert whole_message(data) == Message(False, memoryview(b"abc"))


@pytest.mark.parametrize("data", [b"", b"\0\0\0\0", b"\0\0\0\0\2a", b"\0\0\0\0\1ab", b"\1\0\0\0\1a"])
def test_a_body_that_is_not_one_plain_message_is_left_to_the_reader(data: bytes) -> None:
    assert whole_message(data) is None


def test_a_message_above_the_limit_is_refused_at_its_prefix() -> None:
    assert [bytes(m.data) for m in MessageReader(4).feed(framed(b"1234"))] == [b"1234"]
    with pytest.raises(TooLarge, match=r"Received message larger than max \(5 vs. 4\)"):
        list(MessageReader(4).feed(b"\0\0\0\0\5"))


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(DecodeError, match="flag 2"):
        list(MessageReader().feed(b"\2\0\0\0\0"))


def test_half_a_message_at_the_end_is_refused() -> None:
    reader = MessageReader()
    assert list(reader.feed(framed(b"abc")[:-1])) == []
    with pytest.raises(DecodeError, match="after 7 of 8 bytes"):
        reader.finish()


def test_messages_are_decompressed_by_the_calls_encoding() -> None:
    for encoding, data in (("gzip", gzip.compress(b"abc")), ("deflate", zlib.compress(b"abc"))):
        assert decompress(Message(True, memoryview(data)), encoding) == b"abc"
        with pytest.raises(TooLarge):
            decompress(Message(True, memoryview(data)), encoding, 2)
    assert bytes(decompress(Message(False, memoryview(b"abc")), "gzip")) == b"abc"
    with pytest.raises(Internal, match="compressed flag"):
        decompress(Message(True, memoryview(b"")), "")
    with pytest.raises(Unsupported):
        decompress(Message(True, memoryview(b"")), "snappy")


def test_compressed_messages_come_back() -> None:
    for encoding in ("gzip", "deflate"):
        (message,) = MessageReader().feed(prefixed_compressed([b"abc", memoryview(b"def")], encoding))  # type: ignore[arg-type]
        assert (message.compressed, decompress(message, encoding)) == (True, b"abcdef")


def test_parts_are_prefixed_without_a_copy_of_the_tensors() -> None:
    tensor = memoryview(b"tensor")
    parts = prefixed([b"head", tensor])
    assert parts[0] == b"\0\0\0\0\x0ahead"
    assert parts[1] is tensor
    assert prefixed([]) == [b"\0\0\0\0\0"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100m", 0.1), ("5S", 5.0), ("2M", 120.0), ("1H", 3600.0), ("7u", 7e-6), ("9n", 9e-9), ("0S", 0.0), ("99999999H", 99999999 * 3600.0)],
)
def test_timeouts(text: str, seconds: float) -> None:
    assert parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "5", "5s", "-1S", "1.5S", "100000000S", " 5S", "٣S", "5 S"])
def test_timeouts_that_are_none(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_timeout(text)


@given(st.text(max_size=50))
def test_status_messages_come_back_from_percent_encoding(text: str) -> None:
    encoded = encode_status_message(text)
    assert all(0x20 <= b < 0x7F for b in encoded)
    assert unquote_to_bytes(encoded) == text.encode("utf-8", "replace")


def test_status_messages_are_short_enough_for_a_trailer() -> None:
    assert len(encode_status_message("é" * 100_000)) <= 2048 * 6
