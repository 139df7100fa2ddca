"""RestCodec: what it keeps between requests, and the wire rules beyond plain tensors."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from serving.errors import InvalidArgument, ModelFailed, ServingError
from serving.inference import InferRequest
from serving.protocol.rest import RestCodec, RestPlan
from serving.tensor import DType, Signature, TensorSpec
from tests.protocol.samples import ROWS, SIMPLE, STRINGS, body, decode_rest, payload, response, signature, tensor

BOTH = [tensor("INPUT0"), tensor("INPUT1")]
FULL = ROWS + ROWS
ANSWER = response(("OUTPUT0", DType.INT32, (1, 16), b"a" * 64), ("OUTPUT1", DType.INT32, (1, 16), b"b" * 64))


def ask(document: dict[str, Any], tail: bytes = FULL, signature: Signature = SIMPLE) -> tuple[RestCodec, InferRequest, RestPlan]:
    codec = RestCodec("simple", "1", signature)
    return codec, *codec.decode(*body(document, tail))


def answered(document: dict[str, Any], answer: Any = ANSWER, tail: bytes = FULL) -> tuple[dict[str, Any], bytes, int | None]:
    codec, _, plan = ask(document, tail)
    parts, length = codec.encode(plan, answer)
    joined = b"".join(parts)
    return json.loads(joined[:length]), joined[length:] if length is not None else b"", length


def test_a_request_like_the_last_has_the_same_layout_and_plan() -> None:
    codec, first, plan = ask({"inputs": BOTH})
    second, again = codec.decode(*body({"inputs": BOTH}, bytes(range(128))))
    assert second.layout is first.layout
    assert again is plan
    assert payload(second) == bytes(range(128))


def test_the_payload_of_binary_tensors_is_one_view_of_the_body() -> None:
    data, length = body({"inputs": BOTH}, FULL)
    buffer = bytearray(data)
    request, _ = RestCodec("simple", "1", SIMPLE).decode(buffer, length)
    assert len(request.payload) == 1
    buffer[-1] = 7
    assert request.payload[0][-1] == 7


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_fresh_ids_share_a_layout_and_come_back(separators: tuple[str, str]) -> None:
    codec = RestCodec("simple", "1", SIMPLE)
    layouts = set()
    for id in ("a", "b", "", 'quo"te', "back\\slash", "ünï", "new\nline", "x" * 300):
        head = json.dumps({"id": id, "inputs": BOTH}, separators=separators).encode()
        for _ in range(2):
            request, plan = codec.decode(head + FULL, len(head))
            assert request.id == id
            layouts.add(request.layout)
            assert request.layout is next(iter(layouts))
            parts, length = codec.encode(plan, ANSWER)
            assert json.loads(b"".join(parts)[:length]).get("id", "") == id
    assert len(layouts) == 1


def test_the_last_of_two_ids_counts() -> None:
    codec = RestCodec("simple", "1", SIMPLE)
    for first in ("first", "other", ""):
        head = b'{"id":"%s","inputs":%s,"id":"second"}' % (first.encode(), json.dumps(BOTH).encode())
        assert [codec.decode(head + FULL, len(head))[0].id for _ in range(2)] == ["second", "second"]


def test_a_kept_header_still_checks_the_length_of_each_body() -> None:
    codec = RestCodec("simple", "1", SIMPLE)
    data, length = body({"inputs": BOTH}, FULL)
    codec.decode(data, length)
    for wrong in (data[:-1], data + b"\0", data[:length]):
        with pytest.raises(InvalidArgument):
            codec.decode(wrong, length)
    with pytest.raises(InvalidArgument, match="header size"):
        codec.decode(data[:length] + bytes(5), -5)


def test_a_kept_header_still_checks_each_bytes_tensor() -> None:
    codec = RestCodec("simple", "1", STRINGS)
    head = {"inputs": [tensor("INPUT0", "BYTES", (1,), 8)]}
    codec.decode(*body(head, b"\x04\0\0\0abcd"))
    with pytest.raises(InvalidArgument, match="incomplete string data"):
        codec.decode(*body(head, b"\x05\0\0\0abcd"))


def test_bytes_tensors_of_equal_size_share_a_layout() -> None:
    codec = RestCodec("simple", "1", STRINGS)
    ask_for = {"inputs": [tensor("INPUT0", "BYTES", (1,), None, data=["abcd"])]}
    first = codec.decode(*body(ask_for))[0].layout
    assert codec.decode(*body(ask_for))[0].layout is first
    assert codec.decode(*body({"inputs": [tensor("INPUT0", "BYTES", (1,), None, data=["abcde"])]}))[0].layout is not first


def test_json_and_binary_inputs_mix_in_one_request() -> None:
    numbers = list(range(16))
    document = {"inputs": [tensor("INPUT1", size=None, data=[numbers]), tensor("INPUT0")]}
    _, request, _ = ask(document, ROWS)
    assert payload(request) == ROWS + struct.pack("<16i", *numbers)
    assert [t.name for t in request.layout.tensors] == ["INPUT0", "INPUT1"]


def test_a_tensor_without_elements_is_legal() -> None:
    free = signature(DType.FP32)
    assert payload(decode_rest(free, *body({"inputs": [tensor("x", "FP32", (0,), None, data=[])]}))) == b""
    assert payload(decode_rest(free, *body({"inputs": [tensor("x", "FP32", (0,), 0)]}))) == b""
    codec, _, plan = ask({"inputs": [tensor("x", "FP32", (0,), 0)], "parameters": {"binary_data_output": True}}, b"", free)
    (document,), length = codec.encode(plan, response(("y", DType.FP32, (0,), b"")))
    assert length is None
    assert json.loads(document)["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [0], "parameters": {"binary_data_size": 0}}]


def test_what_may_be_left_out_may_be_null() -> None:
    """Clients whose messages are made from the schema send every optional member."""
    one = tensor(size=None, data=list(range(16)), parameters=None)
    nulls = {"id": None, "parameters": None, "inputs": [one, {**one, "name": "INPUT1"}]}
    for outputs in (None, [{"name": "OUTPUT1", "parameters": None}]):
        request, plan = RestCodec("simple", "1", SIMPLE).decode(*body({**nulls, "outputs": outputs}))
        assert (request.id, plan.id, request.layout.parameters) == ("", "", ())
        assert request.layout.outputs == (("OUTPUT1",) if outputs else ())


def test_numbers_are_read_as_triton_reads_them() -> None:
    free = signature(DType.FP32)
    text = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[7],"data":[1,[2.5,[1e300]],NaN,-Infinity,Infinity,-0.0]}]}'
    got = struct.unpack("<7f", payload(decode_rest(free, text, None)))
    assert str(got) == "(1.0, 2.5, inf, nan, -inf, inf, -0.0)"
    exact = b'{"inputs":[{"name":"x","datatype":"INT64","shape":[2],"data":[9007199254740993,-9223372036854775808]}]}'
    assert struct.unpack("<2q", payload(decode_rest(signature(DType.INT64), exact, None))) == (9007199254740993, -(1 << 63))
    words = b'{"inputs":[{"name":"x","datatype":"BOOL","shape":[2,1],"data":[[true],[false]]}]}'
    assert payload(decode_rest(signature(DType.BOOL, (-1, 1)), words, None)) == b"\1\0"


def test_outputs_come_in_model_order_and_only_those_asked_for() -> None:
    document, tail, length = answered(
        {"inputs": BOTH, "outputs": [{"name": "OUTPUT1", "parameters": {"binary_data": True}}, {"name": "OUTPUT0"}]}
    )
    assert [o["name"] for o in document["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    assert document["outputs"][0]["data"] == [0x61616161] * 16
    assert document["outputs"][1] == {"name": "OUTPUT1", "datatype": "INT32", "shape": [1, 16], "parameters": {"binary_data_size": 64}}
    assert tail == b"b" * 64
    assert length is not None
    document, tail, length = answered({"inputs": BOTH, "outputs": [{"name": "OUTPUT1", "parameters": {"binary_data": True}}]})
    assert ([o["name"] for o in document["outputs"]], tail) == (["OUTPUT1"], b"b" * 64)


def test_the_request_names_outputs_in_its_layout_in_model_order() -> None:
    _, request, _ = ask({"inputs": BOTH, "outputs": [{"name": "OUTPUT1"}, {"name": "OUTPUT0"}]})
    assert request.layout.outputs == ("OUTPUT0", "OUTPUT1")
    assert ask({"inputs": BOTH, "outputs": []})[1].layout.outputs == ()


@pytest.mark.parametrize(
    ("fields", "binary"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"parameters": {"binary_data_output": False}}, False),
        ({"parameters": {"binary_data_output": True}, "outputs": []}, True),
        ({"parameters": {"binary_data_output": True}, "outputs": [{"name": "OUTPUT0"}]}, False),
        ({"outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]}, True),
    ],
)
def test_binary_data_output_counts_only_without_listed_outputs(fields: dict[str, Any], binary: bool) -> None:
    document, _, length = answered({"inputs": BOTH, **fields})
    assert (length is not None) is binary
    assert ("data" in document["outputs"][0]) is not binary


def test_an_answer_in_another_order_than_the_model_is_put_right() -> None:
    turned = response(
        ("OUTPUT1", DType.INT32, (1, 16), b"b" * 64), ("more", DType.INT8, (1,), b"x"), ("OUTPUT0", DType.INT32, (1, 16), b"a" * 64)
    )
    _, tail, _ = answered({"inputs": BOTH, "parameters": {"binary_data_output": True}}, turned)
    assert tail == b"a" * 64 + b"b" * 64


def test_answers_of_one_layout_carry_their_own_tensors() -> None:
    codec, _, plan = ask({"inputs": BOTH, "parameters": {"binary_data_output": True}})
    for fill in (b"a", b"b"):
        ANSWER_OF = type(ANSWER)("simple", "1", ANSWER.layout, fill * 128)
        parts, length = codec.encode(plan, ANSWER_OF)
        assert b"".join(parts)[length:] == fill * 128


def test_name_version_and_id_are_as_clients_assert() -> None:
    document, _, _ = answered({"inputs": BOTH, "id": "7", "model_name": "other", "whatever": [1]})
    assert (document["model_name"], document["model_version"], document["id"]) == ("simple", "1", "7")
    assert "id" not in answered({"inputs": BOTH})[0]
    assert "parameters" not in answered({"inputs": BOTH})[0]


def test_parameters_of_the_answer_stand_at_the_top() -> None:
    answer = response(("OUTPUT0", DType.INT32, (1, 16), ROWS), ("OUTPUT1", DType.INT32, (1, 16), ROWS), parameters=(("a", 1), ("b", True)))
    assert answered({"inputs": BOTH}, answer)[0]["parameters"] == {"a": 1, "b": True}


def test_parameters_steer_the_server_or_go_to_the_model() -> None:
    own = {"z": "text", "a": 1, "b": True, "c": 0.5}
    neutral = {"sequence_id": 0, "sequence_start": False, "sequence_end": False, "binary_data_output": True}
    _, request, _ = ask({"inputs": BOTH, "parameters": {**own, **neutral, "priority": 2, "timeout": 5000}})
    assert (request.priority, request.timeout_us) == (2, 5000)
    assert request.layout.parameters == tuple(sorted(own.items()))


def test_priority_and_timeout_are_cut_to_what_a_frame_carries() -> None:
    _, request, _ = ask({"inputs": BOTH, "parameters": {"priority": 1 << 60, "timeout": 1 << 60}})
    assert (request.priority, request.timeout_us) == (255, 0xFFFF_FFFF)


def test_parameters_that_equal_each_other_keep_their_types() -> None:
    codec = RestCodec("simple", "1", SIMPLE)
    for value in (1, True, 1.0):
        request, _ = codec.decode(*body({"inputs": BOTH, "parameters": {"a": value}}, FULL))
        assert [type(v) for _, v in request.layout.parameters] == [type(value)]


def test_rows_are_counted() -> None:
    _, request, _ = ask({"inputs": [tensor(n, shape=(3, 16), size=192) for n in ("INPUT0", "INPUT1")]}, ROWS * 6)
    assert (request.layout.rows, request.layout.payload_bytes) == (3, 384)


@pytest.mark.parametrize(
    ("shape", "max_batch_size", "dtype", "data", "expected"),
    [
        ((4,), 0, DType.INT32, bytes(16), (4,)),
        ((4,), 8, DType.INT32, bytes(16), (1, 4)),
        ((-1, 2), 8, DType.INT32, bytes(24), (1, 3, 2)),
        ((-1,), 0, DType.UINT8, b"", (0,)),
        ((1,), 8, DType.BYTES, b"abc", (1, 1)),
    ],
)
def test_a_raw_request_is_the_only_input(
    shape: tuple[int, ...], max_batch_size: int, dtype: DType, data: bytes, expected: tuple[int, ...]
) -> None:
    codec = RestCodec("simple", "1", signature(dtype, shape, max_batch_size))
    request, plan = codec.decode(data, 0)
    assert request.layout.tensors[0].shape == expected
    assert payload(request) == (b"\x03\0\0\0abc" if dtype is DType.BYTES else data)
    parts, length = codec.encode(plan, response(("y", dtype, (1,), b"\0\0\0\0")))
    assert (b"".join(parts)[length:], length is not None) == (b"\0\0\0\0", True)


def test_bytes_that_are_not_text_cannot_be_sent_as_json() -> None:
    codec = RestCodec("simple", "1", STRINGS)
    _, plan = codec.decode(*body({"inputs": [tensor("INPUT0", "BYTES", (0,), None, data=[])]}))
    with pytest.raises(InvalidArgument, match="use binary data"):
        codec.encode(plan, response(("OUTPUT0", DType.BYTES, (1,), b"\x01\0\0\0\xff")))


def test_an_answer_without_an_output_is_the_models_fault() -> None:
    with pytest.raises(ModelFailed, match="did not return the output 'OUTPUT1'"):
        answered({"inputs": BOTH}, response(("OUTPUT0", DType.INT32, (1, 16), ROWS)))


def test_memory_stays_bounded_under_ever_new_headers() -> None:
    codec = RestCodec("simple", "1", SIMPLE)
    usual = body({"inputs": BOTH}, FULL)
    layout = codec.decode(*usual)[0].layout
    for i in range(1500):
        codec.decode(*body({"inputs": BOTH, "parameters": {"n": i}}, FULL))
        if i % 100 == 0:
            assert codec.decode(*usual)[0].layout is layout
    assert len(codec._known) <= 512


def test_optional_inputs_may_be_left_out() -> None:
    both = Signature((TensorSpec("a", DType.INT8, (1,)), TensorSpec("b", DType.INT8, (1,), optional=True)), ())
    assert payload(decode_rest(both, *body({"inputs": [tensor("a", "INT8", (1,), 1)]}, b"\1"))) == b"\1"
    with pytest.raises(ServingError, match="between 1 and 2"):
        decode_rest(both, *body({"inputs": [tensor("b", "INT8", (1,), 1)]}, b"\1"))
