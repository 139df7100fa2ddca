"""HTTP/2 frames, as far as a client that sends unary calls needs them. Pure. Source: RFC 9113, sections 4, 6 and 7."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

from serving.bench.request import BadAnswer

MAX_FRAME = 16384
"""What may be sent to a server that says nothing else."""
LARGEST_FRAME = 1 << 18
"""What this client takes: as gRPC's own clients, it asks for large answers in large pieces."""
WINDOW = 65535
LARGEST_WINDOW = (1 << 31) - 1
HEAD = 9

NO_STREAM = b"\0\0\0\0"

_U32 = Struct(">I")
_SETTING = Struct(">HI")


class Frame(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


# Flags. Plain numbers: an IntFlag's & costs ten times theirs.
ACK = 1
END_STREAM = 1
END_HEADERS = 4
PADDED = 8
PRIORITY = 32


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5


class ErrorCode(IntEnum):
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def before_stream(length: int, kind: Frame, flags: int = 0) -> bytes:
    """Return the first five bytes of a frame; the stream's number and the payload come behind them."""
    return length.to_bytes(3, "big") + bytes((kind, flags))


def frame(kind: Frame, payload: bytes, flags: int = 0, stream: bytes = NO_STREAM) -> bytes:
    return before_stream(len(payload), kind, flags) + stream + payload


def window_update(stream: bytes, increment: int) -> bytes:
    return frame(Frame.WINDOW_UPDATE, _U32.pack(increment), stream=stream)


def rst_stream(stream: bytes, code: ErrorCode) -> bytes:
    return frame(Frame.RST_STREAM, _U32.pack(code), stream=stream)


PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frame(
        Frame.SETTINGS,
        _SETTING.pack(Setting.HEADER_TABLE_SIZE, 0)
        + _SETTING.pack(Setting.ENABLE_PUSH, 0)
        + _SETTING.pack(Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW)
        + _SETTING.pack(Setting.MAX_FRAME_SIZE, LARGEST_FRAME),
    )
    + window_update(NO_STREAM, LARGEST_WINDOW - WINDOW)
)
"""How a connection begins. A header table of size 0: the same header block then always means the same, and is decoded once."""

SETTINGS_ACK = frame(Frame.SETTINGS, b"", ACK)


def header_frames(block: bytes, max_frame: int) -> tuple[bytes, ...]:
    """Return a block of headers as HEADERS and CONTINUATION frames, cut where the stream's number belongs: `key.join` puts it in."""
    pieces = [block[at : at + max_frame] for at in range(0, len(block), max_frame)]
    parts = []
    payload = b""
    for number, piece in enumerate(pieces):
        kind = Frame.CONTINUATION if number else Frame.HEADERS
        parts.append(payload + before_stream(len(piece), kind, END_HEADERS if number == len(pieces) - 1 else 0))
        payload = piece
    return (*parts, payload)


def unpadded(flags: int, payload: bytes) -> bytes:
    """Return the payload of a DATA or HEADERS frame without padding and priority. BadAnswer where they do not fit into it."""
    end = len(payload)
    begin = 0
    if flags & PADDED:
        begin = 1
        end -= payload[0] if payload else 1
    if flags & PRIORITY:
        begin += 5
    if begin > end:
        raise BadAnswer("a frame with more padding than payload")
    return payload[begin:end]


def settings(payload: bytes) -> list[tuple[int, int]]:
    """Return (setting, value) in order. BadAnswer where the length is none."""
    if len(payload) % _SETTING.size:
        raise BadAnswer(f"SETTINGS of {len(payload)} bytes")
    return list(_SETTING.iter_unpack(payload))


def number(payload: bytes, what: Frame) -> int:
    """Return the 31-bit number that a frame begins with. BadAnswer where it is shorter."""
    if len(payload) < 4:
        raise BadAnswer(f"{what.name} of {len(payload)} bytes")
    return int(_U32.unpack_from(payload)[0]) & LARGEST_WINDOW


def error_code(payload: bytes, what: Frame) -> str:
    """Return the name of the error that a RST_STREAM or (behind its stream's number) a GOAWAY carries."""
    if len(payload) < 4:
        raise BadAnswer(f"{what.name} of {len(payload)} bytes")
    code: int = _U32.unpack_from(payload)[0]
    return ErrorCode(code).name if code in ErrorCode.__members__.values() else f"error {code}"
