"""The few bits of the protobuf wire format that are done by hand: varints and length-delimited fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serving.errors import DecodeError

FIXED_BYTES: Final = {1: 8, 5: 4}
"""Sizes of the wire types that have one."""


def varint(value: int) -> bytes:
    """Return the bytes of an unsigned number."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes | memoryview, at: int, end: int) -> tuple[int, int]:
    """Return the number that begins at `at`, and where it stops. Raises DecodeError beyond 64 bits or the end."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
        shift += 7
        if shift > 63:
            break
    raise DecodeError("cannot parse the protobuf message: broken varint")


def field(number: int, data: bytes) -> bytes:
    """Return a length-delimited field (text, bytes or a message)."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def texts(data: bytes | memoryview) -> dict[int, str]:
    """Return the length-delimited fields of a small message as text, by number; the last of each counts. Raises DecodeError."""
    return {number: text(piece) for number, piece in pieces(data)}


def pieces(data: bytes | memoryview) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield number and bytes of each length-delimited field, in order. Raises DecodeError."""
    at, end = 0, len(data)
    while at < end:
        key, at = read_varint(data, at, end)
        kind = key & 7
        start = at
        if kind == 0:
            _, at = read_varint(data, at, end)
        elif kind == 2:
            size, start = read_varint(data, at, end)
            at = start + size
        elif kind in FIXED_BYTES:
            at += FIXED_BYTES[kind]
        else:
            raise DecodeError(f"cannot parse the protobuf message: wire type {kind}")
        if at > end:
            raise DecodeError("cannot parse the protobuf message: truncated field")
        if kind == 2:
            yield key >> 3, data[start:at]


def text(data: bytes | memoryview) -> str:
    """Return UTF-8 as text. Raises DecodeError."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise DecodeError("cannot parse the protobuf message: text that is not UTF-8") from None
