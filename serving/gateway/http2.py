"""Http2Connection: HTTP/2 with prior knowledge, for gRPC clients that come straight to the gateway.

A unary call is two or three frames in and one write out; its header block is known by its bytes, its answer's head and trailers
are four bytes that refer to the client's table.

It defends itself: streams, header blocks, bodies, pings, resets and what the client does not read are bounded; who breaks the
protocol gets a GOAWAY that says why, and costs nobody else anything. What a client sends is not held back on the connection's
level (its window is always open): each stream has WINDOW_BYTES, and all bodies under way hold at most `limits.max_inflight_bytes`.
"""

from __future__ import annotations

import asyncio
from struct import Struct

from serving.errors import DeadlineExceeded, DecodeError, TooLarge
from serving.gateway import http2_frames as h2
from serving.gateway.http2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    FRAME_BYTES,
    HEADERS,
    RESPONSE_BLOCK,
    TRAILER_OK,
    Http2Code,
    ResponseHeaders,
)  # fmt: skip
from serving.gateway.http2_head import BadTable, HeaderReader, Http2Heads
from serving.gateway.http2_stream import WINDOW_BYTES, Http2Stream
from serving.gateway.ports import Host
from serving.inference import Buffer
from serving.state import GatewayLimits

MAX_STREAMS = 2048
OUR_FRAME_BYTES = 1 << 20
MAX_FRAGMENTS = 64
MAX_CONTROL = 10_000
"""Pings, settings, empty frames and the like within a tick (half a second): more is an attack."""
MAX_RESETS = 2_000
"""Streams that the client opens and resets within a tick."""
MAX_UNREAD_BYTES = 64 * 1024
"""What may wait for a client that does not read, when it asks for more by pings and the like."""
IDLE_S = 3600.0
"""Channels are kept open for long between calls; theirs is the keep-alive."""
CONNECTION_WINDOW = 1 << 30
JOIN_BYTES = 64 * 1024
_PING_OF_DRAIN = b"draining"

_UNARY = Struct(">BHBBL3sBHBBLBL")
"""HEADERS frame with RESPONSE_BLOCK, the header of a DATA frame, gRPC's prefix."""
_TAIL = Struct(">BHBBL1s")
_HELLO = h2.settings(
    {
        h2.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        h2.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
        h2.MAX_FRAME_SIZE: OUR_FRAME_BYTES,
        h2.ENABLE_PUSH: 0,
    }
) + h2.window_update(0, CONNECTION_WINDOW - h2.DEFAULT_WINDOW)


