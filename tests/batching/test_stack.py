from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.entry import Entry, Kind
from serving.batching.stack import Splitter, join, zeros
from serving.errors import InvalidArgument, ModelFailed
from serving.inference import Layout, TensorLayout
from serving.tensor import DType, Signature, TensorSpec, encode_bytes_tensor
from tests.batching.entries import Collector, entry

FIXED = [d for d in DType if d is not DType.BYTES]


def _entry(arrays: dict[str, np.ndarray[Any, Any]], key: int = 0, *, batched: bool = True, outputs: tuple[str, ...] = ()) -> Entry:
    tensors = []
    payload = b""
    for name, array in arrays.items():
        data = encode_bytes_tensor(array) if array.dtype.kind in "OSU" else array.tobytes()
        tensors.append(TensorLayout(name, DType.of_numpy(array.dtype), array.shape, len(data)))
        payload += data
    rows = next(iter(arrays.values())).shape[0] if batched else 1
    return Entry(Kind(Layout(tuple(tensors), outputs, rows=rows), batched), memoryview(payload), Collector(), key)


def _specs(*names: str, dtype: DType = DType.FP32, shape: tuple[int, ...] = (4,)) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(n, dtype, shape) for n in names)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from(FIXED), st.sampled_from(list(DType)), st.booleans())
def test_rows_of_all_tensors_come_out_in_the_order_of_the_requests(counts: list[int], one: DType, two: DType, own: bool) -> None:
    random = np.random.default_rng(len(counts))

    def array(dtype: DType, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        numbers = random.integers(0, 2 if dtype is DType.BOOL else 100, shape)
        return (
            np.array([str(n).encode() for n in numbers.flat], object).reshape(shape)
            if dtype is DType.BYTES
            else numbers.astype(dtype.numpy)
        )

    made = [{"a": array(one, (n, 3)), "b": array(two, (n,))} for n in counts]
    entries = [_entry(m, key) for key, m in enumerate(made)]
    joined = join(entries, sum(counts), own)
    for name in ("a", "b"):
        np.testing.assert_array_equal(joined[name], np.concatenate([m[name] for m in made]))
        assert joined[name].flags.writeable is own

    signature = Signature((), (TensorSpec("b", two, ()), TensorSpec("a", one, (3,))), 99)
    for (answer, parts), m in zip(Splitter("m", signature).split(joined, entries, sum(counts)), made, strict=True):
        data = b"".join(parts)
        assert answer.nbytes == len(data)
        assert [t.name for t in answer.layout.tensors] == ["b", "a"]  # the signature's order
        size = answer.layout.tensors[0].nbytes
        assert data[:size] == (encode_bytes_tensor(m["b"]) if two is DType.BYTES else m["b"].tobytes())
        assert data[size:] == m["a"].tobytes()


def test_one_request_is_not_copied_and_its_answers_are_slices_of_the_output() -> None:
    one = entry(rows=2)
    array = join([one], 2)["x"]
    assert np.shares_memory(array, np.frombuffer(one.payload, np.uint8))  # type: ignore[call-overload]
    output = np.arange(8, dtype=np.float32).reshape(2, 4)
    splitter = Splitter("m", Signature((), _specs("y"), 8))
    for _, (part,) in splitter.split({"y": output}, [entry(1), entry(2)], 2):
        assert np.shares_memory(np.frombuffer(part, np.uint8), output)


def test_a_payload_at_an_odd_offset_becomes_an_aligned_array() -> None:
    values = np.arange(4, dtype=np.float32)
    odd = memoryview(b"\0" + values.tobytes())[1:]
    array = join([entry(payload=odd)], 1)["x"]  # type: ignore[arg-type]
    assert array.flags.aligned
    np.testing.assert_array_equal(array[0], values)


def test_inputs_are_read_only_unless_they_are_the_models_own() -> None:
    for entries in ([entry()], [entry(1), entry(2)]):
        array = join(entries, len(entries))["x"]
        with pytest.raises(ValueError, match="read-only"):
            array += 1
        own = join(entries, len(entries), own=True)["x"]
        own += 1


def test_without_a_batch_dimension_shapes_are_as_sent() -> None:
    scalar = _entry({"x": np.array(3, np.int32)}, batched=False)
    assert join([scalar], 1)["x"].shape == ()
    splitter = Splitter("m", Signature((), _specs("y", dtype=DType.INT32, shape=(-1, 2)), 0))
    ((answer, parts),) = splitter.split({"y": np.ones((5, 2), np.int32)}, [scalar], 1)
    assert (answer.layout.tensors[0].shape, answer.layout.rows, b"".join(parts)) == ((5, 2), 1, np.ones(10, np.int32).tobytes())


def test_requests_get_the_outputs_that_they_ask_for() -> None:
    entries = [_entry({"x": np.zeros((1, 4), np.float32)}, n, outputs=o) for n, o in enumerate([(), ("b",), ("b", "a")])]
    outputs = {"a": np.full((3, 4), 1, np.float32), "b": np.full((3, 4), 2, np.float32), "extra": np.zeros(1)}
    results = Splitter("m", Signature((), _specs("a", "b"), 8)).split(outputs, entries, 3)
    assert [[t.name for t in answer.layout.tensors] for answer, _ in results] == [["a", "b"], ["b"], ["a", "b"]]
    assert [len(b"".join(parts)) for _, parts in results] == [32, 16, 32]


def test_layouts_of_answers_are_shared_by_requests_that_look_alike() -> None:
    splitter = Splitter("m", Signature((), _specs("y"), 8))
    outputs = {"y": np.zeros((4, 4), np.float32)}
    first = [a for a, _ in splitter.split(outputs, [entry(1), entry(2, 2), entry(3)], 4)]
    again = [a for a, _ in splitter.split(outputs, [entry(4, 2), entry(5), entry(6)], 4)]
    assert first[0] is first[2] is again[1]
    assert first[1] is again[0] is not first[0]


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)])
def test_an_answer_that_is_not_contiguous_is_copied_once_and_right(dtype: np.dtype[Any]) -> None:
    output = np.arange(8).reshape(4, 2).astype(dtype).T
    splitter = Splitter("m", Signature((), _specs("y", dtype=DType.of_numpy(dtype)), 8))
    results = splitter.split({"y": output}, [entry(1), entry(2)], 2)
    assert [b"".join(parts) for _, parts in results] == [output[0].tobytes(), output[1].tobytes()]


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"z": np.zeros((2, 4), np.float32)}, r"did not return output 'y', but \['z'\]"),
        ({"y": np.zeros((2, 4))}, r"output 'y' of model 'm' has type float64, but FP32 \(float32\) is declared"),
        ({"y": np.zeros((2, 4), ">f4")}, "has type >f4"),
        ({"y": np.zeros((3, 4), np.float32)}, r"has shape \[3, 4\], but the batch has 2 rows"),
        ({"y": np.float32(1) * np.ones((), np.float32)}, "is a float32, expected a numpy array"),
        ({"y": np.zeros((), np.float32)}, r"has shape \[\], but the batch has 2 rows"),
        ({"y": np.zeros((2, 5), np.float32)}, r"has shape \[2, 5\], but \[-1, 4\] is declared"),
        ({"y": [[1.0]]}, "is a list, expected a numpy array"),
        ([np.zeros((2, 4), np.float32)], "returned a list, expected a dict"),
        (None, "returned a NoneType, expected a dict"),
    ],
)
def test_an_answer_against_the_signature_is_an_error_that_says_how(outputs: Any, text: str) -> None:
    with pytest.raises(ModelFailed, match=text):
        Splitter("m", Signature((), _specs("y"), 8)).split(outputs, [entry(1), entry(2)], 2)


def test_text_that_is_malformed_is_the_callers_error() -> None:
    bad = Entry(Kind(Layout((TensorLayout("t", DType.BYTES, (1,), 5),)), True), b"\x09\0\0\0a", Collector(), 1)
    with pytest.raises(InvalidArgument, match="incomplete string data"):
        join([bad], 1)


def test_zeros_have_the_shapes_of_the_signature() -> None:
    signature = Signature((*_specs("x", shape=(-1, 4)), *_specs("t", dtype=DType.BYTES, shape=(2,))), (), 8)
    made = zeros(signature, 3)
    assert {n: a.shape for n, a in made.items()} == {"x": (3, 1, 4), "t": (3, 2)}
    assert made["t"][0, 0] == b""
    assert not made["x"].flags.writeable
