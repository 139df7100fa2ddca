"""FrameReader: cuts what an HTTP/2 client sends into frames, wherever the network cut it, and puts header blocks and bodies together.

What comes of a DATA frame goes to its stream at once; of all other frames the whole is waited for, so that what is held here is at
most one of them and one header block. The meaning of a block or of a frame that carries no request is its heir's matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from struct import Struct

from serving.gateway import http2_frames as h2
from serving.gateway.http2_frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, FRAME_BYTES, HEADERS, Broken, Http2Code
from serving.gateway.http2_stream import PLACED_BYTES, Http2Stream

OUR_FRAME_BYTES = 1 << 20
CONNECTION_WINDOW = 1 << 30
MAX_FRAGMENTS = 64
MAX_STRAIN = 32
"""Header blocks that were not known, and their like: more of them in one piece take turns. So many take about a millisecond."""
_HEAD = Struct(">LBL")
"""A frame's header in three numbers: length << 8 | type, flags, stream."""
_ORDINARY = h2.DEFAULT_FRAME_BYTES << 8 | 0xFF


class FrameReader(ABC):
    """One connection's way in. `data_received` raises nothing: what breaks the connection goes to `give_up`."""

    __slots__ = (
        "_begun",
        "_block",
        "_block_ends",
        "_block_of",
        "_data_ends",
        "_data_left",
        "_data_stream",
        "_held",
        "_max_block",
        "_middle",
        "_need",
        "_pad_left",
        "_received",
        "closed",
        "strain",
        "streams",
        "waiting_since",
    )

    def __init__(self, max_block: int, now: float) -> None:
        self.streams: dict[int, Http2Stream] = {}
        """The open ones."""
        self.closed = False
        """What still comes is dropped."""
        self.strain = 0
        """What the requests of this piece of bytes have cost besides the usual (`MAX_STRAIN`)."""
        self.waiting_since = now
        """Since when we wait for the rest of a frame or of a header block, where `waiting`."""
        self._max_block = max_block
        self._begun = False
        self._middle = True
        """Not at the beginning of a frame, or before the first one."""
        self._held = bytearray()
        self._need = FRAME_BYTES
        # The DATA frame that is on its way.
        self._data_left = 0
        self._pad_left = 0
        self._data_ends = False
        self._data_stream: Http2Stream | None = None
        # The header block that is on its way.
        self._block: list[bytes] = []
        self._block_of = 0
        self._block_ends = False
        self._received = 0

    # What the heir says ----------------------------------------------------------------------------------------------

    @abstractmethod
    def open(self, number: int, block: bytes, ended: bool) -> Http2Stream | None:
        """Open a stream; return it if its body, in one piece if possible, is still to come. A known number: these are trailers."""

    @abstractmethod
    def stray(self, number: int, stream: Http2Stream | None) -> None:
        """Data has come for a stream that expects none. Raises Broken where that breaks the connection."""

    @abstractmethod
    def control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Take a frame of any other type. Raises Broken."""

    @abstractmethod
    def nothing(self, weight: int = 1) -> None:
        """A frame came that carries nothing. Raises Broken where there are too many of them."""

    @abstractmethod
    def tired(self) -> bool:
        """So many frames of control have come in one piece that the rest of it shall take its turn."""

    @abstractmethod
    def later(self, data: bytes) -> None:
        """Have `data`, which begins with a frame, given to `data_received` in a later turn."""

    @abstractmethod
    def receive_in_place(self, stream: Http2Stream) -> None:
        """Most of a large frame is still to come, of a message that has its place: have it received there (`room`, `placed`)."""

    @abstractmethod
    def replenish(self, nbytes: int) -> None:
        """Let the client send as much again on the connection."""

    @abstractmethod
    def give_up(self, code: Http2Code, text: str) -> None:
        """The connection cannot go on."""

    @abstractmethod
    def now(self) -> float:
        """The loop's time, as often as it is looked at."""

    # Bytes in --------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            if self._middle:
                self._resume(data)
            else:
                self._read(data, 0)
        except Broken as error:
            self.give_up(error.code, str(error))

    def drop(self) -> None:
        """From now on drop what comes."""
        self.closed = self._middle = True
        self._held = bytearray()
        self._block = []
        self._data_stream = None

    @property
    def waiting(self) -> bool:
        """The client owes the rest of something that only counts as a whole."""
        return bool(self._held) or bool(self._block) or not self._begun

    def _resume(self, data: bytes) -> None:
        if self.closed:
            return
        at = 0
        if self._data_left or self._pad_left:
            at = self._go_on(data, 0)
            if self._middle:
                return
        else:
            held = self._held
            held += data
            if len(held) < self._need:
                return
            data = bytes(held)
            self._held = bytearray()
            if not self._begun:
                if data[3] != h2.SETTINGS or data[4] & h2.ACK:
                    raise Broken(Http2Code.PROTOCOL_ERROR, "the first frame must be SETTINGS")
                self._begun = True
            self._middle = False
        self._read(data, at)

    def _read(self, data: bytes, at: int) -> None:
        unpack = _HEAD.unpack_from
        end = len(data)
        while end - at >= FRAME_BYTES:
            head, flags, number = unpack(data, at)
            start = at + FRAME_BYTES
            stop = start + (head >> 8)
            kind = head & 0xFF
            if number > h2.LAST_STREAM:
                number &= h2.LAST_STREAM
            if self._block and kind != CONTINUATION:
                raise Broken(Http2Code.PROTOCOL_ERROR, "a header block is interrupted")
            if head > _ORDINARY:
                self._check_size(kind, stop - start)
            if stop > end:
                self._unfinished(data, at, stop, kind, flags, number)
                return
            if kind == HEADERS:
                if flags & ~END_STREAM == END_HEADERS:
                    stream = self.open(number, data[start:stop], flags & END_STREAM != 0)
                    if stream is not None and end - stop >= FRAME_BYTES:
                        # The usual unary call: its only message right behind its head.
                        head, flags, other = unpack(data, stop)
                        start = stop + FRAME_BYTES
                        at = start + (head >> 8)
                        if other == number and flags == END_STREAM and head & 0xFF == DATA and at <= end and head <= _ORDINARY:
                            self._received += at - start
                            stream.receiving = False
                            stream.run(memoryview(data)[start:at])
                            if self.strain > MAX_STRAIN and at < end:
                                self.later(data[at:])
                                return
                            continue
                else:
                    self._headers(number, flags, data[start:stop])
            elif kind == DATA:
                self._data(number, flags, data, start, stop)
            elif kind == CONTINUATION:
                self._continue(number, flags, data[start:stop])
            else:
                self.control(kind, flags, number, data[start:stop])
                if self.tired():
                    self.strain = MAX_STRAIN + 1
            at = stop
            if self.strain > MAX_STRAIN and at < end:
                self.later(data[at:])
                return
        if at < end:
            self._hold(data, at, FRAME_BYTES)
        if self._received > CONNECTION_WINDOW // 2:
            self._replenish()

    def _check_size(self, kind: int, size: int) -> None:
        if size > (OUR_FRAME_BYTES if kind == DATA else self._max_block + 256):
            raise Broken(Http2Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes")

    def _unfinished(self, data: bytes, at: int, stop: int, kind: int, flags: int, number: int) -> None:
        start = at + FRAME_BYTES
        size = stop - start
        if kind != DATA or (flags & h2.PADDED and start == len(data)):
            self._hold(data, at, size + FRAME_BYTES if kind != DATA else FRAME_BYTES + 1)
            return
        pad = 0
        if flags & h2.PADDED:
            pad = data[start]
            start += 1
            size -= 1
            if pad > size:
                raise Broken(Http2Code.PROTOCOL_ERROR, "more padding than data")
            self._received += 1
        self._middle = True
        self._data_left = size - pad
        self._pad_left = pad
        self._data_ends = flags & END_STREAM != 0
        self._data_stream = self._stream_of(number)
        if self._data_stream is not None and flags & h2.PADDED:
            self._data_stream.padding(pad + 1)
        self._go_on(data, start)

    def _hold(self, data: bytes, at: int, need: int) -> None:
        if not self.closed:
            self._held = bytearray(memoryview(data)[at:])
            self._need = need
            self._middle = True
            self.waiting_since = self.now()

    # Bodies in -------------------------------------------------------------------------------------------------------

    def _go_on(self, data: bytes, at: int) -> int:
        """Take the next part of a DATA frame that has not come to its end; return where it ends in `data`."""
        stream = self._data_stream
        have = len(data) - at
        size = min(self._data_left, have)
        if size:
            self._data_left -= size
            if stream is not None and stream.receiving:
                stream.body(memoryview(data)[at : at + size])
        pad = min(self._pad_left, have - size) if not self._data_left else 0
        self._pad_left -= pad
        self._received += size + pad
        if self._received > CONNECTION_WINDOW // 2:
            self._replenish()
        if self._data_left >= PLACED_BYTES and stream is not None and stream.place is not None:
            self.receive_in_place(stream)
        elif not self._data_left and not self._pad_left and not self.closed:
            self._end_data()
        return at + size + pad

    def _end_data(self) -> None:
        """The DATA frame that was on its way has come to its end."""
        stream = self._data_stream
        self._middle = False
        self._data_stream = None
        if self._data_ends and stream is not None and stream.receiving:
            stream.body_ended()

    def room(self) -> memoryview | None:
        """Return where the rest of the frame that is on its way belongs, with room for the head of the next one; None: nowhere."""
        stream, left = self._data_stream, self._data_left
        if stream is None or not left or self._pad_left:
            return None
        return stream.room(left, FRAME_BYTES)

    def placed(self, nbytes: int) -> None:
        """So many bytes have come into the room."""
        stream, left = self._data_stream, self._data_left
        assert stream is not None
        rest = b""
        if nbytes > left:
            rest = stream.behind(left, nbytes)
            nbytes = left
        self._data_left = left - nbytes
        self._received += nbytes
        stream.grew(nbytes)
        if self._received > CONNECTION_WINDOW // 2:
            self._replenish()
        if nbytes == left and not self.closed:
            self._end_data()
            if rest:
                self.data_received(rest)

    def _data(self, number: int, flags: int, data: bytes, start: int, stop: int) -> None:
        self._received += stop - start
        stream = self._stream_of(number)
        if flags & h2.PADDED:
            pad = data[start] if stop > start else 1
            start += 1
            stop -= pad
            if stop < start:
                raise Broken(Http2Code.PROTOCOL_ERROR, "more padding than data")
            if stream is not None:
                stream.padding(pad + 1)
        if flags & END_STREAM:
            if stream is not None:
                stream.last(memoryview(data)[start:stop])
        else:
            if start == stop:
                self.nothing()
            if stream is not None:
                stream.body(memoryview(data)[start:stop])

    def _stream_of(self, number: int) -> Http2Stream | None:
        stream = self.streams.get(number)
        if stream is not None and stream.receiving:
            return stream
        self.stray(number, stream)
        return None

    def _replenish(self) -> None:
        """The connection's window stays open: what is held is bounded elsewhere."""
        received, self._received = self._received, 0
        self.replenish(received)

    # Header blocks in ------------------------------------------------------------------------------------------------

    def _headers(self, number: int, flags: int, payload: bytes) -> None:
        """A HEADERS frame with padding, a priority, or more to come."""
        start, stop = 0, len(payload)
        if flags & h2.PADDED:
            if not payload:
                raise Broken(Http2Code.FRAME_SIZE_ERROR, "a padded frame without its length")
            start, stop = 1, stop - payload[0]
        if flags & h2.HAS_PRIORITY:
            start += 5
        if stop < start:
            raise Broken(Http2Code.PROTOCOL_ERROR, "more padding than data")
        if flags & END_HEADERS:
            self.open(number, payload[start:stop], flags & END_STREAM != 0)
        elif not self.closed:
            self._block = [payload[start:stop]]
            self._block_of = number
            self._block_ends = flags & END_STREAM != 0
            self.waiting_since = self.now()

    def _continue(self, number: int, flags: int, payload: bytes) -> None:
        block = self._block
        if not block or number != self._block_of:
            raise Broken(Http2Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.append(payload)
        if len(block) > MAX_FRAGMENTS or sum(map(len, block)) > self._max_block:
            raise Broken(Http2Code.ENHANCE_YOUR_CALM, "a header block without an end")
        if flags & END_HEADERS:
            self._block = []
            self.open(number, b"".join(block), self._block_ends)
