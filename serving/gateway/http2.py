"""Http2Connection: HTTP/2 with prior knowledge, for gRPC clients that come straight to the gateway.

A unary call is two or three frames in (`http2_reader.py`) and one write out (`http2_writer.py`); its header block is known by its
bytes, its answer's head and trailers are four bytes that refer to the client's table.

It defends itself: streams, header blocks, bodies, pings, resets and what the client does not read are bounded; who breaks the
protocol gets a GOAWAY that says why, and costs nobody else anything. What a client sends is not held back on the connection's
level (its window is always open): each stream has WINDOW_BYTES, and all bodies under way hold at most `limits.max_inflight_bytes`.

It leaves in three steps: GOAWAY that names no last stream, and a PING; when the client has answered that, GOAWAY with the last stream;
when that one is answered, the end of our side. The client closes then; closing first could destroy what it has not read yet.
"""

from __future__ import annotations

import asyncio
from typing import Any

from serving.errors import DeadlineExceeded, DecodeError, TooLarge
from serving.gateway import http2_frames as h2
from serving.gateway.client_connection import ClientConnection
from serving.gateway.client_limits import address_name
from serving.gateway.head import Head
from serving.gateway.http2_frames import Broken, Http2Code
from serving.gateway.http2_head import BadTable, HeaderReader, Http2Heads
from serving.gateway.http2_reader import CONNECTION_WINDOW, OUR_FRAME_BYTES, FrameReader
from serving.gateway.http2_sink import FrameSink
from serving.gateway.http2_stream import WINDOW_BYTES, Http2Stream
from serving.gateway.http2_writer import FrameWriter
from serving.gateway.ports import Host
from serving.state import GatewayLimits

MAX_STREAMS = 2048
MAX_CONTROL = 10_000
"""Pings, settings, empty frames and the like within a tick (half a second): more is an attack."""
SETTINGS_WEIGHT = 8
"""Clients send them once or twice; pings may come with each answer (the bandwidth estimate of gRPC)."""
SLOW_WEIGHT = 4
"""So many times what they count for frames count whose connection takes turns: more than PATIENCE in one piece is no client's habit."""
PATIENCE = 32
"""So many of them of one piece of bytes are taken in one turn of the loop: opening and resetting as many streams takes 2.6 ms."""
MAX_RESETS = 2 * MAX_STREAMS
RESETS_PER_TICK = 2000
"""Streams that end by a reset: so many at once, so many in the long run."""
TOO_FAST = "streams are opened and reset too fast"
NOT_TAKEN = "calls are made whose answers are not taken"
HASTY = 64
"""A stream that is reset in the same piece of bytes that opened it counts as so many: nobody has waited for its answer."""
SHUT_STRAIN = 4
"""An answer that must wait for the client's window strains as much as so many header blocks that were not known."""
MAX_SHUT = 16
"""Answers that may wait for a client that takes nothing, before its next calls are refused."""
SHUT_TICKS = 2
"""So long (about a second) it must have taken nothing."""
MAX_WAITING_BYTES = 256 << 20
"""Of answers that wait for the windows of one connection; while there are more its next calls are refused."""
SMALL_UPDATE_BYTES = 1024
"""Window updates of more than this are paid for by what they let us send: there can be no flood of them."""
IDLE_S = 3600.0
"""Channels are kept open for long between calls; theirs is the keep-alive."""
HEARD_S = 2.0
"""How long a client has for the PING of a connection that is to end."""
LINGER_S = 2.0
_PING_OF_DRAIN = b"draining"


