"""Requests of sequences, decoded; and models without sequences, which ignore what is said about them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from serving.errors import DecodeError, InvalidArgument, ServingError
from serving.inference import InferRequest, SequenceRequest
from serving.protocol.grpc import GrpcCodec
from serving.protocol.grpc_head import split
from serving.protocol.rest import RestCodec
from serving.protocol.sequence import SequenceGrpcCodec, SequenceRestCodec
from serving.sequence import MAX_ID, Step, sequence_id, sequence_key
from serving.tensor import DType, Signature, TensorSpec

X = Signature((TensorSpec("x", DType.FP32, (2,)),), (TensorSpec("y", DType.FP32, (2,)),), 4)
IDS = st.integers(1, MAX_ID) | st.text(min_size=1, max_size=32)
NO_ID = "inference request to model 'm' must specify a non-zero or non-empty correlation ID"


def rest(codec: RestCodec, parameters: dict[str, Any], *, binary: bool, rows: int = 1) -> InferRequest:
    x: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [rows, 2]}
    data = bytes(8 * rows) if binary else b""
    x |= {"parameters": {"binary_data_size": len(data)}} if binary else {"data": [0.0] * (2 * rows)}
    head = json.dumps({"inputs": [x], "parameters": parameters}).encode()
    return codec.decode(head + data, len(head) if binary else None)[0]


def grpc(codec: GrpcCodec, parameters: dict[str, Any], rows: int = 1) -> InferRequest:
    message = service_pb2.ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    message.raw_input_contents.append(bytes(8 * rows))
    for key, value in parameters.items():
        kind = "bool_param" if isinstance(value, bool) else "string_param" if isinstance(value, str) else "uint64_param"
        setattr(message.parameters[key], kind, value)
    return codec.decode(split(message.SerializeToString()))[0]


def all_ways(parameters: dict[str, Any], rows: int = 1) -> list[Any]:
    """Return what each protocol makes of it, twice: read, and known."""
    r, g = SequenceRestCodec("m", "1", X), SequenceGrpcCodec("m", "1", X)
    calls = [lambda: rest(r, parameters, binary=True, rows=rows), lambda: rest(r, parameters, binary=False, rows=rows),
             lambda: grpc(g, parameters, rows)]  # fmt: skip
    got: list[Any] = []
    for call in calls * 2:
        try:
            got.append(call())
        except ServingError as error:
            got.append(error)
    return got


@given(IDS, st.booleans(), st.booleans(), st.binary(max_size=20))
def test_a_step_goes_over_the_wire(id: int | str, start: bool, end: bool, payload: bytes) -> None:
    step = Step(sequence_key(id), start, end)
    read, rest = Step.read(memoryview(step.wire + payload))
    assert (read.id, read.start, read.end, bytes(rest)) == (id, start, end, payload)
    assert type(read.id) is type(id)


@given(st.binary(max_size=12))
def test_other_bytes_are_a_decode_error(garbage: bytes) -> None:
    try:
        step, _ = Step.read(memoryview(garbage))
    except DecodeError:
        return
    assert sequence_key(sequence_id(step.key)) == step.key


@pytest.mark.parametrize("id", [1, MAX_ID, "1", "a" * 128, "é" * 64])
def test_a_request_says_its_place(id: int | str) -> None:
    for request in all_ways({"sequence_id": id, "sequence_start": True, "sequence_end": False}):
        assert isinstance(request, SequenceRequest)
        assert (request.step.id, request.step.start, request.step.end) == (id, True, False)


@pytest.mark.parametrize("parameters", [{}, {"sequence_id": 0}, {"sequence_id": ""}, {"sequence_start": True}])
def test_a_request_without_an_id_is_refused(parameters: dict[str, Any]) -> None:
    for error in all_ways(parameters):
        assert isinstance(error, InvalidArgument)
        assert error.message == NO_ID


def test_a_request_of_several_rows_is_refused() -> None:
    for error in all_ways({"sequence_id": 5}, rows=2):
        assert isinstance(error, InvalidArgument)
        assert "must specify batch-size 1 due to requirements of sequence batcher" in error.message


@pytest.mark.parametrize("bad", [{"sequence_id": "a" * 129}, {"sequence_id": True}, {"sequence_id": 5, "sequence_end": "yes"}])
def test_what_is_no_id_and_no_flag_is_refused(bad: dict[str, Any]) -> None:
    for error in all_ways(bad):
        assert isinstance(error, InvalidArgument)
        assert "sequence_" in error.message


def test_a_model_without_sequences_ignores_them() -> None:
    parameters = {"sequence_id": 7, "sequence_start": True, "sequence_end": True}
    for request in (rest(RestCodec("m", "1", X), parameters, binary=True), grpc(GrpcCodec("m", "1", X), parameters)):
        assert not isinstance(request, SequenceRequest)
        assert request.layout.parameters == ()


def test_a_raw_body_has_no_id() -> None:
    with pytest.raises(InvalidArgument, match="correlation ID"):
        SequenceRestCodec("m", "1", X).decode(bytes(8), 0)


@pytest.mark.parametrize(("given", "priority", "timeout_us"), [
    ({"priority": 1, "timeout": 2_000_000}, 1, 2_000_000), ({"priority": 0}, 0, 0), ({"priority": MAX_ID}, 255, 0),
    ({"timeout": 1 << 40}, 0, 0xFFFFFFFF),
])  # fmt: skip
def test_priority_and_timeout_over_both_protocols(given: dict[str, Any], priority: int, timeout_us: int) -> None:
    for request in (rest(RestCodec("m", "1", X), given, binary=True), grpc(GrpcCodec("m", "1", X), given)):
        assert (request.priority, request.timeout_us) == (priority, timeout_us)
    message = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[bytes(8)])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    for key, value in given.items():
        message.parameters[key].int64_param = min(value, (1 << 63) - 1)
    request = GrpcCodec("m", "1", X).decode(split(message.SerializeToString()))[0]
    assert (request.priority, request.timeout_us) == (priority, timeout_us)
    for key in given:
        message.ClearField("parameters")
        message.parameters[key].int64_param = -1
        with pytest.raises(InvalidArgument, match=key):
            GrpcCodec("m", "1", X).decode(split(message.SerializeToString()))
        with pytest.raises(InvalidArgument, match=key):
            rest(RestCodec("m", "1", X), {key: "1"}, binary=False)
