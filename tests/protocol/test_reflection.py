"""Reflection against the client that others use: grpcio-reflection's descriptor database and messages."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import DecodeError
from serving.protocol.reflection import REFLECTION, responder
from serving.protocol.schema import POOL

RESPOND = responder("v1alpha")


def ask(**asked: Any) -> Any:
    request = reflection_pb2.ServerReflectionRequest(host="h", **asked)
    answer = reflection_pb2.ServerReflectionResponse.FromString(RESPOND(request.SerializeToString()))
    assert answer.original_request == request
    assert answer.valid_host == "h"
    return answer


def test_all_services_are_named() -> None:
    names = [service.name for service in ask(list_services="*").list_services_response.service]
    assert names == ["inference.GRPCInferenceService", "grpc.health.v1.Health", *REFLECTION.values()]


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.GRPCInferenceService",
        "inference.GRPCInferenceService.ModelInfer",
        "inference.ModelInferRequest.InferInputTensor",
        "inference.ModelConfig",
        "grpc.health.v1.Health.Watch",
        "grpc.reflection.v1.ServerReflection",
    ],
)
def test_a_symbol_comes_with_its_file_and_all_that_it_imports(symbol: str) -> None:
    files = ask(file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto
    pool = DescriptorPool()
    for serialized in reversed(files):  # those that others need come last
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(serialized))
    owner = symbol if symbol.split(".")[-1] not in ("ModelInfer", "Watch") else symbol.rpartition(".")[0]
    assert pool.FindFileContainingSymbol(owner).name


def test_what_is_written_down_here_is_what_others_have() -> None:
    for theirs in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        for name, message in theirs.message_types_by_name.items():
            ours = POOL.FindMessageTypeByName(f"{theirs.package}.{name}")
            assert {(f.name, f.number, f.type, f.is_repeated) for f in ours.fields} == {
                (f.name, f.number, f.type, f.is_repeated) for f in message.fields
            }
        for name, service in theirs.services_by_name.items():
            ours = POOL.FindServiceByName(f"{theirs.package}.{name}")
            for method in service.methods:
                found = ours.methods_by_name[method.name]
                assert (found.input_type.full_name, found.output_type.full_name) == (
                    method.input_type.full_name,
                    method.output_type.full_name,
                )


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"file_containing_symbol": "no.Body"}, 5),
        ({"file_containing_symbol": "inference.GRPCInferenceService.Nothing"}, 5),
        ({"file_containing_symbol": ""}, 5),
        ({"file_by_filename": "nobody.proto"}, 5),
        ({"all_extension_numbers_of_type": "no.Body"}, 5),
        ({"file_containing_extension": reflection_pb2.ExtensionRequest(containing_type="inference.ModelConfig", extension_number=7)}, 5),
        ({}, 12),
    ],
)
def test_what_is_not_there_is_said_so(asked: dict[str, Any], code: int) -> None:
    assert ask(**asked).error_response.error_code == code


def test_files_by_name_and_types_without_extensions() -> None:
    assert len(ask(file_by_filename="grpc_service.proto").file_descriptor_response.file_descriptor_proto) == 2
    assert (
        ask(all_extension_numbers_of_type="inference.ModelConfig").all_extension_numbers_response.base_type_name == "inference.ModelConfig"
    )


@given(st.binary(max_size=60))
def test_garbage_is_answered_or_refused(data: bytes) -> None:
    try:
        reflection_pb2.ServerReflectionResponse.FromString(RESPOND(data))
    except DecodeError:
        return
