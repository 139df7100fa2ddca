from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from serving.errors import InvalidArgument, ModelFailed, NotFound, SignatureMismatch, Unavailable
from serving.models.registry import create
from serving.tensor import DType, TensorSpec
from tests.models.onnx_files import add_sub, identity, linear
from tests.models.plans import plan, signature

WEIGHTS = np.arange(8, dtype=np.float32).reshape(4, 2)


def test_numbers_are_those_of_numpy_and_the_signature_is_the_graphs(tmp_path: Path) -> None:
    model = create(plan(linear(tmp_path / "m.onnx", WEIGHTS), "onnx"))
    model.load()
    assert model.signature.inputs == (TensorSpec("x", DType.FP32, (4,)),)
    assert model.signature.outputs == (TensorSpec("y", DType.FP32, (2,)),)
    assert (model.signature.max_batch_size, model.platform) == (8, "onnxruntime_onnx")
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    x.flags.writeable = False
    (warm,) = model.warm_up([{"x": x}])
    np.testing.assert_allclose(warm["y"], x @ WEIGHTS, rtol=1e-5)
    np.testing.assert_allclose(model.predict({"x": x[:2]})["y"], x[:2] @ WEIGHTS, rtol=1e-5)
    model.check()
    assert (model.own_inputs, model.parametric, model.decoupled) == (False, False, False)


def test_several_tensors_come_in_the_declared_order(tmp_path: Path) -> None:
    declared = signature(
        {"INPUT1": (DType.INT32, (16,)), "INPUT0": (DType.INT32, (-1,))}, {"OUTPUT1": (DType.INT32, (16,)), "OUTPUT0": (DType.INT32, (16,))}
    )
    model = create(plan(add_sub(tmp_path / "m.onnx"), "onnx", signature=declared))
    model.load()
    a, b = np.arange(16, dtype=np.int32)[None], np.ones((1, 16), np.int32)
    out = model.predict({"INPUT1": b, "INPUT0": a})
    assert list(out) == ["OUTPUT1", "OUTPUT0"]
    np.testing.assert_array_equal(out["OUTPUT0"], a + b)
    np.testing.assert_array_equal(out["OUTPUT1"], a - b)


def test_without_a_batch_dimension_shapes_are_taken_whole(tmp_path: Path) -> None:
    model = create(plan(linear(tmp_path / "m.onnx", WEIGHTS, rows=3), "onnx", rows=0))
    model.load()
    assert model.signature.inputs[0].shape == (3, 4)
    assert model.predict({"x": np.ones((3, 4), np.float32)})["y"].shape == (3, 2)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TensorProto.BOOL, np.array([True, False])),
        (TensorProto.UINT8, np.array([0, 255], np.uint8)),
        (TensorProto.INT64, np.array([-(1 << 63), 5])),
        (TensorProto.FLOAT16, np.array([0.5, -2], np.float16)),
        (TensorProto.DOUBLE, np.array([1e300, np.nan])),
    ],
)
def test_datatypes_pass_through(tmp_path: Path, kind: int, values: np.ndarray) -> None:
    model = create(plan(identity(tmp_path / "m.onnx", kind, [2]), "onnx", rows=0))
    model.load()
    assert model.signature.inputs[0].dtype.numpy == values.dtype
    np.testing.assert_array_equal(model.predict({"in": values})["out"], values)


def test_text_passes_through(tmp_path: Path) -> None:
    model = create(plan(identity(tmp_path / "m.onnx", TensorProto.STRING, ["n", 2]), "onnx"))
    model.load()
    assert model.signature.inputs[0].dtype is DType.BYTES
    out = model.predict({"in": np.array([["ä".encode(), b""]], np.object_)})["out"]
    assert out.tolist() == [["ä", ""]]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda p: plan(p / "none.onnx", "onnx"), NotFound, "is not there"),
        (lambda p: plan(linear(p / "m.onnx", WEIGHTS, rows=1), "onnx"), SignatureMismatch, "needs a first dimension of any size"),
        (
            lambda p: plan(
                linear(p / "m.onnx", WEIGHTS), "onnx", signature=signature({"x": (DType.FP32, (3,))}, {"y": (DType.FP32, (2,))})
            ),
            SignatureMismatch,
            "declared as",
        ),
        (lambda p: plan(identity(p / "m.onnx", TensorProto.BFLOAT16, [2]), "onnx", rows=0), InvalidArgument, "cannot be served"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, make: object, error: type[Exception], words: str) -> None:
    model = create(make(tmp_path))  # type: ignore[operator]
    with pytest.raises(error, match=words):
        model.load()


def test_a_file_that_is_no_onnx_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nonsense")
    with pytest.raises(ModelFailed, match=r"m\.onnx"):
        create(plan(tmp_path / "m.onnx", "onnx")).load()


def test_a_gpu_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no CUDA"):
        create(plan(linear(tmp_path / "m.onnx", WEIGHTS), "onnx"), "cuda").load()
