"""Models that were written for Triton's Python backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.errors import Code, InvalidArgument, ModelFailed, Unsupported
from serving.hosting import VersionPlan
from serving.models import triton_utils
from serving.models.registry import create
from serving.spec import InvalidSpec, Repository, load
from serving.tensor import DType
from tests.models.plans import plan, signature

ADD_SUB = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        out = pb_utils.get_output_config_by_name(self.config, "OUTPUT0")
        self.dtype = pb_utils.triton_string_to_numpy(out["data_type"])
        self.args = args

    def execute(self, requests):
        responses = []
        for request in requests:
            a = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            b = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            if (a < 0).any():
                responses.append(pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError("below zero")))
                continue
            factor = json.loads(request.parameters()).get("factor", 1)
            total = pb_utils.Tensor("OUTPUT0", ((a + b) * factor).astype(self.dtype))
            difference = pb_utils.Tensor("OUTPUT1", (a - b).astype(self.dtype))
            responses.append(pb_utils.InferenceResponse(output_tensors=[total, difference]))
        return responses
"""
CONFIG = """
name: "add_sub" backend: "python" max_batch_size: 4
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "INPUT1" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 4 ] } ]
parameters { key: "scale" value { string_value: "2" } }
"""
FP32_4 = (DType.FP32, (4,))
SIGNATURE = signature({"INPUT0": FP32_4, "INPUT1": FP32_4}, {"OUTPUT0": FP32_4, "OUTPUT1": FP32_4})


def written(folder: Path, text: str = ADD_SUB, config: str = CONFIG) -> Path:
    (folder / "add_sub" / "1").mkdir(parents=True)
    (folder / "add_sub" / "config.pbtxt").write_text(config)
    path = folder / "add_sub" / "1" / "model.py"
    path.write_text(text)
    return path


def from_repository(folder: Path) -> VersionPlan:
    (deployment,) = load([], [r.source for r in Repository([folder]).survey()]).deployments
    return deployment.plan


def test_tritons_add_sub_example_answers(tmp_path: Path) -> None:
    path = written(tmp_path)
    made = from_repository(tmp_path)
    model: Any = create(made)
    model.load()
    a, b = np.arange(8, dtype=np.float32).reshape(2, 4), np.ones((2, 4), np.float32)
    (warm,) = model.warm_up([{"INPUT0": a, "INPUT1": b}])
    np.testing.assert_array_equal(warm["OUTPUT0"], a + b)
    out = model.predict({"INPUT0": a, "INPUT1": b}, {"factor": 3})
    np.testing.assert_array_equal(out["OUTPUT0"], (a + b) * 3)
    np.testing.assert_array_equal(out["OUTPUT1"], a - b)
    model.check()
    user = model._user
    assert user.args["model_repository"] == str(path.parent.parent)
    assert (user.args["model_name"], user.args["model_version"], user.args["model_instance_kind"]) == ("add_sub", "1", "CPU")
    assert user.config["parameters"]["scale"]["string_value"] == "2"
    assert user.config["max_batch_size"] == 4
    assert user.config["input"][0]["dims"] == [4]


def test_yaml_may_name_such_a_class_and_its_signature_becomes_the_config(tmp_path: Path) -> None:
    model: Any = create(plan(written(tmp_path), entry="TritonPythonModel", signature=SIGNATURE))
    model.load()
    out = model.predict({"INPUT0": np.ones((1, 4), np.float32), "INPUT1": np.ones((1, 4), np.float32)}, {})
    assert out["OUTPUT0"].tolist() == [[2, 2, 2, 2]]


def test_an_error_of_the_model_is_its_text(tmp_path: Path) -> None:
    model: Any = create(plan(written(tmp_path), entry="TritonPythonModel", signature=SIGNATURE))
    model.load()
    with pytest.raises(ModelFailed, match="below zero"):
        model.predict({"INPUT0": -np.ones((1, 4), np.float32), "INPUT1": np.ones((1, 4), np.float32)}, {})


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("UNAVAILABLE", Code.UNAVAILABLE),
        ("INVALID_ARG", Code.INVALID_ARGUMENT),
        ("INTERNAL", Code.MODEL_FAILED),
        ("UNKNOWN", Code.MODEL_FAILED),
    ],
)
def test_the_code_of_a_triton_error_reaches_the_client(tmp_path: Path, code: str, told: Code) -> None:
    text = ADD_SUB.replace('TritonError("below zero")', f'TritonError("below zero", pb_utils.TritonError.{code})')
    model: Any = create(plan(written(tmp_path, text), entry="TritonPythonModel", signature=SIGNATURE))
    model.load()
    with pytest.raises(ModelFailed) as failed:
        model.predict({"INPUT0": -np.ones((1, 4), np.float32), "INPUT1": np.ones((1, 4), np.float32)}, {})
    assert (failed.value.code, failed.value.message) == (told, "below zero")


