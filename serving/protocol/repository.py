"""Messages of the repository extension over REST and gRPC: index, load, unload."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from serving.errors import InvalidArgument, Unsupported
from serving.protocol.json_text import parse as parse_json
from serving.protocol.schema import (
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
    parse,
)

NO_REPOSITORY_NAME: Final = "'repository_name' specification is not supported"
_FILE: Final = "file:"


class Load(NamedTuple):
    """What is to be loaded. config: JSON of a ModelConfig or "". files: base64 by "VERSION/name"."""

    model: str
    config: str = ""
    files: Mapping[str, str] = {}


# REST


def rest_index(body: bytes) -> bool:
    """Return whether only models that are ready are asked for. Raises InvalidArgument, DecodeError."""
    ready = _object(body).get("ready")
    if ready is None:
        return False
    if not isinstance(ready, bool):
        raise InvalidArgument("Invalid value for 'ready': expected a boolean")
    return ready


def rest_index_answer(models: Sequence[Mapping[str, str]]) -> bytes:
    return orjson.dumps(models)


def rest_load(model: str, body: bytes) -> Load:
    """Return what a load body asks for. Raises InvalidArgument, DecodeError."""
    config = ""
    files: dict[str, str] = {}
    for key, value in _parameters(body).items():
        if key != "config" and not key.startswith(_FILE):
            raise InvalidArgument(f"unrecognized parameter '{_shown(key)}' in the request to load '{model}'")
        if not isinstance(value, str):
            raise InvalidArgument(f"attempt to access JSON non-string as string: parameter '{_shown(key)}'")
        if key == "config":
            config = value
        else:
            files[key.removeprefix(_FILE)] = value
    return Load(model, config, files)


def rest_unload(body: bytes) -> None:
    """Check an unload body; no model here has others that depend on it, so `unload_dependents` changes nothing."""
    if not isinstance(_parameters(body).get("unload_dependents", False), bool):
        raise InvalidArgument("Unable to parse 'unload_dependents': attempt to access JSON non-boolean as boolean")


def _parameters(body: bytes) -> Mapping[str, Any]:
    parameters = _object(body).get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidArgument("Unable to parse 'parameters': attempt to access JSON non-object as object")
    return parameters


def _object(body: bytes) -> Mapping[str, Any]:
    if not body:
        return {}
    found = parse_json(body)
    if not isinstance(found, dict):
        raise InvalidArgument("failed to parse the request JSON buffer: expected an object")
    return found


# gRPC


def grpc_index(message: bytes) -> bool:
    """Return whether only models that are ready are asked for. Raises DecodeError, Unsupported."""
    asked = parse(RepositoryIndexRequest, message)
    _no_repository(asked.repository_name)
    return bool(asked.ready)


def grpc_index_answer(models: Sequence[Mapping[str, str]]) -> bytes:
    answer = RepositoryIndexResponse()
    for model in models:
        answer.models.add(**model)
    return bytes(answer.SerializeToString())


def grpc_load(message: bytes) -> Load:
    """Return what is to be loaded. Raises DecodeError, InvalidArgument, Unsupported."""
    asked = parse(RepositoryModelLoadRequest, message)
    _no_repository(asked.repository_name)
    config = ""
    files: dict[str, str] = {}
    for key, value in asked.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if key == "config":
            if kind != "string_param":
                raise InvalidArgument("invalid value type for 'config' parameter, expected string_param.")
            config = value.string_param
        elif key.startswith(_FILE):
            if kind != "bytes_param":
                raise InvalidArgument(f"invalid value type for '{_shown(key)}' parameter, expected bytes_param.")
            files[key.removeprefix(_FILE)] = base64.b64encode(value.bytes_param).decode()
        else:
            raise InvalidArgument(f"unrecognized parameter '{_shown(key)}' in the request to load '{asked.model_name}'")
    return Load(asked.model_name, config, files)


def grpc_unload(message: bytes) -> str:
    """Return the model to unload. Raises DecodeError, InvalidArgument, Unsupported."""
    asked = parse(RepositoryModelUnloadRequest, message)
    _no_repository(asked.repository_name)
    told = asked.parameters.get("unload_dependents")
    if told is not None and told.WhichOneof("parameter_choice") != "bool_param":
        raise InvalidArgument("invalid value type for 'unload_dependents' parameter, expected bool_param.")
    return str(asked.model_name)


def _no_repository(name: str) -> None:
    if name:
        raise Unsupported(NO_REPOSITORY_NAME)


def _shown(key: str) -> str:
    return key if len(key) <= 80 else key[:77] + "..."
