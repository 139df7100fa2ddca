"""Numbers: the `data` of a large JSON tensor, read without a Python object for each element.

simdjson parses the text and gives the numbers of an array as one buffer: 150,000 floats in a thirteenth of the time of `json.loads` and
numpy, and the loop is kept for that much shorter (benchmarks/micro/protocol.py). It reads what the standard allows; whatever it
does not like (NaN, an integer of more than 64 bits, two members of one name, a text that is no JSON) is left to the parser of small texts,
which knows what the caller has to be told.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import simdjson

from serving.errors import InvalidArgument
from serving.inference import Buffer
from serving.protocol.json_text import DEPTH_MESSAGE, MAX_DEPTH, parse
from serving.tensor import DType

LARGE_BYTES: Final = 16_384
"""Texts from this size on are worth it."""
_KEPT_BYTES: Final = 8 << 20
"""A parser keeps memory for the largest text that it has seen; it is not kept after a larger one."""
_BUFFER: Final[dict[str, tuple[str, Any]]] = {
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32"), ("i", np.int64)),
    "UINT64": ("u", np.uint64),
    **dict.fromkeys(("FP32", "FP64"), ("d", np.float64)),
}


class Numbers:
    """A JSON array, flat, nested or ragged. Lives as long as its parser does nothing else."""

    __slots__ = ("_array",)

    def __init__(self, array: Any) -> None:
        self._array = array

    def wire(self, dtype: DType, count: int) -> bytes | None:
        """Return the elements as wire bytes. None where they are not `count` numbers of this datatype: `elements` shows why.

        Raises InvalidArgument where the array is nested too deep.
        """
        found = self.read(dtype)
        return found if found is not None and len(found) == count * dtype.itemsize else None

    def read(self, dtype: DType) -> bytes | None:
        """Return all elements as wire bytes, None where one is not of this datatype or there is none. Raises as `wire` does."""
        kind = _BUFFER.get(dtype.label)
        if kind is None:
            return None
        code, wide = kind
        self._check_depth()
        try:
            found = np.frombuffer(self._array.as_buffer(of_type=code), wide)
        except (TypeError, ValueError):  # an element of another kind, or beyond 64 bits; an empty array
            return None
        if dtype.numpy == wide:
            return found.tobytes()
        if code == "i":
            bounds = np.iinfo(dtype.numpy)
            if len(found) and (found.min() < bounds.min or found.max() > bounds.max):
                return None
        with np.errstate(over="ignore"):  # 1e300 is Infinity as FP32
            return found.astype(dtype.numpy).tobytes()

    def elements(self) -> list[Any]:
        """Return the array as lists, as the other parser would."""
        return list(self._array.as_list())

    def _check_depth(self) -> None:
        inner, depth = self._array, 1
        while len(inner) and type(inner[0]) is simdjson.Array:
            inner, depth = inner[0], depth + 1
            if depth > MAX_DEPTH:
                raise InvalidArgument(DEPTH_MESSAGE)


class Wire:
    """An array that has been read (`json_slices.py`): wire bytes in pieces."""

    __slots__ = ("count", "parts")

    def __init__(self, parts: list[bytes], dtype: DType) -> None:
        self.parts = parts
        self.count = sum(map(len, parts)) // dtype.itemsize


class LargeReader:
    """Parses infer requests whose tensors are JSON. Not safe to use from several threads."""

    __slots__ = ("_parser",)

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

    def read(self, text: Buffer) -> object:
        """Return what `json_text.parse` returns, but that `data` of the inputs is Numbers. Raises DecodeError.

        The result has to be gone before the next call.
        """
        try:
            document = self._read(text)
        except (ValueError, TypeError, RuntimeError, KeyError):
            # RuntimeError: an error of the last request still holds its document.
            document = None
        if document is None or len(text) > _KEPT_BYTES:
            self._parser = simdjson.Parser()
        return parse(text) if document is None else document

    def _read(self, text: Buffer) -> dict[str, Any] | None:
        """Return the document; None for one that has another form."""
        found: Any = self._parser.parse(bytes(text))
        document = _members(found, "inputs")
        if document is None or type(document.get("inputs")) is not simdjson.Array:
            return None
        inputs = []
        for item in document["inputs"]:
            declared = _members(item, "data")
            if declared is None:
                return None
            data = declared.get("data")
            if type(data) is simdjson.Array:
                declared["data"] = Numbers(data)
            inputs.append(declared)
        document["inputs"] = inputs
        return document


def _members(found: Any, name: str) -> dict[str, Any] | None:
    """Return the members, the one called `name` as it is, all others as values. None where this is no object, or a name comes twice."""
    if type(found) is not simdjson.Object:
        return None
    names = list(found.keys())
    if len(set(names)) != len(names):
        return None
    return {key: found[key] if key == name else _value(found[key]) for key in names}


def _value(found: Any) -> Any:
    return parse(found.mini) if type(found) in (simdjson.Array, simdjson.Object) else found
