"""Request parameters: those that steer the server, those that are refused, and those that go to the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from serving.errors import InvalidArgument, Unsupported
from serving.inference import ParameterValue

MAX_PRIORITY: Final = 255
MAX_TIMEOUT_US: Final = 0xFFFF_FFFF
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1
_SEQUENCE: Final = {"sequence_id": (0, ""), "sequence_start": (False,), "sequence_end": (False,)}


class Control(NamedTuple):
    """What the parameters of a request say. Priority and time-out are cut to what a frame can carry."""

    priority: int = 0
    timeout_us: int = 0
    parameters: tuple[tuple[str, ParameterValue], ...] = ()


NONE: Final = Control()


def read(parameters: Mapping[str, object], allowed: tuple[str, ...] = ()) -> Control:
    """Sort the parameters. `allowed` names `triton_*` keys that this protocol takes (and handles itself).

    Raises InvalidArgument for reserved keys and values that are not plain, Unsupported for sequences.
    """
    if not parameters:
        return NONE
    priority = timeout_us = 0
    own: list[tuple[str, ParameterValue]] = []
    for key, value in parameters.items():
        if key == "priority":
            priority = min(_unsigned(key, value), MAX_PRIORITY)
        elif key == "timeout":
            timeout_us = min(_unsigned(key, value), MAX_TIMEOUT_US)
        elif key == "binary_data_output" or key in allowed:
            continue
        elif key in _SEQUENCE:
            if not any(value is neutral or (type(value) is type(neutral) and value == neutral) for neutral in _SEQUENCE[key]):
                raise Unsupported(f"sequence models are not supported, remove the parameter '{key}'")
        elif key.startswith("triton_"):
            raise InvalidArgument(
                f"parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified, got '{key}'"
            )
        elif key == "headers":
            raise InvalidArgument("parameter 'headers' is reserved and should not be specified")
        else:
            own.append((key, _plain(key, value)))
    own.sort()
    return Control(priority, timeout_us, tuple(own))


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
