"""The infer rows of the protocol's error table: what a client that does it wrong is told, on REST and on gRPC."""

from __future__ import annotations

from typing import Any

import pytest

from serving.errors import Code, ServingError
from serving.protocol.rest import RestCodec, parse_header_length
from serving.protocol.status import grpc_status, http_status
from serving.tensor import DType, Signature, TensorSpec
from tests.protocol.samples import (
    OPTIONAL,
    ROWS,
    SIMPLE,
    STRINGS,
    body,
    declared,
    decode_grpc,
    decode_rest,
    message,
    signature,
    tensor,
)  # fmt: skip

BOTH = [tensor("INPUT0"), tensor("INPUT1")]
G_BOTH = (declared("INPUT0"), declared("INPUT1"))
FULL = ROWS + ROWS
FP16 = signature(DType.FP16, (2,))
ONE = signature(DType.INT32, (4,))
TWO_FREE = signature(DType.INT32, (-1, -1))
DATA = {"size": None, "data": [1, 2, 3, 4]}


def deep(levels: int) -> list[Any]:
    value: list[Any] = [1]
    for _ in range(levels - 1):
        value = [value]
    return value


def one(**more: Any) -> dict[str, Any]:
    return {"inputs": [tensor("x", "INT32", (4,), **more)]}


def two(**more: Any) -> dict[str, Any]:
    return {"inputs": BOTH, **more}


