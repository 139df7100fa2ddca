"""HttpReader: one connection's way in over HTTP/1.1: from bytes, wherever the network cut them, to requests with their bodies.

A head is found in the cache by its bytes; its body is a view of what came with it, where that was all in one piece, else it is received
straight into its place (`body.py`) or put together from chunks (`chunked_body.py`). Then the head's action has the request.

An action may set `connection.reader` when the head is complete: it then takes the body as it comes (streams).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from serving.errors import DecodeError, ServingError, Unavailable
from serving.gateway.body import BodySink, Receiver, crowded, too_large
from serving.gateway.chunked import MAX_CHUNKS
from serving.gateway.chunked_body import ChunkedBody
from serving.gateway.head import MAX_CACHED_HEAD_BYTES, NO_HEAD, Head
from serving.gateway.http2_frames import PREFACE, PREFACE_HEAD
from serving.gateway.http_exchange import HttpExchange
from serving.gateway.ports import BodyReader, Host
from serving.inference import Buffer

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
MAX_EDGE_CHUNKS = 1 << 18
"""The edge makes a chunk of what it has at the moment, some 16 KB: a gigabyte needs more than a client may send."""


class HttpReader(HttpExchange, Receiver):
    """One request from its first byte to its action. When the next one has its turn, and what protocol the socket has, say heirs."""

    __slots__ = (
        "_arrived",
        "_begun",
        "_find_head",
        "_rest",
        "_sink",
        "chunked",
        "since",
        "waiting",
    )

    def __init__(self, host: Host, trusted: bool) -> None:
        super().__init__(host, trusted)
        self._find_head = host.heads.find
        self._rest = b""
        """What is behind the request that is under way, or of a head that is not whole yet."""
        self._begun = False
        """A request came before the head that is not whole yet."""
        self._sink: BodySink | None = None
        self.chunked: ChunkedBody | None = None
        """The body that comes in chunks, until its end."""
        self._arrived = 0
        """Bytes of the body that is on its way."""
        self.waiting = "head"
        """For what: head, body, answer, linger (for a client that is to close)."""
        self.since = host.now()

    # What the heir says --------------------------------------------------------------------------------------------

    @abstractmethod
    def _swap(self, protocol: Any) -> None:
        """Have another protocol take what comes."""

    @abstractmethod
    def hold(self) -> None:
        """Do not read while a body takes its turns."""

    @abstractmethod
    def go_on(self) -> None:
        """The body has had its turns."""

    # Heads ---------------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        if end == 3:
            self._unfinished_head(data)
            return
        block = data[:end]
        if self.trusted:
            # The time-out differs in every call of a gRPC client with a deadline: without it heads repeat.
            cut = block.find(b"\r\ngrpc-timeout: ")
            if cut > 0:
                stop = block.find(b"\r\n", cut + 2)
                self.grpc_timeout = block[cut + 16 : stop]
                block = block[:cut] + block[stop:]
            else:
                self.grpc_timeout = b""
        head = self._find_head(block)
        if head is None:
            if block == PREFACE_HEAD and self._is_http2(data):
                return
            head = self._read_head(block)
            if head is None:
                return
        self.head = head
        length = head.content_length
        if length >= 0:
            have = len(data) - end
            if have == length:
                self._dispatch(head, memoryview(data)[end:] if length else b"")
            elif have > length:
                self._rest = data[end + length :]
                self._dispatch(head, memoryview(data)[end : end + length])
            else:
                self._receive_body(head, data, end)
        else:
            self._start_chunked(head, data, end)

    def _is_http2(self, data: bytes) -> bool:
        """Look for the preface of HTTP/2 where a connection begins; hand the connection on where it is there."""
        if self.trusted or self._begun or self.head is not NO_HEAD or not PREFACE.startswith(data[: len(PREFACE)]):
            return False
        if len(data) < len(PREFACE):
            self._rest = data
        else:
            successor = self.host.become_http2(self._transport)
            self.host.connections.discard(self)
            self._swap(successor)
            successor.data_received(data[len(PREFACE) :])
        return True

    def _read_head(self, block: bytes) -> Head | None:
        """Return the meaning of a head that was not seen before; None where it is refused."""
        self.head = NO_HEAD
        limits = self.host.limits
        if len(block) > MAX_CACHED_HEAD_BYTES and len(block) > limits.max_header_bytes:
            self._refuse(431, f"request head exceeds the maximum size of {limits.max_header_bytes} bytes")
            return None
        try:
            return self.host.heads.read(block)
        except DecodeError as error:
            self.fail(error, close=True)
        except Exception as error:
            self.bug(error)
        return None

    def _unfinished_head(self, data: bytes) -> None:
        stripped = data.lstrip(b"\r\n") if data[:1] in (b"\r", b"\n") else data
        if self.head is not NO_HEAD:
            self._begun = True
            self.head = NO_HEAD
        limit = self.host.limits.max_header_bytes
        if len(data) > limit:
            self._refuse(431, f"request head exceeds the maximum size of {limit} bytes")
        elif b"\n\n" in data or b"\n\r\n" in data.replace(b"\r\n", b""):
            self.fail(DecodeError("malformed HTTP request: a line must end with CR LF"), close=True)
        else:
            if stripped and not self._rest:
                self.since = self.host.now()
            self._rest = stripped

    # Bodies --------------------------------------------------------------------------------------------------------

    def _receive_body(self, head: Head, data: bytes, at: int) -> None:
        """The rest of the body is still to come: receive it straight into its place."""
        length = head.content_length
        if head.action.refuses:
            self._dispatch(head, b"")
            return
        limit = self.host.limits.max_body_bytes
        if length > limit:
            self.fail(too_large(length, limit), close=True)
            return
        if head.expect_continue:
            self._transport.write(CONTINUE)
        self.since = self.host.now()
        self.waiting = "body"
        try:
            sink = BodySink(self, self.host, length, head.inference_header_length or 0)
        except Unavailable as error:
            self.fail(error, close=True)
            return
        sink.take(memoryview(data)[at:])
        if not self.trusted:  # the edge's connections carry requests of all kinds
            sink.expect(at, length)
        self._sink = sink
        self._swap(sink)

    @property
    def idle(self) -> bool:
        """True while nothing of the next request has come."""
        return not self.busy and not self._rest and self.chunked is None and self.waiting == "head"

    def body_begins(self, prefix: bytes) -> tuple[int, int]:
        """Take over the head of a request that goes straight into shared memory (`body.Receiver`)."""
        start = prefix.find(b"\r\n\r\n") + 4
        head = self._find_head(prefix[:start]) if start > 3 else None
        if head is None or head.content_length <= 0 or head.expect_continue or head.action.refuses:
            return 0, 0
        self.head = head
        self.since = self.host.now()
        self.waiting = "body"
        return start, head.content_length

    def body_grows(self, nbytes: int) -> bool:
        """Count bytes of a body in; False where there is no room for them: the request has been refused then."""
        host = self.host
        self._arrived += nbytes
        host.arriving_bytes += nbytes
        if host.arriving_bytes <= host.limits.max_inflight_bytes:
            return True
        self.body_broken(crowded(host.limits))
        return False

    def body_arrived(self, body: Buffer, rest: bytes) -> None:
        """All of the body is there. A sink stays the protocol: the next request is likely to be of the same kind."""
        self.host.arriving_bytes -= self._arrived
        self._arrived = 0
        self.chunked = None
        self._rest = rest
        self._dispatch(self.head, body)

    def body_broken(self, error: ServingError) -> None:
        """The body that is on its way cannot be read or has no room: answer so."""
        self._drop_body()
        self.fail(error, close=True)

    def _drop_body(self) -> None:
        """Forget the body that is on its way."""
        self.host.arriving_bytes -= self._arrived
        self._arrived = 0
        self.chunked = None
        if self._sink is not None:
            self._sink.drop()
            self._sink = None
            self._swap(self)

    def _start_chunked(self, head: Head, data: bytes, at: int) -> None:
        # The edge sends small unary calls in one piece: size line, message, end. One look each, no decoder.
        line = data.find(b"\r\n", at, at + 10)
        streams = head.action.streams
        if line > at and data.endswith(b"\r\n0\r\n\r\n") and not streams:
            digits = data[at:line]
            try:
                # int() takes more than HTTP does: signs, spaces, underscores, 0x
                size = int(digits, 16) if digits.isalnum() and digits[0] != 48 else -1
            except ValueError:
                size = -1
            if line + 2 + size + 7 == len(data) and 0 < size <= self.host.limits.max_body_bytes:
                self._dispatch(head, memoryview(data)[line + 2 : line + 2 + size])
                return
        if head.expect_continue:
            self._transport.write(CONTINUE)
        self.since = self.host.now()
        self.waiting = "body"
        if streams:
            # A stream has no size of its own: its reader bounds each message and the number of them under way.
            self.chunked = ChunkedBody(self, 1 << 62, 1 << 62)
            self._dispatch(head, b"")
            if self.chunked is None:
                return
        else:
            self.chunked = ChunkedBody(self, self.host.limits.max_body_bytes, MAX_EDGE_CHUNKS if self.trusted else MAX_CHUNKS)
        if at < len(data):
            self.chunked.take(data[at:])

    def feed(self, reader: BodyReader, parts: list[bytes | memoryview], over: bool, rest: bytes) -> None:
        """Hand a stream what has come of it; `over`: that was the end, and `rest` came behind it."""
        try:
            if parts:
                reader.body(parts)
            if over and self.reader is reader:
                self.chunked = None
                self._rest = rest
                reader.requests_end()
        except Exception as error:
            self.bug(error)

    # The request ---------------------------------------------------------------------------------------------------

    def _dispatch(self, head: Head, body: Buffer) -> None:
        self.busy = True
        self.waiting = "answer"
        try:
            head.action.run(self, head, body)
        except ServingError as error:
            self.fail(error)
        except Exception as error:
            self.bug(error)
        reader = self.reader
        if reader is not None and self.chunked is None:
            # a stream whose requests have all come in one piece
            self.feed(reader, [memoryview(body)], True, self._rest)
