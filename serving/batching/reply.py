"""What a model gives back: outputs, or (outputs, parameters). Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from serving.errors import ModelFailed, ServingError
from serving.inference import ParameterValue

Parameters = tuple[tuple[str, ParameterValue], ...]

_INTEGERS = range(-(1 << 63), 1 << 64)
MAX_PARAMETERS = 1024


def unpack(reply: Any, model: str) -> tuple[Any, Parameters]:
    """Return outputs and parameters of a reply that is a pair. Raises ModelFailed where the parameters cannot be sent."""
    if len(reply) != 2:
        raise ModelFailed(f"model '{model}' returned a tuple of {len(reply)}, expected (outputs, parameters)")
    outputs, parameters = reply
    if not isinstance(parameters, dict):
        raise ModelFailed(f"model '{model}' returned parameters of type {type(parameters).__name__}, expected a dict")
    if len(parameters) > MAX_PARAMETERS:
        raise ModelFailed(f"model '{model}' returned {len(parameters)} parameters, at most {MAX_PARAMETERS} can be sent")
    return outputs, tuple(sorted((_name(key, model), _plain(key, value, model)) for key, value in parameters.items()))


def model_error(raised: BaseException) -> ServingError:
    """Return what a model raised as the error that its caller gets: the text alone, where the type would tell nothing."""
    if isinstance(raised, ServingError):
        return raised
    text = str(raised)
    return ModelFailed(text if text and type(raised) in (RuntimeError, Exception) else f"{type(raised).__name__}: {text}")


def _name(key: Any, model: str) -> str:
    if not isinstance(key, str):
        raise ModelFailed(f"model '{model}' returned a parameter whose name is a {type(key).__name__}, expected text")
    if key.startswith("triton_"):
        raise ModelFailed(f"model '{model}' returned the parameter '{key}'; names that begin with 'triton_' are reserved")
    return _text(key, key, model)


def _plain(key: str, value: Any, model: str) -> ParameterValue:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(key, value, model)
    if isinstance(value, int) and value in _INTEGERS:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise ModelFailed(f"parameter '{key}' of model '{model}' is {value!r:.100}, expected text, a bool, a 64-bit integer or a finite number")


def _text(key: str, value: str, model: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ModelFailed(f"parameter {key!r:.100} of model '{model}' holds text that is not Unicode: half of a surrogate pair") from None
    return str(value)