# name, signature, document or body text, binary tail, what the error says
REST: list[tuple[str, Signature, Any, bytes, str]] = [
    ("invalid JSON", SIMPLE, b'{"inputs": [,]}', b"", "failed to parse the request JSON buffer: "),
    ("JSON that is no object", SIMPLE, b"[1]", b"", "failed to parse the request JSON buffer: "),
    ("invalid JSON with a literal", SIMPLE, b'{"inputs": [NaN,]}', b"", "failed to parse the request JSON buffer: "),
    ("lone surrogate behind a literal", SIMPLE, b'{"a": NaN, "id": "\\ud800"}', b"", "failed to parse the request JSON buffer: "),
    ("text that is not UTF-8", SIMPLE, b'{"a": "\xff", "b": NaN}', b"", "failed to parse the request JSON buffer: "),
    ("inputs missing", SIMPLE, {}, b"", "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
    ("inputs not a list", SIMPLE, {"inputs": 1}, b"", "Unable to parse 'inputs': attempt to access JSON non-array as array"),
    ("input not an object", SIMPLE, {"inputs": [1]}, b"", "Unable to parse 'inputs': attempt to access JSON non-object as object"),
    ("id not text", SIMPLE, two(id=1), FULL, "Unable to parse 'id': attempt to access JSON non-string as string"),
    ("parameters not an object", SIMPLE, two(parameters=[]), FULL, "Unable to parse 'parameters'"),
    ("name missing", SIMPLE, {"inputs": [{}]}, b"", "Unable to parse 'name': attempt to access non-existing object member 'name'"),
    ("name not text", SIMPLE, {"inputs": [{"name": 1}]}, b"", "Unable to parse 'name': attempt to access JSON non-string as string"),
    ("shape missing", SIMPLE, {"inputs": [{"name": "a", "datatype": "INT8"}]}, b"", "Unable to parse 'shape': attempt to access non-ex"),
    ("negative dimension", ONE, {"inputs": [tensor("x", shape=(-1,))]}, b"",
     "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer"),
    ("fractional dimension", ONE, {"inputs": [tensor("x", shape=(1.0,))]}, b"", "Unable to parse 'shape': attempt to access JSON non-uns"),
    ("text dimension", ONE, {"inputs": [tensor("x", shape=("4",))]}, b"", "Unable to parse 'shape': attempt to access JSON non-unsigned"),
    ("boolean dimension", ONE, {"inputs": [tensor("x", shape=(True,))]}, b"", "Unable to parse 'shape': attempt to access JSON non-uns"),
    ("binary_data not boolean", SIMPLE, two(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": 1}}]), FULL,
     "Unable to parse 'binary_data': attempt to access JSON non-boolean as boolean"),
    ("binary_data_output not boolean", SIMPLE, two(parameters={"binary_data_output": 1}), FULL, "Unable to parse 'binary_data_output'"),
    ("binary_data_size not a number", ONE, one(size="16"), b"", "Unable to parse 'binary_data_size': attempt to access JSON non-unsigned"),
    ("binary_data_size negative", ONE, one(size=-1), b"", "Unable to parse 'binary_data_size': attempt to access JSON non-unsigned-int"),
    ("dimensions overflow", ONE, {"inputs": [tensor("x", shape=(1 << 40, 1 << 40))]}, b"",
     "causes total element count to exceed maximum size of"),
    ("bytes overflow", ONE, {"inputs": [tensor("x", shape=(1 << 62,))]}, b"", "byte size overflow for input"),
    ("too few elements", ONE, {"inputs": [tensor("x", shape=(4,), size=None, data=[1, 2, 3])]}, b"",
     "Unable to parse 'data': Shape does not match true shape of 'data' field"),
    ("too many elements", ONE, {"inputs": [tensor("x", shape=(4,), size=None, data=[[1, 2], [3, [4, 5]]])]}, b"",
     "Unable to parse 'data': Shape does not match true shape of 'data' field"),
    ("nesting above 100", signature(DType.INT32), {"inputs": [tensor("x", shape=(1,), size=None, data=deep(101))]}, b"",
     "JSON nesting depth exceeds maximum allowed limit (100)"),
    ("ragged nesting above 100", signature(DType.INT32), {"inputs": [tensor("x", shape=(2,), size=None, data=[1, deep(100)])]}, b"",
     "JSON nesting depth exceeds maximum allowed limit (100)"),
    ("nesting beyond any parser", ONE, b'{"inputs":' + b"[" * 250_000, b"", "JSON nesting depth exceeds maximum allowed limit (100)"),
    ("nesting beyond the slow parser", ONE, b'{"a":NaN,"inputs":' + b"[" * 900 + b"]" * 900 + b"}", b"", "Unable to parse 'inputs'"),
    ("data not a list", ONE, one(size=None, data=1), b"", "Unable to parse 'data': attempt to access JSON non-array as array"),
    ("float for an integer", ONE, one(size=None, data=[1.0, 2, 3, 4]), b"", "attempt to access JSON non-signed-integer as signed-integer"),
    ("boolean for an integer", ONE, one(size=None, data=[True, 2, 3, 4]), b"", "attempt to access JSON non-signed-integer as signed-int"),
    ("text for an integer", ONE, one(size=None, data=["1", 2, 3, 4]), b"", "attempt to access JSON non-signed-integer as signed-integer"),
    ("null for an integer", ONE, one(size=None, data=[None, 2, 3, 4]), b"", "attempt to access JSON non-signed-integer as signed-integer"),
    ("object for an integer", ONE, one(size=None, data=[1, 2, 3, {}]), b"", "attempt to access JSON non-signed-integer as signed-integer"),
    ("integer out of range", ONE, one(size=None, data=[1, 2, 3, 1 << 31]), b"", "out of the range of INT32"),
    ("unknown datatype", SIMPLE, {"inputs": [tensor(datatype="INT33"), BOTH[1]]}, FULL, "invalid datatype for input INPUT0"),
    ("FP16 as JSON", FP16, {"inputs": [tensor("x", "FP16", (2,), None, data=[1, 2])]}, b"",
     "receiving FP16 data via JSON is not supported. Please use the binary data format for input x"),
    ("FP16 answer as JSON", FP16, {"inputs": [tensor("x", "FP16", (2,), 4)]}, bytes(4),
     "sending FP16 data via JSON is not supported. Please use the binary data format for output y"),
    ("no data", ONE, one(size=None), b"", "Input must set only one of the following fields: "),
    ("two kinds of data", ONE, one(data=[1, 2, 3, 4]), b"", "Input must set only one of the following fields: "),
    ("truncated binary", ONE, one(size=16), bytes(8), "unexpected size for input 'x', expecting 8 additional bytes for model 'simple'"),
    ("surplus binary", ONE, one(size=16), bytes(20), "unexpected additional input data for model 'simple'"),
    ("surplus behind JSON", ONE, one(**DATA), bytes(4), "unexpected additional input data for model 'simple'"),
    ("size lie", SIMPLE, {"inputs": [BOTH[0], tensor("INPUT1", size=60)]}, FULL[:-4],
     "input byte size mismatch for input 'INPUT1' for model 'simple'. Expected 64, got 60"),
    ("two size lies name the last", SIMPLE, {"inputs": [tensor("INPUT0", size=4), tensor("INPUT1", size=8)]}, bytes(12),
     "input byte size mismatch for input 'INPUT1' for model 'simple'. Expected 64, got 8"),
    ("too few elements and no other input", SIMPLE, {"inputs": [tensor("INPUT0", size=None, data=[1] * 15)]}, b"",
     "Unable to parse 'data': Shape does not match true shape of 'data' field"),
    ("another type and no other input", SIMPLE, {"inputs": [tensor("INPUT0", size=None, data=["1"] * 16)]}, b"",
     "attempt to access JSON non-signed-integer as signed-integer"),
    ("parameter object", SIMPLE, two(parameters={"foo": {}}), FULL,
     "parameter 'foo' has invalid type. It should be either 'int', 'bool', or 'string'."),
    ("parameter null", SIMPLE, two(parameters={"foo": None}), FULL, "parameter 'foo' has invalid type."),
    ("parameter that is no number", SIMPLE, b'{"inputs": [], "parameters": {"foo": NaN}}', b"", "parameter 'foo' has invalid type."),
    ("priority text", SIMPLE, two(parameters={"priority": "1"}), FULL, "Unable to parse 'priority': attempt to access JSON non-unsigned"),
    ("time-out negative", SIMPLE, two(parameters={"timeout": -1}), FULL, "Unable to parse 'timeout'"),
]  # fmt: skip

# name, signature, message, what the error says
GRPC: list[tuple[str, Signature, Any, str]] = [
    ("negative dimension", ONE, message(declared("x", shape=(-1,))),
     "unexpected shape for input 'x' for model 'simple'. Expected [4], got [-1]"),
    ("negative batch dimension", SIMPLE, message(declared(shape=(-1, 16)), G_BOTH[1]), "unexpected shape for input 'INPUT0'"),
    ("dimensions overflow", ONE, message(declared("x", shape=(1 << 40, 1 << 40))), "causes total element count to exceed maximum size of"),
    ("unknown datatype", ONE, message(declared("x", "INT33", (4,))), "invalid datatype for input x"),
    ("no data", SIMPLE, message(*G_BOTH, raws=[ROWS]), "unable to find data for input tensor 'INPUT1' for model 'simple' in request."),
    ("no data at all", ONE, message(declared("x", shape=(4,))), "unable to find data for input tensor 'x' for model 'simple' in request."),
    ("contents for one input alone", SIMPLE, message(declared(int_contents=[0] * 16), G_BOTH[1]),
     "unable to find data for input tensor 'INPUT1' for model 'simple' in request."),
    ("contents beside raw", SIMPLE, message(declared(int_contents=[0] * 16), G_BOTH[1], raws=[ROWS]),
     "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'simple'"),
    ("contents of another type", ONE, message(declared("x", shape=(4,), fp32_contents=[0.0] * 4)),
     "unexpected explicit tensor data for input tensor 'x' for model 'simple' of type 'FP32', expected datatype 'INT32'"),
    ("contents of two types", ONE, message(declared("x", shape=(4,), int_contents=[0] * 4, fp32_contents=[0.0])),
     "unexpected explicit tensor data for input tensor 'x' for model 'simple' of type 'FP32', expected datatype 'INT32'"),
    ("FP16 as contents", FP16, message(declared("x", "FP16", (2,), fp32_contents=[0.0] * 2)), "unexpected explicit tensor data for input"),
    ("contents too few", ONE, message(declared("x", shape=(4,), int_contents=[1])), "input byte size mismatch for input 'x'"),
    ("contents out of range", signature(DType.INT8, (1,)),
     message(declared("x", "INT8", (1,), int_contents=[300])), "out of the range of INT8"),
    ("raw too short", ONE, message(declared("x", shape=(4,)), raws=[bytes(15)]),
     "input byte size mismatch for input 'x' for model 'simple'. Expected 16, got 15"),
    ("two raws too short name the last", SIMPLE, message(*G_BOTH, raws=[b"", b""]), "input byte size mismatch for input 'INPUT1'"),
    ("surplus raw", ONE, message(declared("x", shape=(4,)), raws=[bytes(16), b""]), "unexpected additional input data for model 'simple'"),
    ("parameter without a value", ONE, message(declared("x", shape=(4,)), parameters={"foo": {}}), "parameter 'foo' has invalid type."),
    ("priority text", ONE, message(declared("x", shape=(4,)), parameters={"priority": {"string_param": "1"}}),
     "invalid value type for 'priority' parameter, expected int64_param or uint64_param."),
    ("bytes not protobuf", ONE, b"\x0a\xff", "cannot parse the protobuf message"),
    ("raw cut off", ONE, b"\x3a\x05abc", "cannot parse the protobuf message"),
    ("group wire type", ONE, b"\x0b\x0c", "cannot parse the protobuf message"),
    ("input not a message", ONE, b"\x2a\x01\xff", "cannot parse ModelInferRequest"),
    ("name not UTF-8", ONE, b"\x0a\x01\xff", "cannot parse the protobuf message"),
]  # fmt: skip

# name, signature, REST document, binary tail, gRPC message, text
BOTH_PROTOCOLS: list[tuple[str, Signature, Any, bytes, Any, str]] = [
    ("wrong datatype", SIMPLE, {"inputs": [tensor(datatype="FP32"), BOTH[1]]}, FULL, message(declared(datatype="FP32"), G_BOTH[1]),
     "inference input 'INPUT0' data-type is 'FP32', but model 'simple' expects 'INT32'"),
    ("wrong shape", SIMPLE, {"inputs": [tensor(shape=(1, 8)), BOTH[1]]}, FULL, message(declared(shape=(1, 8)), G_BOTH[1]),
     "unexpected shape for input 'INPUT0' for model 'simple'. Expected [-1,16], got [1,8]. NOTE: "),
    ("wrong rank", SIMPLE, {"inputs": [tensor(shape=(1, 1, 16)), BOTH[1]]}, FULL, message(declared(shape=(1, 1, 16)), G_BOTH[1]),
     "unexpected shape for input 'INPUT0' for model 'simple'. Expected [-1,16], got [1,1,16]"),
    ("batch too large", SIMPLE, {"inputs": [tensor(n, shape=(9, 16)) for n in ("INPUT0", "INPUT1")]}, FULL,
     message(declared(shape=(9, 16)), declared("INPUT1", shape=(9, 16))), "inference request batch-size must be <= 8 for 'simple'"),
    ("batch of nothing", SIMPLE, {"inputs": [tensor(n, shape=(0, 16)) for n in ("INPUT0", "INPUT1")]}, FULL,
     message(declared(shape=(0, 16)), declared("INPUT1", shape=(0, 16))), "inference request batch-size must be >= 1 for 'simple'"),
    ("batch differs", SIMPLE, {"inputs": [tensor(shape=(2, 16)), BOTH[1]]}, FULL, message(declared(shape=(2, 16)), G_BOTH[1]),
     "input 'INPUT1' batch size does not match other inputs for 'simple'"),
    ("no batch dimension", SIMPLE, {"inputs": [tensor(shape=()), BOTH[1]]}, FULL, message(declared(shape=()), G_BOTH[1]),
     "input 'INPUT0' has no shape but model requires batch dimension for 'simple'"),
    ("missing inputs", Signature((*OPTIONAL.inputs[:3],), OPTIONAL.outputs), {"inputs": [tensor("INPUT0", "FP32", (2,), 8)]}, bytes(8),
     message(declared("INPUT0", "FP32", (2,))),
     "expected 3 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], but missing required input(s) "
     "['INPUT1','INPUT2']. Please provide all required input(s)."),
    ("missing beside optional", OPTIONAL, {"inputs": [tensor("INPUT0", "FP32", (2,), 8)]}, bytes(8),
     message(declared("INPUT0", "FP32", (2,))),
     "expected number of inputs between 3 and 4 but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], but missing"),
    ("no inputs", SIMPLE, {"inputs": []}, b"", message(), "expected 2 inputs but got 0 inputs for model 'simple'. Got input(s) []"),
    ("unknown input", SIMPLE, {"inputs": [tensor("BAD"), BOTH[1]]}, FULL, message(declared("BAD"), G_BOTH[1]),
     "unexpected inference input 'BAD' for model 'simple'"),
    ("duplicate input", SIMPLE, {"inputs": [BOTH[0], BOTH[0]]}, FULL,
     message(G_BOTH[0], G_BOTH[0]), "input 'INPUT0' already exists in request"),
    ("unknown output", SIMPLE, two(outputs=[{"name": "X"}]), FULL, message(*G_BOTH, outputs=[{"name": "X"}]),
     "unexpected inference output 'X' for model 'simple'"),
    ("duplicate output", SIMPLE, two(outputs=[{"name": "OUTPUT0"}] * 2), FULL, message(*G_BOTH, outputs=[{"name": "OUTPUT0"}] * 2),
     "output 'OUTPUT0' already exists in request"),
    ("triton_ parameter", SIMPLE, two(parameters={"triton_foo": 1}), FULL,
     message(*G_BOTH, parameters={"triton_foo": {"bool_param": True}}),
     "parameter keys starting with 'triton_' are reserved for Triton usage"),
    ("headers parameter", SIMPLE, two(parameters={"headers": "a"}), FULL, message(*G_BOTH, parameters={"headers": {"string_param": "a"}}),
     "parameter 'headers' is reserved"),
    ("BYTES too few", STRINGS, {"inputs": [tensor("INPUT0", "BYTES", (2,), 5)]}, b"\x01\0\0\0a",
     message(declared("INPUT0", "BYTES", (2,)), raws=[b"\x01\0\0\0a"]),
     "expected 2 string elements for inference input 'INPUT0' for model 'simple', got 1"),
    ("BYTES too many", STRINGS, {"inputs": [tensor("INPUT0", "BYTES", (1,), 8)]}, bytes(8),
     message(declared("INPUT0", "BYTES", (1,)), raws=[bytes(8)]),
     "unexpected number of string elements 2 for inference input 'INPUT0' for model 'simple', expecting 1"),
    ("BYTES length cut", STRINGS, {"inputs": [tensor("INPUT0", "BYTES", (1,), 3)]}, bytes(3),
     message(declared("INPUT0", "BYTES", (1,)), raws=[bytes(3)]), "incomplete string length indicator for inference input 'INPUT0'"),
    ("BYTES data cut", STRINGS, {"inputs": [tensor("INPUT0", "BYTES", (1,), 5)]}, b"\x09\0\0\0a",
     message(declared("INPUT0", "BYTES", (1,)), raws=[b"\x09\0\0\0a"]),
     "incomplete string data for inference input 'INPUT0' for model 'simple', expecting string of length 9 but only 1 bytes available"),
]  # fmt: skip


def refused(call: Any) -> ServingError:
    with pytest.raises(ServingError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(("signature", "document", "tail", "text"), [r[1:] for r in REST], ids=[r[0] for r in REST])
def test_rest_says_what_is_wrong(signature: Signature, document: Any, tail: bytes, text: str) -> None:
    error = refused(lambda: decode_rest(signature, *body(document, tail)))
    assert text in error.message
    assert http_status(error.code, "infer") == 400


@pytest.mark.parametrize(("signature", "request_message", "text"), [r[1:] for r in GRPC], ids=[r[0] for r in GRPC])
def test_grpc_says_what_is_wrong(signature: Signature, request_message: Any, text: str) -> None:
    data = request_message if isinstance(request_message, bytes) else request_message.SerializeToString()
    error = refused(lambda: decode_grpc(signature, data))
    assert text in error.message
    assert grpc_status(error.code) == 3


@pytest.mark.parametrize(
    ("signature", "document", "tail", "request_message", "text"), [r[1:] for r in BOTH_PROTOCOLS], ids=[r[0] for r in BOTH_PROTOCOLS]
)
def test_both_protocols_say_the_same(signature: Signature, document: Any, tail: bytes, request_message: Any, text: str) -> None:
    rest = refused(lambda: decode_rest(signature, *body(document, tail)))
    grpc = refused(lambda: decode_grpc(signature, request_message.SerializeToString()))
    assert text in rest.message
    assert grpc.message == rest.message
    assert (http_status(rest.code), grpc_status(grpc.code)) == (400, 3)


@pytest.mark.parametrize("length", [339, -1, 99999, 1 << 31, 10**17])
def test_header_length_must_lie_in_the_body(length: int) -> None:
    error = refused(lambda: decode_rest(SIMPLE, bytes(338), length))
    assert error.message == f"inference header size should be in range (0, 338), got: {length}"
    assert error.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("text", ["abc", "", "1.0", "1_0", "0x10", "--1", "9" * 5000, "٣"])
def test_header_length_must_be_a_number(text: str) -> None:
    assert "Unable to parse Inference-Header-Content-Length, got: " in refused(lambda: parse_header_length(text)).message


def test_header_length_is_read_with_blanks_and_sign() -> None:
    assert [parse_header_length(t) for t in ("0", " 338 ", "-1")] == [0, 338, -1]


def test_an_empty_body_is_refused() -> None:
    assert refused(lambda: decode_rest(SIMPLE, b"", None)).message == "request JSON is empty"


RAW: list[tuple[str, Signature, int, str]] = [
    ("several inputs", SIMPLE, 64, "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in"),
    ("two free dimensions", TWO_FREE, 64,
     "The shape of the raw input 'x' can not be deduced because there are more than one variable-sized dimension"),
    ("BYTES of two elements", signature(DType.BYTES, (2,)), 4, "For BYTE datatype raw input 'x', the model must have input shape [1]"),
    ("BYTES of any size", signature(DType.BYTES, (-1,)), 4, "For BYTE datatype raw input 'x', the model must have input shape [1]"),
    ("wrong size", ONE, 12, "input byte size mismatch for input 'x' for model 'simple'. Expected 16, got 12"),
    ("part of a row", signature(DType.INT32, (-1, 4)), 20,
     "input byte size mismatch for input 'x' for model 'simple'. Expected 16, got 20"),
    ("nothing fits a dimension of zero", signature(DType.INT32, (-1, 0)), 20, "input byte size mismatch for input 'x'"),
    ("too large", ONE, 65, "Raw input has a byte_size (65)"),
]  # fmt: skip


@pytest.mark.parametrize(("signature", "size", "text"), [r[1:] for r in RAW], ids=[r[0] for r in RAW])
def test_a_raw_request_must_fit_the_only_input(signature: Signature, size: int, text: str) -> None:
    codec = RestCodec("simple", "1", signature, max_json_bytes=64)
    error = refused(lambda: codec.decode(bytes(size), 0))
    assert text in error.message
    assert http_status(error.code) == 400


def test_the_json_part_is_bounded_and_the_tensors_are_not() -> None:
    head = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[400],"parameters":{"binary_data_size":1600}}]}'
    codec = RestCodec("simple", "1", Signature((TensorSpec("x", DType.INT32, (-1,)),), ()), max_json_bytes=len(head))
    assert codec.decode(head + bytes(1600), len(head))[0].layout.payload_bytes == 1600
    error = refused(lambda: codec.decode(head + b" ", None))
    assert f"request JSON size of {len(head) + 1} bytes exceeds the maximum allowed input size of {len(head)} bytes" in error.message


def test_checks_come_in_the_order_of_the_protocol() -> None:
    """Each request has all faults that come later as well."""
    faults = [
        ("unexpected inference input 'BAD'", [tensor("BAD", "FP32", (9, 8), 1)]),
        ("expected 2 inputs but got 1", [tensor("INPUT0", "FP32", (9, 8), 1)]),
        ("batch-size must be <= 8", [tensor("INPUT0", "FP32", (9, 8), 1), tensor("INPUT1", "FP32", (9, 8), 1)]),
        ("data-type is 'FP32'", [tensor("INPUT0", "FP32", (1, 8), 1), tensor("INPUT1", "FP32", (1, 8), 1)]),
        ("unexpected shape", [tensor("INPUT0", "INT32", (1, 8), 1), tensor("INPUT1", "INT32", (1, 8), 1)]),
        ("input byte size mismatch for input 'INPUT1'", [tensor(size=1), tensor("INPUT1", size=1)]),
    ]
    for text, inputs in faults:
        assert text in refused(lambda inputs=inputs: decode_rest(SIMPLE, *body({"inputs": inputs}))).message  # type: ignore[misc]
