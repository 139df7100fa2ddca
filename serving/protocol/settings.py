"""Trace and log settings as clients read and write them, over both protocols. A setting that is None is taken back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from serving.errors import DecodeError, InvalidArgument, Unsupported
from serving.inference import Buffer
from serving.protocol import schema
from serving.protocol.json_text import parse

TRACE_DEFAULTS: Final[Mapping[str, Any]] = {
    "trace_file": "",
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_mode": "triton",
}
TRACE_LEVELS: Final = ("OFF", "TIMESTAMPS", "TENSORS", "MIN", "MAX")
LOG_DEFAULTS: Final[Mapping[str, Any]] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
LOG_FORMATS: Final = ("default", "ISO8601")
_LEAST: Final = {"trace_rate": 0, "trace_count": -1, "log_frequency": 0}
_FIXED: Final = {"trace_file": "trace file location", "log_file": "log file location", "trace_mode": "trace mode"}

Settings = dict[str, Any]


def trace_of(trace: Mapping[str, Mapping[str, Any]], model: str) -> Settings:
    """Return what holds for a model, "" for all: its own settings over the global ones over the defaults."""
    return {**TRACE_DEFAULTS, **trace.get("", {}), **trace.get(model, {})}


def log_of(log: Mapping[str, Any]) -> Settings:
    """Return all log settings."""
    return {**LOG_DEFAULTS, **log}


# Reading


def read_json(body: Buffer) -> Settings:
    """Return the object of a body, {} for none. Raises DecodeError."""
    document = parse(body) if len(body) else {}
    if type(document) is not dict:
        raise DecodeError("failed to parse the request JSON buffer: the document is not an object")
    return document


def check_trace(asked: Mapping[str, Any]) -> Settings:
    """Return the settings as they are kept. Raises InvalidArgument, Unsupported for what cannot be set by clients.

    None takes a setting back, and so changes nothing of what cannot be set.
    """
    for key, value in asked.items():
        _check_name(key, value, TRACE_DEFAULTS, "trace")
    return {key: None if value is None else _trace_value(key, value) for key, value in asked.items() if key not in _FIXED}


def check_log(asked: Mapping[str, Any]) -> Settings:
    """The same for log settings."""
    for key, value in asked.items():
        _check_name(key, value, LOG_DEFAULTS, "log")
    return {key: None if value is None else _log_value(key, value) for key, value in asked.items() if key not in _FIXED}


def read_trace_message(message: bytes) -> tuple[str, Settings]:
    """Return model and settings of a TraceSettingRequest, before they are checked. Raises DecodeError."""
    asked = schema.parse(schema.TraceSettingRequest, message)
    found: Settings = {}
    for key, setting in asked.settings.items():
        values = list(setting.value)
        if key == "trace_level":
            found[key] = values or None
        elif len(values) > 1:
            raise InvalidArgument(f"expect only 1 value for '{key}', got {len(values)}")
        else:
            found[key] = values[0] if values else None
    return asked.model_name, found


def read_log_message(message: bytes) -> Settings:
    """Return the settings of a LogSettingsRequest, before they are checked. Raises DecodeError."""
    asked = schema.parse(schema.LogSettingsRequest, message)
    chosen = {key: setting.WhichOneof("parameter_choice") for key, setting in asked.settings.items()}
    return {key: getattr(asked.settings[key], name) if name else None for key, name in chosen.items()}


def _check_name(key: str, value: Any, settings: Mapping[str, Any], kind: str) -> None:
    if key not in settings:
        raise InvalidArgument(f"unknown {kind} setting '{key}', expected one of {', '.join(settings)}")
    if key in _FIXED and value is not None:
        raise Unsupported(f"{_FIXED[key]} can not be updated through network protocol")


def _trace_value(key: str, value: Any) -> Any:
    if key == "trace_level":
        levels = [value] if isinstance(value, str) else value
        if not isinstance(levels, list) or not levels or any(level not in TRACE_LEVELS for level in levels):
            raise InvalidArgument(f"invalid value for '{key}': {value!r:.100}, expected a list of {', '.join(TRACE_LEVELS)}")
        if "OFF" in levels and len(levels) > 1:
            raise InvalidArgument("Expect only one trace level 'OFF' is specified")
        return list(dict.fromkeys(levels))
    digits = str(value) if type(value) is int else value
    if not isinstance(digits, str):
        raise DecodeError(f"Unable to parse '{key}': attempt to access JSON non-string as string")
    plain = digits.removeprefix("-")
    if not (plain.isascii() and plain.isdigit() and len(plain) <= 10) or not _LEAST[key] <= int(digits) < 1 << 31:
        raise InvalidArgument(f"invalid value for '{key}': '{digits:.100}', expected a number from {_LEAST[key]}")
    return str(int(digits))


def _log_value(key: str, value: Any) -> Any:
    if key == "log_verbose_level":
        if type(value) is not int or not 0 <= value < 1 << 32:
            raise DecodeError(f"Unable to parse '{key}': attempt to access JSON non-unsigned-integer as unsigned-integer")
    elif key == "log_format":
        if value not in LOG_FORMATS:
            raise InvalidArgument(f"invalid argument for log_format, got: {value!s:.100}, expected one of {', '.join(LOG_FORMATS)}")
    elif type(value) is not bool:
        raise DecodeError(f"Unable to parse '{key}': attempt to access JSON non-boolean as boolean")
    return value


# Writing


def as_json(settings: Mapping[str, Any]) -> bytes:
    """Return the body that shows them."""
    return orjson.dumps(settings)


def trace_message(settings: Mapping[str, Any]) -> bytes:
    """Return a TraceSettingResponse."""
    answer = schema.TraceSettingResponse()
    for key, value in settings.items():
        answer.settings[key].value.extend(value if isinstance(value, list) else [value])
    return bytes(answer.SerializeToString())


def log_message(settings: Mapping[str, Any]) -> bytes:
    """Return a LogSettingsResponse."""
    answer = schema.LogSettingsResponse()
    for key, value in settings.items():
        setting = answer.settings[key]
        if isinstance(value, bool):
            setting.bool_param = value
        elif isinstance(value, int):
            setting.uint32_param = value
        else:
            setting.string_param = value
    return bytes(answer.SerializeToString())
