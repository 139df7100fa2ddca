"""JSON text to values: fast for what the standard allows, and still right for NaN and Infinity, which Triton's clients send."""

from __future__ import annotations

import json
from typing import Final

import orjson

from serving.errors import DecodeError
from serving.inference import Buffer

MAX_DEPTH: Final = 100
DEPTH_MESSAGE: Final = f"JSON nesting depth exceeds maximum allowed limit ({MAX_DEPTH})"


def parse(text: Buffer) -> object:
    """Return the value of a JSON text. Raises DecodeError. Integers are exact up to 64 bits."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "depth" in error.msg or "ecursion" in error.msg:
            raise DecodeError(DEPTH_MESSAGE) from None
        raw = bytes(text)
        if b"NaN" not in raw and b"Infinity" not in raw:
            raise _broken(error) from None
    return _parse_with_literals(raw)


def _parse_with_literals(raw: bytes) -> object:
    try:
        text = raw.decode()
        value: object = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # the standard parser lets lone surrogates through
    except json.JSONDecodeError as error:
        raise _broken(error) from None
    except RecursionError:
        raise DecodeError(DEPTH_MESSAGE) from None
    except ValueError as error:  # not UTF-8, or an integer of thousands of digits
        raise DecodeError(f"failed to parse the request JSON buffer: {error}") from None
    return value


def _broken(error: json.JSONDecodeError) -> DecodeError:
    return DecodeError(f"failed to parse the request JSON buffer: {error.msg} at {error.pos}")
