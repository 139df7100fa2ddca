from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.answers import AnswerCheck, Expected, read_grpc, read_rest
from serving.bench.encode import Order, Work, encode, request, wire_bytes
from serving.bench.inputs import Tensor, random_samples
from serving.bench.target import ModelInfo, ServerAddress
from serving.errors import InvalidArgument
from serving.inference import InferResponse, Layout, TensorLayout
from serving.protocol.grpc import GrpcCodec
from serving.protocol.grpc_head import Splitter
from serving.protocol.rest import RestCodec
from serving.protocol.schema import ModelInferResponse
from serving.tensor import DType, Signature, TensorSpec

REST = ServerAddress.parse("http://h:1/prefix")
GRPC = ServerAddress.parse("grpc://h:1")
JSON_TYPES = [d for d in DType if d not in (DType.FP16, DType.BF16)]


def info(*dtypes: DType) -> ModelInfo:
    specs = tuple(TensorSpec(f"x{i}", d, (-1, 3)) for i, d in enumerate(dtypes))
    return ModelInfo("m", "", ("1",), "", specs, specs, 8)


def order(about: ModelInfo, **more: Any) -> Order:
    return Order(about, "m", outputs=tuple(s.name for s in about.outputs), **more)


def signature(about: ModelInfo) -> Signature:
    specs = tuple(TensorSpec(s.name, s.dtype, s.shape[1:]) for s in about.inputs)
    return Signature(specs, specs, 8)


def echo(decoded: Any) -> InferResponse:
    """Answer with what was asked."""
    layout = Layout(tuple(TensorLayout(t.name, t.dtype, t.shape, t.nbytes) for t in decoded.layout.tensors))
    return InferResponse("m", "1", layout, b"".join(bytes(p) for p in decoded.payload))


