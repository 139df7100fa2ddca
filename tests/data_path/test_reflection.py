"""Reflection on the gRPC port, with grpcio's client: both versions, through the edge and without it."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from .rig import DataPath


def test_a_client_that_knows_nothing_learns_all_and_calls(path: DataPath) -> None:
    with grpc.insecure_channel(path.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "inference.GRPCInferenceService" in database.get_services()
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name["ModelReady"]
        request = GetMessageClass(method.input_type)(name="pair", version="2")
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        assert call(request).ready


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_many_questions_on_one_stream_are_answered_in_order(path: DataPath, version: str) -> None:
    with grpc.insecure_channel(path.grpc) as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        questions = [
            reflection_pb2.ServerReflectionRequest(host=str(i), file_containing_symbol="inference.ModelConfig") for i in range(2000)
        ]
        answers = list(call(iter(questions), timeout=30))
    assert [answer.valid_host for answer in answers] == [str(i) for i in range(2000)]
    assert all(answer.file_descriptor_response.file_descriptor_proto for answer in answers)