@pytest.mark.parametrize(
    ("execute", "words"),
    [("return []", "returned 0 responses"), ("return None", "returned NoneType"), ("return requests * 2", "2 responses")],
)
def test_what_is_not_one_response_is_said(tmp_path: Path, execute: str, words: str) -> None:
    path = written(tmp_path, f"class TritonPythonModel:\n    def execute(self, requests):\n        {execute}\n")
    model: Any = create(plan(path, entry="TritonPythonModel", signature=SIGNATURE))
    model.load()
    with pytest.raises(ModelFailed, match=words):
        model.predict({"INPUT0": np.ones((1, 4), np.float32)}, {})


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("class TritonPythonModel: pass\n", InvalidArgument, "no method execute"),
        (ADD_SUB.replace("self.args = args", "raise KeyError('x')"), ModelFailed, r"initialize\(\) of .* raised KeyError"),
    ],
)
def test_a_class_that_cannot_be_loaded_is_told_why(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        create(plan(written(tmp_path, text), entry="TritonPythonModel", signature=SIGNATURE)).load()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('name: "add_sub"', "does not say what it takes and gives"),
        (CONFIG + "sequence_batching {}", "is not served with sequences"),
    ],
)
def test_what_such_a_class_cannot_do_here_is_said_before_it_starts(tmp_path: Path, config: str, words: str) -> None:
    written(tmp_path, config=config)
    with pytest.raises(InvalidSpec, match=words):
        from_repository(tmp_path)


def test_the_words_of_the_backend() -> None:
    text = triton_utils.Tensor("t", np.array([b"a"], np.object_))
    number = triton_utils.Tensor("n", [1.5])
    request = triton_utils.InferenceRequest([text, number], ["y"], "m", 2, {"k": 1})
    assert (text.triton_dtype(), number.triton_dtype(), number.shape(), number.is_cpu()) == ("TYPE_STRING", "TYPE_FP64", (1,), True)
    assert triton_utils.get_input_tensor_by_name(request, "n") is number
    assert triton_utils.get_input_tensor_by_name(request, "x") is None
    assert (json.loads(request.parameters()), request.model_version(), request.requested_output_names()) == ({"k": 1}, 2, ["y"])
    assert triton_utils.Tensor.from_dlpack("d", number).as_numpy() == [1.5]
    assert triton_utils.triton_string_to_numpy("TYPE_STRING") is np.object_
    assert triton_utils.triton_string_to_numpy("TYPE_INT8") is np.int8
    assert triton_utils.using_decoupled_model_transaction_policy({"model_transaction_policy": {"decoupled": True}})
    response = triton_utils.InferenceResponse([number])
    assert triton_utils.get_output_tensor_by_name(response, "n") is number
    assert not response.has_error()
    with pytest.raises(Unsupported, match="business logic scripting"):
        request.exec()
    assert request.get_response_sender() is request.get_response_sender()
    assert not request.is_cancelled()


REPEAT = """
import threading
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        import json
        assert pb_utils.using_decoupled_model_transaction_policy(json.loads(args["model_config"]))
        self.seen = []

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            if len(values) > 100:
                return []
            if len(values) > 50:
                raise ValueError("more than 50")
            threading.Thread(target=self.answer, args=(request, sender, values)).start()

    def answer(self, request, sender, values):
        for value in values:
            if value < 0:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("below zero", pb_utils.TritonError.INVALID_ARG)))
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([value], np.int32))]))
            self.seen.append((int(value), request.is_cancelled()))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
REPEAT_CONFIG = """
name: "add_sub" backend: "python" max_batch_size: 0
input [ { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] } ]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
model_transaction_policy { decoupled: true }
"""


@pytest.fixture
def repeat(tmp_path: Path) -> Any:
    written(tmp_path, REPEAT, REPEAT_CONFIG)
    model: Any = create(from_repository(tmp_path))
    model.load()
    assert model.decoupled
    return model


def told(model: Any, *values: int) -> list[int]:
    return [int(reply["OUT"][0]) for reply in model.predict({"IN": np.array(values, np.int32)}, {})]


def test_a_decoupled_model_sends_its_answers_from_any_thread(repeat: Any) -> None:
    (warm,) = repeat.warm_up([{"IN": np.zeros(1, np.int32)}])
    assert warm["OUT"].tolist() == [0]
    assert told(repeat, 4, 2, 1) == [4, 2, 1]
    assert told(repeat) == []


def test_what_a_decoupled_model_does_wrong_is_said(repeat: Any) -> None:
    with pytest.raises(ModelFailed, match="below zero") as failed:
        told(repeat, 1, -1)
    assert failed.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(ValueError, match="more than 50"):
        told(repeat, *range(60))
    with pytest.raises(ModelFailed, match="returned a list, expected None"):
        told(repeat, *range(101))


def test_a_class_may_send_its_one_answer_instead_of_returning_it(tmp_path: Path) -> None:
    text = ADD_SUB.replace(
        "return responses",
        "requests[0].get_response_sender().send(responses[0], flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)",
    )
    model: Any = create(plan(written(tmp_path, text), entry="TritonPythonModel", signature=SIGNATURE))
    model.load()
    out = model.predict({"INPUT0": np.ones((1, 4), np.float32), "INPUT1": np.ones((1, 4), np.float32)}, {})
    assert out["OUTPUT0"].tolist() == [[2, 2, 2, 2]]
