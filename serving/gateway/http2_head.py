"""Reads the header blocks of HTTP/2 requests.

A block that comes again while the table that it refers to is the same costs one look-up.
"""

from __future__ import annotations

from collections.abc import Callable

from hpack import Decoder, HPACKError, OversizedHeaderListError

from serving.errors import DecodeError, TooLarge
from serving.gateway.head import Action, Head, new_head

MAX_BLOCKS = 256
"""Known blocks of a connection; a client with a time-out sends a few dozen."""
MAX_HEADS = 4096
_FORBIDDEN = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"x-serving-client"))
"""Headers of one HTTP/1.1 hop, which HTTP/2 does not have; the last one is the edge's alone."""

Fields = tuple[tuple[bytes, bytes], ...]


class Http2Heads:
    """Heads by their fields, shared by all connections of a gateway. Bounded: cleared when full."""

    def __init__(self, route: Callable[[Head], Action]) -> None:
        self._heads: dict[Fields, Head] = {}
        self._route = route

    def get(self, fields: Fields) -> Head:
        """Return the head with its action. Raises DecodeError for fields that are no request."""
        head = self._heads.get(fields)
        if head is None:
            head = _read(fields)
            head.action = self._route(head)
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

    __slots__ = ("_decoder", "_heads", "known")

    def __init__(self, heads: Http2Heads, max_bytes: int) -> None:
        self._heads = heads
        self._decoder = Decoder(max_bytes)
        self.known: dict[bytes, tuple[Head, bytes]] = {}

    def read(self, block: bytes) -> tuple[Head, bytes]:
        """Return the head and the grpc-timeout of a block that is not in `known`.

        Raises TooLarge or BadTable where the connection cannot go on (its table is lost), DecodeError where only this request is wrong.
        """
        fields = self._decode(block)
        timeout = b""
        rest = []
        for name, value in fields:
            if name == b"grpc-timeout":
                timeout = value
            else:
                rest.append((name, value))
        found = self._heads.get(tuple(rest)), timeout
        if len(self.known) >= MAX_BLOCKS:
            self.known.clear()
        self.known[block] = found
        return found

    def skip(self, block: bytes) -> None:
        """Read a block for what it does to the table: trailers, and requests that are refused."""
        self._decode(block)

    def forget(self) -> None:
        """Routes or limits have changed: known blocks are to be looked up anew."""
        self.known.clear()

    def _decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        decoder = self._decoder
        table = decoder.header_table
        before = _newest(decoder), len(table.dynamic_entries), table.maxsize
        try:
            fields = [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
        except OversizedHeaderListError:
            raise TooLarge(f"request head exceeds the maximum size of {decoder.max_header_list_size} bytes") from None
        except (HPACKError, IndexError, ValueError) as error:
            raise BadTable(f"header block that cannot be read: {error}") from None
        if _newest(decoder) is not before[0] or (len(table.dynamic_entries), table.maxsize) != before[1:]:
            self.known.clear()
        return fields


class BadTable(DecodeError):
    """The header table of a connection is lost."""


def _newest(decoder: Decoder) -> object:
    """Return the entry that was put into the table last: each entry is an object of its own, so any change shows."""
    entries = decoder.header_table.dynamic_entries
    return entries[0] if entries else None


def _read(fields: Fields) -> Head:
    pseudo: dict[bytes, bytes] = {}
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] == b":":
            if headers or name in pseudo or name not in (b":method", b":scheme", b":path", b":authority"):
                raise DecodeError(f"malformed HTTP/2 request: field {name!r} is unknown, repeated or late")
            pseudo[name] = value
        elif name != name.lower() or not name or b"\n" in value or b"\r" in value or b"\0" in value:
            raise DecodeError(f"malformed HTTP/2 request: field {name[:100]!r}")
        elif name not in _FORBIDDEN:
            headers.setdefault(name, value)
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not method or not path or b":scheme" not in pseudo:
        raise DecodeError("malformed HTTP/2 request: it needs :method, :scheme and :path")
    length = headers.get(b"content-length", b"")
    head = new_head()
    head.method = method
    head.path = path.decode("latin-1")
    head.headers = headers
    head.content_length = int(length) if length.isdigit() and len(length) < 16 else -1
    return head
