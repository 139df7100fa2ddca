"""Reads a large JSON infer body in slices of a fraction of a millisecond, so that a gateway can answer others between two of them.

simdjson takes 2 ms a megabyte, also in a thread of its own, for it keeps the interpreter for itself while it reads. So the long arrays of
numbers are cut at commas, and each piece is read as an array of its own, with the brackets that are open around it. What is left, the
outline, has a marker in the place of each array and is read by the parser of small texts. Whatever has another form (strings, NaN, a
mistake) is left to those who read a text as a whole: they know what the caller has to be told.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any, Final, NamedTuple, cast

import simdjson

from serving.errors import ServingError
from serving.inference import Buffer
from serving.protocol.json_numbers import Numbers, Wire
from serving.protocol.json_text import MAX_DEPTH, parse
from serving.tensor import DType

SLICED_BYTES: Final = 256 * 1024
"""Texts from this size on are worth it."""
PIECE_BYTES: Final = 128 * 1024
_CUTS: Final = 16
"""Pieces that are cut at once: a fiftieth of the time of reading them."""
_KEY: Final = b'"data"'
_OPENING: Final = re.compile(rb'"data"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}\[')
_MARKER: Final = b'"@array:'
_WHITE: Final = b" \t\r\n"
_DTYPES: Final = {dtype.label: dtype for dtype in DType}


class Outline(NamedTuple):
    """What was read. text: the body with a marker for each array; document: the same parsed, with a Wire in the place of each marker."""

    text: bytes
    document: dict[str, Any]


class _Piece(NamedTuple):
    """Numbers and commas of an array, from `start` to `stop`, between `before` opening and `behind` closing brackets."""

    start: int
    stop: int
    before: int
    behind: int


def read_slices(text: Buffer, piece_bytes: int = PIECE_BYTES) -> Generator[None, None, Outline | None]:
    """Return what `json_text.parse` would, but that long arrays of inputs are Wire. None where the text is to be read as a whole.

    Yields where others may have their turn.
    """
    view = memoryview(text)
    arrays: list[list[_Piece]] = []
    kept: list[bytes] = []
    at = 0
    while (found := _find_opening(view, at, piece_bytes)) is not None:
        start = found
        pieces = yield from _cut(view, start, piece_bytes)
        if pieces is None:
            kept.append(bytes(view[at:start]))
            at = start
            continue
        kept += (bytes(view[at:start]), _MARKER, b'%d"' % len(arrays))
        arrays.append(pieces)
        at = pieces[-1].stop
    if not arrays:
        return None
    outline = b"".join((*kept, bytes(view[at:])))
    if outline.count(_MARKER) != len(arrays):
        return None
    try:
        document = parse(outline)
        filled = type(document) is dict and (yield from _fill(document, view, arrays))
    except (ServingError, ValueError, TypeError, RuntimeError):
        return None
    return Outline(outline, cast(dict[str, Any], document)) if filled else None


def _find_opening(view: memoryview, at: int, window_bytes: int) -> int | None:
    """Return where the bracket of the next `"data": [` is."""
    end = len(view)
    while at < end:
        window = bytes(view[at : at + window_bytes])
        found = window.find(_KEY)
        if found < 0:
            if at + window_bytes >= end:
                return None
            at += max(window_bytes - len(_KEY), 1)
            continue
        at += found
        opening = _OPENING.match(view, at)
        # behind a backslash the quote belongs to a name that only ends like ours
        if opening is not None and not (at and view[at - 1] == ord("\\")):
            return opening.end() - 1
        at += len(_KEY)
    return None


def _cut(view: memoryview, start: int, piece_bytes: int) -> Generator[None, None, list[_Piece] | None]:
    """Return the pieces of the array that opens at `start`; None for one that is short, or of anything but numbers and arrays."""
    pieces: list[_Piece] = []
    at, depth, end = start, 0, len(view)
    while True:
        window = bytes(view[at : at + piece_bytes])
        # The first brace ends the input, the first quote begins its next member, or a string in the array: its brackets tell.
        ends = [place for place in (window.find(b"}"), window.find(b'"')) if place >= 0]
        deeper = depth + _depth(window)
        if ends or not deeper:
            last = min(ends, default=len(window))
            stop = window.rfind(b"]", 0, last) + 1
            if not pieces or not stop or depth + _depth(window[:stop]) or window[stop:last].strip(_WHITE) not in (b"", b","):
                return None
            pieces.append(_Piece(at, at + stop, depth, 0))
            return pieces
        stop = window.rfind(b",", 1)
        if stop < 0 or at + piece_bytes >= end:
            return None
        after = bytes(view[at + stop + 1 : at + stop + 65]).lstrip(_WHITE)[:1]
        inside = deeper - _depth(window[stop:])
        if after in (b"", b"]") or not 0 < inside <= MAX_DEPTH:
            return None
        pieces.append(_Piece(at, at + stop, depth, inside))
        if not len(pieces) % _CUTS:
            yield
        at, depth = at + stop + 1, inside


def _depth(text: bytes) -> int:
    """Return how much deeper brackets are behind the text than before it. Looks first: counting takes far longer than not finding."""
    return (text.count(b"[") if b"[" in text else 0) - (text.count(b"]") if b"]" in text else 0)


def _fill(document: dict[str, Any], view: memoryview, arrays: list[list[_Piece]]) -> Generator[None, None, bool]:
    """Put the arrays into the inputs. False where one of them is not of its input's datatype, or stands elsewhere."""
    inputs = document.get("inputs")
    wanted = {f"@array:{number}": pieces for number, pieces in enumerate(arrays)}
    if type(inputs) is not list:
        return False
    for item in inputs:
        if type(item) is not dict or type(item.get("data")) is not str:
            continue
        pieces = wanted.pop(item["data"], None)
        dtype = _DTYPES.get(item["datatype"]) if type(item.get("datatype")) is str else None
        if pieces is None or dtype is None:
            return False
        parts = yield from _read(view, pieces, dtype)
        if parts is None:
            return False
        item["data"] = Wire(parts, dtype)
    return not wanted


def _read(view: memoryview, pieces: list[_Piece], dtype: DType) -> Generator[None, None, list[bytes] | None]:
    parser = simdjson.Parser()
    parts: list[bytes] = []
    for piece in pieces:
        text = b"".join((b"[" * piece.before, view[piece.start : piece.stop], b"]" * piece.behind))
        array: Any = parser.parse(text)
        part = Numbers(array).read(dtype) if type(array) is simdjson.Array else None
        del array  # or the parser would not read the next
        if part is None:
            return None
        parts.append(part)
        yield
    return parts
