from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.files import read_rows, whole_requests
from serving.bench.inputs import MAX_BYTES, MAX_INTEGER, as_dtype, batches, parse_shape, random_samples, settle
from serving.bench.target import ModelInfo
from serving.errors import InvalidArgument
from serving.tensor import DType, TensorSpec


def model(*inputs: TensorSpec, max_batch_size: int | None = None) -> ModelInfo:
    return ModelInfo("m", "", ("1",), "", inputs, (), max_batch_size)


X = TensorSpec("x", DType.FP32, (-1, 3))
IMAGE = TensorSpec("x", DType.FP32, (-1, 3, -1, -1))
PLAIN = TensorSpec("x", DType.INT64, (2,))
BATCHED, OPEN, UNBATCHED = model(X), model(IMAGE), model(PLAIN)
PAIR = model(X, TensorSpec("mask", DType.BOOL, (-1, 3)))


@pytest.mark.parametrize(
    ("text", "expected"), [("x:3,224,224", ("x", (3, 224, 224))), ("a:b:1", ("a:b", (1,))), ("x:", ("x", ()))]
)  # fmt: skip
def test_a_shape_is_read(text: str, expected: tuple[str, tuple[int, ...]]) -> None:
    assert parse_shape(text) == expected


@pytest.mark.parametrize("text", ["x", ":3", "x:3,", "x:a", "x:0", "x:-1", ""])
def test_what_is_no_shape_is_told(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a shape: expected NAME:SIZE"):
        parse_shape(text)


@pytest.mark.parametrize(
    ("info", "shapes", "batch_size", "expected"),
    [
        (BATCHED, {}, 1, (1, 3)),
        (BATCHED, {}, 8, (8, 3)),
        (UNBATCHED, {}, 1, (2,)),
        (OPEN, {"x": (3, 8, 9)}, 2, (2, 3, 8, 9)),  # without the batch dimension
        (OPEN, {"x": (5, 3, 8, 9)}, 2, (5, 3, 8, 9)),  # with it
        (model(X, max_batch_size=16), {}, 16, (16, 3)),
        (model(TensorSpec("x", DType.FP32, (-1,)), max_batch_size=0), {"x": (7,)}, 1, (7,)),
    ],
)
def test_every_size_is_settled(info: ModelInfo, shapes: dict[str, tuple[int, ...]], batch_size: int, expected: tuple[int, ...]) -> None:
    assert settle(info, shapes, batch_size) == {"x": expected}


@pytest.mark.parametrize(
    ("info", "shapes", "batch_size", "words"),
    [
        (OPEN, {}, 1, r"takes any size in some dimensions \(it has x FP32\[-1,3,-1,-1\]\): say which to send, --shape x:3,8,8"),
        (model(TensorSpec("x", DType.FP32, (-1,)), max_batch_size=0), {}, 1, "--shape x:8"),
        (OPEN, {"x": (4, 8, 8)}, 1, r"--shape x:4,8,8 does not fit model 'm'"),
        (OPEN, {"x": (3, 8)}, 1, "does not fit"),
        (BATCHED, {"X": (3,)}, 1, "has no input 'X'; did you mean 'x'"),
        (BATCHED, {"something": (3,)}, 1, "it has x"),
        (UNBATCHED, {}, 2, r"has no batch dimension \(it has x INT64\[2\]\), so --batch-size must be 1"),
        (model(X, max_batch_size=4), {}, 5, "takes up to 4 rows in a request, --batch-size is 5"),
        (model(), {}, 1, "does not say what model 'm' takes"),
    ],
)
def test_a_shape_that_cannot_be_is_told(info: ModelInfo, shapes: dict[str, tuple[int, ...]], batch_size: int, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        settle(info, shapes, batch_size)


def test_an_optional_input_is_left_out() -> None:
    info = model(X, TensorSpec("extra", DType.FP32, (-1, 3), optional=True))
    assert settle(info, {}) == {"x": (1, 3)}


@pytest.mark.parametrize("dtype", list(DType))
def test_random_inputs_have_the_type_and_shape_and_repeat_with_the_seed(dtype: DType) -> None:
    info = model(TensorSpec("x", dtype, (-1, 5)))
    one, same, other = (random_samples(info, {"x": (2, 5)}, 3, seed) for seed in (1, 1, 2))
    assert len(one) == 3
    (tensor,) = one[0]
    assert (tensor.name, tensor.dtype, tensor.array.shape, tensor.array.dtype) == ("x", dtype, (2, 5), dtype.numpy)
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a[0].array, b[0].array)
    assert any((a[0].array != b[0].array).any() for a, b in zip(one, other, strict=True))
    if dtype.numpy.kind in "iu":
        assert tensor.array.max() < MAX_INTEGER


def test_large_inputs_are_few() -> None:
    rows = MAX_BYTES // (3 * 4) // 2
    assert len(random_samples(BATCHED, {"x": (rows, 3)}, 16, 0)) == 2
    assert len(random_samples(BATCHED, {"x": (rows * 8, 3)}, 16, 0)) == 1


def rows(count: int) -> list[dict[str, Any]]:
    return [{"x": np.full(3, i, np.float64)} for i in range(count)]


@given(count=st.integers(1, 40), size=st.integers(1, 8), limit=st.integers(1, 8))
def test_rows_are_joined_in_order_and_none_twice(count: int, size: int, limit: int) -> None:
    made = batches(BATCHED, rows(count), size, limit)
    assert len(made) == min(limit, max(1, count // size))
    sent = np.concatenate([sample[0].array[:, 0] for sample in made])
    assert sent.tolist() == list(range(min(len(sent), count)))
    assert all(sample[0].array.dtype == np.float32 for sample in made)
    assert all(len(sample[0].array) == min(size, count) for sample in made)


def test_rows_of_a_model_without_batches_are_requests() -> None:
    made = batches(UNBATCHED, [{"x": np.array([i, i])} for i in range(3)], 1, 10)
    assert [sample[0].array.tolist() for sample in made] == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("info", "given_rows", "batch_size", "words"),
    [
        (BATCHED, [], 1, "holds no rows"),
        (BATCHED, [{"x": np.zeros(4)}], 1, r"'x': a row of the file has the shape \[4\], not that of 'm': it has x FP32\[-1,3\]"),
        (BATCHED, [{"y": np.zeros(3)}], 1, "has no input 'y'"),
        (PAIR, [{"x": np.zeros(3)}], 1, "has no 'mask', which model 'm' takes"),
        (UNBATCHED, [{"x": np.zeros(2, np.int64)}], 2, "no batch dimension"),
        (UNBATCHED, [{"x": np.zeros(2)}], 1, "numbers of type float64 cannot be sent as INT64"),
        (OPEN, [{"x": np.zeros((3, 4, 4))}, {"x": np.zeros((3, 5, 5))}], 2, "rows of different shapes cannot be joined"),
    ],
)
def test_rows_that_do_not_fit_are_told(info: ModelInfo, given_rows: list[dict[str, Any]], batch_size: int, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        batches(info, given_rows, batch_size, 10)


def test_numbers_keep_their_worth() -> None:
    spec = TensorSpec("x", DType.UINT8, (3,))
    assert as_dtype(spec, np.array([0, 255, 7])).dtype == np.uint8
    with pytest.raises(InvalidArgument, match="numbers from 0 to 256 do not fit UINT8"):
        as_dtype(spec, np.array([0, 256]))
    assert as_dtype(TensorSpec("x", DType.BF16, (1,)), np.array([1.5])).tolist() == [1.5]
    assert as_dtype(TensorSpec("x", DType.BYTES, (2,)), np.array(["é", b"\0"], object)).tolist() == ["é".encode(), b"\0"]


def test_npy_is_one_row_or_many(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(6, dtype=np.float32).reshape(2, 3))
    assert [row["x"].tolist() for row in read_rows(path, [X], True)] == [[0, 1, 2], [3, 4, 5]]
    np.save(path, np.arange(3, dtype=np.float32))
    assert [row["x"].tolist() for row in read_rows(path, [X], True)] == [[0, 1, 2]]
    with pytest.raises(InvalidArgument, match="is one array, and there are 2 tensors"):
        read_rows(path, PAIR.inputs, True)


def test_npz_has_arrays_by_name_and_one_row_goes_with_all(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.arange(6.0).reshape(2, 3), mask=np.array([True, False, True]))
    found = read_rows(path, PAIR.inputs, True)
    assert [row["x"].tolist() for row in found] == [[0, 1, 2], [3, 4, 5]]
    assert [row["mask"].tolist() for row in found] == [[True, False, True]] * 2
    np.savez(path, x=np.zeros((2, 3)), mask=np.zeros((3, 3), bool))
    with pytest.raises(InvalidArgument, match="different numbers of rows: x 2, mask 3"):
        read_rows(path, PAIR.inputs, True)


def test_a_pickle_in_npy_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_rows(path, [X], True)


def test_parquet_has_a_column_per_input_and_flat_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pa.parquet.write_table(pa.table({"x": [[1.0] * 12, [2.0] * 12], "text": ["a", "b"]}), path)
    info = model(TensorSpec("x", DType.FP32, (-1, 3, 4)), TensorSpec("text", DType.BYTES, (-1,)))
    made = batches(info, read_rows(path, info.inputs, True), 2, 10)
    assert made[0][0].array.shape == (2, 3, 4)
    assert made[0][1].array.tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
    "text",
    [
        '{"x": [[1, 2, 3], [4, 5, 6]]}',
        "[[1, 2, 3], [4, 5, 6]]",
        '{"data": [{"x": [1, 2, 3]}, {"x": {"content": [4, 5, 6], "shape": [3]}}]}',
    ],
)
def test_json_rows_have_three_forms(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert [row["x"].tolist() for row in read_rows(path, [X], True)] == [[1, 2, 3], [4, 5, 6]]
    assert whole_requests(path, [X]) is None


def test_json_rows_may_be_base64(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"data": [{"image": {"b64": base64.b64encode(b"\xff\0").decode()}}]}))
    (row,) = read_rows(path, [TensorSpec("image", DType.BYTES, (-1, 1))], True)
    assert row["image"].tolist() == [b"\xff\0"]


def test_whole_requests_need_no_model(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    one = {"inputs": [{"name": "n", "shape": [1, 2], "datatype": "INT32", "data": [[1, 2]]}]}
    path.write_text(json.dumps(one))
    (sample,) = whole_requests(path, []) or []
    assert (sample[0].name, sample[0].dtype, sample[0].array.tolist()) == ("n", DType.INT32, [[1, 2]])
    path.write_text(json.dumps([one, one]))
    assert len(whole_requests(path, []) or []) == 2
    declared = TensorSpec("n", DType.FP32, (-1, 2))
    assert (whole_requests(path, [declared]) or [])[0][0].dtype is DType.FP32


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("5", "expected an object with arrays by name"),
        ('{"x": [[1, 2], [3]]}', "not all of one length"),
        ('{"x": [null]}', "not an array of numbers"),
        ('{"data": [{"x": {"content": [1], "shape": [2]}}]}', r"has 1 elements and the shape \[2\]"),
        ('{"data": [{"x": {"b64": "?"}}]}', "is not base64"),
    ],
)
def test_json_that_is_something_else_is_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=words):
        read_rows(path, [X], True)


def test_a_whole_request_that_is_incomplete_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1]}]}')
    with pytest.raises(InvalidArgument, match=r"input 'x' has 1 elements and the shape \[2\]"):
        whole_requests(path, [])
    path.write_text('{"inputs": [{"name": "x"}]}')
    with pytest.raises(InvalidArgument, match="an input needs name, shape, datatype and data"):
        whole_requests(path, [])


def test_an_unknown_ending_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"expected a file that ends with \.npy, \.npz, \.json, \.parquet"):
        read_rows(tmp_path / "x.csv", [X], True)