class Http2Connection(FrameReader, ClientConnection):
    """Plain asyncio protocol. Made with the client's preface: what comes behind it is fed to `data_received`."""

    def __init__(self, host: Host, heads: Http2Heads, transport: asyncio.Transport) -> None:
        limits = host.limits
        super().__init__(limits.max_header_bytes, host.now())
        self.host = host
        self.trusted = False
        peer = transport.get_extra_info("peername")
        self.address = address_name(str(peer[0])) if peer else b""
        self._transport = transport
        self._reader = HeaderReader(heads, limits.max_header_bytes)
        self._known = self._reader.known.get
        self._out = FrameWriter(self, transport)
        self._last = 0
        self._before = 0
        """The last stream of the pieces before this one."""
        self._draining = 0.0
        """When the client was asked to go elsewhere; 0 = it was not."""
        self._ending = False
        """The client has been told which stream is the last."""
        self._since = host.now()
        self._control = 0
        self._patience = PATIENCE
        self._rest = b""
        self._slow = False
        """What has come (`_rest`) takes its turns; nothing more is read meanwhile."""
        self._sink: FrameSink | None = None
        self._large: Http2Stream | None = None
        """The last one that was received in place."""
        self._resets = 0
        self._unwritten = 0
        self._shut = False
        """The client asks on and takes nothing: its next calls are refused."""
        self._shut_ticks = 0
        self._moved = self._since
        """When the client last read something, or had nothing to read."""
        host.connections.add(self)
        transport.write(
            h2.settings(
                {
                    h2.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                    h2.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
                    h2.MAX_FRAME_SIZE: OUR_FRAME_BYTES,
                    h2.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
                }
            )
            + h2.window_update(0, CONNECTION_WINDOW - h2.DEFAULT_WINDOW)
        )
        if host.draining:
            self.drain()

    # asyncio's side ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Never called: the connection was made for the protocol that read the preface."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.host.connections.discard(self)
        self._stop()
        self._out.leave()
        self._sink = self._large = None

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._out.pause()

    def resume_writing(self) -> None:
        self._out.resume()

    def data_received(self, data: bytes) -> None:
        self._before = self._last
        self._patience = self._control + PATIENCE
        self.strain = 0
        super().data_received(data)

    def receive_in_place(self, stream: Http2Stream) -> None:
        self._large = stream
        if self._sink is None and not self._transport.is_closing():
            self._sink = FrameSink(self)
            self._swap(self._sink)

    @property
    def expects_large(self) -> bool:
        """A message is on its way that has its place (`http2_sink.Receiver`)."""
        return self._large is not None and self._large.place is not None

    def take_over(self) -> None:
        self._large = None
        if self._sink is not None and not self._transport.is_closing():
            self._sink = None
            self._swap(self)

    def _swap(self, protocol: Any) -> None:
        # uvloop picks the way of reading when reading starts, so a new protocol takes a stop and a start.
        transport = self._transport
        if not self._slow:
            transport.pause_reading()
        transport.set_protocol(protocol)
        if not self._slow:
            transport.resume_reading()

    def tired(self) -> bool:
        return self._control > self._patience

    def later(self, data: bytes) -> None:
        if self.closed:
            return
        self._rest = data
        if not self._slow:
            self._slow = True
            self._transport.pause_reading()
            self.host.turns.join(self._take_more)

    def _take_more(self) -> bool:
        """Go on with what waits (`Turns`)."""
        data, self._rest = self._rest, b""
        self._patience = self._control + SLOW_WEIGHT * PATIENCE
        self.strain = 0
        super().data_received(data)
        if self._rest:
            return True
        self._slow = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
        return False

    # Requests in (FrameReader) ---------------------------------------------------------------------------------------

    def open(self, number: int, block: bytes, ended: bool) -> Http2Stream | None:
        if number <= self._last or self._ending or not number & 1:
            self._reopen(number, block, ended)
            return None
        self._last = number
        streams = self.streams
        if len(streams) >= MAX_STREAMS or self._shut:
            self._refuse(number, block)
            return None
        found = self._known(block) or self._read_head(number, block)
        if found is None:
            return None
        head, timeout = found
        out = self._out
        stream = streams[number] = Http2Stream(out, number, head, timeout, out.initial_window)
        if ended or head.action.streams:
            stream.start(ended)
            return None
        return stream

    def _reopen(self, number: int, block: bytes, ended: bool) -> None:
        """A block for a stream that has been there: trailers, which say nothing here. Or for one that comes too late."""
        if self.closed:
            return
        if not number & 1:
            raise Broken(Http2Code.PROTOCOL_ERROR, f"stream {number} is not a client's")
        self._read_for_table(block)
        if number > self._last:
            return
        stream = self.streams.get(number)
        if stream is not None and not stream.receiving:
            self.reset(stream, Http2Code.STREAM_CLOSED)
        elif not ended:
            raise Broken(Http2Code.PROTOCOL_ERROR, f"a second head on stream {number}")
        elif stream is not None:
            stream.body_ended()

    def _refuse(self, number: int, block: bytes) -> None:
        """Nothing was done for it, and the client knows that. Who asks on and on and takes no answers is sent away."""
        self._read_for_table(block)
        self._out.send(h2.rst_stream(number, Http2Code.REFUSED_STREAM))
        if self._shut:
            self.strain += SHUT_STRAIN
            self._resets += HASTY
            if self._resets > MAX_RESETS:
                raise Broken(Http2Code.ENHANCE_YOUR_CALM, NOT_TAKEN)

    def _read_head(self, number: int, block: bytes) -> tuple[Head, bytes] | None:
        """Return the meaning of a block that was not seen before; None where it is malformed."""
        self.strain += 1
        try:
            return self._reader.read(block)
        except TooLarge as error:
            raise Broken(Http2Code.ENHANCE_YOUR_CALM, error.message) from None
        except BadTable as error:
            raise Broken(Http2Code.COMPRESSION_ERROR, error.message) from None
        except DecodeError:
            self.nothing()
            self._out.send(h2.rst_stream(number, Http2Code.PROTOCOL_ERROR))
            return None

    def _read_for_table(self, block: bytes) -> None:
        try:
            self._reader.skip(block)
        except DecodeError as error:
            raise Broken(Http2Code.COMPRESSION_ERROR, error.message) from None
        except TooLarge as error:
            raise Broken(Http2Code.ENHANCE_YOUR_CALM, error.message) from None
        self.nothing()

    def stray(self, number: int, stream: Http2Stream | None) -> None:
        if stream is not None:
            self.reset(stream, Http2Code.STREAM_CLOSED)
        else:
            self._must_have_been(number, "data")

    def _must_have_been(self, number: int, what: str) -> None:
        """Raise Broken for a stream that never was. One that has ended may not have heard so, one that comes too late is not looked at."""
        if not number & 1 or (number > self._last and not self._ending):
            raise Broken(Http2Code.PROTOCOL_ERROR, f"{what} for stream {number}, which is not open")

    # Frames of control (FrameReader) ---------------------------------------------------------------------------------

    def control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self.closed:
            return
        size = len(payload)
        if kind == h2.WINDOW_UPDATE:
            self._exactly(4, size, "WINDOW_UPDATE")
            self._widen(number, h2.U32.unpack(payload)[0] & h2.LARGEST_WINDOW)
            return
        self.nothing()
        if kind == h2.PING:
            self._exactly(8, size, "PING")
            self._of_connection(number, "PING")
            if not flags & h2.ACK:
                self._out.send(h2.frame(h2.PING, h2.ACK, 0, payload))
            elif payload == _PING_OF_DRAIN and self._draining:
                self._end()
        elif kind == h2.SETTINGS:
            self._of_connection(number, "SETTINGS")
            if flags & h2.ACK:
                self._exactly(0, size, "SETTINGS")
            else:
                self._exactly(size // 6 * 6, size, "SETTINGS")
                self.nothing(SETTINGS_WEIGHT - 1)
                self._set(dict(self._checked(name, value) for name, value in h2.SETTING.iter_unpack(payload)))
                self._out.send(h2.frame(h2.SETTINGS, h2.ACK, 0))
        elif kind == h2.RST_STREAM:
            self._exactly(4, size, "RST_STREAM")
            self._must_have_been(number, "RST_STREAM")
            stream = self.streams.get(number)
            if stream is not None:
                self._cut(stream, HASTY if number > self._before else 1)
                if self._resets > MAX_RESETS:
                    raise Broken(Http2Code.ENHANCE_YOUR_CALM, TOO_FAST)  # nothing more of these bytes is looked at
        elif kind == h2.PUSH_PROMISE:
            raise Broken(Http2Code.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        # PRIORITY means nothing here. GOAWAY: the client opens no more streams, and closes when it has its answers. Others: to be ignored.

    def _exactly(self, wanted: int, size: int, what: str) -> None:
        if size != wanted:
            raise Broken(Http2Code.FRAME_SIZE_ERROR, f"{what} of {size} bytes")

    def _of_connection(self, number: int, what: str) -> None:
        if number:
            raise Broken(Http2Code.PROTOCOL_ERROR, f"{what} on stream {number}")

    def nothing(self, weight: int = 1) -> None:
        self._control += weight * SLOW_WEIGHT if self._slow else weight
        if self._control > MAX_CONTROL:
            raise Broken(Http2Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def replenish(self, nbytes: int) -> None:
        self._out.more(0, nbytes)

    def _checked(self, name: int, value: int) -> tuple[int, int]:
        """Return the setting; where one comes twice the last one counts. Raises Broken for a value that it cannot have."""
        if name == h2.INITIAL_WINDOW_SIZE and value > h2.LARGEST_WINDOW:
            raise Broken(Http2Code.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}")
        if name == h2.MAX_FRAME_SIZE and not h2.DEFAULT_FRAME_BYTES <= value <= h2.LARGEST_FRAME_BYTES:
            raise Broken(Http2Code.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
        if name == h2.ENABLE_PUSH and value > 1:
            raise Broken(Http2Code.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
        return name, value

    def _set(self, settings: dict[int, int]) -> None:
        out = self._out
        if h2.HEADER_TABLE_SIZE in settings:
            out.set_table_bytes(settings[h2.HEADER_TABLE_SIZE])
        if h2.MAX_FRAME_SIZE in settings:
            out.set_frame_bytes(settings[h2.MAX_FRAME_SIZE])
        if h2.INITIAL_WINDOW_SIZE in settings:
            # Touches all streams, so it weighs more.
            self.nothing(len(self.streams) // 16)
            out.set_initial_window(settings[h2.INITIAL_WINDOW_SIZE])

    def _widen(self, number: int, more: int) -> None:
        stream = self.streams.get(number)
        if more < SMALL_UPDATE_BYTES or (number and stream is None):
            self.nothing()
        if not number:
            self._out.widen(more)
        elif stream is not None:
            self._out.widen_stream(stream, more)
        else:
            self._must_have_been(number, "WINDOW_UPDATE")

    # The ends of streams (FrameWriter) -------------------------------------------------------------------------------

    def finished(self, stream: Http2Stream) -> None:
        if stream.receiving:
            # The client need not send the rest of what has its answer already.
            stream.cancel()
            self._out.send(h2.rst_stream(stream.id, Http2Code.NO_ERROR))
        if self._draining:
            self.host.note_request()
        self._settle()

    def reset(self, stream: Http2Stream, code: Http2Code) -> None:
        self._out.send(h2.rst_stream(stream.id, code))
        self._cut(stream)
        if self._resets > MAX_RESETS:
            self.give_up(Http2Code.ENHANCE_YOUR_CALM, TOO_FAST)

    def _cut(self, stream: Http2Stream, weight: int = 1) -> None:
        """End a stream that a client has reset, or has made us reset."""
        self.streams.pop(stream.id, None)
        self._out.forget(stream)
        stream.cancel()
        self._resets += weight
        self._settle()

    # Life ----------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self.host.now()

    def forget_heads(self) -> None:
        """Routes or limits have changed."""
        self._reader.forget(self.host.limits.max_header_bytes)

    def drain(self) -> None:
        """Ask the client to go elsewhere. What it has sent before it heard that is answered."""
        if not self._draining and not self._ending:
            self._draining = self.host.now() or 1e-9
            self._out.leaving = True
            self._out.send(h2.goaway(h2.LAST_STREAM, Http2Code.NO_ERROR) + h2.frame(h2.PING, 0, 0, _PING_OF_DRAIN))

    def _end(self) -> None:
        """The client has heard it: what it has opened by now is all that there will be."""
        if not self._ending:
            self._ending = self._out.leaving = True
            self._out.send(h2.goaway(self._last, Http2Code.NO_ERROR))
            self._settle()

    def _settle(self) -> None:
        if self._ending and not self.streams and not self.closed:
            self._close()

    def give_up(self, code: Http2Code, text: str) -> None:
        if not self.closed:
            self._ending = True
            self._out.send(h2.goaway(self._last, code, text.encode()[:200]))
            self._stop()
            self._close()

    def unread(self) -> None:
        """The client makes us write and does not read: there is no use in telling it why this is the end."""
        self._ending = True
        self._stop()
        self._transport.abort()

    def _stop(self) -> None:
        """Cancel all that is under way, and drop what still comes."""
        self.drop()
        self._out.close()
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            stream.cancel()

    def _close(self) -> None:
        """Say that there is no more to come, and leave the closing to the client."""
        self.drop()
        self._out.close()
        self._since = self.host.now()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def check_time(self, now: float, limits: GatewayLimits) -> None:
        """End what has kept us waiting for too long (called about twice a second)."""
        if not self._slow:  # or who is made to wait would never be found out
            self._control = 0
        self._resets = max(0, self._resets - RESETS_PER_TICK)
        before, self._unwritten = self._unwritten, self.unwritten_bytes
        if not self._unwritten or self._unwritten != before:
            self._moved = now
        patience = limits.header_timeout_s if self.closed else limits.idle_timeout_s
        if now - self._moved > patience or (self.closed and not self._unwritten and now - self._since > LINGER_S):
            self._transport.abort()
        if self.closed:
            return
        if self.waiting and now - self.waiting_since > limits.header_timeout_s:
            self.give_up(Http2Code.PROTOCOL_ERROR, f"the rest of a frame did not come within {limits.header_timeout_s:g} s")
        elif self._draining and now - self._draining > HEARD_S:
            self._end()
        self._look_at_windows()
        if self.streams:
            self._since = now
            for stream in [s for s in self.streams.values() if s.late(now)]:
                stream.fail(DeadlineExceeded("the request body did not arrive in time"))
            for stream in [s for s in self._out.blocked.values() if s.unread(now)]:
                self.reset(stream, Http2Code.CANCEL)
        elif now - self._since > IDLE_S:
            self._end()

    def blocked(self) -> None:
        """An answer has to wait for the client (FrameWriter)."""
        self.strain += SHUT_STRAIN
        if self._out.waiting_bytes > MAX_WAITING_BYTES:
            self._shut = True

    def _look_at_windows(self) -> None:
        """See (once a tick) whether the client takes of the answers that wait for its windows. A slow network is another matter."""
        out = self._out
        moved, out.moved = out.moved, False
        waiting = sum(stream.tail is not None for stream in out.blocked.values())
        self._shut_ticks = 0 if moved or out.paused or waiting < MAX_SHUT else self._shut_ticks + 1
        self._shut = self._shut_ticks >= SHUT_TICKS or out.waiting_bytes > MAX_WAITING_BYTES

    @property
    def engaged(self) -> bool:
        """True while there is something of this connection to answer or to write."""
        return bool(self.streams) or self.unwritten_bytes > 0

    def close_if_idle(self) -> bool:
        """Close unless a request is under way; True when closed."""
        if self.streams:
            return False
        self._end()
        return True

    def __repr__(self) -> str:
        return f"Http2Connection({len(self.streams)} streams{', draining' if self._draining else ''})"
