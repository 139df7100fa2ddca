"""The small messages, as tritonclient's and grpc.health's own classes read them."""

from __future__ import annotations

import json

import pytest
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2

from serving.errors import DecodeError
from serving.protocol import messages, metadata
from serving.protocol.grpc import GrpcCodec
from serving.protocol.grpc_head import Splitter
from serving.protocol.messages import Health
from serving.tensor import DType
from tests.protocol.samples import SIMPLE, declared, message, response, signature


def test_readiness_messages() -> None:
    for value in (True, False):
        assert service_pb2.ServerLiveResponse.FromString(messages.server_live(value)).live is value
        assert service_pb2.ServerReadyResponse.FromString(messages.server_ready(value)).ready is value
        assert service_pb2.ModelReadyResponse.FromString(messages.model_ready(value)).ready is value


def test_requests_name_model_and_version() -> None:
    for kind in (service_pb2.ModelReadyRequest, service_pb2.ModelMetadataRequest):
        assert messages.decode_model(kind(name="m", version="2").SerializeToString()) == ("m", "2")
        assert messages.decode_model(memoryview(kind(name="m").SerializeToString())) == ("m", "")
    for broken in (b"\x0a\x05a", b"\x0a\x01\xff", b"\x0b", b"\x0d\0"):
        with pytest.raises(DecodeError):
            messages.decode_model(broken)


def test_fields_that_we_do_not_know_are_skipped() -> None:
    assert messages.decode_model(b"\x18\x01\x21" + bytes(8) + b"\x2d" + bytes(4) + b"\x0a\x01m") == ("m", "")


def test_metadata_messages() -> None:
    server = service_pb2.ServerMetadataResponse.FromString(messages.server_metadata("serving", "1.0", metadata.EXTENSIONS))
    assert (server.name, server.version, tuple(server.extensions)) == ("serving", "1.0", metadata.EXTENSIONS)
    model = service_pb2.ModelMetadataResponse.FromString(messages.model_metadata("simple", ["1", "2"], "pytorch", SIMPLE))
    assert (model.name, list(model.versions), model.platform) == ("simple", ["1", "2"], "pytorch")
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("INPUT0", "INT32", [-1, 16]), ("INPUT1", "INT32", [-1, 16])]
    assert [t.name for t in model.outputs] == ["OUTPUT0", "OUTPUT1"]


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("size", [0, 4, 400, 70_000])
def test_a_stream_answer_wraps_the_plain_one(final: bool, size: int) -> None:
    codec = GrpcCodec("simple", "1", signature(DType.UINT8))
    data = message(declared("x", "UINT8", (1,)), raws=[b"1"], id="7").SerializeToString()
    _, plan = codec.decode(Splitter().split(memoryview(data)))
    parts = messages.stream_response(codec.encode(plan, response(("y", DType.UINT8, (size,), bytes(size)))), final)
    answer = service_pb2.ModelStreamInferResponse.FromString(b"".join(parts))
    assert answer.error_message == ""
    assert (answer.infer_response.id, answer.infer_response.raw_output_contents[0]) == ("7", bytes(size))
    assert answer.infer_response.parameters["triton_final_response"].WhichOneof("parameter_choice") == "bool_param"
    assert answer.infer_response.parameters["triton_final_response"].bool_param is final


def test_a_stream_error_names_its_request() -> None:
    answer = service_pb2.ModelStreamInferResponse.FromString(messages.stream_error("no such \ud800 model", "7"))
    assert (answer.error_message, answer.infer_response.id) == ("no such ? model", "7")


def test_health_messages() -> None:
    assert messages.decode_health(health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService").SerializeToString()) == (
        "inference.GRPCInferenceService"
    )
    assert messages.decode_health(b"") == ""
    for status in Health:
        assert health_pb2.HealthCheckResponse.FromString(messages.health(status)).status == status.value
    assert health_pb2.HealthCheckResponse.ServingStatus.items() == [(s.name, s.value) for s in Health]


def test_json_bodies() -> None:
    assert json.loads(metadata.live(True)) == {"live": True}
    assert json.loads(metadata.ready(False)) == {"ready": False}
    assert json.loads(metadata.live(False)) | json.loads(metadata.ready(True)) == {"live": False, "ready": True}
    assert json.loads(metadata.model_ready("m", True)) == {"name": "m", "ready": True}
    assert json.loads(metadata.server("serving", "1.0")) == {"name": "serving", "version": "1.0", "extensions": list(metadata.EXTENSIONS)}
    assert json.loads(metadata.model("simple", ["1"], "pytorch", SIMPLE)) == {
        "name": "simple",
        "versions": ["1"],
        "platform": "pytorch",
        "inputs": [{"name": n, "datatype": "INT32", "shape": [-1, 16]} for n in ("INPUT0", "INPUT1")],
        "outputs": [{"name": n, "datatype": "INT32", "shape": [-1, 16]} for n in ("OUTPUT0", "OUTPUT1")],
    }
    assert metadata.not_at_ready_state("m", "1") == "Request for unknown model: 'm' version 1 is not at ready state"
