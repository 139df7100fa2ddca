"""ModelConfig as clients read it, and messages as plain JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.protocol import model_config
from serving.protocol.proto_json import to_plain
from serving.protocol.schema import ModelConfig, ModelConfigResponse
from serving.tensor import DType, Signature, TensorSpec

DETAILS = {"runtime": "torch", "file": "m.pt2", "device": "cuda", "max_delay_us": 2000, "timeout_us": 5, "max_queue_requests": 2048}


def signature(rows: int, dtype: DType = DType.FP32) -> Signature:
    return Signature((TensorSpec("x", dtype, (-1, 4), optional=True),), (TensorSpec("y", DType.INT64, (2,)),), rows)


def test_what_is_known_of_a_version_is_in_its_config() -> None:
    config = json.loads(model_config.as_json(model_config.make("m", signature(8), "pytorch_exported", DETAILS, ["1", "3"], 2)))
    assert (config["name"], config["platform"], config["backend"], config["max_batch_size"]) == ("m", "pytorch_exported", "pytorch", 8)
    assert config["version_policy"] == {"specific": {"versions": [1, 3]}}
    (x,) = config["input"]
    assert (x["name"], x["data_type"], x["dims"], x["optional"], x["is_shape_tensor"]) == ("x", "TYPE_FP32", [-1, 4], True, False)
    (y,) = config["output"]
    assert (y["name"], y["data_type"], y["dims"]) == ("y", "TYPE_INT64", [2])
    (group,) = config["instance_group"]
    assert (group["kind"], group["count"]) == ("KIND_GPU", 2)
    batching = config["dynamic_batching"]
    assert batching["max_queue_delay_microseconds"] == 2000
    assert batching["default_queue_policy"]["default_timeout_microseconds"] == 5
    assert batching["default_queue_policy"]["max_queue_size"] == 2048
    assert config["default_model_filename"] == "m.pt2"


def test_clients_are_told_the_layout_of_an_image() -> None:
    images = Signature((TensorSpec("x", DType.FP32, (8, 8, 3), layout="NHWC"), TensorSpec("y", DType.FP32, (4,))), (), 4)
    config = json.loads(model_config.as_json(model_config.make("m", images, "python", {}, ["1"], 1)))
    assert [x["format"] for x in config["input"]] == ["FORMAT_NHWC", "FORMAT_NONE"]


def test_what_a_version_does_not_have_is_left_out() -> None:
    config = json.loads(model_config.as_json(model_config.make("m", signature(0), "python", {}, ["1"], 1)))
    for absent in ("dynamic_batching", "sequence_batching", "ensemble_scheduling", "model_transaction_policy", "response_cache"):
        assert absent not in config
    assert config["max_batch_size"] == 0
    assert config["instance_group"][0]["kind"] == "KIND_CPU"
    assert "label_filename" in config["output"][0]


@pytest.mark.parametrize("dtype", list(DType))
def test_every_datatype_has_a_name_in_the_proto_file(dtype: DType) -> None:
    message = ModelConfigResponse.FromString(model_config.as_message(model_config.make("m", signature(1, dtype), "p", {}, ["1"], 1)))
    kinds = ModelConfig.DESCRIPTOR.fields_by_name["input"].message_type.fields_by_name["data_type"].enum_type.values_by_number
    assert kinds[message.config.input[0].data_type].name == ("TYPE_STRING" if dtype is DType.BYTES else f"TYPE_{dtype.label}")


@given(
    st.text(max_size=20),
    st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=4),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
)
def test_plain_values_hold_what_the_message_holds(name: str, dims: list[int], parameters: dict[str, str]) -> None:
    config = ModelConfig(name=name)
    config.input.add(dims=dims)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    plain = to_plain(config)
    assert plain["name"] == name
    assert plain["input"][0]["dims"] == dims
    assert plain["parameters"] == {k: {"string_value": v} for k, v in parameters.items()}
    assert "optimization" not in plain


def test_a_model_with_sequences_says_so_instead_of_dynamic_batching() -> None:
    details = {"sequence": {"max_idle_s": 1.5, "max_sequences": 9}}
    config = json.loads(model_config.as_json(model_config.make("m", signature(8), "python", details, ["1"], 1)))
    assert "dynamic_batching" not in config
    assert config["sequence_batching"]["max_sequence_idle_microseconds"] == 1_500_000
    assert config["sequence_batching"]["oldest"]["max_candidate_sequences"] == 9