class _Broken(Exception):
    """The connection cannot go on."""

    def __init__(self, code: Http2Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class Http2Connection:
    """Plain asyncio protocol. `started` with the client's preface: what comes behind it is fed to `data_received`."""

    def __init__(self, host: Host, heads: Http2Heads, transport: asyncio.Transport) -> None:
        self.host = host
        self.trusted = False
        self._transport = transport
        self._reader = HeaderReader(heads, host.limits.max_header_bytes)
        self._known = self._reader.known.get
        self._responses = ResponseHeaders()
        self._streams: dict[int, Http2Stream] = {}
        self._blocked: dict[int, Http2Stream] = {}
        self._last = 0
        self._ending = False
        """The client has been told which stream is the last."""
        self._draining = False
        # In.
        self._rest = b""
        self._greeted = False
        self._since = host.now()
        self._data_left = 0
        self._data_ends = False
        self._data_stream: Http2Stream | None = None
        self._fragments: list[bytes] = []
        self._fragments_of = 0
        self._fragments_end = False
        self._received = 0
        self._control = 0
        self._resets = 0
        self._asked_bytes = 0
        # Out.
        self._window = h2.DEFAULT_WINDOW
        self._initial_window = h2.DEFAULT_WINDOW
        self._frame_bytes = h2.DEFAULT_FRAME_BYTES
        self._paused = False
        host.connections.add(self)
        transport.set_write_buffer_limits(1 << 20)
        transport.write(_HELLO)
        if host.draining:
            self.drain()

    # asyncio's side ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Never called: the connection was made for the protocol that read the preface."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.host.connections.discard(self)
        streams, self._streams = self._streams, {}
        self._blocked.clear()
        self._data_stream = None
        for stream in streams.values():
            stream.cancel()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump_all()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        try:
            at = self._go_on(data) if self._data_left else 0
            self._read(data, at)
        except _Broken as error:
            self._give_up(error.code, str(error))

    # Frames in -----------------------------------------------------------------------------------------------------

    def _read(self, data: bytes, at: int) -> None:
        unpack = FRAME.unpack_from
        end = len(data)
        while end - at >= FRAME_BYTES:
            high, low, kind, flags, number = unpack(data, at)
            start = at + FRAME_BYTES
            stop = start + (high << 16 | low)
            if stop > end:
                self._unfinished(data, at, start, stop, kind, flags, number)
                return
            if self._fragments and kind != CONTINUATION:
                raise _Broken(Http2Code.PROTOCOL_ERROR, "a header block is interrupted")
            if kind == HEADERS:
                if flags & ~END_STREAM == END_HEADERS:
                    stream = self._open(number, data[start:stop], flags & END_STREAM != 0)
                    if stream is not None and end - stop >= FRAME_BYTES:
                        # The usual unary call: its only message right behind its head.
                        high, low, kind, flags, other = unpack(data, stop)
                        body_stop = stop + FRAME_BYTES + (high << 16 | low)
                        if kind == DATA and flags == END_STREAM and other == number and body_stop <= end and stream.reader is None:
                            self._count(body_stop - stop - FRAME_BYTES)
                            stream.whole(memoryview(data)[stop + FRAME_BYTES : body_stop])
                            at = body_stop
                            continue
                else:
                    self._headers(number, flags, data[start:stop])
            elif kind == DATA:
                self._data(number, flags, data, start, stop)
            else:
                self._rare(kind, flags, number, data[start:stop])
            at = stop
        if at < end:
            self._rest = data[at:]

    def _unfinished(self, data: bytes, at: int, start: int, stop: int, kind: int, flags: int, number: int) -> None:
        size = stop - start
        if size > (OUR_FRAME_BYTES if kind == DATA else 2 * self.host.limits.max_header_bytes):
            raise _Broken(Http2Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
        if kind == DATA and not flags & h2.PADDED and not self._fragments:
            # What has come goes to its place at once, the rest as it comes.
            self._data_stream = self._stream_of(number)
            self._data_left = size
            self._data_ends = flags & END_STREAM != 0
            self._go_on(data[start:])
        else:
            self._rest = data[at:]

    def _go_on(self, data: bytes) -> int:
        """Take the next part of a DATA frame that has not come to its end; return where it ends in `data`."""
        size = min(self._data_left, len(data))
        self._data_left -= size
        self._count(size)
        stream = self._data_stream
        if stream is not None:
            if size and stream.receiving:
                stream.body(memoryview(data)[:size])
            if not self._data_left:
                self._data_stream = None
                if self._data_ends and stream.receiving:
                    stream.body_ended()
        return size

    def _data(self, number: int, flags: int, data: bytes, start: int, stop: int) -> None:
        self._count(stop - start)
        if flags & h2.PADDED:
            pad = data[start] if stop > start else 0
            start += 1
            stop -= pad
            if stop < start:
                raise _Broken(Http2Code.PROTOCOL_ERROR, "more padding than data")
        stream = self._stream_of(number)
        if stream is None:
            return
        if stop > start:
            stream.body(memoryview(data)[start:stop])
        else:
            self._tick_control()
        if flags & END_STREAM and stream.receiving:
            stream.body_ended()

    def _stream_of(self, number: int) -> Http2Stream | None:
        """Return the stream that data belongs to; None for one that has ended here while its client did not know yet."""
        stream = self._streams.get(number)
        if stream is None:
            if number > self._last or not number:
                raise _Broken(Http2Code.PROTOCOL_ERROR, f"data for stream {number}, which is not open")
            return None
        return stream if stream.receiving else None

    def _count(self, size: int) -> None:
        """The connection's window stays open: what is held is bounded elsewhere."""
        self._received += size
        if self._received > CONNECTION_WINDOW // 2:
            self._transport.write(h2.window_update(0, self._received))
            self._received = 0

    def _headers(self, number: int, flags: int, payload: bytes) -> None:
        """A HEADERS frame with padding, a priority, or more to come."""
        start, stop = 0, len(payload)
        if flags & h2.PADDED:
            if not payload:
                raise _Broken(Http2Code.FRAME_SIZE_ERROR, "a padded frame without its length")
            start, stop = 1, stop - payload[0]
        if flags & h2.HAS_PRIORITY:
            start += 5
        if stop < start:
            raise _Broken(Http2Code.PROTOCOL_ERROR, "more padding than data")
        if flags & END_HEADERS:
            self._open(number, payload[start:stop], flags & END_STREAM != 0)
        else:
            self._fragments = [payload[start:stop]]
            self._fragments_of = number
            self._fragments_end = flags & END_STREAM != 0
            self._since = self.host.now()

    def _continue(self, number: int, flags: int, payload: bytes) -> None:
        fragments = self._fragments
        if not fragments or number != self._fragments_of:
            raise _Broken(Http2Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        fragments.append(payload)
        if len(fragments) > MAX_FRAGMENTS or sum(map(len, fragments)) > 2 * self.host.limits.max_header_bytes:
            raise _Broken(Http2Code.ENHANCE_YOUR_CALM, "a header block without an end")
        if flags & END_HEADERS:
            self._fragments = []
            self._open(number, b"".join(fragments), self._fragments_end)

    def _open(self, number: int, block: bytes, ended: bool) -> Http2Stream | None:
        """Open a stream; return it where its body is still to come. A known number: trailers, which say nothing here."""
        if number <= self._last:
            self._read_for_table(block)
            old = self._streams.get(number)
            if old is not None and old.receiving:
                if not ended:
                    raise _Broken(Http2Code.PROTOCOL_ERROR, "trailers without an end")
                old.body_ended()
            return None
        if not number & 1:
            raise _Broken(Http2Code.PROTOCOL_ERROR, f"stream {number} is not a client's")
        if self._ending:
            self._read_for_table(block)
            return None
        self._last = number
        if len(self._streams) >= MAX_STREAMS:
            self._read_for_table(block)
            self._transport.write(h2.rst_stream(number, Http2Code.REFUSED_STREAM))
            self._tick_control()
            return None
        found = self._known(block)
        if found is None:
            try:
                found = self._reader.read(block)
            except TooLarge as error:
                raise _Broken(Http2Code.ENHANCE_YOUR_CALM, error.message) from None
            except BadTable as error:
                raise _Broken(Http2Code.COMPRESSION_ERROR, error.message) from None
            except DecodeError:
                self._tick_control()
                self._transport.write(h2.rst_stream(number, Http2Code.PROTOCOL_ERROR))
                return None
        head, timeout = found
        stream = self._streams[number] = Http2Stream(self, number, head, timeout, self._initial_window)
        if ended or head.action.streams:
            stream.start(ended)
        else:
            stream.since = self.host.now()
        return None if stream.over or not stream.receiving else stream

    def _read_for_table(self, block: bytes) -> None:
        try:
            self._reader.skip(block)
        except DecodeError as error:
            raise _Broken(Http2Code.COMPRESSION_ERROR, error.message) from None
        except TooLarge as error:
            raise _Broken(Http2Code.ENHANCE_YOUR_CALM, error.message) from None
        self._tick_control()

    def _rare(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        if kind == CONTINUATION:
            self._continue(number, flags, payload)
            return
        self._tick_control()
        if kind == h2.WINDOW_UPDATE:
            if size != 4:
                raise _Broken(Http2Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE")
            self._widen(number, h2.U32.unpack(payload)[0] & h2.LARGEST_WINDOW)
        elif kind == h2.PING:
            if size != 8:
                raise _Broken(Http2Code.FRAME_SIZE_ERROR, "PING")
            if not flags & h2.ACK:
                self._reply(h2.frame(h2.PING, h2.ACK, 0, payload))
            elif payload == _PING_OF_DRAIN and self._draining:
                self._end()
        elif kind == h2.SETTINGS:
            if not flags & h2.ACK:
                if size % 6 or number:
                    raise _Broken(Http2Code.FRAME_SIZE_ERROR, "SETTINGS")
                for name, value in h2.SETTING.iter_unpack(payload):
                    self._set(name, value)
                self._reply(h2.frame(h2.SETTINGS, h2.ACK, 0))
            self._greeted = True
        elif kind == h2.RST_STREAM:
            if size != 4 or not number or number > self._last:
                raise _Broken(Http2Code.PROTOCOL_ERROR, "RST_STREAM")
            stream = self._streams.pop(number, None)
            self._blocked.pop(number, None)
            if stream is not None:
                self._resets += 1
                if self._resets > MAX_RESETS:
                    raise _Broken(Http2Code.ENHANCE_YOUR_CALM, "streams are opened and reset too fast")
                stream.cancel()
                self._settle()
        elif kind == h2.PUSH_PROMISE:
            raise _Broken(Http2Code.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        # PRIORITY means nothing here. GOAWAY: the client opens no more streams, and closes when it has its answers. Others: to be ignored.

    def _tick_control(self) -> None:
        self._control += 1
        if self._control > MAX_CONTROL:
            raise _Broken(Http2Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def _reply(self, answer: bytes) -> None:
        """Answer a frame of control, unless its client only asks and never reads."""
        self._asked_bytes = self._asked_bytes + len(answer) if self._paused else 0
        if self._asked_bytes > MAX_UNREAD_BYTES:
            raise _Broken(Http2Code.ENHANCE_YOUR_CALM, "answers to frames of control are not read")
        self._transport.write(answer)

    def _set(self, name: int, value: int) -> None:
        if name == h2.INITIAL_WINDOW_SIZE:
            if value > h2.LARGEST_WINDOW:
                raise _Broken(Http2Code.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE")
            more = value - self._initial_window
            self._initial_window = value
            for stream in self._streams.values():
                stream.window += more
            self._pump_all()
        elif name == h2.MAX_FRAME_SIZE:
            if not h2.DEFAULT_FRAME_BYTES <= value <= h2.LARGEST_FRAME_BYTES:
                raise _Broken(Http2Code.PROTOCOL_ERROR, "MAX_FRAME_SIZE")
            self._frame_bytes = min(value, OUR_FRAME_BYTES)
        elif name == h2.HEADER_TABLE_SIZE:
            self._responses.limit(value)

    def _widen(self, number: int, more: int) -> None:
        if not number:
            self._window += more
            if not more or self._window > h2.LARGEST_WINDOW:
                raise _Broken(Http2Code.FLOW_CONTROL_ERROR, "the connection's window")
            self._pump_all()
            return
        stream = self._streams.get(number)
        if stream is not None:
            stream.window += more
            if not more or stream.window > h2.LARGEST_WINDOW:
                self._reset(stream, Http2Code.FLOW_CONTROL_ERROR)
            elif stream.id in self._blocked:
                self.pump(stream)

    # Answers out (stream.Wire) -------------------------------------------------------------------------------------

    def write_unary(self, stream: Http2Stream, parts: list[Buffer]) -> None:
        """Write a whole good answer: the hot path of every gRPC prediction."""
        total = 0
        for part in parts:
            total += len(part)
        size = total + 5
        number = stream.id
        if size <= self._frame_bytes and size <= self._window and size <= stream.window and self._responses.steady:
            self._window -= size
            self._transport.write(
                b"".join(
                    (
                        _UNARY.pack(
                            0, 3, HEADERS, END_HEADERS, number, RESPONSE_BLOCK, size >> 16, size & 0xFFFF, DATA, 0, number, 0, total
                        ),
                        *parts,
                        _TAIL.pack(0, 1, HEADERS, END_HEADERS | END_STREAM, number, TRAILER_OK),
                    )
                )
            )
            self._done(stream)
            return
        self.write_block(stream, self._responses.head(), False)
        stream.out.append(memoryview(b"\0" + total.to_bytes(4, "big")))
        stream.out.extend([memoryview(p) for p in parts])
        stream.tail = b""
        self.pump(stream)

    def write_block(self, stream: Http2Stream, block: bytes, last: bool) -> None:
        """Write a head, or trailers (`last`)."""
        self._transport.write(h2.frame(HEADERS, END_HEADERS | END_STREAM if last else END_HEADERS, stream.id, block))
        if last:
            self._done(stream)

    def response_head(self) -> bytes:
        return self._responses.head()

    def trailers(self, status: int, message: bytes) -> bytes:
        return self._responses.trailers(status, message)

    def refusal(self, status: int, message: bytes, retry_ms: int) -> bytes:
        return self._responses.refusal(status, message, retry_ms)

    def plain(self, status: int, content_type: bytes) -> bytes:
        return self._responses.plain(status, content_type)

    def more(self, stream: int, nbytes: int) -> None:
        self._transport.write(h2.window_update(stream, nbytes))

    def pump(self, stream: Http2Stream) -> None:
        """Write what the windows allow; the rest waits for them."""
        out = stream.out
        pieces: list[Buffer] = []
        total = 0
        while out and not self._paused:
            view = out[0]
            size = min(len(view), self._frame_bytes, self._window, stream.window)
            if size <= 0 and len(view):
                break
            self._window -= size
            stream.window -= size
            total += size
            if size:
                pieces.append(FRAME.pack(size >> 16, size & 0xFFFF, DATA, 0, stream.id))
                pieces.append(view[:size])
            if size == len(view):
                out.popleft()
            else:
                out[0] = view[size:]
        if total > JOIN_BYTES:
            self._transport.writelines(pieces)
        elif pieces:
            self._transport.write(b"".join(pieces))
        if out:
            self._blocked[stream.id] = stream
            if not stream.wants_writable and stream.reader is not None:
                stream.wants_writable = True
                stream.reader.writable(False)
            return
        self._blocked.pop(stream.id, None)
        if stream.tail is not None:
            self.write_block(stream, stream.tail or self._responses.trailers(0), True)
        elif stream.wants_writable and stream.reader is not None:
            stream.wants_writable = False
            stream.reader.writable(True)

    def _pump_all(self) -> None:
        for stream in list(self._blocked.values()):
            if self._window <= 0 or self._paused:
                break
            self.pump(stream)

    def reset_internal(self, stream: Http2Stream) -> None:
        self._reset(stream, Http2Code.INTERNAL_ERROR)

    def _reset(self, stream: Http2Stream, code: Http2Code) -> None:
        self._streams.pop(stream.id, None)
        self._blocked.pop(stream.id, None)
        self._transport.write(h2.rst_stream(stream.id, code))
        stream.cancel()
        self._settle()

    def _done(self, stream: Http2Stream) -> None:
        """The answer is complete."""
        stream.over = True
        self._streams.pop(stream.id, None)
        if stream.receiving:
            # The client need not send the rest of what has its answer already.
            stream.cancel()
            self._transport.write(h2.rst_stream(stream.id, Http2Code.NO_ERROR))
        if self._draining:
            self.host.note_request()
            self._settle()

    # Life ----------------------------------------------------------------------------------------------------------

    def forget_heads(self) -> None:
        """Routes or limits have changed."""
        self._reader.forget()

    def drain(self) -> None:
        """Ask the client to go elsewhere. What it has sent before it heard that is answered."""
        if not self._draining:
            self._draining = True
            self._transport.write(h2.goaway(h2.LAST_STREAM, Http2Code.NO_ERROR) + h2.frame(h2.PING, 0, 0, _PING_OF_DRAIN))

    def _end(self) -> None:
        """The client has heard it: what it has opened by now is all that there will be."""
        if not self._ending:
            self._ending = True
            self._transport.write(h2.goaway(self._last, Http2Code.NO_ERROR))
            self._settle()

    def _settle(self) -> None:
        if self._ending and not self._streams:
            self._transport.close()

    def _give_up(self, code: Http2Code, text: str) -> None:
        self._rest = b""
        self._data_left = 0
        self._ending = True
        streams, self._streams = self._streams, {}
        self._blocked.clear()
        for stream in streams.values():
            stream.cancel()
        if not self._transport.is_closing():
            self._transport.write(h2.goaway(self._last, code, text.encode()[:200]))
            self._transport.close()

    def check_time(self, now: float, limits: GatewayLimits) -> None:
        """End what has kept us waiting for too long (called about twice a second)."""
        self._control = self._resets = 0
        if not self._greeted or self._fragments:
            if now - self._since > limits.header_timeout_s:
                self._give_up(Http2Code.PROTOCOL_ERROR, f"nothing to be answered within {limits.header_timeout_s:g} s")
            return
        if self._streams:
            self._since = now
            for stream in [s for s in self._streams.values() if s.late(now)]:
                stream.fail(DeadlineExceeded("the request body did not arrive in time"))
        elif now - self._since > IDLE_S:
            self.drain()
            self._end()

    @property
    def engaged(self) -> bool:
        """True while there is something of this connection to answer or to write."""
        return bool(self._streams) or self.unwritten_bytes > 0

    @property
    def unwritten_bytes(self) -> int:
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    def close_if_idle(self) -> bool:
        """Close unless a request is under way; True when closed."""
        if self._streams:
            return False
        self._end()
        return True

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._transport.abort()

    def __repr__(self) -> str:
        return f"Http2Connection({len(self._streams)} streams{', draining' if self._draining else ''})"
