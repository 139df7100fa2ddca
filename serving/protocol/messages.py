"""The small gRPC messages: health, readiness, metadata, and the wrapping of stream answers."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from serving.inference import Buffer
from serving.protocol.protobuf import field, texts, varint
from serving.protocol.schema import (
    ModelMetadataResponse,
    ModelReadyResponse,
    ModelStreamInferResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)
from serving.tensor import Signature


class Health(IntEnum):
    """ServingStatus of grpc.health.v1."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def _final(value: bool) -> bytes:
    """Return the map entry `triton_final_response` of a ModelInferResponse's parameters."""
    parameter = field(2, b"\x08\x01" if value else b"\x08\x00")
    return field(4, field(1, b"triton_final_response") + parameter)


_FINAL: Final = {True: _final(True), False: _final(False)}


def decode_model(message: Buffer) -> tuple[str, str]:
    """Return name and version of a ModelReadyRequest or ModelMetadataRequest. Raises DecodeError."""
    found = texts(bytes(message))
    return found.get(1, ""), found.get(2, "")


def decode_health(message: Buffer) -> str:
    """Return the service of a HealthCheckRequest; "" is the whole server. Raises DecodeError."""
    return texts(bytes(message)).get(1, "")


def health(status: Health) -> bytes:
    """Return a HealthCheckResponse."""
    return bytes((0x08, status)) if status else b""


def server_live(live: bool) -> bytes:
    """Return a ServerLiveResponse."""
    return bytes(ServerLiveResponse(live=live).SerializeToString())


def server_ready(ready: bool) -> bytes:
    """Return a ServerReadyResponse."""
    return bytes(ServerReadyResponse(ready=ready).SerializeToString())


def model_ready(ready: bool) -> bytes:
    """Return a ModelReadyResponse."""
    return bytes(ModelReadyResponse(ready=ready).SerializeToString())


def server_metadata(name: str, version: str, extensions: Sequence[str]) -> bytes:
    """Return a ServerMetadataResponse."""
    return bytes(ServerMetadataResponse(name=name, version=version, extensions=extensions).SerializeToString())


def model_metadata(model: str, versions: Sequence[str], platform: str, signature: Signature) -> bytes:
    """Return a ModelMetadataResponse. Shapes are those that clients see."""
    message = ModelMetadataResponse(name=model, versions=versions, platform=platform)
    for specs, tensors in ((signature.inputs, message.inputs), (signature.outputs, message.outputs)):
        for spec in specs:
            tensors.add(name=spec.name, datatype=spec.dtype.label, shape=signature.wire_shape(spec))
    return bytes(message.SerializeToString())


def stream_response(parts: Sequence[Buffer], final: bool = True) -> list[Buffer]:
    """Return a ModelStreamInferResponse around the parts of a ModelInferResponse, which are not copied."""
    last = _FINAL[final]
    size = len(last)
    for part in parts:
        size += len(part)
    return [b"\x12" + varint(size), *parts, last]


def stream_end(model: str, version: str, id: str = "") -> bytes:
    """Return the empty ModelStreamInferResponse behind the last of several answers."""
    answer = ModelStreamInferResponse()
    inner = answer.infer_response
    inner.model_name, inner.model_version, inner.id = model, version, id
    inner.parameters["triton_final_response"].bool_param = True
    return bytes(answer.SerializeToString())


def stream_error(message: str, id: str = "") -> bytes:
    """Return a ModelStreamInferResponse that says what went wrong with the request of that id. The stream goes on."""
    answer = ModelStreamInferResponse(error_message=message.encode("utf-8", "replace").decode())
    answer.infer_response.id = id
    answer.infer_response.parameters["triton_final_response"].bool_param = True
    return bytes(answer.SerializeToString())
