"""HTTP/1.1 answers: heads, known again by their bytes, and chunked bodies. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving.bench.request import BadAnswer

MAX_HEAD = 65536

UNTIL_CLOSE = -1
CHUNKED = -2

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([^\r\n]*))?\Z")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\Z")
_KEPT_HEADS = 1024


@dataclass(frozen=True, slots=True)
class Head:
    """`length` of the body in bytes, or CHUNKED, or UNTIL_CLOSE. `last`: the connection ends behind it."""

    status: int
    reason: str
    length: int
    last: bool


class Heads:
    """Reads heads. The same bytes are read once."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, raw: bytes) -> Head:
        """Return what a head says; `raw` ends with the empty line. BadAnswer where it is none."""
        head = self._known.get(raw)
        if head is None:
            head = _read(raw)
            if len(self._known) >= _KEPT_HEADS:
                self._known.clear()
            self._known[raw] = head
        return head


def check_beginning(begun: bytes) -> None:
    """Raise BadAnswer where no head begins like this or is as long as this."""
    if begun[:7] != b"HTTP/1."[: len(begun)]:
        raise BadAnswer(f"not HTTP/1.1: {begun[:60]!r}")
    if len(begun) > MAX_HEAD:
        raise BadAnswer(f"a head of more than {MAX_HEAD} bytes")


def _read(raw: bytes) -> Head:
    first, *lines = raw[:-4].split(b"\r\n")
    match = _STATUS_LINE.match(first)
    if match is None:
        raise BadAnswer(f"status line {first[:60]!r}")
    status = int(match[2])
    lengths: set[bytes] = set()
    codings: list[bytes] = []
    tokens: list[bytes] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.match(name):
            raise BadAnswer(f"header line {line[:60]!r}")
        name = name.lower()
        if name == b"content-length":
            lengths.update(part.strip() for part in value.split(b","))
        elif name == b"transfer-encoding":
            codings += [part.strip().lower() for part in value.split(b",")]
        elif name == b"connection":
            tokens += [part.strip().lower() for part in value.split(b",")]
    last = b"close" in tokens or (match[1] == b"0" and b"keep-alive" not in tokens)
    length = _length(status, lengths, codings)
    return Head(status, (match[3] or b"").decode("latin-1"), length, last or length == UNTIL_CLOSE)


def _length(status: int, lengths: set[bytes], codings: list[bytes]) -> int:
    if status < 200 or status in (204, 304):
        return 0
    if codings:
        if codings != [b"chunked"]:
            raise BadAnswer(f"transfer-encoding {b', '.join(codings)[:60]!r}")
        return CHUNKED
    if not lengths:
        return UNTIL_CLOSE
    text = lengths.pop()
    if lengths or not text.isdigit() or len(text) > 15:
        raise BadAnswer(f"content-length {text[:60]!r}")
    return int(text)


class Chunks:
    """Reads a chunked body, piece by piece. `body` holds its bytes where `keep` is set; `rest` what came behind its end."""

    __slots__ = ("_keep", "_left", "_line", "_stage", "body", "done", "rest")

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._left = 0
        self._line = b""
        self._stage = "size"
        self.body = bytearray()
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes. BadAnswer where they are no chunks."""
        at, size = 0, len(data)
        while at < size and not self.done:
            if self._stage == "data":
                taken = min(self._left, size - at)
                if self._keep:
                    self.body += memoryview(data)[at : at + taken]
                at += taken
                self._left -= taken
                if not self._left:
                    self._stage = "end"
                continue
            line_end = data.find(b"\n", at)
            self._line += data[at:] if line_end < 0 else data[at : line_end + 1]
            if len(self._line) > MAX_HEAD:
                raise BadAnswer(f"a chunk's line of more than {MAX_HEAD} bytes")
            if line_end < 0:
                return
            at = line_end + 1
            if not self._line.endswith(b"\r\n"):
                raise BadAnswer(f"chunk line {self._line[:60]!r}")
            line, self._line = self._line[:-2], b""
            self._take(line)
        self.rest = data[at:]

    def _take(self, line: bytes) -> None:
        if self._stage == "size":
            match = _CHUNK_SIZE.match(line)
            if match is None:
                raise BadAnswer(f"chunk size {line[:60]!r}")
            self._left = int(match[1], 16)
            self._stage = "data" if self._left else "trailers"
        elif self._stage == "end":
            if line:
                raise BadAnswer(f"{line[:60]!r} behind a chunk's bytes")
            self._stage = "size"
        elif not line:
            self.done = True
