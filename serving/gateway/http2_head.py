"""Reads the header blocks of HTTP/2 requests.

A block that comes again while the table that it refers to is the same costs one look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from serving.errors import DecodeError, TooLarge
from serving.gateway.head import MAX_CACHED_HEAD_BYTES, Action, Head, new_head
from serving.gateway.http2_table import BadBlock, HeaderTable, LongBlock

MAX_BLOCKS = 256
"""Known blocks of a connection; a client with a time-out sends a few dozen."""
MAX_HEADS = 4096
_FORBIDDEN = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
"""Headers of one HTTP/1.1 hop: a request with one is malformed."""
_OF_THE_EDGE = b"x-serving-client"
_NAME = bytes(c for c in range(0x21, 0x7F) if c != 0x3A and not 0x41 <= c <= 0x5A)
"""What the name of a field consists of (RFC 9113 8.2.1)."""

Fields = tuple[tuple[bytes, bytes], ...]


class Http2Heads:
    """Heads by their fields, shared by all connections of a gateway. Bounded: cleared when full; big ones are not kept."""

    def __init__(self, route: Callable[[Head], Action]) -> None:
        self._heads: dict[Fields, Head] = {}
        self._route = route

    def get(self, fields: Fields) -> Head:
        """Return the head with its action. Raises DecodeError for fields that are no request."""
        head = self._heads.get(fields)
        if head is None:
            head = _read(fields)
            action = self._route(head)
            if head.content_length >= 0 and not action.streams:
                action = replace(action, run=_with_length(head.content_length, action.run))
            head.action = action
            if sum(len(name) + len(value) for name, value in fields) <= MAX_CACHED_HEAD_BYTES and not action.refuses:
                if len(self._heads) >= MAX_HEADS:
                    self._heads.clear()
                self._heads[fields] = head
        return head

    def clear(self) -> None:
        """Forget all heads (routes or limits changed)."""
        self._heads.clear()


class HeaderReader:
    """The header table of one connection's client, and the blocks that mean the same as long as the table does not change.

    `known` maps a block to its head and the text of its grpc-timeout, which differs from call to call while all else stays.
    """

    __slots__ = ("_heads", "_table", "known")

    def __init__(self, heads: Http2Heads, max_bytes: int) -> None:
        self._heads = heads
        self._table = HeaderTable(max_bytes)
        self.known: dict[bytes, tuple[Head, bytes]] = {}

    def read(self, block: bytes) -> tuple[Head, bytes]:
        """Return the head and the grpc-timeout of a block that is not in `known`.

        Raises TooLarge or BadTable where the connection cannot go on (its table is lost), DecodeError where only this request is wrong.
        """
        fields, changed = self._decode(block)
        timeout = b""
        rest = []
        for name, value in fields:
            if name == b"grpc-timeout":
                timeout = value
            else:
                rest.append((name, value))
        found = self._heads.get(tuple(rest)), timeout
        if not changed and len(block) <= MAX_CACHED_HEAD_BYTES and not found[0].action.refuses:
            if len(self.known) >= MAX_BLOCKS:
                self.known.clear()
            self.known[block] = found
        return found

    def skip(self, block: bytes) -> None:
        """Read a block for what it does to the table: trailers, and requests that are refused."""
        self._decode(block)

    def forget(self, max_bytes: int) -> None:
        """Routes or limits have changed: known blocks are to be looked up anew."""
        self.known.clear()
        self._table.max_list_bytes = max_bytes

    def _decode(self, block: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Return the fields, and whether the block has changed the table: then it would mean something else the next time."""
        table = self._table
        if len(block) > table.max_list_bytes:
            raise self._too_large()
        try:
            fields, changed = table.read(block)
        except LongBlock:
            raise self._too_large() from None
        except BadBlock as error:
            raise BadTable(f"header block that cannot be read: {str(error)[:100]}") from None
        if changed:
            self.known.clear()
        return fields, changed

    def _too_large(self) -> TooLarge:
        return TooLarge(f"request head exceeds the maximum size of {self._table.max_list_bytes} bytes")


class BadTable(DecodeError):
    """The header table of a connection is lost."""


def _read(fields: Fields) -> Head:
    pseudo: dict[bytes, bytes] = {}
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] == b":":
            if headers or name in pseudo or name not in (b":method", b":scheme", b":path", b":authority"):
                raise DecodeError(f"malformed HTTP/2 request: field {name!r} is unknown, repeated or late")
            pseudo[name] = value
        elif not name or name.translate(None, _NAME) or b"\n" in value or b"\r" in value or b"\0" in value:
            raise DecodeError(f"malformed HTTP/2 request: field {name[:100]!r}")
        elif name in _FORBIDDEN or (name == b"te" and value != b"trailers"):
            raise DecodeError(f"malformed HTTP/2 request: field {name!r} is of HTTP/1.1")
        elif name == b"content-length" and (not value.isdigit() or len(value) > 15 or headers.get(name, value) != value):
            raise DecodeError("malformed HTTP/2 request: content-length is not one whole number")
        elif name != _OF_THE_EDGE:
            headers.setdefault(name, value)
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not method or not path or b":scheme" not in pseudo:
        raise DecodeError("malformed HTTP/2 request: it needs :method, :scheme and :path")
    length = headers.get(b"content-length", b"")
    head = new_head()
    head.method = method
    head.path = path.decode("latin-1")
    head.headers = headers
    head.content_length = int(length) if length else -1
    return head


def _with_length(length: int, run: Callable[[Any, Head, Any], None]) -> Callable[[Any, Head, Any], None]:
    """Return `run` for a head that says how long its body is. Few clients say so, and only they pay for the look."""

    def checked(stream: Any, head: Head, body: Any) -> None:
        if len(body) != length:
            raise DecodeError(f"content-length is {length}, and {len(body)} bytes have come")
        run(stream, head, body)

    return checked
