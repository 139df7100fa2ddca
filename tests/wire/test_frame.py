from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import DecodeError
from serving.wire import frame as wire
from serving.wire.frame import Frame, FrameReader

Made = tuple[int, int, bytes, bytes]


def _frame(kind: int, count: int, size: int, payload: bytes) -> Made:
    return kind, count, bytes(range(256))[: size * count] if size * count <= 256 else bytes(size * count), payload


FRAMES = st.one_of(
    st.builds(_frame, st.just(wire.REQUESTS), st.integers(0, 5), st.just(wire.REQUEST.size), st.binary(max_size=300)),
    st.builds(_frame, st.just(wire.RESPONSES), st.integers(0, 5), st.just(wire.RESPONSE.size), st.binary(max_size=300)),
    st.builds(_frame, st.just(wire.DEFINE), st.just(1), st.just(4), st.binary(max_size=50)),
    st.builds(_frame, st.sampled_from([wire.FREE, wire.TAKEN]), st.integers(0, 9), st.just(8), st.just(b"")),
    st.builds(_frame, st.sampled_from([wire.HELLO, wire.PING, wire.PONG, wire.DRAIN]), st.just(1), st.just(0), st.binary(max_size=9)),
)


def _bytes(made: Made) -> bytes:
    kind, count, table, payload = made
    return wire.encode(kind, count, table, len(payload)) + payload


def _plain(frame: Frame) -> Made:
    return frame.kind, frame.count, bytes(frame.table), bytes(frame.payload)


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(1, 200), min_size=1, max_size=40))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(made: list[Made], cuts: list[int]) -> None:
    stream = b"".join(map(_bytes, made))
    reader = FrameReader()
    seen: list[Made] = []
    at = n = 0
    while at < len(stream):
        size = cuts[n % len(cuts)]
        seen += map(_plain, reader.feed(stream[at : at + size]))
        at += size
        n += 1
    assert seen == made
    assert repr(reader) == "FrameReader(0 bytes of an unfinished frame)"


@given(st.binary(max_size=400))
def test_garbage_is_frames_or_a_decode_error_and_nothing_else(data: bytes) -> None:
    reader = FrameReader()
    try:
        for frame in reader.feed(data):
            assert wire.HELLO <= frame.kind <= wire.TAKEN
    except DecodeError:
        pass
    else:
        assert "FrameReader" in repr(reader)


@pytest.mark.parametrize(
    "header",
    [
        wire.HEADER.pack(0, 0, 0, 0, 0),
        wire.HEADER.pack(99, 0, 0, 0, 0),
        wire.HEADER.pack(wire.REQUESTS, 0, 2, wire.REQUEST.size, 0),
        wire.HEADER.pack(wire.HELLO, 0, 1, 4, 0),
        wire.HEADER.pack(wire.PING, 0, 1, 0, wire.MAX_PAYLOAD_BYTES + 1),
        wire.HEADER.pack(wire.DEFINE, 0, 2, 8, 0),
        wire.HEADER.pack(wire.DEFINE, 0, 0, 0, 0),
    ],
    ids=["kind 0", "kind 99", "table too short", "table where none is", "absurd length", "two layouts", "no layout"],
)
def test_a_stream_that_cannot_be_ours_is_refused_at_its_header(header: bytes) -> None:
    with pytest.raises(DecodeError, match="not a frame"):
        list(FrameReader().feed(header))


def test_a_reader_with_a_smaller_bound_refuses_what_another_takes() -> None:
    ping = wire.encode_json(wire.PING, b"123456")
    assert [f.kind for f in FrameReader().feed(ping)] == [wire.PING]
    with pytest.raises(DecodeError):
        list(FrameReader(max_payload_bytes=5).feed(ping))


@pytest.mark.parametrize("count", [0, 1, 3, wire.MAX_COUNT, wire.MAX_COUNT + 1])
def test_any_number_of_keys_and_offsets_fits_into_as_many_frames_as_it_takes(count: int) -> None:
    reader = FrameReader()
    frames = list(reader.feed(wire.encode_keys(wire.CANCEL, list(range(count)))))
    assert [key for f in frames for (key,) in wire.KEY.iter_unpack(f.table)] == list(range(count))
    frames = list(reader.feed(wire.encode_taken({key: key & 3 for key in range(count)})))
    assert [take for f in frames for take in wire.TAKE.iter_unpack(f.table)] == [(key, key & 3) for key in range(count)]
    frames = list(reader.feed(wire.encode_offsets([n << 33 for n in range(count)])))
    assert [offset for f in frames for (offset,) in wire.OFFSET.iter_unpack(f.table)] == [n << 33 for n in range(count)]
