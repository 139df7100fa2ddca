"""Header blocks, ours against hpack and hpack's against ours."""

from __future__ import annotations

from typing import Any

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import DecodeError, TooLarge
from serving.gateway import http2_frames as h2
from serving.gateway.head import Action
from serving.gateway.http2_head import BadTable, HeaderReader, Http2Heads

from .http2_fakes import FIELDS

ACTION = Action(lambda connection, head, body: None)
KINDS = st.sampled_from(["good", "error", "refusal", "plain"])
SIZES = st.sampled_from([0, 1, 100, 4095, 4096, 65_536])


def reader(max_bytes: int = 65_536) -> HeaderReader:
    return HeaderReader(Http2Heads(lambda head: ACTION), max_bytes)


@given(st.lists(st.one_of(KINDS, SIZES), max_size=30), st.binary(max_size=40))
def test_our_blocks_mean_what_we_say_whatever_table_the_client_has(steps: list[str | int], text: bytes) -> None:
    ours = h2.ResponseHeaders()
    decoder = Decoder()
    message = bytes(b for b in text if 0x20 < b < 0x7F)
    good = {":status": "200", "content-type": "application/grpc", "grpc-accept-encoding": "identity, deflate, gzip"}
    for step in steps:
        if isinstance(step, int):
            # The client's settings; hpack checks that the next block says what becomes of the table.
            ours.limit(step)
            decoder.max_allowed_table_size = step
        elif step == "good":
            assert dict(decoder.decode(ours.head())) == good
            assert dict(decoder.decode(ours.trailers(0))) == {"grpc-status": "0"}
        elif step == "error":
            assert dict(decoder.decode(ours.head())) == good
            fields = dict(decoder.decode(ours.trailers(3, message)))
            assert fields == {"grpc-status": "3"} | ({"grpc-message": message.decode()} if message else {})
        elif step == "refusal":
            fields = dict(decoder.decode(ours.refusal(8, b"no", 1000)))
            assert fields == {
                ":status": "200", "content-type": "application/grpc",
                "grpc-status": "8", "grpc-message": "no", "grpc-retry-pushback-ms": "1000",
            }  # fmt: skip
        else:
            assert dict(decoder.decode(ours.plain(415, b"text/plain"))) == {":status": "415", "content-type": "text/plain"}
        if ours.steady:
            # what the writer sends from now on, without asking
            assert (ours.head(), ours.trailers(0)) == (ours.block, ours.ok)
            assert dict(decoder.decode(ours.block)) == good
            assert dict(decoder.decode(ours.ok)) == {"grpc-status": "0"}


def test_the_table_may_shrink_between_a_head_and_its_trailers() -> None:
    ours, decoder = h2.ResponseHeaders(), Decoder()
    decoder.decode(ours.head())
    ours.limit(0)
    decoder.max_allowed_table_size = 0
    assert dict(decoder.decode(ours.trailers(0))) == {"grpc-status": "0"}


@given(st.integers(1, 5000), st.integers(0, 5000))
def test_a_long_text_is_cut_and_no_percent_sign_with_it(plain: int, coded: int) -> None:
    text = b"a" * plain + b"%C3" * coded
    (status, found) = Decoder().decode(h2.ResponseHeaders().trailers(2, text))
    assert status == ("grpc-status", "2")
    value = found[1].encode()
    assert (text).startswith(value)
    assert len(value) <= h2.MAX_TEXT_BYTES
    assert len(value) == len(text) or len(value) > h2.MAX_TEXT_BYTES - 3
    assert (len(value) - plain) % 3 == 0 or len(value) <= plain


NAMES = st.sampled_from(["a", "b", "x-long-name", "grpc-encoding", "authorization"])
EXTRA = st.lists(st.tuples(NAMES, st.text("abc", max_size=8)), max_size=4)
TIMEOUTS = st.one_of(st.none(), st.integers(1, 30))


