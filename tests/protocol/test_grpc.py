"""Splitting messages, and what GrpcCodec keeps between requests."""

from __future__ import annotations

from typing import Any

import pytest

from serving.errors import InvalidArgument, ModelFailed
from serving.protocol.grpc import GrpcCodec
from serving.protocol.grpc_head import Splitter
from serving.protocol.protobuf import field
from serving.protocol.schema import ModelInferResponse
from serving.tensor import DType, Signature, TensorSpec
from tests.protocol.samples import ROWS, SIMPLE, STRINGS, declared, message, payload, response, signature

BOTH = (declared("INPUT0"), declared("INPUT1"))
ANSWER = response(("OUTPUT0", DType.INT32, (1, 16), b"a" * 64), ("OUTPUT1", DType.INT32, (1, 16), b"b" * 64))


def request(*, raws: Any = (ROWS, ROWS), **fields: Any) -> memoryview:
    return memoryview(message(*BOTH, raws=list(raws), **fields).SerializeToString())


def answered(answer: Any = ANSWER, **fields: Any) -> Any:
    codec = GrpcCodec("simple", "1", SIMPLE)
    _, plan = codec.decode(Splitter().split(request(**fields)))
    return ModelInferResponse.FromString(b"".join(codec.encode(plan, answer)))


def test_raws_are_views_of_the_message() -> None:
    buffer = bytearray(request())
    head = Splitter().split(buffer)
    buffer[-1] = 7
    assert head.raws[1][-1] == 7


def test_messages_that_differ_in_id_and_tensors_have_one_head() -> None:
    splitter = Splitter()
    heads = [splitter.split(request(id=id, raws=[fill * 64, ROWS])) for id in ("", "a", "b", "x" * 100, "y" * 200) for fill in (b"1", b"2")]
    assert {h.head_bytes for h in heads} == {heads[0].head_bytes}
    assert [h.id for h in heads[::2]] == ["", "a", "b", "x" * 100, "y" * 200]
    assert [bytes(h.raws[0][:1]) for h in heads] == [b"1", b"2"] * 5


def test_fields_behind_the_tensors_belong_to_the_head() -> None:
    splitter = Splitter()
    plain = bytes(request())
    for _ in range(2):
        assert splitter.split(memoryview(plain + field(2, b"3"))).version == "3"
        assert splitter.split(memoryview(plain + field(2, b"4"))).version == "4"
        assert splitter.split(memoryview(plain + field(3, b"id"))).id == "id"
        assert splitter.split(memoryview(plain)).version == ""


def test_names_of_any_length_are_read() -> None:
    splitter = Splitter()
    for name in ("m", "n" * 127, "o" * 128, "p" * 5000):
        data = message(declared("x"), raws=[ROWS], id="7")
        data.model_name = name
        data.model_version = "12"
        for _ in range(2):
            head = splitter.split(memoryview(data.SerializeToString()))
            assert (head.model, head.version, head.id) == (name, "12", "7")


def test_a_splitter_keeps_a_bounded_number_of_frames() -> None:
    splitter = Splitter()
    for i in range(2000):
        splitter.split(memoryview(message(declared("x"), raws=[bytes(i)]).SerializeToString()))
    assert len(splitter._seen) <= 256


def test_a_request_like_the_last_has_the_same_layout_and_plan() -> None:
    codec, splitter = GrpcCodec("simple", "1", SIMPLE), Splitter()
    first, plan = codec.decode(splitter.split(request()))
    second, again = codec.decode(splitter.split(request(raws=[b"1" * 64, b"2" * 64])))
    third, _ = codec.decode(splitter.split(request(id="9")))
    assert second.layout is first.layout
    assert third.layout is first.layout
    assert codec.decode(splitter.split(request()))[1] is again
    assert (plan.id, third.id, payload(second)) == ("", "9", b"1" * 64 + b"2" * 64)


def test_a_kept_head_still_checks_the_raws_of_each_message() -> None:
    codec, splitter = GrpcCodec("simple", "1", SIMPLE), Splitter()
    codec.decode(splitter.split(request()))
    for raws in ([ROWS], [ROWS, ROWS, b""], [ROWS, ROWS[:-1]], []):
        with pytest.raises(InvalidArgument):
            codec.decode(splitter.split(request(raws=raws)))
    strings = GrpcCodec("simple", "1", STRINGS)
    for text, good in ((b"\x01\0\0\0a", True), (b"\x02\0\0\0a", False)):
        data = message(declared("INPUT0", "BYTES", (1,)), raws=[text]).SerializeToString()
        if good:
            strings.decode(splitter.split(memoryview(data)))
        else:
            with pytest.raises(InvalidArgument):
                strings.decode(splitter.split(memoryview(data)))


def test_typed_contents_of_each_message_are_read() -> None:
    codec, splitter = GrpcCodec("simple", "1", signature(DType.INT32)), Splitter()
    for value in (1, 2):
        data = message(declared("x", "INT32", (2,), int_contents=[value, -value])).SerializeToString()
        assert payload(codec.decode(splitter.split(memoryview(data)))[0]) == value.to_bytes(4, "little") + (-value).to_bytes(
            4, "little", signed=True
        )


def test_an_input_without_elements_needs_no_data() -> None:
    codec = GrpcCodec("simple", "1", signature(DType.INT32))
    empty = message(declared("x", "INT32", (0,)) | {"contents": {}}).SerializeToString()
    assert payload(codec.decode(Splitter().split(memoryview(empty)))[0]) == b""


