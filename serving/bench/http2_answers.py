"""The answers of one HTTP/2 connection that are read frame by frame: those that are not like the one before. Pure, but for the tickets."""

from __future__ import annotations

from collections.abc import Sequence

from serving.bench import http2_frames as h2
from serving.bench.http2_headers import AnswerHeaders, Fields
from serving.bench.http2_stream import Stream
from serving.bench.request import BadAnswer
from serving.bench.ticket import Ticket

_LARGEST_BLOCK = 1 << 20
_PREFIX = 5
"""Bytes before a message of gRPC."""


def around_data(template: Sequence[bytes]) -> tuple[tuple[bytes, ...], int, tuple[bytes, ...]] | None:
    """Return what stands around the data of an answer: before it and in its first five bytes, its other bytes, behind it.

    `template` is the answer, cut where the stream's number stands; both ends are cut so, too. None where the data are not in one frame.
    """
    found = [number for number, piece in enumerate(template[:-1], 1) if piece[-2] == h2.Frame.DATA]
    if len(found) != 1:
        return None
    (number,) = found
    size = int.from_bytes(template[number - 1][-5:-2], "big")
    if size < _PREFIX:
        return None
    piece = template[number]
    return (*template[:number], piece[:_PREFIX]), size - _PREFIX, (piece[size:], *template[number + 1 :])


class Answers:
    """`open` an answer with its first frame, then `take` its frames, until it is complete."""

    def __init__(self, known: dict[bytes, Fields]) -> None:
        self.streams: dict[bytes, Stream] = {}
        self._headers = AnswerHeaders(known)
        self._assembling: tuple[bytes, int, bytearray] | None = None

    def open(self, key: bytes, ticket: Ticket, start: int, since: int) -> Stream:
        stream = self.streams[key] = Stream(ticket, start, since, self._headers.stateless)
        return stream

    @property
    def between_blocks(self) -> bool:
        """False where only CONTINUATION may come."""
        return self._assembling is None

    def take(self, stream: Stream | None, head: bytes, key: bytes, payload: bytes) -> bool:
        """Take a DATA, HEADERS or CONTINUATION frame; return whether it completes the answer.

        `head` is its first five bytes. Without a stream its request is over: headers are read all the same, the header table wants it.
        Raises BadAnswer where the frame is wrong here.
        """
        kind, flags = head[3], head[4]
        if kind == h2.Frame.DATA:
            return stream is not None and self._data(stream, head, payload)
        if stream is not None:
            stream.take_frame(head, payload)
        if kind == h2.Frame.HEADERS:
            block = h2.unpadded(flags, payload) if flags & (h2.PADDED | h2.PRIORITY) else payload
            if not flags & h2.END_HEADERS:
                self._assembling = key, flags, bytearray(block)
                return False
            return self._block(stream, flags, block)
        return self._continuation(stream, flags, key, payload)

    def finish(self, key: bytes, now: int) -> None:
        """The answer is complete: give its ticket the outcome."""
        stream = self.streams.pop(key)
        ticket = stream.ticket
        wrong = stream.verdict()
        if wrong is not None:
            ticket.fail(*wrong)
            return
        ticket.answered(now - stream.start)
        if stream.template is not None and self._headers.stateless:
            ticket.good_parts = tuple(stream.template)
            ticket.good_data = stream.data_bytes
            ticket.good_frame = around_data(stream.template)

    def _data(self, stream: Stream, head: bytes, payload: bytes) -> bool:
        if not stream.status:
            raise BadAnswer("DATA before HEADERS")
        flags = head[4]
        if flags & h2.PADDED:
            stream.template = None
            payload = h2.unpadded(flags & h2.PADDED, payload)
        stream.take_frame(head, payload)
        stream.take_data(payload)
        return bool(flags & h2.END_STREAM)

    def _continuation(self, stream: Stream | None, flags: int, key: bytes, payload: bytes) -> bool:
        if self._assembling is None or self._assembling[0] != key:
            raise BadAnswer("CONTINUATION without HEADERS")
        _, first_flags, block = self._assembling
        block += payload
        if len(block) > _LARGEST_BLOCK:
            raise BadAnswer(f"headers of more than {_LARGEST_BLOCK} bytes")
        if not flags & h2.END_HEADERS:
            return False
        self._assembling = None
        return self._block(stream, first_flags, bytes(block))

    def _block(self, stream: Stream | None, flags: int, block: bytes) -> bool:
        fields = self._headers.read(block)
        if stream is None:
            return False
        stream.take_fields(fields)
        return bool(flags & h2.END_STREAM)