@given(
    st.lists(st.tuples(EXTRA, TIMEOUTS, st.one_of(st.none(), st.sampled_from([0, 60, 200, 4096])), st.booleans()), min_size=1, max_size=40)
)
def test_blocks_are_read_right_however_the_table_changes(requests: list[Any]) -> None:
    encoder, ours = Encoder(), reader()
    for extra, timeout, table, huffman in requests:
        if table is not None:
            encoder.header_table_size = table
        fields = [*FIELDS, *extra, *([("grpc-timeout", f"{timeout}S")] if timeout else [])]
        block = encoder.encode(fields, huffman=huffman)
        head, found = ours.known.get(block) or ours.read(block)
        assert found == (b"%dS" % timeout if timeout else b"")
        first: dict[bytes, bytes] = {}
        for name, value in [*FIELDS[4:], *extra]:
            first.setdefault(name.encode(), value.encode())
        assert head.headers == first
        assert head.action is ACTION


def test_a_block_that_changes_the_table_is_not_taken_for_known() -> None:
    """A client may put the same field into its table again and again; what it refers to by number moves each time."""
    ours = reader()
    base = Encoder()
    ours.read(base.encode(FIELDS))
    adds = base.encode(FIELDS) + h2.literal(b"x", b"1", 0x40)
    for _ in range(3):
        head, _ = ours.known.get(adds) or ours.read(adds)
        # the field that was the newest is now the second newest, and so on: the client encodes the same block no more
        adds = bytes(b + 1 if b >= 0xBE and i < len(adds) - 5 else b for i, b in enumerate(adds))
        assert head.headers[b"x"] == b"1"
        assert head.headers[b"content-type"] == b"application/grpc"
    newest = b"\x83\x86\x84" + bytes((0xBE,)) + h2.literal(b"x", b"1", 0x40)
    for _ in range(3):
        assert newest not in ours.known
        ours.read(newest)
    assert len(ours._table._entries) >= 6


def test_what_is_remembered_is_bounded() -> None:
    heads = Http2Heads(lambda head: ACTION)
    ours = HeaderReader(heads, 65_536)
    plain = b"\x83\x86\x84"
    for at in range(6000):
        ours.read(plain + h2.literal(b"x", b"%d" % at))
    assert len(ours.known) <= 256
    assert len(heads._heads) <= 4096
    heads.clear()
    ours.forget(65_536)
    ours.read(plain + h2.literal(b"x", bytes(60_000).replace(b"\0", b"a")))
    assert not ours.known
    assert not heads._heads


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ([(b":method", b"POST"), (b":path", b"/")], ":scheme"),
        ([(b":method", b"POST"), (b":scheme", b"h"), (b":path", b"")], ":path"),
        ([*FIELDS, (b":path", b"/")], "late"),
        ([(b":method", b"POST"), (b":method", b"POST")], "repeated"),
        ([(b":status", b"200")], "unknown"),
        ([*FIELDS, (b"Upper", b"1")], "Upper"),
        ([*FIELDS, (b"a b", b"1")], "a b"),
        ([*FIELDS, (b"", b"1")], "b''"),
        ([*FIELDS, (b"a", b"1\r\n2")], "field"),
        ([*FIELDS, (b"connection", b"close")], "HTTP/1.1"),
        ([*FIELDS, (b"transfer-encoding", b"chunked")], "HTTP/1.1"),
        ([*FIELDS[:4], (b"te", b"gzip")], "HTTP/1.1"),
        ([*FIELDS, (b"content-length", b"-1")], "content-length"),
        ([*FIELDS, (b"content-length", b"1"), (b"content-length", b"2")], "content-length"),
    ],
)
def test_malformed_requests(fields: list[Any], text: str) -> None:
    block = b"".join(h2.literal(n if isinstance(n, bytes) else n.encode(), v if isinstance(v, bytes) else v.encode()) for n, v in fields)
    with pytest.raises(DecodeError, match="malformed") as error:
        reader().read(block)
    assert text in error.value.message
    assert not isinstance(error.value, BadTable)


@pytest.mark.parametrize(
    "block", [b"\xff", b"\x80", b"\xbe", b"\x00\x05ab", b"\x3f\xff\xff\x03", b"\x82\x20", b"\xff" * 100, b"\x00\x81\xff\x00"]
)
def test_blocks_that_are_none(block: bytes) -> None:
    with pytest.raises(BadTable):
        reader().skip(block)


def test_a_small_block_may_not_mean_a_large_head() -> None:
    ours = reader()
    ours.skip(h2.literal(b"bomb", b"x" * 4000, 0x40))
    with pytest.raises(TooLarge):
        ours.skip(b"\xbe" * 1000)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_block_or_refused(block: bytes) -> None:
    try:
        reader().read(block)
    except (DecodeError, TooLarge):
        pass
