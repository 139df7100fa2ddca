"""HTTP/2 frames and the few HPACK blocks that a gRPC server sends. Pure: bytes in, bytes out. Source: RFC 9113, RFC 7541."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREFACE_HEAD: Final = PREFACE[:18]
"""What an HTTP/1.1 parser takes for the head of a request."""

FRAME: Final = Struct(">BHBBL")
"""Length (8 + 16 bits), type, flags, stream (its highest bit is reserved)."""
FRAME_BYTES: Final = FRAME.size
U32: Final = Struct(">L")
U32_PAIR: Final = Struct(">LL")
SETTING: Final = Struct(">HL")

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_BYTES: Final = 16_384
DEFAULT_TABLE_BYTES: Final = 4096
LARGEST_WINDOW: Final = (1 << 31) - 1
LARGEST_FRAME_BYTES: Final = (1 << 24) - 1
LAST_STREAM: Final = (1 << 31) - 1


class Broken(Exception):
    """The connection cannot go on; the text says why."""

    def __init__(self, code: Http2Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class Http2Code(IntEnum):
    """Error codes of RST_STREAM and GOAWAY."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one whole frame."""
    size = len(payload)
    return FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(name, value) for name, value in values.items()))


def window_update(stream: int, more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, U32.pack(more))


def rst_stream(stream: int, code: Http2Code) -> bytes:
    return frame(RST_STREAM, 0, stream, U32.pack(code))


def goaway(last_stream: int, code: Http2Code, text: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, U32_PAIR.pack(last_stream, code) + text)


def literal(name: bytes, value: bytes, first: int = 0x00) -> bytes:
    """Return a header field as plain text, new to the table. `first`: 0x00 = do not put it into the table, 0x40 = put it there."""
    return b"".join((bytes((first,)), _length(name), name, _length(value), value))


def _length(text: bytes) -> bytes:
    """Return the length of a string, an integer with a prefix of 7 bits."""
    size = len(text)
    if size < 127:
        return bytes((size,))
    out = bytearray((127,))
    size -= 127
    while size >= 128:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)


_CONTENT_TYPE = (b"content-type", b"application/grpc")
_ENCODINGS = (b"grpc-accept-encoding", b"identity, deflate, gzip")
_STATUS_200 = b"\x88"
_NO_TABLE = b"\x20"
"""An update of the table's size, to 0."""
MAX_TEXT_BYTES: Final = 4096
"""A longer grpc-message is cut: many clients take 8 KB of trailers, and a frame of them has to fit into 16 KB."""
RESPONSE_BLOCK: Final = b"\x88\xc0\xbf"
"""The head of an answer once the three fields below are in the client's table (newest first: 62, 63, 64)."""
TRAILER_OK: Final = b"\xbe"
"""The trailers of a good answer, then."""
PLAIN_BLOCK: Final = b"".join((_STATUS_200, literal(*_CONTENT_TYPE), literal(*_ENCODINGS)))
PLAIN_OK: Final = literal(b"grpc-status", b"0")
"""The same for a client without a table: the fields themselves."""


class ResponseHeaders:
    """What one connection's client has in its table of header fields, and so how our heads and trailers look.

    A table that the client allows takes three fields: content-type, grpc-accept-encoding (with the first head), grpc-status: 0 (with
    the first good trailers). From then on a head is three bytes and trailers are one. Without a table they are the fields themselves,
    always the same. `steady` is true as soon as each good answer has `block` for its head and `ok` for its trailers.
    """

    __slots__ = ("_named", "_table", "_update", "block", "ok", "steady")

    def __init__(self) -> None:
        self._table = True
        self._named = False
        self._update = b""
        """What the next block has to begin with, whatever kind of block it is."""
        self.block = RESPONSE_BLOCK
        self.ok = TRAILER_OK
        self.steady = False

    def limit(self, table_bytes: int) -> None:
        """The client says how large its table is. One that is smaller than the default is not used from then on."""
        if table_bytes < DEFAULT_TABLE_BYTES:
            self._table = self._named = self.steady = False
            self._update = _NO_TABLE
            self.block, self.ok = PLAIN_BLOCK, PLAIN_OK

    def head(self) -> bytes:
        """Return the block of a head that is followed by messages."""
        if self.steady:
            return self.block
        if not self._table:
            return self._begin(PLAIN_BLOCK)
        if self._named:
            return b"\x88\xbf\xbe"
        self._named = True
        return b"".join((_STATUS_200, literal(*_CONTENT_TYPE, 0x40), literal(*_ENCODINGS, 0x40)))

    def trailers(self, status: int, message: bytes = b"", retry_ms: int = 0) -> bytes:
        """Return the block of the trailers; a retry time of 0 is left out."""
        if status == 0:
            if self.steady:
                return self.ok
            if self._named:
                self.steady = True
                return literal(b"grpc-status", b"0", 0x40)
            if not self._table and not self._update:
                self.steady = True
                return self.ok
        return self._begin(*_status(status, message, retry_ms))

    def refusal(self, status: int, message: bytes, retry_ms: int) -> bytes:
        """Return the block of an answer that is trailers only."""
        return self._begin(_STATUS_200, literal(*_CONTENT_TYPE), *_status(status, message, retry_ms))

    def plain(self, status: int, content_type: bytes) -> bytes:
        """Return the head of an answer that is not gRPC."""
        return self._begin(literal(b":status", b"%d" % status), literal(b"content-type", content_type))

    def _begin(self, *fields: bytes) -> bytes:
        update, self._update = self._update, b""
        return b"".join((update, *fields))


def _status(status: int, message: bytes, retry_ms: int) -> list[bytes]:
    fields = [literal(b"grpc-status", b"%d" % status)]
    if message:
        fields.append(literal(b"grpc-message", _cut(message)))
    if retry_ms:
        fields.append(literal(b"grpc-retry-pushback-ms", b"%d" % retry_ms))
    return fields


def _cut(text: bytes) -> bytes:
    """Return at most MAX_TEXT_BYTES of a percent-encoded text, and no half of a %XX."""
    if len(text) <= MAX_TEXT_BYTES:
        return text
    text = text[:MAX_TEXT_BYTES]
    at = text.rfind(b"%", MAX_TEXT_BYTES - 2)
    return text[:at] if at >= 0 else text
