from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from serving.errors import InvalidArgument, ModelFailed, NotFound, ServingError, SignatureMismatch, Unavailable
from serving.models.model import Model
from serving.models.registry import create
from serving.tensor import DType, Signature
from tests.models.plans import X4_Y2, plan, signature

CLASS = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, width=2, bias=True):
        super().__init__()
        self.linear = nn.Linear(4, width, bias=bias)
    def forward(self, x):
        return self.linear(x)
class Two(nn.Module):
    def forward(self, a, b, c=None):
        total = a + b if c is None else a + b + c
        return {"difference": a - b, "sum": total}
class Pair(nn.Module):
    def forward(self, a, b):
        return a + b, a - b
class Typed(nn.Module):
    def forward(self, x):
        return x + 1
class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("no")
class NotAModule:
    pass
"""
PAIR = signature({"b": (DType.FP32, (2,)), "a": (DType.FP32, (2,))}, {"sum": (DType.FP32, (2,)), "difference": (DType.FP32, (2,))})
X = np.arange(12, dtype=np.float32).reshape(3, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x)
        return found


class Pair(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a + b, a - b


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"z": x + 1, "a": x * 2}


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(CLASS)
    return path


def _load(*args: Any, **fields: Any) -> Model:
    model = create(plan(*args, **fields))
    model.load()
    return model


def _export(path: Path, module: nn.Module, args: tuple[Tensor, ...], batch: bool = True) -> Path:
    dim = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple({0: dim} for _ in args) if batch else None
    torch.export.save(torch.export.export(module.eval(), args, dynamic_shapes=shapes), path)
    return path


def test_an_exported_program_brings_its_signature(tmp_path: Path) -> None:
    net = Net()
    path = _export(tmp_path / "net.pt2", net, (torch.zeros(2, 4),))
    model = _load(path, "torch")
    assert model.signature == signature({"x": (DType.FP32, (4,))}, {"output": (DType.FP32, (2,))})
    assert model.platform == "pytorch_exported"
    model.warm_up([{"x": np.zeros((n, 4), np.float32)} for n in (1, 8)])
    found = model.predict({"x": X.copy()})["output"]
    np.testing.assert_allclose(found, net(torch.from_numpy(X.copy())).detach().numpy(), rtol=1e-6)
    assert found.shape == (3, 2)


def test_an_exported_program_that_returns_a_dict_keeps_its_names(tmp_path: Path) -> None:
    model = _load(_export(tmp_path / "named.pt2", Named(), (torch.zeros(2, 2),)), "torch")
    assert [s.name for s in model.signature.outputs] == ["z", "a"]
    found = model.predict({"x": np.full((1, 2), 3, np.float32)})
    assert (found["z"].tolist(), found["a"].tolist()) == ([[4.0, 4.0]], [[6.0, 6.0]])


def test_a_declared_signature_names_what_the_program_does_not(tmp_path: Path) -> None:
    path = _export(tmp_path / "pair.pt2", Pair(), (torch.zeros(2, 2), torch.zeros(2, 2)))
    model = _load(path, "torch", signature=PAIR)  # declared b before a: by name, forward says a before b
    two, one = np.full((1, 2), 2, np.float32), np.ones((1, 2), np.float32)
    found = model.predict({"a": two, "b": one})
    assert (found["sum"].tolist(), found["difference"].tolist()) == ([[3.0, 3.0]], [[1.0, 1.0]])
    assert [s.name for s in _load(path, "torch").signature.outputs] == ["output_0", "output_1"]


@pytest.mark.parametrize(
    ("declared", "rows", "error", "text"),
    [
        (None, 8, SignatureMismatch, r"'x' was exported with shape \[2, 4\], but max_batch_size 8 needs a first dimension of any size"),
        (signature({"x": (DType.FP32, (2, 5))}, {"y": (DType.FP32, (2, 2))}, 0), 0, SignatureMismatch, r"'x' declared as \[2, 5\], but"),
    ],
)
def test_a_program_that_does_not_fit_is_refused(
    tmp_path: Path, declared: Signature | None, rows: int, error: type[ServingError], text: str
) -> None:
    path = _export(tmp_path / "net.pt2", Net(), (torch.zeros(2, 4),), batch=False)
    with pytest.raises(error, match=text):
        _load(path, "torch", signature=declared, rows=rows)
    assert _load(path, "torch", rows=0).signature.inputs[0].shape == (2, 4)


@pytest.mark.parametrize("suffix", [".pt", ".ts"])
def test_torchscript_runs_with_a_declared_signature(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    net = Net().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, torch.zeros(1, 4)).save(str(path))  # type: ignore[no-untyped-call]
    model = _load(path, "torch", signature=X4_Y2)
    np.testing.assert_allclose(model.predict({"x": X.copy()})["y"], net(torch.from_numpy(X.copy())).detach().numpy(), rtol=1e-6)
    with pytest.raises(InvalidArgument, match=r"declare a signature \(forward takes x\)"):
        _load(path, "torch")
    with pytest.raises(SignatureMismatch, match=r"2 inputs declared, but forward takes 1 \(x\)"):
        _load(path, "torch", signature=PAIR)


def test_a_class_with_options_and_weights(classes: Path, tmp_path: Path) -> None:
    weights = tmp_path / "net.safetensors"
    save_file({"linear.weight": torch.full((2, 4), 2.0)}, weights)
    model = _load(classes, "torch", entry="Net", options={"bias": False}, weights=str(weights), signature=X4_Y2)
    assert model.predict({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[8.0, 8.0]]


def test_inputs_go_by_name_and_outputs_by_key_or_order(classes: Path) -> None:
    two, one = np.full((1, 2), 2, np.float32), np.ones((1, 2), np.float32)
    for entry in ("Two", "Pair"):
        found = _load(classes, "torch", entry=entry, signature=PAIR).predict({"a": two, "b": one})
        assert (found["sum"].tolist(), found["difference"].tolist()) == ([[3.0, 3.0]], [[1.0, 1.0]])


@pytest.mark.parametrize("dtype", [d for d in DType if d not in (DType.BYTES, DType.BOOL, DType.UINT16, DType.UINT32, DType.UINT64)])
def test_all_datatypes_that_torch_has_go_in_and_out(classes: Path, dtype: DType) -> None:
    declared = signature({"x": (dtype, (2,))}, {"y": (dtype, (2,))})
    found = _load(classes, "torch", entry="Typed", signature=declared).predict({"x": np.ones((1, 2), dtype.numpy)})["y"]
    assert found.dtype == dtype.numpy
    assert found.astype(np.float64).tolist() == [[2.0, 2.0]]


def test_bfloat16_keeps_its_bits(classes: Path) -> None:
    declared = signature({"x": (DType.BF16, (2,))}, {"y": (DType.BF16, (2,))})
    x = np.array([[1.5, -300.0]], ml_dtypes.bfloat16)
    found = _load(classes, "torch", entry="Typed", signature=declared).predict({"x": x})["y"]
    assert found.tolist() == np.array([[2.5, -299.0]], ml_dtypes.bfloat16).tolist()


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"entry": "Gone"}, NotFound, "no class 'Gone' in .*, it has Net, Two, Pair"),
        ({"entry": "NotAModule"}, InvalidArgument, "NotAModule in .* is not a torch.nn.Module"),
        ({"entry": "Net", "signature": None}, InvalidArgument, "a signature must be declared"),
        ({"entry": "Net", "options": {"depth": 1}}, ModelFailed, r"Net\(depth\) of .* raised TypeError"),
        ({"entry": "Net", "weights": "/nothing.safetensors"}, NotFound, "weights /nothing.safetensors are not there"),
        ({"entry": "Net", "signature": signature({"x": (DType.BYTES, ())}, {"y": (DType.FP32, ())})}, InvalidArgument, "'x' is BYTES"),
    ],
)
def test_what_cannot_be_loaded_is_said(classes: Path, fields: dict[str, Any], error: type[ServingError], text: str) -> None:
    with pytest.raises(error, match=text):
        _load(classes, "torch", **{"signature": X4_Y2, **fields})


def test_weights_that_do_not_fit_are_said(classes: Path, tmp_path: Path) -> None:
    weights = tmp_path / "net.safetensors"
    save_file({"other": torch.zeros(1)}, weights)
    with pytest.raises(InvalidArgument, match=r"(?s)weights .* do not fit Net: .*Missing key"):
        _load(classes, "torch", entry="Net", weights=str(weights), signature=X4_Y2)
    weights.write_bytes(b"not safetensors at all")
    with pytest.raises(InvalidArgument, match="is not a safetensors file"):
        _load(classes, "torch", entry="Net", weights=str(weights), signature=X4_Y2)


def test_artefacts_that_torch_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"artefact .*net.pt2 is not there"):
        _load(tmp_path / "net.pt2", "torch")
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(InvalidArgument, match=r"none of .pt2 \(torch.export\), .pt or .ts"):
        _load(tmp_path / "net.onnx", "torch")
    for suffix in ("pt2", "pt"):
        (tmp_path / f"bad.{suffix}").write_bytes(b"garbage")
        with pytest.raises(ModelFailed, match=r"torch.(export|jit).load of .*bad"):
            _load(tmp_path / f"bad.{suffix}", "torch", signature=X4_Y2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_asked_for_must_be_there(classes: Path) -> None:
    with pytest.raises(Unavailable, match="'m/1': a GPU is asked for, but torch sees none"):
        create(plan(classes, "torch", entry="Net", signature=X4_Y2), "cuda").load()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_runs_on_the_gpu_that_it_was_given(classes: Path) -> None:
    model = create(
        plan(classes, "torch", entry="Typed", signature=signature({"x": (DType.FP32, (-1,))}, {"y": (DType.FP32, (-1,))})), "cuda"
    )
    model.load()
    model.check()
    for width in (4, 1 << 20):
        x = np.arange(width, dtype=np.float32).reshape(1, width)
        np.testing.assert_array_equal(model.predict({"x": x})["y"], x + 1)
