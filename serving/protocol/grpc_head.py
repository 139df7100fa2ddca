"""GrpcHead: a ModelInferRequest cut into its head and the raw tensors, which are never copied.

upb copies `raw_input_contents` (field 7) twice; at 4 MiB that is 1.2 ms against some µs for walking the fields here.
The id is cut out too: then requests that differ in nothing else have equal heads, and codecs know them by these.
"""

from __future__ import annotations

from typing import Final

from serving.errors import DecodeError
from serving.inference import Buffer
from serving.protocol.protobuf import FIXED_BYTES, read_varint, text

_NAME, _VERSION, _ID, _RAW = 0x0A, 0x12, 0x1A, 0x3A
_KEPT_LENGTHS: Final = 256
_KEPT_PER_LENGTH: Final = 4
_KEPT_BYTES: Final = 4096


class GrpcHead:
    """model, version, id as sent; head_bytes: the message without id and raw contents; raws: those contents, views of the message."""

    __slots__ = ("head_bytes", "id", "model", "raws", "version")

    def __init__(self, model: str, version: str, head_bytes: bytes, raws: list[memoryview], id: str = "") -> None:
        self.model = model
        self.version = version
        self.head_bytes = head_bytes
        self.raws = raws
        self.id = id

    def __repr__(self) -> str:
        return (
            f"GrpcHead({self.model!r}, {self.version!r}, id {self.id!r}, {len(self.head_bytes)} bytes, raws {[len(r) for r in self.raws]})"
        )


class _Seen:
    """The frame of a message: where its bytes recur, the spans of the tensors are known. Positions are those without the id field.

    size    bytes before the first tensor, kept in `prefix`
    spans   where the tensors are
    walls   (start, stop, bytes) between and behind them
    """

    __slots__ = ("head", "model", "prefix", "size", "spans", "version", "walls")

    def __init__(self, view: memoryview, head: GrpcHead, spans: list[tuple[int, int]], at: int, cut: int) -> None:
        self.model = head.model
        self.version = head.version
        self.head = head.head_bytes
        self.spans = [(start - cut, stop - cut) for start, stop in spans]
        self.size = spans[0][0] - cut
        self.prefix = bytes(view[:at]) + bytes(view[at + cut : spans[0][0]])
        starts = [*[start for start, _ in spans[1:]], len(view)]
        walls = [(stop, start) for (_, stop), start in zip(spans, starts, strict=True) if start > stop]
        self.walls = [(a - cut, b - cut, bytes(view[a:b])) for a, b in walls]


class Splitter:
    """Splits messages; remembers a few frames per message length, so that one like the last costs a comparison, not a walk."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[int, list[_Seen]] = {}

    def split(self, message: Buffer) -> GrpcHead:
        """Return the parts of a ModelInferRequest. Raises DecodeError for what is not a protobuf message.

        Everything else in the head is left as it is for the codec: unknown fields, order, nonsense.
        """
        view = message if type(message) is memoryview else memoryview(message)
        length = len(view)
        for seen in self._seen.get(length, ()):
            size = seen.size
            if view[:size].tobytes() == seen.prefix:
                if not seen.walls:
                    return GrpcHead(seen.model, seen.version, seen.head, [view[size:]])
                raws = _raws(view, seen, 0)
                if raws is not None:
                    return GrpcHead(seen.model, seen.version, seen.head, raws)
        at, cut = _find_id(view, length)
        if cut:
            for seen in self._seen.get(length - cut, ()):
                if view[at + cut : seen.size + cut].tobytes() == seen.prefix[at:] and view[:at].tobytes() == seen.prefix[:at]:
                    raws = _raws(view, seen, cut)
                    if raws is not None:
                        return GrpcHead(seen.model, seen.version, seen.head, raws, text(view[at + 2 : at + cut]))
        return self._walk(view, length, at, cut)

    def _walk(self, view: memoryview, end: int, id_at: int, id_cut: int) -> GrpcHead:
        name = version = id = ""
        ids = 0
        pieces: list[memoryview] = []
        spans: list[tuple[int, int]] = []
        at = kept = 0
        while at < end:
            start = at
            key, at = read_varint(view, at, end)
            kind = key & 7
            if kind == 2:
                size, at = read_varint(view, at, end)
                begin = at
                at += size
                if at > end:
                    raise DecodeError("cannot parse the protobuf message: truncated field")
                if key == _RAW:
                    spans.append((begin, at))
                elif key == _ID:
                    id = text(view[begin:at])
                    ids += 1
                else:
                    if key == _NAME:
                        name = text(view[begin:at])
                    elif key == _VERSION:
                        version = text(view[begin:at])
                    continue
                if start > kept:
                    pieces.append(view[kept:start])
                kept = at
            elif kind == 0:
                _, at = read_varint(view, at, end)
            elif kind in FIXED_BYTES:
                at += FIXED_BYTES[kind]
                if at > end:
                    raise DecodeError("cannot parse the protobuf message: truncated field")
            else:
                raise DecodeError(f"cannot parse the protobuf message: wire type {kind}")
        if kept < end:
            pieces.append(view[kept:end])
        head = GrpcHead(name, version, b"".join(pieces), [view[a:b] for a, b in spans], id)
        if spans and ids == (1 if id_cut else 0):
            self._keep(view, head, spans, id_at, id_cut)
        return head

    def _keep(self, view: memoryview, head: GrpcHead, spans: list[tuple[int, int]], id_at: int, id_cut: int) -> None:
        if len(view) - sum([stop - start for start, stop in spans]) > _KEPT_BYTES:
            return
        length = len(view) - id_cut
        if len(self._seen) >= _KEPT_LENGTHS and length not in self._seen:
            self._seen.clear()
        some = self._seen.setdefault(length, [])
        some.insert(0, _Seen(view, head, spans, id_at, id_cut))
        del some[_KEPT_PER_LENGTH:]

    def __repr__(self) -> str:
        return f"Splitter({sum(map(len, self._seen.values()))} frames)"


def _raws(view: memoryview, seen: _Seen, cut: int) -> list[memoryview] | None:
    """Return the tensors where all between and behind them is as in the frame, else None."""
    for start, stop, wall in seen.walls:
        if view[start + cut : stop + cut].tobytes() != wall:
            return None
    return [view[start + cut : stop + cut] for start, stop in seen.spans]


def _find_id(view: memoryview, end: int) -> tuple[int, int]:
    """Return where the id field is and its bytes, where it follows name and version as every client writes it; else (0, 0).

    Looks at lengths below 128 alone (one byte of varint).
    """
    at = 0
    for key in (_NAME, _VERSION):
        if at + 2 < end and view[at] == key:
            size = view[at + 1]
            if size > 127:
                return 0, 0
            at += 2 + size
    if at + 2 < end and view[at] == _ID:
        size = view[at + 1]
        if 0 < size < 128 and at + 2 + size < end:
            return at, size + 2
    return 0, 0


split: Final = Splitter().split
