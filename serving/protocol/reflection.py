"""gRPC's server reflection (v1 and v1alpha): what grpcurl and others ask to learn services and messages. Pure.

The two files that are nobody's here (health, and reflection itself) are written down as tables; ours come from `schema.POOL`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.message_factory import GetMessageClass

from serving.inference import Buffer
from serving.protocol.schema import POOL, parse

NOT_FOUND: Final = 5
UNIMPLEMENTED: Final = 12
INFERENCE: Final = "inference.GRPCInferenceService"
HEALTH: Final = "grpc.health.v1.Health"
REFLECTION: Final = {"v1": "grpc.reflection.v1.ServerReflection", "v1alpha": "grpc.reflection.v1alpha.ServerReflection"}
SERVICES: Final = (INFERENCE, HEALTH, *REFLECTION.values())

_Type = descriptor_pb2.FieldDescriptorProto
_KINDS: Final = {"text": _Type.TYPE_STRING, "bytes": _Type.TYPE_BYTES, "number": _Type.TYPE_INT32}
# A field: name, number, what it holds (a kind, or the name of a message or an enum of the file), "many" or "choice" or "".
_Fields = tuple[tuple[str, int, str, str], ...]

_HEALTH_MESSAGES: Final[dict[str, _Fields]] = {
    "HealthCheckRequest": (("service", 1, "text", ""),),
    "HealthCheckResponse": (("status", 1, "HealthCheckResponse.ServingStatus", ""),),
}
_STATES: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_REFLECTION_MESSAGES: Final[dict[str, _Fields]] = {
    "ServerReflectionRequest": (
        ("host", 1, "text", ""),
        ("file_by_filename", 3, "text", "choice"),
        ("file_containing_symbol", 4, "text", "choice"),
        ("file_containing_extension", 5, "ExtensionRequest", "choice"),
        ("all_extension_numbers_of_type", 6, "text", "choice"),
        ("list_services", 7, "text", "choice"),
    ),
    "ExtensionRequest": (("containing_type", 1, "text", ""), ("extension_number", 2, "number", "")),
    "ServerReflectionResponse": (
        ("valid_host", 1, "text", ""),
        ("original_request", 2, "ServerReflectionRequest", ""),
        ("file_descriptor_response", 4, "FileDescriptorResponse", "choice"),
        ("all_extension_numbers_response", 5, "ExtensionNumberResponse", "choice"),
        ("list_services_response", 6, "ListServiceResponse", "choice"),
        ("error_response", 7, "ErrorResponse", "choice"),
    ),
    "FileDescriptorResponse": (("file_descriptor_proto", 1, "bytes", "many"),),
    "ExtensionNumberResponse": (("base_type_name", 1, "text", ""), ("extension_number", 2, "number", "many")),
    "ListServiceResponse": (("service", 1, "ServiceResponse", "many"),),
    "ServiceResponse": (("name", 1, "text", ""),),
    "ErrorResponse": (("error_code", 1, "number", ""), ("error_message", 2, "text", "")),
}


def _file(name: str, package: str, messages: dict[str, _Fields]) -> Any:
    """Return a FileDescriptorProto with these messages."""
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    for title, fields in messages.items():
        message = file.message_type.add(name=title)
        for field, number, holds, how in fields:
            entry = message.field.add(name=field, number=number)
            entry.label = _Type.LABEL_REPEATED if how == "many" else _Type.LABEL_OPTIONAL
            if holds in _KINDS:
                entry.type = _KINDS[holds]
            else:
                entry.type = _Type.TYPE_ENUM if "." in holds else _Type.TYPE_MESSAGE
                entry.type_name = f".{package}.{holds}"
            if how == "choice":
                if not message.oneof_decl:
                    message.oneof_decl.add(name="message_request" if title.endswith("Request") else "message_response")
                entry.oneof_index = 0
    return file


def _health_file() -> Any:
    file = _file("grpc/health/v1/health.proto", "grpc.health.v1", _HEALTH_MESSAGES)
    states = file.message_type[1].enum_type.add(name="ServingStatus")
    for number, state in enumerate(_STATES):
        states.value.add(name=state, number=number)
    service = file.service.add(name="Health")
    for method, streams in (("Check", False), ("Watch", True)):
        service.method.add(
            name=method,
            input_type=".grpc.health.v1.HealthCheckRequest",
            output_type=".grpc.health.v1.HealthCheckResponse",
            server_streaming=streams,
        )
    return file


def _reflection_file(version: str) -> Any:
    package = f"grpc.reflection.{version}"
    file = _file(f"grpc/reflection/{version}/reflection.proto", package, _REFLECTION_MESSAGES)
    file.service.add(name="ServerReflection").method.add(
        name="ServerReflectionInfo",
        input_type=f".{package}.ServerReflectionRequest",
        output_type=f".{package}.ServerReflectionResponse",
        client_streaming=True,
        server_streaming=True,
    )
    return file


for _made in (_health_file(), *map(_reflection_file, REFLECTION)):
    POOL.Add(_made)


def responder(version: str) -> Callable[[Buffer], bytes]:
    """Return what answers one ServerReflectionRequest of that version ("v1", "v1alpha"). It raises DecodeError."""
    request_kind, response_kind = (
        GetMessageClass(POOL.FindMessageTypeByName(f"grpc.reflection.{version}.ServerReflection{kind}")) for kind in ("Request", "Response")
    )

    def respond(message: Buffer) -> bytes:
        asked: Any = parse(request_kind, bytes(message))
        answer: Any = response_kind(valid_host=asked.host, original_request=asked)
        which = asked.WhichOneof("message_request")
        try:
            if which == "list_services":
                answer.list_services_response.SetInParent()
                for name in SERVICES:
                    answer.list_services_response.service.add(name=name)
            elif which == "file_by_filename":
                _put(answer, POOL.FindFileByName(asked.file_by_filename))
            elif which == "file_containing_symbol":
                _put(answer, _file_of(asked.file_containing_symbol))
            elif which == "all_extension_numbers_of_type":
                POOL.FindMessageTypeByName(asked.all_extension_numbers_of_type)
                answer.all_extension_numbers_response.base_type_name = asked.all_extension_numbers_of_type
            elif which == "file_containing_extension":
                raise KeyError
            else:
                answer.error_response.error_code = UNIMPLEMENTED
                answer.error_response.error_message = "the request asks for nothing"
        except KeyError:
            answer.error_response.error_code = NOT_FOUND
            answer.error_response.error_message = "not found"
        return bytes(answer.SerializeToString())

    return respond


def _file_of(symbol: str) -> Any:
    """Return the file with a symbol; the pool does not know methods, so one is looked for by its service. Raises KeyError."""
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:
        service, _, method = symbol.rpartition(".")
        if method not in POOL.FindServiceByName(service).methods_by_name:
            raise
        return POOL.FindFileContainingSymbol(service)


def _put(answer: Any, file: Any) -> None:
    """Put the file and all that it imports into the answer, itself first."""
    found = [file]
    for one in found:
        found += [other for other in one.dependencies if other not in found]
    answer.file_descriptor_response.file_descriptor_proto.extend(one.serialized_pb for one in found)
