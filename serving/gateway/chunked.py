"""Decodes HTTP/1.1 chunked bodies. Pure and strict: what two parties could read differently is refused.

Source: RFC 9112 section 7.1. Chunk extensions are read over, trailers are read and dropped; both are bounded.
"""

from __future__ import annotations

from serving.errors import DecodeError, TooLarge

MAX_CHUNKS = 65_536
MAX_LINE_BYTES = 4096
MAX_TRAILER_BYTES = 16 * 1024
COPY_BYTES = 1024
"""Smaller chunks are copied: a view takes 184 bytes, and time."""
_SMALL_DIGITS = 4
_HEX = frozenset(b"0123456789abcdefABCDEF")


class ChunkedDecoder:
    """Takes the bytes behind the head of a chunked message; collects the body until its end.

    feed() appends body bytes to `parts` and returns True when the message is over; `rest` then holds what follows it.
    A streaming reader takes `parts` away whenever it likes. `more` says that feed() took as many chunks as it was to take at most:
    feed(b"") goes on.
    """

    __slots__ = (
        "_buffer", "_chunks", "_max_bytes", "_max_chunks", "_missing", "_state", "_trailer_bytes", "more", "parts", "rest", "total",
    )  # fmt: skip

    def __init__(self, max_bytes: int, max_chunks: int = MAX_CHUNKS) -> None:
        self.more = False
        self.parts: list[bytes | memoryview] = []
        self.rest = b""
        self.total = 0
        self._buffer = b""
        self._chunks = 0
        self._max_bytes = max_bytes
        self._max_chunks = max_chunks
        self._missing = 0
        self._state = _size
        self._trailer_bytes = 0

    def feed(self, data: bytes, most: int = 1 << 62) -> bool:
        """Take `data` in, `most` chunks of it or so; True when the message has ended.

        Raises DecodeError or TooLarge; the connection must then close.
        """
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        self.more = False
        last = self._chunks + most
        at = 0
        while at >= 0:
            if self._state is _done:
                self.rest = data[at:]
                return True
            if self._state is _size:
                at = self._small_ones(data, at, min(last, self._max_chunks))
                if self._chunks >= last and at < len(data):
                    self._buffer = data[at:]
                    self.more = True
                    return False
            at = self._state(self, data, at)
        return False

    def _small_ones(self, data: bytes, at: int, last: int) -> int:
        """Take whole chunks of plain form from `at` on; return where the first is that is anything else, which its state looks at.

        The states take 4 µs for each chunk: a body of one-byte chunks would keep a gateway for a quarter of a second.
        """
        chunks = self._chunks
        total = self.total
        small: list[bytes] = []
        while chunks < last:
            end = data.find(b"\r\n", at, at + _SMALL_DIGITS + 2)
            digits = data[at:end]
            # int() takes more than HTTP does: signs, spaces, underscores, 0x
            if end <= at or not digits.isalnum() or digits[0] == 48:
                break
            try:
                size = int(digits, 16)
            except ValueError:
                break
            start = end + 2
            stop = start + size
            if data[stop : stop + 2] != b"\r\n" or total + size > self._max_bytes:
                break
            if size < COPY_BYTES:
                small.append(data[start:stop])
            else:
                self._join(small)
                self.parts.append(memoryview(data)[start:stop])
            chunks += 1
            total += size
            at = stop + 2
        self._join(small)
        self._chunks = chunks
        self.total = total
        return at

    def _join(self, small: list[bytes]) -> None:
        """Keep them as one: an object for each chunk of one byte would take 34 bytes and more."""
        if small:
            self.parts.append(b"".join(small))
            small.clear()

    def _keep(self, data: bytes, at: int, limit: int, what: str) -> int:
        if len(data) - at > limit:
            raise DecodeError(f"chunked body: {what} longer than {limit} bytes")
        self._buffer = data[at:]
        return -1

    def __repr__(self) -> str:
        return f"ChunkedDecoder({self._state.__name__.strip('_')}, {self.total} bytes in {self._chunks} chunks)"


# Each state takes (decoder, data, at) and returns where to go on, or -1 when it needs more.


def _size(d: ChunkedDecoder, data: bytes, at: int) -> int:
    end = data.find(b"\n", at)
    if end < 0:
        return d._keep(data, at, MAX_LINE_BYTES, "size line")
    if end == at or data[end - 1] != 13:
        raise DecodeError("chunked body: a line must end with CR LF")
    if end - at > MAX_LINE_BYTES:
        raise DecodeError(f"chunked body: size line longer than {MAX_LINE_BYTES} bytes")
    line = data[at : end - 1]
    digits = line.split(b";", 1)[0].rstrip(b" \t")
    if not 1 <= len(digits) <= 15 or not _HEX.issuperset(digits) or b"\r" in line:
        raise DecodeError("chunked body: the chunk size is not a hexadecimal number")
    size = int(digits, 16)
    if size == 0:
        d._state = _trailer
        return end + 1
    d._chunks += 1
    if d._chunks > d._max_chunks:
        raise DecodeError(f"Chunked request body exceeds maximum of {d._max_chunks} non-empty chunks. Send fewer or larger HTTP chunks.")
    d.total += size
    if d.total > d._max_bytes:
        raise TooLarge(f"request body exceeds the maximum allowed size of {d._max_bytes} bytes")
    d._missing = size
    d._state = _data
    return end + 1


def _data(d: ChunkedDecoder, data: bytes, at: int) -> int:
    have = len(data) - at
    if have >= d._missing:
        stop = at + d._missing
        d.parts.append(memoryview(data)[at:stop])
        d._missing = 0
        d._state = _data_end
        return stop
    if have:
        d.parts.append(memoryview(data)[at:])
        d._missing -= have
    return -1


def _data_end(d: ChunkedDecoder, data: bytes, at: int) -> int:
    if len(data) - at < 2:
        return d._keep(data, at, 2, "chunk end")
    if data[at : at + 2] != b"\r\n":
        raise DecodeError("chunked body: a chunk is longer than its size says")
    d._state = _size
    return at + 2


def _trailer(d: ChunkedDecoder, data: bytes, at: int) -> int:
    end = data.find(b"\n", at)
    if end < 0:
        return d._keep(data, at, MAX_LINE_BYTES, "trailer line")
    if end == at or data[end - 1] != 13:
        raise DecodeError("chunked body: a line must end with CR LF")
    d._trailer_bytes += end + 1 - at
    if d._trailer_bytes > MAX_TRAILER_BYTES:
        raise DecodeError(f"chunked body: trailers longer than {MAX_TRAILER_BYTES} bytes")
    if end - 1 == at:
        d._state = _done
    return end + 1


def _done(d: ChunkedDecoder, data: bytes, at: int) -> int:
    return at
