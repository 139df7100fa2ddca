"""Frames between gateway and replica: the byte layout, spelled once. Pure: bytes in, values out; no sockets, no asyncio.

A connection is a stream of frames. A frame is a 16-byte header, a table of fixed-size records, and the payloads of the
records back to back. All numbers little-endian.

    header   kind u8 · flags u8 · count u16 · table_bytes u32 · payload_bytes u64
    REQUESTS   table: count × REQUEST     payload: tensor bytes of each, in order
    RESPONSES  table: count × RESPONSE    payload: tensor bytes of each (code OK) or the message as UTF-8 (else)
    DEFINE     table: layout id u32       payload: the Layout as JSON; later records of this direction may use the id
    CANCEL     table: count × key u32
    TAKEN      table: count × (key u32 · answers u32)  (the gateway has passed on so many more of the answers to a request)
    FREE       table: count × offset u64  (shared memory slots of the receiver that the sender has done with)
    HELLO, PING, PONG, DRAIN              payload: JSON, may be empty
    FORGET                                payload: JSON {"n", "m": version key, "s": sequence key in hex}; answered by a PONG with the same

Why layouts are defined once per connection: names, shapes and parameters of a request are the same for nearly all
requests of a client; sending them once leaves a 32-byte record and the tensor bytes. Either side keeps at most
`MAX_LAYOUTS` and reuses ids, so a peer with ever new shapes costs one DEFINE per request and no memory.

A request to a decoupled model has any number of records in RESPONSES: answers with FLAG_MORE, and one last record without it, which
is an error or, with FLAG_EMPTY, nothing but the end. TAKEN lets the replica go on: it sends only
so many answers to a request that nobody has taken yet (`batching/streams.py`).

A record with FLAG_SHM has 16 bytes of payload: offset u64 · length u64 in the sender's shared memory (`arena.py`).
`payload_bytes` of the record then counts these 16 bytes.
A request with FLAG_SEQUENCE has a `sequence.Step` in front of all that; it counts too.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, pack
from typing import NamedTuple

from serving.errors import DecodeError

HEADER = Struct("<BBHIQ")
HEADER_BYTES = HEADER.size
REQUEST = Struct("<IIQQBBHI")
"""key · layout id · budget_us (time to the deadline, 0 = none) · payload_bytes · priority · flags · attempt · timeout_us (queue)"""
RESPONSE = Struct("<IIQIIIBBH")
"""key · layout id · payload_bytes · queue_us · compute_us · batch_rows · code · flags · retry_after_ms"""
KEY = Struct("<I")
OFFSET = Struct("<Q")
SLOT = Struct("<QQ")
TAKE = Struct("<II")
"""key · answers"""

HELLO, DEFINE, REQUESTS, RESPONSES, CANCEL, FREE, PING, PONG, DRAIN, TAKEN, FORGET = range(1, 12)
FLAG_SHM = 1
FLAG_MORE = 2
FLAG_EMPTY = 4
FLAG_SEQUENCE = 8

MAX_COUNT = 0xFFFF
MAX_LAYOUTS = 1024
MAX_PAYLOAD_BYTES = 1 << 32
PROTOCOL = 1

_RECORD_BYTES = {
    DEFINE: KEY.size,
    REQUESTS: REQUEST.size,
    RESPONSES: RESPONSE.size,
    CANCEL: KEY.size,
    FREE: OFFSET.size,
    HELLO: 0,
    PING: 0,
    PONG: 0,
    DRAIN: 0,
    TAKEN: TAKE.size,
    FORGET: 0,
}


class Frame(NamedTuple):
    """One whole frame. `payload` is a view into the bytes received and keeps them alive."""

    kind: int
    count: int  # type: ignore[assignment]  # our field, over tuple.count, which nobody calls on a frame
    table: bytes | memoryview
    payload: memoryview


def encode(kind: int, count: int, table: bytes, payload_bytes: int) -> bytes:
    """Return header and table; the caller writes the payload buffers behind it, `payload_bytes` in all."""
    return HEADER.pack(kind, 0, count, len(table), payload_bytes) + table


def encode_json(kind: int, body: bytes = b"") -> bytes:
    """Return a whole HELLO, PING, PONG, DRAIN or FORGET frame."""
    return HEADER.pack(kind, 0, 1, 0, len(body)) + body


def encode_define(layout_id: int, body: bytes) -> bytes:
    """Return a whole DEFINE frame for the layout (JSON in `body`)."""
    return HEADER.pack(DEFINE, 0, 1, KEY.size, len(body)) + KEY.pack(layout_id) + body


def encode_keys(kind: int, keys: list[int]) -> bytes:
    """Return CANCEL frames for the keys: one, or as many as MAX_COUNT asks for."""
    return _encode_words(kind, "I", 4, keys)


def encode_taken(answers: dict[int, int]) -> bytes:
    """Return TAKEN frames for these numbers of answers, by key."""
    frames = []
    keys = list(answers)
    for at in range(0, len(keys), MAX_COUNT):
        part = keys[at : at + MAX_COUNT]
        frames.append(encode(TAKEN, len(part), b"".join([TAKE.pack(key, answers[key]) for key in part]), 0))
    return b"".join(frames)


def encode_offsets(offsets: list[int]) -> bytes:
    """Return FREE frames for the slots at these offsets of the receiver's shared memory."""
    return _encode_words(FREE, "Q", 8, offsets)


def _encode_words(kind: int, code: str, size: int, words: list[int]) -> bytes:
    frames = []
    for at in range(0, len(words), MAX_COUNT):
        part = words[at : at + MAX_COUNT]
        frames.append(HEADER.pack(kind, 0, len(part), size * len(part), 0))
        frames.append(pack(f"<{len(part)}{code}", *part))
    return b"".join(frames)


class FrameReader:
    """Cuts a byte stream into frames. Feed it what arrives; it keeps at most one unfinished frame.

    Raises DecodeError for a stream that cannot be ours (unknown kind, table of a wrong size, absurd length): the
    connection must then be closed, there is no way to find the next frame.
    """

    __slots__ = ("_max_payload", "_missing", "_parts", "_size")

    def __init__(self, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._max_payload = max_payload_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes. Run it to its end: what it has not yielded is lost."""
        if self._parts:
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._missing:
                return
            data = b"".join(self._parts)
            self._parts = []
        at = 0
        end = len(data)
        view = memoryview(data)
        max_payload = self._max_payload
        while end - at >= HEADER_BYTES:
            kind, _, count, table_bytes, payload_bytes = HEADER.unpack_from(data, at)
            record = _RECORD_BYTES.get(kind)
            if record is None or table_bytes != record * count or payload_bytes > max_payload or (kind == DEFINE and count != 1):
                raise DecodeError(f"not a frame: kind {kind}, {count} records, table of {table_bytes} bytes")
            body = at + HEADER_BYTES + table_bytes
            stop = body + payload_bytes
            if stop > end:
                self._keep(data, view, at, stop - at)
                return
            yield Frame(kind, count, view[at + HEADER_BYTES : body], view[body:stop])
            at = stop
        if at < end:
            self._keep(data, view, at, HEADER_BYTES)

    def _keep(self, data: bytes, view: memoryview, at: int, missing: int) -> None:
        rest = data if at == 0 else bytes(view[at:])
        self._parts = [rest]
        self._size = len(rest)
        self._missing = missing

    def __repr__(self) -> str:
        return f"FrameReader({self._size if self._parts else 0} bytes of an unfinished frame)"
