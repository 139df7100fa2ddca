"""The calls about shared memory: which regions there are, one more, one less. Bodies and messages of both protocols."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from serving.errors import DecodeError, InvalidArgument, NotFound
from serving.inference import Buffer
from serving.protocol import schema
from serving.protocol.json_text import parse
from serving.wishes import SharedRegion

NO_CUDA: Final = "GPUs not supported: the gateways of this server have no CUDA; use system shared memory"


def find(regions: Iterable[SharedRegion], name: str, kind: str = "system") -> list[SharedRegion]:
    """Return the region of that name, all for "". Raises NotFound."""
    found = [r for r in regions if not name or r.name == name]
    if name and not found:
        raise NotFound(f"Unable to find {kind} shared memory region: '{name}'")
    return found


def read_register(name: str, body: Buffer) -> dict[str, Any]:
    """Return what the desk is asked for. Raises DecodeError."""
    document = parse(body) if len(body) else {}
    if type(document) is not dict:
        raise DecodeError("failed to parse the request JSON buffer: the document is not an object")
    key = document.get("key")
    if type(key) is not str:
        raise _unfit(document, "key", "string")
    numbers = {}
    for field in ("offset", "byte_size"):
        value = document.get(field, 0 if field == "offset" else None)
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise _unfit(document, field, "unsigned-integer")
        numbers[field] = value
    return {"region": name, "key": key, "offset": numbers["offset"], "nbytes": numbers["byte_size"]}


def status_json(regions: Iterable[SharedRegion]) -> bytes:
    """Return the body of GET v2/systemsharedmemory/status."""
    return orjson.dumps([{"name": r.name, "key": r.key, "offset": r.offset, "byte_size": r.nbytes} for r in regions])


def status_message(regions: Iterable[SharedRegion]) -> bytes:
    """Return a SystemSharedMemoryStatusResponse."""
    answer = schema.SystemSharedMemoryStatusResponse()
    for r in regions:
        entry = answer.regions[r.name]
        entry.name, entry.key, entry.offset, entry.byte_size = r.name, r.key, r.offset, r.nbytes
    return bytes(answer.SerializeToString())


def read_register_message(message: bytes) -> dict[str, Any]:
    """Return what the desk is asked for by a SystemSharedMemoryRegisterRequest. Raises DecodeError, InvalidArgument."""
    asked = schema.parse(schema.SystemSharedMemoryRegisterRequest, message)
    if asked.offset >= 1 << 63 or asked.byte_size >= 1 << 63:
        raise InvalidArgument(f"failed to register shared memory region '{asked.name}': invalid args")
    return {"region": asked.name, "key": asked.key, "offset": asked.offset, "nbytes": asked.byte_size}


def read_name(message: bytes) -> str:
    """Return the name in a request that begins with one, whatever else is in it. Raises DecodeError."""
    return str(schema.parse(schema.SystemSharedMemoryStatusRequest, message).name)


def no_cuda(name: str) -> InvalidArgument:
    """Return what a client hears that registers memory of a GPU."""
    return InvalidArgument(f"failed to register CUDA shared memory region '{name}': {NO_CUDA}")


def _unfit(document: dict[str, Any], key: str, kind: str) -> DecodeError:
    if key not in document:
        return DecodeError(f"Unable to parse '{key}': attempt to access non-existing object member '{key}'")
    return DecodeError(f"Unable to parse '{key}': attempt to access JSON non-{kind} as {kind}")
