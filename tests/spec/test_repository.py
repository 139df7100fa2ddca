"""Triton's repository layout: what becomes of a folder and its config.pbtxt, and what is said of what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.plan import DeploymentTarget, Target
from serving.spec import InvalidSpec, Repository, load
from serving.tensor import DType, Signature, TensorSpec
from tests.models.onnx_files import add_sub, linear

CLASS = "class Doubling:\n    def predict(self, inputs):\n        return {'y': inputs['x'] * 2}\n"
CONFIG = """
name: "double"
backend: "python"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" } ]
"""


def model(root: Path, name: str, config: str = "", versions: str = "1", file: str = "model.py", text: str = CLASS) -> Path:
    for version in versions.split():
        (root / name / version).mkdir(parents=True)
        (root / name / version / file).write_text(text)
    if config:
        (root / name / "config.pbtxt").write_text(config)
    return root / name


def served(root: Path) -> tuple[Target, list[str]]:
    found = Repository([root]).survey()
    return load([], [r.source for r in found]), [note.partition("not honoured: ")[2] for r in found for note in r.notes]


def only(root: Path) -> DeploymentTarget:
    (deployment,) = served(root)[0].deployments
    return deployment


def test_a_python_model_is_served_as_its_config_says(tmp_path: Path) -> None:
    folder = model(tmp_path, "double", CONFIG + 'parameters [ { key: "factor" value: { string_value: "3" } } ]')
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    target, notes = served(tmp_path)
    (d,) = target.deployments
    assert (d.key, d.plan.runtime, d.plan.entry, d.plan.options) == ("double/1", "python", "Doubling", {"factor": "3"})
    assert d.plan.artefact == str(folder / "1" / "model.py")
    assert d.plan.signature is not None
    assert d.plan.signature.inputs == (TensorSpec("x", DType.FP32, (4,)),)
    assert d.plan.signature.outputs == (TensorSpec("y", DType.FP32, (4,), labels=("a", "b", "c", "d")),)
    assert (d.plan.signature.max_batch_size, d.cpus, d.replicas, notes) == (8, 0.0, 1, [])
    assert target.routes.routes["double"].stable == "1"


def test_batching_instances_and_warm_up_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "double").mkdir()
    config = (
        CONFIG.replace('label_filename: "labels.txt"', "")
        + """
        dynamic_batching {
            max_queue_delay_microseconds: 1500
            default_queue_policy { max_queue_size: 50 default_timeout_microseconds: 20000 allow_timeout_override: true }
        }
        instance_group [ { count: 2 kind: KIND_CPU }, { count: 1 kind: KIND_CPU } ]
        model_warmup [ { name: "w" batch_size: 4 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 zero_data: true } } } ]
    """
    )
    model(tmp_path, "double", config)
    d = only(tmp_path)
    batching = d.plan.batching
    assert (batching.max_delay_s, batching.max_queue_requests, batching.timeout_s) == (0.0015, 50, 0.02)
    assert (d.replicas, d.gpus, d.plan.warm_up) == (3, 0.0, (4,))
    assert served(tmp_path)[1] == []


def test_instances_on_gpus_get_one_each(tmp_path: Path) -> None:
    config = CONFIG.replace('label_filename: "labels.txt"', "") + "instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] } ]"
    model(tmp_path, "double", config)
    target, notes = served(tmp_path)
    assert (target.deployments[0].replicas, target.deployments[0].gpus) == (4, 1.0)
    assert notes == ["instance_group.gpus"]


@pytest.mark.parametrize(
    ("policy", "versions", "stable"),
    [
        ("", ["10"], "10"),
        ("version_policy: { latest { num_versions: 2 } }", ["2", "10"], "10"),
        ("version_policy: { all {} }", ["1", "2", "10"], "10"),
        ("version_policy: { specific { versions: [ 1, 2 ] } }", ["1", "2"], "2"),
        ("version_policy: { specific { versions: [ 10, 7, 1 ] } }", ["1", "10"], "10"),
    ],
)
def test_the_version_policy_says_which_versions_run(tmp_path: Path, policy: str, versions: list[str], stable: str) -> None:
    model(tmp_path, "double", CONFIG.replace('label_filename: "labels.txt"', "") + policy, versions="10 1 2")
    (tmp_path / "double" / "notes").mkdir()
    (tmp_path / "double" / "03").mkdir()
    target, notes = served(tmp_path)
    assert [d.plan.version for d in target.deployments] == versions
    assert notes == (["version_policy.specific: version 7 is not there"] if "7" in policy else [])
    assert target.routes.routes["double"].stable == stable
    assert Repository([tmp_path]).names() == {"double": ["1", "2", "10"]}


def test_the_layout_of_an_image_is_kept(tmp_path: Path) -> None:
    shaped = CONFIG.replace('label_filename: "labels.txt"', "").replace(
        "dims: [ 4 ] } ]\noutput", "format: FORMAT_NHWC dims: [ 8, 8, 3 ] } ]\noutput"
    )
    model(tmp_path, "double", shaped)
    signature = only(tmp_path).plan.signature
    assert signature is not None
    assert signature.inputs == (TensorSpec("x", DType.FP32, (8, 8, 3), layout="NHWC"),)
    assert Signature.from_json(signature.to_json()) == signature


def test_sequences_are_mapped(tmp_path: Path) -> None:
    config = (
        CONFIG.replace('label_filename: "labels.txt"', "")
        + """
        sequence_batching {
            max_sequence_idle_microseconds: 5000000
            control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] } ]
            oldest { max_candidate_sequences: 7 max_queue_delay_microseconds: 2000 }
        }
    """
    )
    model(tmp_path, "double", config)
    target, notes = served(tmp_path)
    policy = target.deployments[0].plan.sequence
    assert policy is not None
    assert (policy.max_idle_s, policy.max_sequences) == (5.0, 7)
    assert target.deployments[0].plan.batching.max_delay_s == 0.002
    assert notes == ["sequence_batching.control_input"]


def test_settings_that_cannot_be_honoured_are_named(tmp_path: Path) -> None:
    config = (
        CONFIG.replace('label_filename: "labels.txt"', "").replace('backend: "python"', "")
        + """
        dynamic_batching { preferred_batch_size: [ 4 ] preserve_ordering: true }
        optimization { priority: PRIORITY_MAX cuda { graphs: true } }
        response_cache { enable: true }
        metric_tags { key: "a" value: "b" }
        instance_group [ { count: 1 kind: KIND_CPU host_policy: "p" } ]
        model_warmup [ { name: "w" batch_size: 1 count: 3 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 random_data: true } } } ]
    """
    )
    model(tmp_path, "double", config)
    assert sorted(served(tmp_path)[1]) == [
        "dynamic_batching.preferred_batch_size",
        "dynamic_batching.preserve_ordering",
        "instance_group.host_policy",
        "metric_tags",
        "model_warmup.count",
        "model_warmup.inputs (zeros are run)",
        "optimization.cuda",
        "optimization.priority",
        "response_cache",
    ]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("nonsense {", r"config\.pbtxt:1:\d+: .*nonsense"),
        (CONFIG.replace('"double"', '"other"'), "name is 'other', and the model's folder 'double'"),
        (CONFIG.replace("python", "tensorrt"), "backend 'tensorrt' is not supported"),
        (CONFIG + "ensemble_scheduling { step [ { model_name: 'a' } ] }", "not supported: ensemble_scheduling"),
        (CONFIG.replace("dims: [ 4 ] }", "dims: [ 4 ] reshape { shape: [ 2, 2 ] } }"), "not supported: input 'x' reshape"),
        (CONFIG, "labels.txt"),
        (CONFIG.replace("labels.txt", "../../labels.txt"), "is not in the model's folder"),
        (CONFIG + "version_policy { specific { versions: [ 7 ] } }", "at least one version must be available.*version 7 is not there"),
        (CONFIG + 'default_model_filename: "../../etc/passwd"', "is not the name of a file"),
        (CONFIG + 'default_model_filename: "other.py"', "has no other.py"),
        (CONFIG.replace("FP32 dims: [ 4 ] label", "STRING dims: [ 0 ] label"), "labels.txt|expected at least 1"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused_with_the_reason(tmp_path: Path, config: str, words: str) -> None:
    model(tmp_path, "double", config)
    with pytest.raises(InvalidSpec, match=words):
        served(tmp_path)


def test_an_onnx_model_needs_no_config(tmp_path: Path) -> None:
    add_sub(tmp_path / "simple" / "1" / "model.onnx")
    d = only(tmp_path)
    assert (d.plan.runtime, d.plan.batching.max_batch_size) == ("onnx", 4)
    assert d.plan.signature is not None
    assert d.plan.signature.inputs == (TensorSpec("INPUT0", DType.INT32, (16,)), TensorSpec("INPUT1", DType.INT32, (16,)))
    assert [o.name for o in d.plan.signature.outputs] == ["OUTPUT0", "OUTPUT1"]


def test_an_onnx_model_of_fixed_rows_is_not_batched(tmp_path: Path) -> None:
    linear(tmp_path / "m" / "1" / "model.onnx", np.ones((4, 2), np.float32), rows=3)
    d = only(tmp_path)
    assert d.plan.signature is not None
    assert (d.plan.batching.max_batch_size, d.plan.signature.inputs) == (0, (TensorSpec("x", DType.FP32, (3, 4)),))


def test_a_config_may_leave_out_what_an_onnx_file_tells(tmp_path: Path) -> None:
    linear(tmp_path / "m" / "1" / "model.onnx", np.ones((4, 2), np.float32))
    config = 'platform: "onnxruntime_onnx" max_batch_size: 16 parameters [ { key: "intra_op_thread_count" value { string_value: "2" } } ]'
    (tmp_path / "m" / "config.pbtxt").write_text(config)
    d = only(tmp_path)
    assert d.plan.signature is not None
    assert (d.plan.signature.inputs, d.plan.signature.max_batch_size, d.plan.threads) == ((TensorSpec("x", DType.FP32, (4,)),), 16, 2)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x3a\xff\xff\x01", b"\x08\x07"])
def test_a_broken_onnx_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(content)
    with pytest.raises(InvalidSpec, match=r"model\.onnx is (empty|not an ONNX file)"):
        served(tmp_path)


def test_libtorch_names_give_the_order(tmp_path: Path) -> None:
    config = """
        platform: "pytorch_libtorch"
        input [ { name: "INPUT__1" data_type: TYPE_INT32 dims: [ 1 ] }, { name: "INPUT__0" data_type: TYPE_FP32 dims: [ 2 ] } ]
        output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ -1 ] } ]
    """
    model(tmp_path, "torchy", config, file="model.pt", text="not looked into")
    signature = only(tmp_path).plan.signature
    assert signature is not None
    assert [i.name for i in signature.inputs] == ["INPUT__0", "INPUT__1"]


def test_torchscript_without_a_config_is_refused(tmp_path: Path) -> None:
    model(tmp_path, "torchy", file="model.pt", text="not looked into")
    with pytest.raises(InvalidSpec, match="does not say what it takes and gives"):
        served(tmp_path)


def test_repositories_stand_beside_each_other_and_beside_yaml(tmp_path: Path) -> None:
    add_sub(tmp_path / "a" / "simple" / "1" / "model.onnx")
    add_sub(tmp_path / "b" / "other" / "1" / "model.onnx")
    (tmp_path / "a" / ".git").mkdir()
    (tmp_path / "a" / "readme.txt").touch()
    found = Repository([tmp_path / "a", tmp_path / "b"])
    assert [r.name for r in found.survey()] == ["simple", "other"]
    assert [r.name for r in found.survey(["other"])] == ["other"]
    with pytest.raises(InvalidSpec, match="there is no model 'third'"):
        found.survey(["third"])
    yaml = tmp_path / "m.yaml"
    yaml.write_text("models: {other: {versions: {1: {artefact: b/other/1/model.onnx}}}}")
    with pytest.raises(InvalidSpec, match=r"models\.other is declared twice"):
        load([yaml], [r.source for r in found.survey()])


def test_the_same_model_in_two_repositories_is_refused_and_so_is_a_folder_that_is_none(tmp_path: Path) -> None:
    add_sub(tmp_path / "a" / "simple" / "1" / "model.onnx")
    add_sub(tmp_path / "b" / "simple" / "1" / "model.onnx")
    with pytest.raises(InvalidSpec) as raised:
        Repository([tmp_path / "a", tmp_path / "b", tmp_path / "c"]).survey()
    assert f"there is a model 'simple' in {tmp_path / 'a'} already" in str(raised.value)
    assert f"{tmp_path / 'c'}:1:1: is not a folder" in str(raised.value)


def test_a_folder_without_versions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidSpec, match="has no folder of a version"):
        served(tmp_path)
