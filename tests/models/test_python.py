from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.errors import InvalidArgument, ModelFailed, NotFound, ServingError, SignatureMismatch
from serving.models.registry import create
from serving.tensor import DType, Signature
from tests.models.plans import X4_Y2, plan, signature

SCALE = """
class Scale:
    signature = {"inputs": [{"name": "x", "dtype": "FP32", "shape": [4]}], "outputs": [{"name": "y", "dtype": "FP32", "shape": [2]}]}
    def __init__(self, factor=1.0):
        self.factor = factor
    def load(self):
        self.loaded = True
    def warm_up(self):
        self.warm = True
    def predict(self, inputs):
        assert self.loaded
        return {"y": inputs["x"][:, :2] * self.factor}
"""


@pytest.fixture
def scale(tmp_path: Path) -> Path:
    path = tmp_path / "scale.py"
    path.write_text(SCALE)
    return path


def test_a_class_is_built_with_its_options_loaded_and_called(scale: Path) -> None:
    model = create(plan(scale, entry="Scale", options={"factor": np.float32(3)}))
    model.load()
    model.check()
    assert model.signature == X4_Y2
    assert model.warm_up([{}]) == []
    assert model.predict({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[3.0, 3.0]]


def test_a_class_without_warm_up_runs_the_batches(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("class Model:\n    def predict(self, inputs):\n        return {'y': inputs['x'][:, :2]}\n")
    model = create(plan(path, signature=X4_Y2))
    model.load()
    (answer,) = model.warm_up([{"x": np.zeros((3, 4), np.float32)}])
    assert answer["y"].shape == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "parametric"), [("inputs", False), ("inputs, parameters", True), ("inputs, parameters=None", True), ("x, scale=2", False)]
)
def test_a_second_argument_called_parameters_gets_them(tmp_path: Path, arguments: str, parametric: bool) -> None:
    path = tmp_path / "m.py"
    given = "parameters" if parametric else "None"
    path.write_text(f"class Model:\n    def predict(self, {arguments}):\n        return {{'y': {given}}}, {{'n': 1}}\n")
    model = create(plan(path, signature=X4_Y2))
    model.load()
    assert model.parametric == parametric
    assert model.warm_up([{}]) == [{"y": {} if parametric else None}]


def test_versions_of_one_file_do_not_share_globals(tmp_path: Path) -> None:
    (tmp_path / "helper_of_m.py").write_text("NAME = 'helper'\n")
    path = tmp_path / "m.py"
    path.write_text(
        "import helper_of_m\ncount = 0\nclass Model:\n"
        "    def predict(self, inputs):\n        global count\n        count += 1\n        return {'y': count}\n"
    )
    one = create(plan(path, signature=X4_Y2))
    two = create(replace(plan(path, signature=X4_Y2), version="2"))
    for model in (one, two):
        model.load()
    assert [one.predict({})["y"], one.predict({})["y"], two.predict({})["y"]] == [1, 2, 1]


def test_a_python_model_does_not_pay_for_torch() -> None:
    code = "import sys, serving.replica.host, serving.models.python; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("entry", "declared", "options", "error", "text"),
    [
        ("Scala", None, {}, NotFound, r"'m/1': no class 'Scala' in .*scale.py, it has Scale"),
        ("Scale", None, {"x": 1}, ModelFailed, r"'m/1': Scale\(x\) of .* raised TypeError: .*unexpected keyword"),
        ("Scale", replace(X4_Y2, max_batch_size=0), {}, SignatureMismatch, "signature says max_batch_size 0, but batching says 8"),
        (
            "Scale",
            signature({"z": (DType.FP32, (4,))}, {"y": (DType.FP32, (2,))}),
            {},
            SignatureMismatch,
            "input 'z' declared, but .* has x",
        ),
        (
            "Scale",
            signature({"x": (DType.FP64, (4,))}, {"y": (DType.FP32, (2,))}),
            {},
            SignatureMismatch,
            "'x' declared as FP64, but .* FP32",
        ),
        (
            "Scale",
            signature({"x": (DType.FP32, (4,))}, {"y": (DType.FP32, (3,))}),
            {},
            SignatureMismatch,
            r"'y' declared as \[3\], but .*\[2\]",
        ),
        ("Scale", Signature(X4_Y2.inputs, (), 8), {}, SignatureMismatch, "0 outputs declared, but .* has 1"),
    ],
)
def test_what_does_not_fit_is_said(
    scale: Path, entry: str, declared: Signature | None, options: dict[str, int], error: type[ServingError], text: str
) -> None:
    with pytest.raises(error, match=text):
        create(plan(scale, entry=entry, signature=declared, options=options)).load()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("5", "is not a Signature nor of the form"),
        ("{'inputs': []}", "is not a Signature nor of the form"),
        ("{'inputs': [{'name': 'x', 'dtype': 'F32', 'shape': [4]}], 'outputs': []}", "invalid datatype 'F32', expected one of BOOL, "),
        ("None", "a signature must be declared"),
    ],
)
def test_a_signature_of_another_form_is_said(tmp_path: Path, value: str, text: str) -> None:
    path = tmp_path / "m.py"
    path.write_text(f"class Model:\n    signature = {value}\n    def predict(self, inputs): return inputs\n")
    with pytest.raises(InvalidArgument, match=text):
        create(plan(path)).load()


def test_an_artefact_that_is_not_there_and_a_runtime_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"artefact .*nothing.py is not there"):
        create(plan(tmp_path / "nothing.py")).load()
    with pytest.raises(InvalidArgument, match="runtime 'tensorflow' of 'm/1' is not known, expected one of python, torch"):
        create(plan(tmp_path / "nothing.py", "tensorflow"))
