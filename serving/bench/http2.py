"""HTTP/2 with prior knowledge, for unary gRPC calls: one or several streams on a connection.

The common answer has the frames of the one before it, but for the stream's number; the frames are kept cut at that number, so that one
`key.join(good)` and one comparison recognise the next.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from struct import Struct

from serving.bench import http2_frames as h2
from serving.bench.connection import Connection, Pace, Stage
from serving.bench.dial import WAIT, Address, Tls, failure
from serving.bench.http2_answers import Answers
from serving.bench.http2_headers import Fields, RequestHeaders
from serving.bench.http2_uploads import Uploads
from serving.bench.reactor import Reactor
from serving.bench.request import BadAnswer
from serving.bench.ticket import Ticket

_READ = 65536
_LAST_STREAM = 1 << 31
_NEAR_LAST_STREAM = _LAST_STREAM - (1 << 26)
_PACK = Struct(">I").pack
_REFILL = 1 << 29
_OF_ANSWERS = (int(h2.Frame.DATA), int(h2.Frame.HEADERS), int(h2.Frame.CONTINUATION))
_NO_UPDATE = b"no frame"


class Http2Driver:
    """What the connections of a process share."""

    def __init__(self, address: Address, tls: Tls | None, new_connection: bool, streams: int) -> None:
        self.streams = 1 if new_connection else streams
        self._address = address
        self._tls = tls.context(Http2Connection.protocol) if tls else None
        self._tls_name = tls.name if tls and tls.name else address.name
        self._new_connection = new_connection
        self._known: dict[bytes, Fields] = {}

    def prepare(self, ticket: Ticket) -> None:
        """Nothing: the header table, and so the bytes, are each connection's own."""

    def connection(self, reactor: Reactor, pace: Pace, slots: int) -> Http2Connection:
        return Http2Connection(reactor, self._address, self._tls, self._tls_name, pace, slots, self._new_connection, self._known)


