"""How gRPC answers are written: over HTTP/1.1 (behind the edge) as chunked bodies with trailers, over HTTP/2 as frames.

`GrpcApi` and the streams say what to answer, a `GrpcOut` says it in bytes. Both kinds of connection offer what an action needs of a
request (`GrpcExchange`).
"""

from __future__ import annotations

from typing import Any, Protocol

from serving.errors import ServingError
from serving.gateway.head import Head
from serving.gateway.http2_frames import literal
from serving.gateway.http2_stream import Http2Stream
from serving.gateway.http_exchange import HttpExchange
from serving.gateway.ports import BodyReader, Exchange, Host
from serving.inference import Buffer
from serving.protocol.compression import Encoding
from serving.protocol.grpc_frame import encode_status_message, prefixed
from serving.protocol.status import grpc_status

_START = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-accept-encoding: identity, deflate, gzip\r\ntransfer-encoding: chunked\r\n"
)
_END_OK = b"\r\n0\r\ngrpc-status: 0\r\n\r\n"
MAX_CACHED_HEADS = 4096


class GrpcExchange(Exchange, Protocol):
    """One gRPC request."""

    host: Host
    head: Head
    grpc_timeout: bytes
    reader: BodyReader | None

    @property
    def client(self) -> bytes:
        """Return the name by which limits know the client."""

    @property
    def address(self) -> bytes:
        """Return the name of the client's address."""

    @property
    def streams(self) -> bool:
        """A client that has gone is noticed, so streams may be opened."""

    def answer(self, call: Any, response: Any) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class GrpcOut(Protocol):
    """Writes answers of one kind of connection."""

    def answer(self, to: Any, parts: list[Buffer]) -> None:
        """Write the one message of a unary call, `parts` without its prefix, and the status OK."""

    def answer_compressed(self, to: Any, data: bytes, encoding: Encoding) -> None:
        """The same for a message that is compressed; `data` with its prefix."""

    def fail(self, to: Any, error: ServingError) -> None:
        """Write a status and no message, where no answer has begun."""

    def begin(self, to: Any) -> None:
        """Write the head of a stream of answers."""

    def message(self, to: Any, parts: list[Buffer]) -> None:
        """Write one message of a stream."""

    def end(self, to: Any, error: ServingError | None) -> None:
        """Write the status of a stream; it is over."""


class OverHttp1:
    """Heads are kept by the size of their message."""

    def __init__(self) -> None:
        self._heads: dict[tuple[int, bool], bytes] = {}

    def answer(self, to: HttpExchange, parts: list[Buffer]) -> None:
        total = 0
        for part in parts:
            total += len(part)
        close = to.closes()
        head = self._heads.get((total, close))
        if head is None:
            head = self._head(total, close)
        parts.append(_END_OK)
        to.write_answer(head, parts, total, close)

    def _head(self, total: int, close: bool) -> bytes:
        """Return all bytes before a message of `total` bytes: HTTP head, chunk size, gRPC prefix."""
        start = _START + b"connection: close\r\n" if close else _START
        head = start + b"\r\n%x\r\n\0" % (total + 5) + total.to_bytes(4, "big")
        if len(self._heads) >= MAX_CACHED_HEADS:
            self._heads.clear()
        self._heads[total, close] = head
        return head

    def answer_compressed(self, to: HttpExchange, data: bytes, encoding: Encoding) -> None:
        close = to.closes()
        start = _START + b"connection: close\r\n" if close else _START
        head = start + b"grpc-encoding: %s\r\n\r\n%x\r\n" % (encoding.encode(), len(data))
        to.write_answer(head, [data, _END_OK], len(data), close)

    def fail(self, to: HttpExchange, error: ServingError) -> None:
        close = to.closes()
        lines = [
            b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n",
            b"grpc-status: %d\r\ngrpc-message: %s\r\n" % (grpc_status(error.code), encode_status_message(error.message)),
            b"grpc-retry-pushback-ms: %d\r\n" % (error.retry_after_s * 1000) if error.retry_after_s else b"",
            b"connection: close\r\n\r\n" if close else b"\r\n",
        ]
        to.write_answer(b"".join(lines), [], 0, close)

    def begin(self, to: HttpExchange) -> None:
        to.write_raw(_START + b"\r\n")

    def message(self, to: HttpExchange, parts: list[Buffer]) -> None:
        total = sum(len(p) for p in parts)
        to.write_raw(b"".join((b"%x\r\n" % (total + 5), *prefixed(parts), b"\r\n")))

    def end(self, to: HttpExchange, error: ServingError | None) -> None:
        if error is None:
            to.write_raw(b"0\r\ngrpc-status: 0\r\n\r\n")
        else:
            status = grpc_status(error.code), encode_status_message(error.message)
            to.write_raw(b"0\r\ngrpc-status: %d\r\ngrpc-message: %s\r\n\r\n" % status)
        to.finish()


class OverHttp2:
    """Hands on to the stream, which knows its frames."""

    def answer(self, to: Http2Stream, parts: list[Buffer]) -> None:
        to.write_unary(parts)

    def answer_compressed(self, to: Http2Stream, data: bytes, encoding: Encoding) -> None:
        if not to.over:
            to.wire.write_block(to, to.wire.response_head() + literal(b"grpc-encoding", encoding.encode()), False)
            to.write_message([data])
            to.write_trailers(0, b"")

    def fail(self, to: Http2Stream, error: ServingError) -> None:
        to.write_refusal(grpc_status(error.code), encode_status_message(error.message), int(error.retry_after_s * 1000))

    def begin(self, to: Http2Stream) -> None:
        to.write_head()

    def message(self, to: Http2Stream, parts: list[Buffer]) -> None:
        to.write_message(prefixed(parts))

    def end(self, to: Http2Stream, error: ServingError | None) -> None:
        if error is None:
            to.write_trailers(0, b"")
        else:
            to.write_trailers(grpc_status(error.code), encode_status_message(error.message))
