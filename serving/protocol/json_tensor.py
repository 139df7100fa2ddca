"""The `data` member of a JSON tensor to wire bytes and back.

Numbers go through `array.array`: it takes a list at 15 ns an element, refuses what is not a number of its kind, and
checks the range. It takes booleans for integers, so those are looked for apart, and only where the JSON text has any.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator
from itertools import chain
from math import isfinite
from struct import Struct
from typing import Any, Final

import numpy as np
import orjson

from serving.errors import InvalidArgument
from serving.inference import Buffer
from serving.protocol.json_numbers import Numbers, Wire
from serving.protocol.json_text import DEPTH_MESSAGE, MAX_DEPTH
from serving.tensor import DType

# Keyed by label: an Enum as a key is hashed in Python (0.1 µs each time).
ARRAY_CODE: Final[dict[str, Any]] = {
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP32": "f", "FP64": "d",
}  # fmt: skip
"""Native type codes; the wire is little-endian, as is every machine that we run on."""

BINARY_ONLY: Final = ("FP16", "BF16")
MISCOUNTED: Final = "Unable to parse 'data': Shape does not match true shape of 'data' field"
"""Word for word what clients compare the whole text with, so it does not tell the input."""
_LENGTH: Final = Struct("<I")
_BOOL: Final = DType.BOOL
_BYTES: Final = DType.BYTES
_KIND: Final[dict[str, tuple[str, set[type]]]] = {
    "BOOL": ("boolean", {bool}),
    "BYTES": ("string", {str}),
    **dict.fromkeys(("FP32", "FP64"), ("number", {int, float})),
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64"), ("signed-integer", {int})),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32", "UINT64"), ("unsigned-integer", {int})),
}
_SLICE: Final = 8192
"""Elements of a large tensor that are written at once."""
_NUMPY_ABOVE: Final = 512
"""Elements from which numpy prints faster than a list (benchmarks/micro/protocol.py)."""


def decode(data: list[Any] | Numbers | Wire, dtype: DType, count: int, name: str, text: bytes) -> bytes:
    """Return the wire bytes of a flat, nested or ragged list with `count` elements in all.

    `text`: where the list comes from; one with neither `true` nor `false` in it saves a look at each element.
    Raises InvalidArgument for elements of another type or out of range, a wrong count, or nesting beyond MAX_DEPTH.
    """
    if isinstance(data, Wire):
        if data.count != count:
            raise InvalidArgument(MISCOUNTED)
        return b"".join(data.parts)
    if isinstance(data, Numbers):
        found = data.wire(dtype, count)
        if found is not None:
            return found
        data = data.elements()
    flat, depth = _flatten(data) if data and type(data[0]) is list else (data, 1)
    code = ARRAY_CODE.get(dtype.label)
    if code is None or len(flat) != count or b"true" in text or b"false" in text:
        flat = _checked(flat, depth, dtype, count, name)
    if dtype is _BOOL:
        return bytes(flat)
    if code is None:
        return _join_strings(flat)
    try:
        return array(code, flat).tobytes()
    except TypeError:
        return array(code, _checked(flat, depth, dtype, count, name)).tobytes()
    except OverflowError:
        raise InvalidArgument(f"Unable to parse 'data': number out of the range of {dtype.label} (input '{name}')") from None


def encode(dtype: DType, data: Buffer, name: str) -> bytes:
    """Return the JSON list of a tensor's wire bytes. FP32 is printed with double digits; NaN and Infinity as literals.

    Raises InvalidArgument for what JSON cannot say: FP16, BF16, and BYTES that are not UTF-8.
    """
    if dtype is _BYTES:
        return orjson.dumps(_split_strings(memoryview(data), name))
    view = memoryview(data)
    if dtype is _BOOL:
        return orjson.dumps(view.cast("?").tolist())
    code = ARRAY_CODE.get(dtype.label)
    if code is None:
        raise binary_only_output(dtype, name)
    if view.nbytes < _NUMPY_ABOVE * dtype.itemsize:
        numbers = view.cast(code).tolist()
        text = orjson.dumps(numbers)
        return _with_literals(text, [x for x in numbers if not isfinite(x)]) if b"null" in text else text
    elements = np.frombuffer(view, dtype.numpy).astype(np.float64 if code == "f" else dtype.numpy)
    text = orjson.dumps(elements, option=orjson.OPT_SERIALIZE_NUMPY)
    # Looking for "null" in the text would take a third of the time of writing it.
    finite = np.isfinite(elements)
    return text if finite.all() else _with_literals(text, elements[~finite].tolist())


def encode_slices(dtype: DType, data: Buffer, name: str) -> Generator[None, None, bytes]:
    """Return what `encode` does; yields about every half a millisecond, where others may have their turn."""
    view = memoryview(data)
    if dtype is _BYTES or len(view) <= _SLICE * dtype.itemsize:
        return encode(dtype, view, name)
    step = _SLICE * dtype.itemsize
    texts = []
    for at in range(0, len(view), step):
        texts.append(encode(dtype, view[at : at + step], name)[1:-1])
        yield
    return b"[%s]" % b",".join(texts)


def _with_literals(text: bytes, special: list[float]) -> bytes:
    """Return the list with NaN and Infinity, in their order, where orjson wrote null."""
    pieces = text.split(b"null")
    joined = [b""] * (len(pieces) + len(special))
    joined[0::2] = pieces
    joined[1::2] = [b"NaN" if x != x else b"Infinity" if x > 0 else b"-Infinity" for x in special]
    return b"".join(joined)


def binary_only_input(label: str, name: str) -> InvalidArgument:
    """Return the error for FP16 and BF16 data as JSON in a request."""
    return InvalidArgument(
        f"receiving {label} data via JSON is not supported. Please use the binary data format for input {name}"
    )  # fmt: skip


def binary_only_output(dtype: DType, name: str) -> InvalidArgument:
    """Return the error for FP16 and BF16 data asked for as JSON."""
    return InvalidArgument(
        f"sending {dtype.label} data via JSON is not supported. Please use the binary data format for output {name}"
    )  # fmt: skip


def flat(data: list[Any]) -> list[Any]:
    """Return the elements of a list that may hold lists. Raises InvalidArgument for nesting beyond MAX_DEPTH."""
    elements, depth = _flatten(data)
    return _walk(elements, depth) if list in set(map(type, elements)) else elements


def _flatten(data: list[Any]) -> tuple[list[Any], int]:
    """Peel off the levels that begin with a list; return what is left, with the depth of its elements.

    An element further on may still be a list (ragged data): `_checked` and the array find it.
    """
    depth = 1
    while data and type(data[0]) is list:
        if set(map(type, data)) != {list}:
            return _walk(data, depth), depth
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidArgument(DEPTH_MESSAGE)
        data = list(chain.from_iterable(data))
    return data, depth


def _walk(data: list[Any], depth: int) -> list[Any]:
    """Return the elements of a list that mixes elements and lists, in one pass: a level at a time would be quadratic."""
    flat = []
    stack = [iter(data)]
    while stack:
        for item in stack[-1]:
            if type(item) is list:
                if depth + len(stack) > MAX_DEPTH:
                    raise InvalidArgument(DEPTH_MESSAGE)
                stack.append(iter(item))
                break
            flat.append(item)
        else:
            stack.pop()
    return flat


def _checked(flat: list[Any], depth: int, dtype: DType, count: int, name: str) -> list[Any]:
    """Return the elements if all are of the datatype's kind and as many as the shape says."""
    kinds = set(map(type, flat))
    if list in kinds:
        flat = _walk(flat, depth)
        kinds = set(map(type, flat))
    word, allowed = _KIND[dtype.label]
    if not kinds <= allowed:
        raise InvalidArgument(f"Unable to parse 'data': attempt to access JSON non-{word} as {word} (input '{name}')")
    if len(flat) != count:
        raise InvalidArgument(MISCOUNTED)
    return flat


def _join_strings(flat: list[str]) -> bytes:
    parts = []
    for text in flat:
        raw = text.encode()
        parts.append(_LENGTH.pack(len(raw)))
        parts.append(raw)
    return b"".join(parts)


def _split_strings(view: memoryview, name: str) -> list[str]:
    texts = []
    at, end = 0, len(view)
    try:
        while at < end:
            (size,) = _LENGTH.unpack_from(view, at)
            at += 4
            texts.append(str(view[at : at + size], "utf-8"))
            at += size
    except UnicodeDecodeError:
        raise InvalidArgument(f"output '{name}' holds bytes that are not UTF-8 and cannot be sent as JSON, use binary data") from None
    return texts
