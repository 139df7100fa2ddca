"""Header blocks of HTTP/2: those of requests, encoded once for a connection, and those of answers, read once for the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from hpack import Decoder, Encoder, HPACKError

from serving.bench.request import BadAnswer, Request

_KEPT_BLOCKS = 1024
_MAX_LIST = 65536
_NOT_IN_HTTP2 = {"host", "connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection", "content-length"}

GRPC_STATUS = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fields:
    """What of an answer's headers or trailers matters: 0 and -1 where the field is missing."""

    status: int
    grpc_status: int
    message: str


class AnswerHeaders:
    """Reads the blocks of one connection, in order. `known` is shared by connections."""

    def __init__(self, known: dict[bytes, Fields]) -> None:
        self._decoder = Decoder(_MAX_LIST)
        self._known = known

    @property
    def stateless(self) -> bool:
        """True where blocks mean the same on every connection: the server keeps to the header table of size 0 that it was given."""
        return not self._decoder.header_table.dynamic_entries

    def read(self, block: bytes) -> Fields:
        """Return what a block says. BadAnswer where it is none: no later block can be read then."""
        stateless = self.stateless
        if stateless:
            fields = self._known.get(block)
            if fields is not None:
                return fields
        try:
            fields = _fields([(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)])
        except (HPACKError, ValueError) as error:
            raise BadAnswer(f"headers: {error or type(error).__name__}") from None
        if stateless and self.stateless:
            if len(self._known) >= _KEPT_BLOCKS:
                self._known.clear()
            self._known[block] = fields
        return fields


class RequestHeaders:
    """Encodes the headers of one connection's requests as other clients do: in full once, by their places in the header table then."""

    def __init__(self, authority: str, scheme: str) -> None:
        self._authority = authority
        self._scheme = scheme
        self._encoder = Encoder()
        self._settled: dict[int, bytes] = {}

    def limit_table(self, nbytes: int) -> None:
        """The server takes a header table of at most this size."""
        if nbytes < self._encoder.header_table_size:
            self._encoder.header_table_size = nbytes
            self._settled.clear()

    def block(self, number: int, request: Request) -> tuple[bytes, bool]:
        """Return the block of this request, which is the `number`-th, and whether the same may be sent again."""
        block = self._settled.get(number)
        if block is not None:
            return block, True
        entries = self._encoder.header_table.dynamic_entries
        newest, count = entries[0] if entries else None, len(entries)
        block = bytes(self._encoder.encode(self._headers(request)))
        if (entries[0] if entries else None) is newest and len(entries) == count:
            self._settled[number] = block
            return block, True
        self._settled.clear()  # the places of all others have moved
        return block, False

    @property
    def settled(self) -> int:
        """How many blocks may be sent again; it falls when all of them have to be made anew."""
        return len(self._settled)

    def _headers(self, request: Request) -> list[tuple[str, str]]:
        own = [(":method", "POST"), (":scheme", self._scheme), (":path", request.path), (":authority", self._authority)]
        given = [(name.lower(), value) for name, value in request.headers if name.lower() not in _NOT_IN_HTTP2]
        names = {name for name, _ in given}
        added = [("te", "trailers"), ("content-type", "application/grpc")]
        return own + [header for header in added if header[0] not in names] + given


def status_name(code: int) -> str:
    """Return the name of a gRPC status."""
    return GRPC_STATUS[code] if 0 <= code < len(GRPC_STATUS) else f"status {code}"


def _fields(headers: list[tuple[bytes, bytes]]) -> Fields:
    found = dict(headers)
    status = found.get(b":status", b"0")
    grpc_status = found.get(b"grpc-status", b"")
    if not status.isdigit() or not (grpc_status or b"0").isdigit():
        raise BadAnswer(f"status {status!r}, grpc-status {grpc_status!r}")
    message = unquote(found.get(b"grpc-message", b"").decode("latin-1"))
    return Fields(int(status), int(grpc_status) if grpc_status else -1, message)