@pytest.mark.parametrize("encoding", ["binary", "json"])
@given(dtypes=st.lists(st.sampled_from(JSON_TYPES), min_size=1, max_size=3), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_our_own_codec_understands_rest_and_its_answer_is_read_back(encoding: Any, dtypes: list[DType], batch: int, seed: int) -> None:
    about = info(*dtypes)
    (sample,) = random_samples(about, {s.name: (batch, 3) for s in about.inputs}, 1, seed)
    path, headers, body = encode(REST, order(about, encoding=encoding), sample)
    assert path == "/prefix/v2/models/m/infer"
    codec = RestCodec("m", "1", signature(about))
    length = dict(headers).get("inference-header-content-length")
    decoded, plan = codec.decode(body, int(length) if length else None)
    assert b"".join(bytes(p) for p in decoded.payload) == b"".join(wire_bytes(t) for t in sample)
    answer = b"".join(bytes(p) for p in codec.encode(plan, echo(decoded))[0])
    found = read_rest(answer)
    for tensor in sample:
        assert found[tensor.name][0] is tensor.dtype
        np.testing.assert_array_equal(found[tensor.name][1], tensor.array)


@given(dtypes=st.lists(st.sampled_from(list(DType)), min_size=1, max_size=3), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_our_own_codec_understands_grpc_and_its_answer_is_read_back(dtypes: list[DType], batch: int, seed: int) -> None:
    about = info(*dtypes)
    (sample,) = random_samples(about, {s.name: (batch, 3) for s in about.inputs}, 1, seed)
    path, headers, body = encode(GRPC, order(about), sample)
    assert (path, headers) == ("/inference.GRPCInferenceService/ModelInfer", ())
    assert body[:1] == b"\0"
    assert int.from_bytes(body[1:5], "big") == len(body) - 5
    codec = GrpcCodec("m", "1", signature(about))
    decoded, plan = codec.decode(Splitter().split(body[5:]))
    assert b"".join(bytes(p) for p in decoded.payload) == b"".join(wire_bytes(t) for t in sample)
    found = read_grpc(b"".join(bytes(p) for p in codec.encode(plan, echo(decoded))))
    for tensor in sample:
        np.testing.assert_array_equal(found[tensor.name][1], tensor.array)


def test_names_in_paths_are_quoted_but_for_slashes_and_a_version_is_named() -> None:
    about = ModelInfo("a/b c", "3", (), "", (), ())
    tensor = Tensor("x", DType.FP32, np.zeros((1,), np.float32))
    assert encode(REST, Order(about, "n"), (tensor,))[0] == "/prefix/v2/models/a/b%20c/versions/3/infer"


def test_half_floats_cannot_be_json() -> None:
    tensor = Tensor("x", DType.FP16, np.zeros((1,), np.float16))
    with pytest.raises(InvalidArgument, match="receiving FP16 data via JSON is not supported"):
        encode(REST, Order(info(DType.FP16), "m", encoding="json"), (tensor,))


def test_without_known_outputs_all_are_asked_for_in_binary() -> None:
    tensor = Tensor("x", DType.FP32, np.zeros((1,), np.float32))
    _, headers, body = encode(REST, Order(ModelInfo("m", "", (), "", (), ()), "m"), (tensor,))
    head = orjson.loads(body[: int(dict(headers)["inference-header-content-length"])])
    assert head["parameters"] == {"binary_data_output": True}


def test_a_request_carries_headers_weight_and_a_check_that_can_travel() -> None:
    tensor = Tensor("x", DType.FP32, np.zeros((1, 3), np.float32))
    work = Work(order(info(DType.FP32), headers=(("authorization", "me"),)), (tensor,), (Expected("x0", DType.FP32, (1, 3)),), 0.25)
    made = pickle.loads(pickle.dumps(request(REST, work)))
    assert (made.name, made.weight) == ("m", 0.25)
    assert ("authorization", "me") in made.headers
    assert made.check is not None
    assert made.check(b'{"outputs":[]}') == "the answer has no output 'x0', it has none"


def rest_answer(array: np.ndarray[Any, Any], datatype: str = "FP32", name: str = "y") -> bytes:
    raw = array.tobytes()
    output = {"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": {"binary_data_size": len(raw)}}
    return orjson.dumps({"model_name": "m", "outputs": [output]}) + raw


ONES = np.ones((2, 2), np.float32)
ALL_ONE = (Expected("y", DType.FP32, (2, 2), ONES),)


@pytest.mark.parametrize(
    ("answer", "expected", "wrong"),
    [
        (rest_answer(ONES), ALL_ONE, None),
        (rest_answer(ONES + 1e-6), ALL_ONE, None),
        (rest_answer(ONES), (), None),
        (rest_answer(ONES), (Expected("y", DType.FP32, (-1, 2)),), None),
        (rest_answer(ONES, name="é"), (Expected("é", DType.FP32, (2, 2)),), None),
        (rest_answer(ONES * 2), ALL_ONE, "output 'y': 4 of 4 values differ, the first at [0, 0]: 2.0, expected 1.0"),
        (rest_answer(ONES * np.nan), ALL_ONE, "output 'y': 4 of 4 values differ, the first at [0, 0]: nan, expected 1.0"),
        (rest_answer(np.ones((2, 3), np.float32)), ALL_ONE, "output 'y' has the shape [2, 3], expected [2, 2]"),
        (rest_answer(np.ones((2, 2), np.int32), "INT32"), ALL_ONE, "output 'y' is INT32, expected FP32"),
        (rest_answer(ONES, name="z"), ALL_ONE, "the answer has no output 'y', it has z"),
        (rest_answer(ONES)[:-1], ALL_ONE, "the answer cannot be read: 15 bytes for FP32[2, 2]"),
        (rest_answer(ONES) + b"more", ALL_ONE, "the answer cannot be read: 4 bytes behind its outputs"),
        (b'{"error":"no"}', ALL_ONE, 'the answer cannot be read: it has no outputs: b\'{"error":"no"}\''),
    ],
)
def test_a_check_says_what_is_wrong(answer: bytes, expected: tuple[Expected, ...], wrong: str | None) -> None:
    assert AnswerCheck("rest", expected)(answer) == wrong


@given(st.binary(max_size=60))
def test_a_check_takes_any_bytes(body: bytes) -> None:
    for protocol in ("rest", "grpc"):
        said = AnswerCheck(protocol, ALL_ONE)(body)  # type: ignore[arg-type]
        assert said is not None


def test_integers_and_texts_are_compared_exactly() -> None:
    texts = np.array([b"a", b"\xff"], dtype=object)
    raw = b"\1\0\0\0a\1\0\0\0\xff"
    output = {"name": "y", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}
    answer = orjson.dumps({"outputs": [output]}) + raw
    assert AnswerCheck("rest", (Expected("y", DType.BYTES, (2,), texts),))(answer) is None
    other = np.array([b"a", b"b"], dtype=object)
    assert "1 of 2 values differ, the first at [1]" in (AnswerCheck("rest", (Expected("y", DType.BYTES, (2,), other),))(answer) or "")


def test_json_answers_are_read_nested_and_with_texts() -> None:
    numbers = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [[1, 2]]}
    texts = {"name": "t", "datatype": "BYTES", "shape": [1], "data": ["é"]}
    found = read_rest(orjson.dumps({"outputs": [numbers, texts]}))
    assert found["y"][1].tolist() == [[1, 2]]
    assert found["t"][1].tolist() == ["é".encode()]


@pytest.mark.parametrize(("datatype", "contents"), [("INT32", "int_contents"), ("UINT8", "uint_contents"), ("FP64", "fp64_contents")])
def test_typed_contents_of_grpc_are_read(datatype: str, contents: str) -> None:
    answer = ModelInferResponse()
    output = answer.outputs.add(name="y", datatype=datatype, shape=(2, 1))
    getattr(output.contents, contents).extend((5, 7))
    assert read_grpc(answer.SerializeToString())["y"][1].tolist() == [[5], [7]]


def test_outputs_without_their_contents_are_told() -> None:
    answer = ModelInferResponse()
    answer.outputs.add(name="y", datatype="FP16", shape=(1,))
    with pytest.raises(ValueError, match="output 'y' is FP16 and has no raw contents"):
        read_grpc(answer.SerializeToString())
    answer.raw_output_contents.extend((b"", b""))
    with pytest.raises(ValueError, match="1 outputs and 2 raw contents"):
        read_grpc(answer.SerializeToString())
