"""The JSON part of an infer request, field by field: what it declares, before anything is held against the model."""

from __future__ import annotations

from typing import Any, Final

from serving.errors import DecodeError, InvalidArgument
from serving.protocol import control
from serving.protocol.check import check_declared
from serving.protocol.json_numbers import Numbers, Wire
from serving.protocol.json_tensor import BINARY_ONLY, binary_only_input
from serving.protocol.special import Region

_ONE_SOURCE: Final = "'data', 'binary_data_size' in 'parameters', 'shared_memory_region' in 'parameters'"
_NOTHING: Final[dict[str, Any]] = {}


class Declared:
    """Inputs in the order of the request. Per input either `data` (a JSON list) or `sizes` (bytes that follow) says something.

    data     the JSON list (of a large request its Numbers, or Wire), or None for an input that is elsewhere
    sizes    binary_data_size, or -1 for an input in JSON or in shared memory
    shared   the region of an input that lies in one, else None
    outputs  requested ones in their order; none = all, `all_binary` or not
    binary   per requested output: whether it is wanted binary; None: in shared memory
    classes, regions  of those outputs that are wanted so, by name
    """

    __slots__ = (
        "all_binary", "binary", "classes", "control", "data", "id", "labels", "names", "outputs", "regions", "shapes", "shared", "sizes",
    )  # fmt: skip

    def __init__(self, document: Any) -> None:
        """Read a parsed document. Raises DecodeError or InvalidArgument in the words of Triton.

        What may be left out may be null: clients made of schemas send their optional members so.
        """
        if type(document) is not dict:
            raise DecodeError("failed to parse the request JSON buffer: the document is not an object")
        id = document.get("id")
        self.id: str = "" if id is None else id
        if type(self.id) is not str:
            raise _wrong("id", "string")
        parameters = _parameters(document)
        self.control = control.read(parameters)
        self.all_binary: bool = parameters.get("binary_data_output", False)
        if type(self.all_binary) is not bool:
            raise _wrong("binary_data_output", "boolean")
        self.data: list[list[Any] | Numbers | Wire | None] = []
        self.sizes: list[int] = []
        self.shared: list[Region | None] = []
        names: list[str] = []
        labels: list[str] = []
        shapes: list[tuple[int, ...]] = []
        for item in _list(document, "inputs"):
            self._input(item, names, labels, shapes)
        self.names = tuple(names)
        self.labels = tuple(labels)
        self.shapes = tuple(shapes)
        self.outputs: tuple[str, ...] = ()
        self.binary: tuple[bool | None, ...] = ()
        self.classes: dict[str, int] = {}
        self.regions: dict[str, Region] = {}
        if document.get("outputs") is not None:
            requested = [self._output(item) for item in _list(document, "outputs")]
            self.outputs = tuple([name for name, _ in requested])
            self.binary = tuple([binary for _, binary in requested])

    def _input(self, item: Any, names: list[str], labels: list[str], shapes: list[tuple[int, ...]]) -> None:
        if type(item) is not dict:
            raise _wrong("inputs", "object")
        name = _text(item, "name")
        label = _text(item, "datatype")
        dims = _list(item, "shape")
        for dim in dims:
            if type(dim) is not int or dim < 0:
                raise _wrong("shape", "unsigned-integer")
        shape = tuple(dims)
        check_declared(name, label, shape)
        parameters = _parameters(item)
        size = parameters.get("binary_data_size", -1)
        if "binary_data_size" in parameters and (type(size) is not int or size < 0):
            raise _wrong("binary_data_size", "unsigned-integer")
        shared = "shared_memory_region" in parameters
        data = item.get("data")
        present = "data" in item
        sources = present + (size >= 0) + shared
        if sources != 1:
            found = "more than one" if sources else "none"
            raise InvalidArgument(f"Input must set only one of the following fields: {_ONE_SOURCE}. Found {found} for input '{name}'")
        if present:
            if type(data) is not list and type(data) is not Numbers and type(data) is not Wire:
                raise _wrong("data", "array")
            if label in BINARY_ONLY:
                raise binary_only_input(label, name)
        names.append(name)
        labels.append(label)
        shapes.append(shape)
        self.data.append(data)
        self.sizes.append(size)
        self.shared.append(_region(parameters) if shared else None)

    def _output(self, item: Any) -> tuple[str, bool | None]:
        """Return name and whether the output is wanted binary."""
        if type(item) is not dict:
            raise _wrong("outputs", "object")
        name = _text(item, "name")
        parameters = _parameters(item)
        if "classification" in parameters:
            self.classes[name] = _whole(parameters, "classification")
            if not self.classes[name]:
                raise InvalidArgument(f"'classification' of output '{name}' must be at least 1")
        binary = parameters.get("binary_data", False)
        if type(binary) is not bool:
            raise _wrong("binary_data", "boolean")
        if "shared_memory_region" in parameters:
            if binary:
                raise InvalidArgument("Output can't set both 'shared_memory_region' and 'binary_data'")
            self.regions[name] = _region(parameters)
            return name, None
        return name, binary

    @property
    def special(self) -> bool:
        """Whether the request uses shared memory or asks for classes."""
        return bool(self.classes or self.regions) or self.shared.count(None) < len(self.shared)

    def __repr__(self) -> str:
        return f"Declared({', '.join(self.names)})"


def _parameters(item: dict[str, Any]) -> dict[str, Any]:
    parameters = item.get("parameters")
    if parameters is None:
        return _NOTHING
    if type(parameters) is not dict:
        raise _wrong("parameters", "object")
    return parameters


def _region(parameters: dict[str, Any]) -> Region:
    name = _text(parameters, "shared_memory_region")
    offset = _whole(parameters, "shared_memory_offset") if "shared_memory_offset" in parameters else 0
    return Region(name, offset, _whole(parameters, "shared_memory_byte_size"))


def _whole(item: dict[str, Any], key: str) -> int:
    value = item.get(key)
    if type(value) is not int or value < 0:
        raise _missing(key) if key not in item else _wrong(key, "unsigned-integer")
    return value


def _text(item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    if type(value) is not str:
        raise _missing(key) if key not in item else _wrong(key, "string")
    return value


def _list(item: dict[str, Any], key: str) -> list[Any]:
    value = item.get(key)
    if type(value) is not list:
        raise _missing(key) if key not in item else _wrong(key, "array")
    return value


def _missing(key: str) -> DecodeError:
    return DecodeError(f"Unable to parse '{key}': attempt to access non-existing object member '{key}'")


def _wrong(key: str, kind: str) -> DecodeError:
    return DecodeError(f"Unable to parse '{key}': attempt to access JSON non-{kind} as {kind}")
