"""gRPC's own framing inside an HTTP body: the 5-byte prefix, message compression, time-out and message headers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

from serving.errors import DecodeError, Internal, TooLarge
from serving.inference import Buffer
from serving.protocol import compression

PREFIX: Final = Struct(">BI")
PREFIX_BYTES: Final = PREFIX.size
MAX_MESSAGE_BYTES: Final = (1 << 31) - 1
MAX_STATUS_CHARACTERS: Final = 2048
_TIMEOUT_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {ord("%")}


class Message(NamedTuple):
    """One message, still compressed where the flag says so."""

    compressed: bool
    data: memoryview


class MessageReader:
    """Cuts a byte stream into messages. Feed it what arrives; it keeps at most one unfinished message.

    A message that lies whole in what was fed is a view of it, without a copy. Raises TooLarge as soon as a prefix
    announces more than `max_bytes`, DecodeError for a flag that does not exist: the stream is lost then.
    """

    __slots__ = ("_kept", "_max_bytes", "_missing", "_size")

    def __init__(self, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: list[Buffer] = []
        self._size = 0
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that `data` completes."""
        view = memoryview(data)
        if self._kept:
            self._kept.append(data)
            self._size += len(data)
            if self._size < self._missing:
                return
            view = memoryview(b"".join(self._kept))
            self._kept = []
            self._size = self._missing = 0
        at = 0
        end = len(view)
        while end - at >= PREFIX_BYTES:
            flag, size = PREFIX.unpack_from(view, at)
            if flag > 1:
                raise DecodeError(f"not a gRPC message: flag {flag}")
            if size > self._max_bytes:
                raise TooLarge(f"Received message larger than max ({size} vs. {self._max_bytes})")
            stop = at + PREFIX_BYTES + size
            if stop > end:
                self._keep(view, at, stop - at)
                return
            yield Message(flag == 1, view[at + PREFIX_BYTES : stop])
            at = stop
        if at < end:
            self._keep(view, at, PREFIX_BYTES)

    def finish(self) -> None:
        """Raise DecodeError where the stream ended inside a message."""
        if self._kept:
            raise DecodeError(f"the request ended after {self._size} of {self._missing} bytes of a message")

    def _keep(self, view: memoryview, at: int, missing: int) -> None:
        self._kept = [bytes(view[at:])]
        self._size = len(view) - at
        self._missing = missing

    def __repr__(self) -> str:
        return f"MessageReader({self._size} bytes of an unfinished message)"


def whole_message(body: Buffer) -> Message | None:
    """Return the message of a body that is exactly one uncompressed message, the usual unary call; else None: use a reader."""
    size = len(body) - PREFIX_BYTES
    if size < 0 or PREFIX.unpack_from(body, 0) != (0, size):
        return None
    return Message(False, memoryview(body)[PREFIX_BYTES:])


def decompress(message: Message, encoding: str, max_bytes: int = MAX_MESSAGE_BYTES) -> Buffer:
    """Return the message's bytes. `encoding`: the call's grpc-encoding header, "" without one.

    Raises Unsupported for an encoding that we do not have, Internal for a compressed message of a call without one (as
    gRPC's specification wants), DecodeError and TooLarge (see `compression`).
    """
    if not message.compressed:
        return message.data
    known = compression.supported(encoding)
    if known is None:
        raise Internal("a message has its compressed flag set, but the call has no grpc-encoding")
    return compression.decompress(message.data, known, max_bytes)


def prefixed(parts: Sequence[Buffer]) -> list[Buffer]:
    """Return the parts of a message behind their prefix; the first one is joined to it, the others are not copied."""
    size = 0
    for part in parts:
        size += len(part)
    if not parts:
        return [PREFIX.pack(0, 0)]
    return [PREFIX.pack(0, size) + parts[0], *parts[1:]]


def prefixed_compressed(parts: Sequence[Buffer], encoding: compression.Encoding) -> bytes:
    """Return the message compressed, behind its prefix with the flag set."""
    data = compression.compress(parts, encoding)
    return PREFIX.pack(1, len(data)) + data


def parse_timeout(text: str) -> float:
    """Return the seconds that a grpc-timeout header gives ("100m", "5S"). Raises DecodeError."""
    digits = text[:-1]
    unit = _TIMEOUT_UNITS.get(text[-1:])
    if unit is None or not (digits.isascii() and digits.isdigit() and len(digits) <= 8):
        raise DecodeError(f"grpc-timeout must be at most 8 digits and one of H, M, S, m, u, n, got '{text[:32]}'")
    return int(digits) * unit


def encode_status_message(text: str) -> bytes:
    """Return the value of a grpc-message trailer: percent-encoded UTF-8, cut to MAX_STATUS_CHARACTERS."""
    raw = text[:MAX_STATUS_CHARACTERS].encode("utf-8", "replace")
    if raw.isascii() and b"%" not in raw and raw.decode().isprintable():
        return raw
    return b"".join([bytes((b,)) if b in _PLAIN else b"%%%02X" % b for b in raw])