def test_the_answer_has_raw_contents_in_model_order() -> None:
    answer = answered(id="7")
    assert (answer.model_name, answer.model_version, answer.id) == ("simple", "1", "7")
    assert [o.name for o in answer.outputs] == ["OUTPUT0", "OUTPUT1"]
    assert list(answer.raw_output_contents) == [b"a" * 64, b"b" * 64]
    turned = response(("OUTPUT1", DType.INT32, (1, 16), b"b" * 64), ("OUTPUT0", DType.INT32, (1, 16), b"a" * 64))
    assert list(answered(turned).raw_output_contents) == [b"a" * 64, b"b" * 64]


def test_only_outputs_asked_for_are_answered_in_model_order() -> None:
    assert [o.name for o in answered(outputs=[{"name": "OUTPUT1"}]).outputs] == ["OUTPUT1"]
    assert [o.name for o in answered(outputs=[{"name": "OUTPUT1"}, {"name": "OUTPUT0"}]).outputs] == ["OUTPUT0", "OUTPUT1"]


def test_an_answer_without_an_output_is_the_models_fault() -> None:
    with pytest.raises(ModelFailed, match="did not return the output 'OUTPUT1'"):
        answered(response(("OUTPUT0", DType.INT32, (1, 16), ROWS)))


def test_parameters_of_all_kinds_go_both_ways() -> None:
    values: dict[str, Any] = {
        "a": {"bool_param": True}, "b": {"int64_param": -5}, "c": {"string_param": "t"}, "d": {"double_param": 0.5},
        "e": {"uint64_param": (1 << 64) - 1}, "priority": {"uint64_param": 2}, "timeout": {"int64_param": 9},
        "triton_enable_empty_final_response": {"bool_param": True},
    }  # fmt: skip
    got, _ = GrpcCodec("simple", "1", SIMPLE).decode(Splitter().split(request(parameters=values)))
    own = (("a", True), ("b", -5), ("c", "t"), ("d", 0.5), ("e", (1 << 64) - 1))
    assert got.layout.parameters == own
    assert (got.priority, got.timeout_us) == (2, 9)
    tensors = [("OUTPUT0", DType.INT32, (1, 16), ROWS), ("OUTPUT1", DType.INT32, (1, 16), ROWS)]
    back = answered(response(*tensors, parameters=own)).parameters  # type: ignore[arg-type]
    assert {k: {str(back[k].WhichOneof("parameter_choice")): getattr(back[k], back[k].WhichOneof("parameter_choice"))} for k in back} == {
        k: values[k] for k, _ in own
    }


PAIR = Signature((TensorSpec("a", DType.FP32, (-1,)), TensorSpec("b", DType.INT32, (2,)), TensorSpec("c", DType.BYTES, (-1,))), ())


@pytest.mark.parametrize("order", ["abc", "cba"])
def test_tensors_without_elements_need_no_raw(order: str) -> None:
    """A client may send an empty raw for each of them, or none for any."""
    inputs = {"a": declared("a", "FP32", (0,)), "b": declared("b", "INT32", (2,)), "c": declared("c", "BYTES", (0,))}
    sent = [inputs[name] for name in order]
    without = message(*sent, raws=[b"12345678"]).SerializeToString()
    spelt = message(*sent, raws=[b"", b"12345678", b""]).SerializeToString()
    codec = GrpcCodec("simple", "1", PAIR)
    for data in (without, spelt, without):
        got, _ = codec.decode(Splitter().split(memoryview(data)))
        assert payload(got) == b"12345678"
        assert [t.shape for t in got.layout.tensors] == [(0,), (2,), (0,)]
    for raws in ([], [b"", b"12345678"]):
        with pytest.raises(InvalidArgument, match="unable to find data for input tensor"):
            codec.decode(Splitter().split(memoryview(message(*sent, raws=raws).SerializeToString())))
    alone = GrpcCodec("simple", "1", signature(DType.FP32))
    for fields in ({"raws": []}, {"raws": [b""]}):
        got, _ = alone.decode(Splitter().split(memoryview(message(declared("x", "FP32", (0,)), **fields).SerializeToString())))
        assert payload(got) == b""


@pytest.mark.parametrize(
    ("key", "kind", "value", "words"),
    [
        ("sequence_id", "double_param", 1.0, "invalid value type for 'sequence_id' parameter, expected int64_param or string_param."),
        ("sequence_start", "int64_param", 1, "invalid value type for 'sequence_start' parameter, expected bool_param."),
        ("sequence_end", "string_param", "", "invalid value type for 'sequence_end' parameter, expected bool_param."),
        ("priority", "string_param", "1", "invalid value type for 'priority' parameter, expected int64_param or uint64_param."),
        ("priority", "int64_param", -1, "invalid value for 'priority', expected value >= 0."),
        ("timeout", "string_param", "1", "invalid value type for 'timeout' parameter, expected int64_param."),
        ("timeout", "int64_param", -1, "invalid value for 'timeout', expected value >= 0."),
        ("triton_enable_empty_final_response", "int64_param", 1, "expected bool_param."),
    ],
)
def test_parameters_of_the_servers_own_have_their_kinds(key: str, kind: str, value: Any, words: str) -> None:
    asked = message(*BOTH, raws=[ROWS, ROWS])
    setattr(asked.parameters[key], kind, value)
    with pytest.raises(InvalidArgument) as refused:
        GrpcCodec("simple", "1", SIMPLE).decode(Splitter().split(asked.SerializeToString()))
    assert words in refused.value.message


def test_contents_that_are_there_but_empty_do_not_stand_beside_raws() -> None:
    """As in Triton: a field that is set counts, whatever is in it."""
    asked = message(*BOTH, raws=[ROWS, ROWS])
    asked.inputs[1].contents.SetInParent()
    with pytest.raises(InvalidArgument, match="contents field must not be specified when using raw_input_contents for 'INPUT1'"):
        GrpcCodec("simple", "1", SIMPLE).decode(Splitter().split(asked.SerializeToString()))
