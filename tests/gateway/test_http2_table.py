"""HeaderTable against hpack's decoder."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder, HPACKError, OversizedHeaderListError
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.gateway import http2_frames as h2
from serving.gateway.http2_table import MAX_WORD_BYTES, MAX_WORDS, BadBlock, HeaderTable, LongBlock, Words

LIMIT = 1000
names = st.sampled_from([b":path", b"content-type", b"te", b"x", b"grpc-timeout", b"authorization", b"a-name-of-its-own"])
values = st.one_of(st.binary(max_size=12), st.sampled_from([b"", b"application/grpc", b"/a/b", b"x" * 200, b"y" * 3000]))
fields = st.lists(st.tuples(names, values, st.booleans()), max_size=6)


def known(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]] | type[Exception]:
    """What hpack says of a block."""
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except OversizedHeaderListError:
        return LongBlock
    except (HPACKError, IndexError):
        return BadBlock


def found(table: HeaderTable, block: bytes) -> list[tuple[bytes, bytes]] | type[Exception]:
    try:
        return table.read(block)[0]
    except (BadBlock, LongBlock) as error:
        return type(error)


def entries(decoder: Decoder) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in decoder.header_table.dynamic_entries]


@given(st.lists(st.tuples(fields, st.booleans(), st.none() | st.sampled_from([0, 40, 100, 4096])), max_size=20))
def test_blocks_of_a_client_mean_what_they_mean_to_hpack(blocks: list[tuple[list[tuple[bytes, bytes, bool]], bool, int | None]]) -> None:
    encoder, decoder, ours = Encoder(), Decoder(LIMIT), HeaderTable(LIMIT)
    for some, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(some, huffman=huffman)
        before = entries(decoder)
        expected = known(decoder, block)
        if isinstance(expected, type):
            assert found(ours, block) is expected
            return
        got, changed = ours.read(block)
        assert got == expected
        assert ours._entries == entries(decoder)
        assert changed or before == entries(decoder)


@settings(max_examples=400)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_mean_what_they_mean_to_hpack(blocks: list[bytes]) -> None:
    decoder, ours = Decoder(LIMIT), HeaderTable(LIMIT)
    for block in [h2.literal(b"one", b"1", 0x40) + h2.literal(b"two", b"2", 0x40), *blocks]:
        expected = known(decoder, block)
        assert found(ours, block) == expected
        if isinstance(expected, type):
            return


@pytest.mark.parametrize(("size", "whole"), [(126, True), (127, True), (128, True), (300, True), (967, True), (968, False)])
def test_a_block_may_have_so_much_and_no_more(size: int, whole: bool) -> None:
    block = h2.literal(b"x", b"v" * size)
    assert found(HeaderTable(LIMIT), block) == ([(b"x", b"v" * size)] if whole else LongBlock)


def test_a_number_is_bounded() -> None:
    for block in (b"\xff" + b"\x80" * 20 + b"\x01", b"\x00" + b"\x7f" + b"\xff" * 9, b"\x3f" + b"\x80" * 9 + b"\x00"):
        assert found(HeaderTable(LIMIT), block) is BadBlock


def test_words_are_bounded_and_secrets_are_not_kept() -> None:
    words = Words()
    codes = [Encoder().encode([(b"a", b"%d" % number)], huffman=True)[4:] for number in range(MAX_WORDS + 10)]
    texts = [words.read(code, True) for code in codes]
    assert texts == [b"%d" % number for number in range(MAX_WORDS + 10)]
    assert len(words._known) <= MAX_WORDS
    words = Words()
    assert words.read(codes[5], False) == b"5"
    long = Encoder().encode([(b"a", b"0" * 2 * MAX_WORD_BYTES)], huffman=True)
    assert words.read(long[-(2 * MAX_WORD_BYTES * 5 // 8) :], True) == b"0" * 2 * MAX_WORD_BYTES
    assert not words._known
