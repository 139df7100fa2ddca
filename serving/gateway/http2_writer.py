"""FrameWriter: an HTTP/2 connection's way out: answers as frames, as much at a time as the client's windows allow.

What does not fit waits with its stream; streams that wait take turns. A client that does not read makes its answers wait, too; what
has to be written all the same (heads, refusals, replies) is counted, and when it is too much the connection ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from serving.gateway import http2_frames as h2
from serving.gateway.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADERS,
    U32,
    Broken,
    Http2Code,
    ResponseHeaders,
)
from serving.gateway.http2_stream import Http2Stream
from serving.gateway.ports import Host
from serving.inference import Buffer

MAX_UNREAD_BYTES = 2 << 20
"""What may be written to a client that does not read, besides its answers."""
HIGH_WATER_BYTES = 1 << 20
"""A transport that holds more than this asks us to wait."""
JOIN_BYTES = 64 * 1024
MAX_FRAME_BYTES = 1 << 20
MAX_SIZES = 4096


class Owner(Protocol):
    """The connection."""

    host: Host
    address: bytes
    streams: dict[int, Http2Stream]

    def finished(self, stream: Http2Stream) -> None:
        """An answer is complete whose request is not, or the connection is to end."""

    def reset(self, stream: Http2Stream, code: Http2Code) -> None:
        """End a stream without an answer."""

    def unread(self) -> None:
        """The client does not read."""

    def blocked(self) -> None:
        """An answer has to wait for the client's windows."""