class Http2Connection(Connection):
    """One connection.

    _begun    requests of whose answer nothing was read, by the stream's number: ticket, start, time of sending
    _answers  those that are being read
    _ready    what only lacks the stream's number, and the size of its body, by the request's number
    _update   the last WINDOW_UPDATE that came for the connection
    _expected  with one stream: all that is likely to come next
    """

    __slots__ = (
        "_answers", "_authority", "_begun", "_corked", "_credit", "_expected", "_greeted", "_handlers", "_increment", "_keys",
        "_known", "_leaving", "_max_frame", "_new_connection", "_out", "_read", "_ready", "_request_headers", "_scheme", "_stream_window",
        "_tail", "_update", "_uploads", "_wanted_slots", "_whole", "_window",
    )  # fmt: skip
    protocol = "h2"

    def __init__(
        self,
        reactor: Reactor,
        address: Address,
        tls: ssl.SSLContext | None,
        tls_name: str,
        pace: Pace,
        slots: int,
        new_connection: bool,
        known: dict[bytes, Fields],
    ) -> None:
        super().__init__(reactor, address, tls, tls_name, pace, slots)
        self._wanted_slots = slots
        self._new_connection = new_connection
        self._known = known
        self._scheme = "https" if tls else "http"
        self._authority = address.host
        self._begun: dict[bytes, tuple[Ticket, int, int]] = {}
        self._handlers: dict[int, Callable[[int, bytes, bytes, int], None]] = {
            h2.Frame.RST_STREAM: self._rst_stream,
            h2.Frame.SETTINGS: self._settings,
            h2.Frame.PUSH_PROMISE: self._push_promise,
            h2.Frame.PING: self._ping,
            h2.Frame.GOAWAY: self._goaway,
            h2.Frame.WINDOW_UPDATE: self._window_update,
        }
        self._renew()

    def _renew(self) -> None:
        """A new connection knows nothing."""
        self.slots = self._wanted_slots
        self._keys = map(_PACK, range(1, _LAST_STREAM, 2))
        self._ready: dict[int, tuple[tuple[bytes, ...], int]] = {}
        self._request_headers = RequestHeaders(self._authority, self._scheme)
        self._answers = Answers(self._known)
        self._window = self._stream_window = h2.WINDOW
        self._max_frame = h2.MAX_FRAME
        self._greeted = self._corked = False
        self._leaving = self._new_connection
        self._credit = self._increment = 0
        self._expected: bytes | None = None
        self._whole: tuple[tuple[bytes, ...], int] | None = None
        self._update = _NO_UPDATE
        self._tail = b""
        self._read = _READ
        self._out: list[bytes | memoryview] = []
        self._uploads = Uploads()

    @property
    def busy(self) -> int:
        return len(self._begun) + len(self._answers.streams)

    @property
    def opening(self) -> bool:
        return super().opening or (self.stage is Stage.OPEN and not self._greeted)

    def tickets(self) -> list[Ticket]:
        return [ticket for ticket, _, _ in self._begun.values()] + [stream.ticket for stream in self._answers.streams.values()]

    def clear(self) -> None:
        self._begun.clear()
        self._renew()

    def started(self, now: int) -> None:
        self._out.append(h2.PREFACE)
        self._flush()

    def begin(self, ticket: Ticket, start: int, now: int) -> None:
        key = next(self._keys)
        self._begun[key] = ticket, start, now
        ready = self._ready.get(ticket.number)
        if ready is not None and ready[1] <= self._window:
            parts, size = ready
            self._window -= size
            self._out.append(key.join(parts))
        else:
            self._begin_slowly(ticket, key)
        if self.slots == 1:
            whole = self._whole = ticket.good_whole
            self._expected = None if whole is None else key.join(whole[0])
        if not self._corked:
            if self.slots == 1:
                self._flush()
            else:
                # Several requests may begin in this turn: they leave together.
                self._corked = True
                self.reactor.after(self._uncork)

    def readable(self, now: int) -> None:
        recv = self.recv  # into a local first: CPython 3.11 calls what an instance holds faster so
        try:
            data = recv(self._read)
        except WAIT:
            return
        except OSError as error:
            self._end(*failure(error, "receive"), now)
            return
        self.received += len(data)
        if not data:
            self._end("closed", "the server closed the connection", now)
            return
        if self._tail:
            data = self._tail + data
            self._tail = b""
            self._read = _READ
        begun, free = self._begun, self.free
        self._corked = True
        if data == self._expected:
            _, increment = self._whole  # type: ignore[misc]  # where there is none, nothing is expected
            _, (ticket, start, _) = begun.popitem()
            self._expected = None
            self._window += increment
            self._credit += ticket.good_data
            answered = ticket.answered
            answered(now - start)
            if not self._leaving:
                free(self, now)
            elif self._left(now):
                return
            self._uncork()
            return
        at, size = 0, len(data)
        increment = 0
        alone = self.slots == 1
        while size - at >= 9:
            key = data[at + 5 : at + 9]
            waiting = begun.get(key)
            if waiting is None:
                if data[at : at + 13] == self._update:
                    increment += self._increment
                    self._window += self._increment
                    at += 13
                    continue
            else:
                ticket, start, _ = waiting
                good = ticket.good_parts
                if good is not None:
                    whole = key.join(good)
                    end = at + len(whole)
                    if data[at:end] != whole:
                        end = self._other_numbers(ticket, key, data, at)
                        alone = False
                    elif alone and end == size:
                        ticket.good_whole = (data[:at] + good[0], *good[1:]), increment
                    if end:
                        at = end
                        self._credit += ticket.good_data
                        del begun[key]
                        answered = ticket.answered
                        answered(now - start)
                        if not self._leaving:
                            free(self, now)
                        elif self._left(now):
                            return
                        continue
            # Other frames have effects that a comparison would leave out.
            alone = False
            self._expected = None
            end = at + h2.HEAD + int.from_bytes(data[at : at + 3], "big")
            try:
                if end > size:
                    self._check_length(data[at:])
                    self._read = max(_READ, end - size)  # and not more: what is joined to the tail is copied
                    break
                self._frame(data[at : at + 5], key, data[at + h2.HEAD : end], now)
            except BadAnswer as error:
                self._end("bad answer", str(error), now)
            if self.stage is not Stage.OPEN:
                return
            at = end
        if at < size:
            self._tail = data[at:]
        self._uncork()

    def _other_numbers(self, ticket: Ticket, key: bytes, data: bytes, at: int) -> int:
        """Return where an answer ends that differs from the good one in its numbers alone, and is not to be checked; else 0."""
        frame = ticket.good_frame
        if frame is None:
            return 0
        before, size, after = frame
        head, tail = key.join(before), key.join(after)
        rest = at + len(head) + size
        end = rest + len(tail)
        if data[at : at + len(head)] != head or data[rest:end] != tail:
            return 0
        if ticket.wants_body():
            ticket.wants_body_again()
            return 0
        return end

    def written(self, now: int) -> None:
        self._flush()

    def expire_requests(self, before: int, now: int) -> None:
        if not self._greeted:
            if self.opened < before:
                self._unopened("connect timeout", "no SETTINGS within the timeout", now)
            return
        late = [key for key, (_, _, since) in self._begun.items() if since < before]
        late += [key for key, stream in self._answers.streams.items() if stream.since < before]
        for key in late:
            self._forget(key).fail("timeout", "no answer within the timeout")
            self._out.append(h2.rst_stream(key, h2.ErrorCode.CANCEL))
        if late:
            self._flush()
        for _ in late:
            if self.stage is Stage.OPEN:
                self._release(now)
        # Numbers are not given out twice. Asking for one here costs it, and nothing in `begin`.
        if self.stage is Stage.OPEN and int.from_bytes(next(self._keys), "big") > _NEAR_LAST_STREAM and not self._leaving:
            self._leave()
            self._left(now)

    def _forget(self, key: bytes) -> Ticket:
        """The request on this stream is over, without an answer."""
        self._uploads.drop(key)
        self._expected = None
        waiting = self._begun.pop(key, None)
        return waiting[0] if waiting is not None else self._answers.streams.pop(key).ticket

    def _begin_slowly(self, ticket: Ticket, key: bytes) -> None:
        """Send a request whose headers this connection has not seen, or whose body does not fit into a frame or a window."""
        body = ticket.request.body
        block, again = self._request_headers.block(ticket.number, ticket.request)
        if not again:
            self._ready.clear()
        heads = h2.header_frames(block, self._max_frame)
        if len(body) > min(self._max_frame, self._stream_window, self._window):
            self._out.append(key.join(heads))
            self._uploads.add(key, body, self._stream_window)
            return
        parts = (*heads[:-1], heads[-1] + h2.before_stream(len(body), h2.Frame.DATA, h2.END_STREAM), body)
        self._window -= len(body)
        self._out.append(key.join(parts))
        if again:
            self._ready[ticket.number] = parts, len(body)

    def _uncork(self) -> None:
        self._corked = False
        if self._credit > _REFILL:
            self._out.append(h2.window_update(h2.NO_STREAM, self._credit))
            self._credit = 0
        if self.stage is Stage.OPEN:
            self._flush()

    def _flush(self) -> None:
        """Send what lies ready, as far as the socket takes it; the rest follows when it is writable."""
        out = self._out
        while self._unsent is None:
            if self._uploads:
                self._window -= self._uploads.cut(out, self._window, self._max_frame)
            if not out:
                return
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            try:
                sent = self.send(data)
            except WAIT:
                sent = 0
            except OSError:
                return  # reading finds the error, and what the server said before it
            if sent != len(data):
                self.write_rest(memoryview(data)[sent:])

    def _check_length(self, begun: bytes) -> None:
        if int.from_bytes(begun[:3], "big") > h2.LARGEST_FRAME or not (self._greeted or begun[3] == h2.Frame.SETTINGS):
            raise BadAnswer(f"not an HTTP/2 frame: {begun[:60]!r}")

    def _frame(self, head: bytes, key: bytes, payload: bytes, now: int) -> None:
        kind = head[3]
        if not self._greeted or len(payload) > h2.LARGEST_FRAME:
            self._check_length(head + key + payload[:60])
        answers = self._answers
        if not answers.between_blocks and kind != h2.Frame.CONTINUATION:
            raise BadAnswer("a frame within a block of headers")
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(head[4], key, payload, now)
        elif kind in _OF_ANSWERS:
            if kind == h2.Frame.DATA:
                self._credit += len(payload)
            waiting = self._begun.pop(key, None)
            stream = answers.streams.get(key) if waiting is None else answers.open(key, *waiting)
            if answers.take(stream, head, key, payload):
                if self._uploads and self._uploads.drop(key):
                    self._out.append(h2.rst_stream(key, h2.ErrorCode.CANCEL))
                answers.finish(key, now)
                self._release(now)

    def _release(self, now: int) -> None:
        """A stream has ended."""
        if not self._leaving:
            self.free(self, now)
        else:
            self._left(now)

    def _left(self, now: int) -> bool:
        """On a connection that takes no new requests: close it behind the last one; True where that was it."""
        if self.busy:
            return False
        self._flush()
        self.retire(now)
        return True

    def _leave(self) -> None:
        self._leaving = True
        self.pace.withdraw(self)

    def _end(self, kind: str, text: str, now: int) -> None:
        if not self._greeted:
            self._unopened(kind, text, now)
        elif self.busy:
            self.lose(kind, text, now)
        else:
            if kind == "bad answer":
                self.warn(f"on a connection without requests: {text}")
            self.retire(now)

    def _rst_stream(self, flags: int, key: bytes, payload: bytes, now: int) -> None:
        code = h2.error_code(payload, h2.Frame.RST_STREAM)
        if key in self._begun or key in self._answers.streams:
            self._forget(key).fail(f"rst_stream {code}")
            self._release(now)

    def _settings(self, flags: int, key: bytes, payload: bytes, now: int) -> None:
        if flags & h2.ACK:
            return
        allowed = None
        for setting, value in h2.settings(payload):
            if setting == h2.Setting.HEADER_TABLE_SIZE:
                self._request_headers.limit_table(value)
            elif setting == h2.Setting.MAX_CONCURRENT_STREAMS:
                allowed = value
            elif setting == h2.Setting.INITIAL_WINDOW_SIZE:
                if value > h2.LARGEST_WINDOW:
                    raise BadAnswer(f"a window of {value}")
                self._uploads.widen(value - self._stream_window)
                self._stream_window = value
            elif setting == h2.Setting.MAX_FRAME_SIZE:
                self._max_frame = max(h2.MAX_FRAME, value)
        self._ready.clear()
        self._out.append(h2.SETTINGS_ACK)
        if allowed is not None and not self._greeted and allowed < self.slots:
            if not allowed:
                raise BadAnswer("the server allows no streams (MAX_CONCURRENT_STREAMS 0)")
            self.warn(f"the server allows {allowed} streams on a connection, not {self.slots}")
            self.slots = allowed
        if not self._greeted:
            self._greeted = True
            self.pace.ready(self, now)

    def _push_promise(self, flags: int, key: bytes, payload: bytes, now: int) -> None:
        raise BadAnswer("PUSH_PROMISE, which was forbidden")

    def _ping(self, flags: int, key: bytes, payload: bytes, now: int) -> None:
        if not flags & h2.ACK:
            self._out.append(h2.frame(h2.Frame.PING, payload, h2.ACK))

    def _goaway(self, flags: int, key: bytes, payload: bytes, now: int) -> None:
        last = h2.number(payload, h2.Frame.GOAWAY)
        reason = f"{h2.error_code(payload[4:], h2.Frame.GOAWAY)} {payload[8:].decode(errors='replace')}".strip()
        self._leave()
        for refused in [key for key in (*self._begun, *self._answers.streams) if int.from_bytes(key, "big") > last]:
            self._forget(refused).fail("goaway", reason)
        self._left(now)

    def _window_update(self, flags: int, key: bytes, payload: bytes, now: int) -> None:
        increment = h2.number(payload, h2.Frame.WINDOW_UPDATE)
        if key == h2.NO_STREAM:
            self._window += increment
            # Servers give back what a request took, one like the other: the next one is recognised by its bytes.
            self._update = h2.window_update(key, increment)
            self._increment = increment
            return
        self._uploads.widen(increment, key)
