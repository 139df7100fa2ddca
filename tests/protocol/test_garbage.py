"""Whatever bytes arrive, the protocol side answers with a request or a ServingError, never with another exception."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.errors import ServingError
from serving.protocol import compression, grpc_frame, messages
from serving.protocol.grpc import GrpcCodec
from serving.protocol.grpc_head import Splitter
from serving.protocol.rest import RestCodec, parse_header_length
from serving.tensor import DType, Signature, TensorSpec
from tests.protocol.samples import SIMPLE, STRINGS, declared, message, signature, tensor

MIXED = Signature(
    (
        TensorSpec("a", DType.FP32, (-1,)),
        TensorSpec("b", DType.BYTES, (-1,), optional=True),
        TensorSpec("c", DType.BOOL, (2,), optional=True),
    ),
    (TensorSpec("y", DType.FP32, (-1,)),),
    4,
)
SIGNATURES = (SIMPLE, STRINGS, MIXED, signature(DType.UINT64), Signature((), ()))

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "data", "shape"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(["a", "b", "c", "x", "INPUT0", "INPUT1"])
INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES | VALUES,
        "datatype": st.sampled_from([d.label for d in DType]) | VALUES,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | VALUES,
        "data": VALUES,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 70) | VALUES}) | VALUES,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "id": VALUES,
        "inputs": st.lists(INPUTS, max_size=3) | VALUES,
        "outputs": st.lists(st.fixed_dictionaries({}, optional={"name": NAMES, "parameters": VALUES})) | VALUES,
        "parameters": st.dictionaries(st.sampled_from(["priority", "timeout", "sequence_id", "binary_data_output", "p"]), VALUES) | VALUES,
    },
)
SEEDS = [
    json.dumps({"id": "1", "inputs": [tensor("a", "FP32", (1, 2), 8)], "parameters": {"binary_data_output": True}}).encode() + bytes(8),
    json.dumps({"inputs": [tensor("INPUT0", "BYTES", (2,), None, data=["ab", "c"])]}).encode(),
]
GRPC_SEEDS = [
    message(declared("a", "FP32", (1, 2)), raws=[bytes(8)], id="1", parameters={"priority": {"uint64_param": 1}}).SerializeToString(),
    message(declared("INPUT0", "BYTES", (2,), bytes_contents=[b"a", b"b"]), outputs=[{"name": "OUTPUT0"}]).SerializeToString(),
    message(declared("INPUT0"), declared("INPUT1"), raws=[bytes(64), bytes(64)]).SerializeToString(),
]


def rest_stands(data: bytes, header_length: int | None) -> None:
    for model in SIGNATURES:
        codec = RestCodec("m", "1", model)
        for _ in range(2):
            try:
                request, _ = codec.decode(data, header_length)
            except ServingError:
                continue
            assert sum(len(p) for p in request.payload) == request.layout.payload_bytes


def grpc_stands(data: bytes) -> None:
    splitter = Splitter()
    for model in SIGNATURES:
        codec = GrpcCodec("m", "1", model)
        for _ in range(2):
            try:
                request, _ = codec.decode(splitter.split(memoryview(data)))
            except ServingError:
                continue
            assert sum(len(p) for p in request.payload) == request.layout.payload_bytes


@st.composite
def mutated(draw: Any, seeds: list[bytes]) -> bytes:
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


HEADER_LENGTHS = st.none() | st.integers(-300, 300)


@settings(deadline=None)
@given(st.binary(max_size=200), HEADER_LENGTHS)
def test_rest_survives_any_bytes(data: bytes, header_length: int | None) -> None:
    rest_stands(data, header_length)


@settings(deadline=None)
@given(mutated(SEEDS), HEADER_LENGTHS)
def test_rest_survives_requests_with_a_few_bytes_changed(data: bytes, header_length: int | None) -> None:
    rest_stands(data, header_length)


@settings(deadline=None, max_examples=300)
@given(DOCUMENTS, st.binary(max_size=80))
@example({"inputs": [{"name": "a", "datatype": "FP32", "shape": [1, 1], "data": [10**400]}], "id": "\ud800"}, b"")
@example({"inputs": [{"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [10**400, float("nan")]}]}, b"")
def test_rest_survives_documents_of_the_wrong_make(document: Any, tail: bytes) -> None:
    text = json.dumps(document).encode()
    rest_stands(text, None)
    rest_stands(text + tail, len(text))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_grpc_survives_any_bytes(data: bytes) -> None:
    grpc_stands(data)


@settings(deadline=None, max_examples=300)
@given(mutated(GRPC_SEEDS))
def test_grpc_survives_messages_with_a_few_bytes_changed(data: bytes) -> None:
    grpc_stands(data)


@settings(deadline=None, max_examples=300)
@given(mutated(GRPC_SEEDS))
def test_a_message_split_with_a_memory_is_as_without_one(data: bytes) -> None:
    """The frames kept from other messages must never show in this one."""
    used = Splitter()
    for seed in GRPC_SEEDS:
        used.split(memoryview(seed))
    assert split_or_error(used, data) == split_or_error(Splitter(), data)
    assert split_or_error(used, data) == split_or_error(Splitter(), data)


def split_or_error(splitter: Splitter, data: bytes) -> Any:
    try:
        head = splitter.split(memoryview(data))
    except ServingError as error:
        return error.message
    return head.model, head.version, head.id, head.head_bytes, [bytes(r) for r in head.raws]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
def test_the_small_parsers_survive_any_bytes(data: bytes, cuts: list[int]) -> None:
    text = data.decode("latin-1")
    reader = grpc_frame.MessageReader(40)
    calls: list[Any] = [
        lambda: messages.decode_model(data),
        lambda: messages.decode_health(data),
        lambda: grpc_frame.parse_timeout(text),
        lambda: parse_header_length(text),
        lambda: compression.supported(text),
        lambda: compression.decompress(data, "gzip", 100),
        lambda: compression.decompress(data, "deflate", 100),
        lambda: compression.response_encoding(text),
        lambda: grpc_frame.whole_message(data),
        lambda: [list(reader.feed(data[a:b])) for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True)],
    ]
    for call in calls:
        try:
            call()
        except ServingError:
            continue


def test_the_seeds_are_requests_of_some_model() -> None:
    """Mutations of something that nobody takes would test little."""

    def takers(call: Any) -> int:
        taken = 0
        for candidate in SIGNATURES:
            try:
                call(candidate)
                taken += 1
            except ServingError:
                continue
        return taken

    for seed, length in zip(SEEDS, [len(SEEDS[0]) - 8, None], strict=True):
        assert takers(lambda model, seed=seed, length=length: RestCodec("m", "1", model).decode(seed, length)) == 1
    for data in GRPC_SEEDS[0], GRPC_SEEDS[2]:
        assert takers(lambda model, data=data: GrpcCodec("m", "1", model).decode(Splitter().split(data))) == 1