class FrameWriter:
    """Implements `http2_stream.Wire`."""

    __slots__ = ("_frame_bytes", "_head", "_headers", "_ok", "_owner", "_room", "_sizes", "_streams", "_tail", "_transport",
                 "_unread", "_write", "address", "blocked", "closed", "host", "initial_window", "leaving", "moved", "paused",
                 "waiting_bytes", "window")  # fmt: skip

    def __init__(self, owner: Owner, transport: asyncio.Transport) -> None:
        self._owner = owner
        self._streams = owner.streams
        self._transport = transport
        self._write = transport.write
        self._headers = ResponseHeaders()
        self._sizes: dict[int, tuple[bytes, bytes]] = {}
        self._frame_bytes = h2.DEFAULT_FRAME_BYTES
        self._room = -1
        """The size of an answer that may leave as three frames in one piece; -1 where none may."""
        self._head = self._tail = self._ok = b""
        """The three frames: the beginning of the first one, that of the last one, the block of that."""
        self._unread = 0
        self.host = owner.host
        self.address = owner.address
        self.window = self.initial_window = h2.DEFAULT_WINDOW
        self.blocked: dict[int, Http2Stream] = {}
        """Streams with something to send, the next one first."""
        self.waiting_bytes = 0
        """What they have to send, without heads."""
        self.moved = False
        """Something of them has left since somebody looked."""
        self.paused = False
        self.leaving = False
        """The owner wants to hear of each answer."""
        self.closed = False
        transport.set_write_buffer_limits(HIGH_WATER_BYTES)

    # Answers (http2_stream.Wire) -------------------------------------------------------------------------------------

    def write_unary(self, stream: Http2Stream, parts: list[Buffer]) -> None:
        """Write a whole good answer: the hot path of every gRPC prediction."""
        size = 5
        for part in parts:
            size += len(part)
        if size <= self._room and size <= self.window and size <= stream.window:
            self.window -= size
            number = stream.id
            id = U32.pack(number)
            middle, prefix = self._sizes.get(size) or self._new_size(size)
            self._write(b"".join((self._head, id, middle, id, prefix, *parts, self._tail, id, self._ok)))
            stream.over = True
            del self._streams[number]
            if stream.receiving or self.leaving:
                self._owner.finished(stream)
            return
        self.write_block(stream, self._headers.head(), False)
        first = b"\0" + (size - 5).to_bytes(4, "big")
        if len(parts) > 1 and len(parts[0]) <= JOIN_BYTES:
            first += parts.pop(0)
        stream.out = out = deque([memoryview(first)])
        out.extend([memoryview(p) for p in parts])
        stream.tail = b""
        self.enqueue(stream, size)

    def _new_size(self, size: int) -> tuple[bytes, bytes]:
        """Return what stands before and behind the number of a DATA frame that holds a message: block, frame header; gRPC's prefix."""
        if len(self._sizes) >= MAX_SIZES:
            self._sizes.clear()
        found = self._headers.block + FRAME.pack(size >> 16, size & 0xFFFF, DATA, 0, 0)[:5], b"\0" + (size - 5).to_bytes(4, "big")
        self._sizes[size] = found
        return found

    def write_block(self, stream: Http2Stream, block: bytes, last: bool) -> None:
        """Write a head, or trailers (`last`)."""
        self.send(h2.frame(HEADERS, END_HEADERS | END_STREAM if last else END_HEADERS, stream.id, block))
        if last:
            stream.over = True
            self._streams.pop(stream.id, None)
            self._owner.finished(stream)

    def response_head(self) -> bytes:
        return self._headers.head()

    def trailers(self, status: int, message: bytes) -> bytes:
        block = self._headers.trailers(status, message)
        self._look_for_room()
        return block

    def refusal(self, status: int, message: bytes, retry_ms: int) -> bytes:
        return self._headers.refusal(status, message, retry_ms)

    def plain(self, status: int, content_type: bytes) -> bytes:
        return self._headers.plain(status, content_type)

    def more(self, stream: int, nbytes: int) -> None:
        self.send(h2.window_update(stream, nbytes))

    def reset(self, stream: Http2Stream, code: Http2Code) -> None:
        self._owner.reset(stream, code)

    def enqueue(self, stream: Http2Stream, nbytes: int) -> None:
        """So many bytes have come to what the stream has to send."""
        self.waiting_bytes += nbytes
        self.pump(stream)

    def pump(self, stream: Http2Stream) -> None:
        """Write what the windows and the transport allow; the rest waits for them."""
        out = stream.out
        if stream.over or out is None:
            return
        while out and not self.paused and self._some(stream, out):
            pass
        if out:
            before = self.blocked.pop(stream.id, None)
            self.blocked[stream.id] = stream
            if before is None:
                self._owner.blocked()
            if not stream.wants_writable and stream.reader is not None:
                stream.wants_writable = True
                stream.reader.writable(False)
            return
        self.blocked.pop(stream.id, None)
        if stream.tail is not None:
            self.write_block(stream, stream.tail or self.trailers(0, b""), True)
        elif stream.wants_writable and stream.reader is not None:
            stream.wants_writable = False
            stream.reader.writable(True)

    def _some(self, stream: Http2Stream, out: deque[memoryview]) -> bool:
        """Write up to about HIGH_WATER_BYTES of what waits; False where a window is full."""
        pieces: list[Buffer] = []
        total = 0
        open = True
        whole = self._frame_bytes
        head = FRAME.pack(whole >> 16, whole & 0xFFFF, DATA, 0, stream.id)
        while out and total < HIGH_WATER_BYTES:
            view = out[0]
            size = min(len(view), self.window, stream.window, HIGH_WATER_BYTES)
            if size <= 0 and len(view):
                open = False
                break
            at = 0
            for stop in range(whole, size + 1, whole):
                pieces += (head, view[at:stop])
                at = stop
            if at < size:
                rest = size - at
                pieces += (FRAME.pack(rest >> 16, rest & 0xFFFF, DATA, 0, stream.id), view[at:size])
            self.window -= size
            stream.window -= size
            self.waiting_bytes -= size
            total += size
            if size == len(view):
                out.popleft()
            else:
                out[0] = view[size:]
        if pieces:
            stream.since = 0.0
            self.moved = True
            if total > JOIN_BYTES and not self.closed:
                self._transport.writelines(pieces)
            else:
                self._write(b"".join(pieces))
        return open

    def forget(self, stream: Http2Stream) -> None:
        """The stream ends as it is: nothing more of it is to be sent."""
        self.blocked.pop(stream.id, None)
        self.waiting_bytes -= sum(map(len, stream.out or ()))

    # The connection's side -------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write what cannot wait."""
        if self.paused:
            self._unread += len(data)
            if self._unread > MAX_UNREAD_BYTES:
                self._owner.unread()
                return
        self._write(data)

    def pause(self) -> None:
        self.paused = True
        self._look_for_room()

    def resume(self) -> None:
        self.paused = False
        self._unread = 0
        self._look_for_room()
        self.pump_all()

    def pump_all(self) -> None:
        for stream in list(self.blocked.values()):
            if self.window <= 0 or self.paused:
                break
            self.pump(stream)

    def widen(self, more: int) -> None:
        """The client takes more on the connection. Raises Broken."""
        self.window += more
        if not more:
            raise Broken(Http2Code.PROTOCOL_ERROR, "a window update of nothing")
        if self.window > h2.LARGEST_WINDOW:
            raise Broken(Http2Code.FLOW_CONTROL_ERROR, "the connection's window")
        self.pump_all()

    def widen_stream(self, stream: Http2Stream, more: int) -> None:
        """The client takes more on a stream; one that asks for the impossible is reset."""
        stream.window += more
        if not more or stream.window > h2.LARGEST_WINDOW:
            self._owner.reset(stream, Http2Code.FLOW_CONTROL_ERROR if more else Http2Code.PROTOCOL_ERROR)
        elif stream.id in self.blocked:
            self.pump(stream)

    def set_initial_window(self, value: int) -> None:
        """The window of all streams, those that are open too; it may become negative. Raises Broken."""
        more = value - self.initial_window
        self.initial_window = value
        for stream in self._streams.values():
            stream.window += more
            if stream.window > h2.LARGEST_WINDOW:
                raise Broken(Http2Code.FLOW_CONTROL_ERROR, f"the window of stream {stream.id}")
        self.pump_all()

    def set_frame_bytes(self, value: int) -> None:
        self._frame_bytes = min(value, MAX_FRAME_BYTES)
        self._look_for_room()

    def set_table_bytes(self, value: int) -> None:
        self._headers.limit(value)
        self._sizes.clear()
        self._look_for_room()

    def _look_for_room(self) -> None:
        headers = self._headers
        if not headers.steady or self.paused:
            self._room = -1
            return
        self._room = self._frame_bytes
        self._ok = headers.ok
        self._head = FRAME.pack(0, len(headers.block), HEADERS, END_HEADERS, 0)[:5]
        self._tail = FRAME.pack(0, len(headers.ok), HEADERS, END_HEADERS | END_STREAM, 0)[:5]

    def close(self) -> None:
        """From now on write nothing."""
        self.closed = True
        self.blocked.clear()
        self._write = _nothing
        self._room = -1

    def leave(self) -> None:
        """The connection is lost: end the circle of references, so that no garbage collection is needed."""
        self.close()
        del self._owner


def _nothing(data: Buffer) -> None:
    """Write it nowhere."""
