"""Requests whose tensors lie in shared memory, as codecs read them: which piece belongs where, and what does not fit."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidArgument
from serving.inference import Buffer, InferResponse, Layout, TensorLayout
from serving.protocol.grpc import GrpcCodec
from serving.protocol.grpc_head import Splitter
from serving.protocol.rest import RestCodec
from serving.protocol.special import Region, SharedInput
from serving.tensor import DType
from tests.protocol.samples import ROWS, SIMPLE, STRINGS, body, declared, message, tensor

A = {"shared_memory_region": "a", "shared_memory_byte_size": 64, "shared_memory_offset": 8}
G_A = {
    "shared_memory_region": {"string_param": "a"},
    "shared_memory_byte_size": {"int64_param": 64},
    "shared_memory_offset": {"int64_param": 8},
}


def shared(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**tensor(name, size=None), "parameters": parameters or A}


@pytest.mark.parametrize("order", [("INPUT0", "INPUT1"), ("INPUT1", "INPUT0")])
@pytest.mark.parametrize("which", ["INPUT0", "INPUT1"])
def test_an_input_in_memory_leaves_its_place_in_the_payload(order: tuple[str, str], which: str) -> None:
    inputs = [shared(n) if n == which else tensor(n) for n in order]
    place = 0 if which == "INPUT0" else 1
    codec = RestCodec("simple", "1", SIMPLE)
    for _ in range(2):
        request, plan = codec.decode(*body({"inputs": inputs}, ROWS))
        assert plan.special is not None
        assert plan.special.inputs == (SharedInput(place, Region("a", 8, 64), which, -1),)
        assert [len(part) for part in request.payload] == [0 if i == place else 64 for i in range(2)]
        assert request.layout.payload_bytes == 128
    grpc = GrpcCodec("simple", "1", SIMPLE)
    told = message(*(declared(n) | ({"parameters": G_A} if n == which else {}) for n in order), raws=[ROWS]).SerializeToString()
    for _ in range(2):
        request, grpc_plan = grpc.decode(Splitter().split(told))
        assert grpc_plan.special is not None
        assert grpc_plan.special.inputs == plan.special.inputs
        assert [len(part) for part in request.payload] == [0 if i == place else 64 for i in range(2)]


def test_both_in_memory_and_an_id_of_its_own() -> None:
    codec = RestCodec("simple", "1", SIMPLE)
    for id in ("a", "b"):
        request, plan = codec.decode(*body({"id": id, "inputs": [shared("INPUT0"), shared("INPUT1")]}))
        assert plan.special is not None
        assert [item.place for item in plan.special.inputs] == [0, 1]
        assert request.id == plan.id == id
    grpc = GrpcCodec("simple", "1", SIMPLE)
    told = message(declared() | {"parameters": G_A}, declared("INPUT1") | {"parameters": G_A}, id="x").SerializeToString()
    request, told_plan = grpc.decode(Splitter().split(told))
    assert told_plan.special is not None
    assert (len(told_plan.special.inputs), request.id) == (2, "x")


def test_json_beside_memory() -> None:
    document = {"inputs": [{**tensor(size=None), "data": list(range(16))}, shared("INPUT1")]}
    request, plan = RestCodec("simple", "1", SIMPLE).decode(json.dumps(document).encode(), None)
    assert plan.special is not None
    assert [len(part) for part in request.payload] == [64, 0]
    grpc, told_plan = GrpcCodec("simple", "1", SIMPLE).decode(
        Splitter().split(message(declared(int_contents=range(16)), declared("INPUT1") | {"parameters": G_A}).SerializeToString())
    )
    assert told_plan.special is not None
    assert [len(part) for part in grpc.payload] == [64, 0]
    assert grpc.layout.payload_bytes == 128


def test_text_in_memory_is_looked_at_when_it_has_been_read() -> None:
    parameters = {"shared_memory_region": "a", "shared_memory_byte_size": 12}
    document = {"inputs": [{"name": "INPUT0", "datatype": "BYTES", "shape": [2], "parameters": parameters}]}
    request, plan = RestCodec("simple", "1", STRINGS).decode(json.dumps(document).encode(), None)
    assert plan.special is not None
    (item,) = plan.special.inputs
    assert (item.elements, request.layout.payload_bytes) == (2, 12)
    plan.special.check(item, b"\1\0\0\0a\3\0\0\0abc")
    with pytest.raises(InvalidArgument, match="expected 2 string elements"):
        plan.special.check(item, b"\x08\0\0\0abcdefgh")


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"shared_memory_byte_size": 60}, "input byte size mismatch for input 'INPUT1' for model 'simple'. Expected 64, got 60"),
        ({"shared_memory_byte_size": -1}, "shared_memory_byte_size"),
        ({"shared_memory_byte_size": "64"}, "shared_memory_byte_size"),
        ({"shared_memory_offset": 1.5}, "shared_memory_offset"),
        ({"shared_memory_region": 3}, "shared_memory_region"),
        ({"binary_data_size": 64}, "Input must set only one of the following fields"),
    ],
)
def test_what_rest_refuses(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        RestCodec("simple", "1", SIMPLE).decode(*body({"inputs": [tensor(), shared("INPUT1", A | parameters)]}, ROWS))


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"shared_memory_byte_size": {"int64_param": 60}}, "Expected 64, got 60"),
        ({"shared_memory_byte_size": {"int64_param": -1}}, "shared_memory_byte_size"),
        ({"shared_memory_byte_size": {"bool_param": True}}, "shared_memory_byte_size"),
        ({"shared_memory_offset": {"string_param": "1"}}, "shared_memory_offset"),
        ({"shared_memory_region": {"int64_param": 3}}, "shared_memory_region"),
    ],
)
def test_what_grpc_refuses(parameters: dict[str, Any], text: str) -> None:
    told = message(declared(), declared("INPUT1") | {"parameters": G_A | parameters}, raws=[ROWS])
    with pytest.raises(InvalidArgument, match=text):
        GrpcCodec("simple", "1", SIMPLE).decode(Splitter().split(told.SerializeToString()))


@pytest.mark.parametrize("raws", [[], [ROWS, ROWS], [ROWS[:60]]])
def test_raw_contents_are_those_of_the_other_inputs(raws: list[bytes]) -> None:
    told = message(declared(), declared("INPUT1") | {"parameters": G_A}, raws=raws)
    with pytest.raises(InvalidArgument):
        GrpcCodec("simple", "1", SIMPLE).decode(Splitter().split(told.SerializeToString()))


def test_an_input_in_memory_has_no_contents() -> None:
    told = message(declared(int_contents=range(16)), declared("INPUT1", int_contents=range(16)) | {"parameters": G_A})
    with pytest.raises(InvalidArgument, match="unexpected 'content' provided when using shared memory for input tensor 'INPUT1'"):
        GrpcCodec("simple", "1", SIMPLE).decode(Splitter().split(told.SerializeToString()))


def test_classes_do_not_go_to_memory() -> None:
    wanted = {"name": "OUTPUT0", "parameters": A | {"classification": 1}}
    with pytest.raises(InvalidArgument, match="shared memory can't be set on classification output"):
        RestCodec("simple", "1", SIMPLE).decode(*body({"inputs": [tensor(), tensor("INPUT1")], "outputs": [wanted]}, ROWS * 2))


def outputs() -> InferResponse:
    tensors = tuple(TensorLayout.fixed(n, DType.INT32, (1, 16)) for n in ("OUTPUT0", "OUTPUT1"))
    return InferResponse("simple", "1", Layout(tensors), ROWS + b"\1" * 64)


def test_an_output_in_memory_is_named_without_data() -> None:
    wanted = [{"name": "OUTPUT1", "parameters": A}, {"name": "OUTPUT0", "parameters": {"binary_data": True}}]
    codec = RestCodec("simple", "1", SIMPLE)
    _, plan = codec.decode(*body({"inputs": [tensor(), tensor("INPUT1")], "outputs": wanted}, ROWS * 2))
    assert plan.special is not None
    written: list[tuple[Region, Buffer]] = []
    response = outputs()
    plan.special.finish(response, lambda region, data: written.append((region, bytes(data))))
    assert written == [(Region("a", 8, 64), b"\1" * 64)]
    parts, length = codec.encode(plan, response)
    whole = b"".join(parts)
    first, second = json.loads(whole[:length])["outputs"]
    assert first["parameters"] == {"binary_data_size": 64}
    assert second == {"name": "OUTPUT1", "datatype": "INT32", "shape": [1, 16]}
    assert whole[length:] == ROWS


def test_an_output_that_does_not_fit_is_refused() -> None:
    wanted = [{"name": "OUTPUT1", "parameters": A | {"shared_memory_byte_size": 63}}]
    _, plan = RestCodec("simple", "1", SIMPLE).decode(*body({"inputs": [tensor(), tensor("INPUT1")], "outputs": wanted}, ROWS * 2))
    assert plan.special is not None
    with pytest.raises(InvalidArgument, match=r"for output 'OUTPUT1' \(63 bytes\) should be at least 64 bytes to hold the results"):
        plan.special.finish(outputs(), lambda region, data: None)


@given(st.dictionaries(st.sampled_from([*A, "binary_data_size", "classification"]), st.none() | st.integers() | st.text() | st.booleans()))
def test_any_parameters_are_read_or_refused(parameters: dict[str, Any]) -> None:
    asked = {"inputs": [tensor(), shared("INPUT1", parameters or A)], "outputs": [{"name": "OUTPUT0", "parameters": parameters}]}
    with suppress(InvalidArgument):
        request, _ = RestCodec("simple", "1", SIMPLE).decode(*body(asked, ROWS))
        assert request.layout.payload_bytes == 128
