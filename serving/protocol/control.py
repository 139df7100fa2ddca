"""Request parameters: those that steer the server, those that are refused, and those that go to the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from serving.errors import InvalidArgument
from serving.inference import ParameterValue
from serving.sequence import MAX_ID, MAX_ID_BYTES, SequenceId, Step, sequence_key

MAX_PRIORITY: Final = 255
MAX_TIMEOUT_US: Final = 0xFFFF_FFFF
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1


class Control(NamedTuple):
    """What the parameters of a request say. Priority and time-out are cut to what a frame can carry.

    step    its place in its sequence; None without an id, which 0 and "" are not
    """

    priority: int = 0
    timeout_us: int = 0
    parameters: tuple[tuple[str, ParameterValue], ...] = ()
    step: Step | None = None


NONE: Final = Control()


def read(parameters: Mapping[str, object], allowed: tuple[str, ...] = ()) -> Control:
    """Sort the parameters. `allowed` names `triton_*` keys that this protocol takes (and handles itself).

    Raises InvalidArgument for reserved keys and values that are not plain.
    """
    if not parameters:
        return NONE
    priority = timeout_us = 0
    id: SequenceId = 0
    start = end = False
    own: list[tuple[str, ParameterValue]] = []
    for key, value in parameters.items():
        if key == "priority":
            priority = min(_unsigned(key, value), MAX_PRIORITY)
        elif key == "timeout":
            timeout_us = min(_unsigned(key, value), MAX_TIMEOUT_US)
        elif key == "binary_data_output" or key in allowed:
            continue
        elif key == "sequence_id":
            id = _sequence_id(value)
        elif key == "sequence_start":
            start = _flag(key, value)
        elif key == "sequence_end":
            end = _flag(key, value)
        elif key.startswith("triton_"):
            raise InvalidArgument(
                f"parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified, got '{key}'"
            )
        elif key == "headers":
            raise InvalidArgument("parameter 'headers' is reserved and should not be specified")
        else:
            own.append((key, _plain(key, value)))
    own.sort()
    return Control(priority, timeout_us, tuple(own), Step(sequence_key(id), start, end) if id else None)


def _sequence_id(value: object) -> SequenceId:
    if isinstance(value, str):
        size = len(value.encode(errors="replace"))
        if size > MAX_ID_BYTES:
            raise InvalidArgument(f"'sequence_id' has {size} bytes, expected at most {MAX_ID_BYTES}")
        return value
    if type(value) is not int or not 0 <= value <= MAX_ID:
        raise InvalidArgument("Unable to parse 'sequence_id': attempt to access JSON non-unsigned-integer as unsigned-integer")
    return value


def _flag(key: str, value: object) -> bool:
    if type(value) is not bool:
        raise InvalidArgument(f"Unable to parse '{key}': attempt to access JSON non-boolean as boolean")
    return value


def _unsigned(key: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise InvalidArgument(f"Unable to parse '{key}': attempt to access JSON non-unsigned-integer as unsigned-integer")
    return value


def _plain(key: str, value: object) -> ParameterValue:
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, int) and _INT_MIN <= value <= _INT_MAX:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InvalidArgument(f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string'.")
