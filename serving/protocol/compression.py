"""gzip and deflate, bounded: what comes in may not grow beyond a limit, whatever it says of itself. deflate = zlib format."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Final, Literal

from serving.errors import DecodeError, ServingError, TooLarge, Unsupported
from serving.inference import Buffer

_REFUSED: Final = re.compile(r"\s*[qQ]\s*=\s*0(\.0*)?\s*")
"""q=0 in an Accept-Encoding: not this one."""

Encoding = Literal["gzip", "deflate"]

MIN_RESPONSE_BYTES: Final = 1024
"""Answers below this go out as they are."""

_WINDOW_BITS: Final = {"gzip": 31, "deflate": 15}
PIECE_BYTES: Final = 256 * 1024
_MAX_MEMBERS: Final = 16
"""gzip members in one body: each costs a copy of what follows it, so thousands of empty ones would be an attack."""

_LEVEL: Final = 1
"""Fastest: an answer waits for this (a level above costs more time than a local network saves)."""


def supported(encoding: str) -> Encoding | None:
    """Return the encoding of a Content-Encoding or grpc-encoding header, None for identity. Raises Unsupported."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name == "gzip" or name == "x-gzip":
        return "gzip"
    if name == "deflate":
        return "deflate"
    raise Unsupported(f"Unsupported compression type '{encoding}', use gzip, deflate or identity")


def decompress(data: Buffer, encoding: Encoding, limit: int) -> bytes:
    """Return what was compressed. Raises DecodeError for broken or unfinished data, TooLarge beyond `limit` bytes.

    Never makes more than `limit` + PIECE_BYTES. Several gzip members after each other are one text (RFC 1952).
    """
    parts: list[bytes] = []
    rest = memoryview(data)
    for _ in range(_MAX_MEMBERS):
        try:
            rest = _member(rest, encoding, limit, parts)
        except zlib.error as error:
            raise DecodeError(f"failed to decompress the {encoding} data: {error}") from None
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if encoding != "gzip":
            break
    raise DecodeError(f"failed to decompress the {encoding} data: {len(rest)} bytes follow its end")


def _member(data: memoryview, encoding: Encoding, limit: int, parts: list[bytes]) -> memoryview:
    """Put what is in the first member to `parts`; return what follows it.

    In pieces: a thread that makes 64 MB at once keeps the interpreter from all others while it puts them together.
    """
    machine = zlib.decompressobj(_WINDOW_BITS[encoding])
    room = limit - sum(map(len, parts))
    for stop in range(PIECE_BYTES, len(data) + PIECE_BYTES, PIECE_BYTES):
        piece: Buffer = data[stop - PIECE_BYTES : stop]
        stop = min(stop, len(data))
        more = True
        while more:
            part = machine.decompress(piece, PIECE_BYTES)
            room -= len(part)
            if room < 0:
                raise TooLarge(f"Decompressed data size exceeds the maximum allowed value of {limit} bytes")
            parts.append(part)
            if machine.eof:
                return data[stop - len(machine.unused_data) :]
            piece = machine.unconsumed_tail
            more = bool(piece) or len(part) == PIECE_BYTES
    raise DecodeError(f"failed to decompress the {encoding} data: it ends too early")


def decompress_body(data: Buffer, content_encoding: str, limit: int) -> Buffer:
    """Return an HTTP body without its Content-Encoding; `data` itself where it has none.

    Raises Unsupported (415 at the endpoint "content_encoding") and DecodeError, which is also what a body beyond the
    limit gets: clients expect 400 there.
    """
    encoding = supported(content_encoding)
    if encoding is None:
        return data
    try:
        return decompress(data, encoding, limit)
    except TooLarge as error:
        raise DecodeError(error.message) from None


def compress(parts: Iterable[Buffer], encoding: Encoding) -> bytes:
    """Return the joined parts, compressed."""
    machine = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[encoding])
    out = [machine.compress(part) for part in parts]
    out.append(machine.flush())
    return b"".join(out)


def grpc_response_encoding(grpc_encoding: str, grpc_accept_encoding: str) -> Encoding | None:
    """Return the encoding for the answer to a gRPC call: that of its own messages, where the client takes it, else None.

    What a client accepts says nothing (libraries name all that they know, on every call); what it uses does.
    """
    try:
        encoding = supported(grpc_encoding)
    except ServingError:
        return None
    accepted = [name.strip() for name in grpc_accept_encoding.lower().split(",")]
    return encoding if encoding in accepted else None


def response_encoding(accept_encoding: str) -> Encoding | None:
    """Return the encoding for an infer answer: gzip or deflate where the header names exactly one of the two, else None.

    Some clients name all they know on every call (aiohttp), and compressing 1 MiB takes them 40 ms instead of 2: whoever
    means it names one.
    """
    named: list[Encoding] = []
    for item in accept_encoding.split(","):
        name, _, parameters = item.partition(";")
        if _REFUSED.fullmatch(parameters):
            continue
        try:
            encoding = supported(name)
        except ServingError:
            continue
        if encoding is not None and encoding not in named:
            named.append(encoding)
    return named[0] if len(named) == 1 else None
