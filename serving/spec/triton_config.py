"""Triton's ModelConfig in the words of our YAML. Says by name what it cannot honour; pure but for the labels that it is given to read.

What a model must have to answer rightly and is not supported (ensembles, reshape, other backends) raises InvalidArgument; what only
tunes it becomes a note. Instances reserve no cores, as in Triton: `resources.cpus` is 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf import json_format, text_format

from serving.errors import InvalidArgument
from serving.protocol.schema import ModelConfig

Labels = Callable[[str], list[str]]
"""Returns the lines of a label file."""

_DATATYPES = {"TYPE_STRING": "BYTES"}
_HARMLESS = {"name", "platform", "backend", "runtime", "default_model_filename", "version_policy", "max_batch_size", "input", "output"}
_UNLIKE = ("reshape", "is_shape_tensor", "is_non_linear_format_io")
"""Settings of a tensor without which it is another one."""
_LIBTORCH_NAME = re.compile(r".*__([0-9]+)\Z")


def parse_text(text: str) -> Any:
    """Return the ModelConfig of a config.pbtxt. Raises text_format.ParseError with line and column."""
    return text_format.Parse(text, ModelConfig())


def parse_json(text: str) -> Any:
    """Return the ModelConfig of a JSON text. Raises InvalidArgument."""
    try:
        return json_format.Parse(text, ModelConfig())
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the model configuration is not one: {error}") from None


def refuse(config: Any) -> None:
    """Raise InvalidArgument that names all that would make the model answer wrongly."""
    wrong = []
    if config.HasField("ensemble_scheduling") or config.platform == "ensemble":
        wrong.append("ensemble_scheduling")
    for side in ("input", "output"):
        for tensor in getattr(config, side):
            wrong += [f"{side} '{tensor.name}' {name}" for name in _UNLIKE if _is_set(tensor, name)]
    wrong += [name for name in ("batch_input", "batch_output", "model_repository_agents") if _is_set(config, name)]
    if wrong:
        raise InvalidArgument(f"not supported: {', '.join(wrong)}")


def served_versions(config: Any, there: list[str]) -> tuple[list[str], list[str]]:
    """Return (the versions that the version policy serves; the newest one without a policy, notes on those that are not there).

    As in Triton a policy may name versions that are not there, while one is. Raises InvalidArgument.
    """
    ordered = sorted(there, key=int)
    policy = config.version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return ordered, []
    if kind != "specific":
        return ordered[-(policy.latest.num_versions or 1) :] if kind == "latest" else ordered[-1:], []
    asked = sorted({str(v) for v in policy.specific.versions}, key=int)
    missing = ", ".join(v for v in asked if v not in ordered)
    served = [v for v in asked if v in ordered]
    if not served:
        raise InvalidArgument(f"at least one version must be available under version_policy.specific: version {missing} is not there")
    return served, [f"version_policy.specific: version {missing} is not there"] if missing else []


def translate(config: Any, labels: Labels) -> tuple[dict[str, Any], list[str]]:
    """Return (a model of the YAML without its versions, names of settings that cannot be honoured)."""
    notes = [name for field, _ in config.ListFields() if (name := field.name) not in _HARMLESS and name not in _SECTIONS]
    model: dict[str, Any] = {"batching": {"max_batch_size": config.max_batch_size}, "resources": {"cpus": 0.0}}
    for name, section in _SECTIONS.items():
        if _is_set(config, name):
            notes += section(config, model)
    notes += [f"{side} '{t.name}' allow_ragged_batch" for side in ("input",) for t in getattr(config, side) if t.allow_ragged_batch]
    if config.input and config.output:
        model["signature"] = {side + "s": [_tensor(t, labels) for t in _ordered(getattr(config, side))] for side in ("input", "output")}
    return model, notes


def tensors(config: Any, side: str, labels: Labels) -> list[dict[str, Any]]:
    """Return the tensors of "input" or "output" as the YAML has them."""
    return [_tensor(t, labels) for t in _ordered(getattr(config, side))]


def _tensor(tensor: Any, labels: Labels) -> dict[str, Any]:
    kind = type(tensor).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
    spec: dict[str, Any] = {
        "name": tensor.name,
        "dtype": _DATATYPES.get(kind, kind.removeprefix("TYPE_")),
        "shape": [int(d) for d in tensor.dims],
    }
    if getattr(tensor, "optional", False):
        spec["optional"] = True
    if layout := getattr(tensor, "format", 0):
        spec["layout"] = type(tensor).Format.Name(layout).removeprefix("FORMAT_")
    if getattr(tensor, "label_filename", ""):
        spec["labels"] = labels(tensor.label_filename)
    return spec


def _ordered(tensors: Any) -> list[Any]:
    """Return tensors in the order in which the model takes them: libtorch's names ("INPUT__1") say it, else the file does."""
    numbers = [_LIBTORCH_NAME.match(t.name) for t in tensors]
    if all(numbers):
        return [t for _, t in sorted(zip(numbers, tensors, strict=True), key=lambda pair: int(pair[0][1]) if pair[0] else 0)]
    return list(tensors)


# Sections: each puts into the model what it can and yields the names of the rest


def _dynamic_batching(config: Any, model: dict[str, Any]) -> Iterator[str]:
    section, batching = config.dynamic_batching, model["batching"]
    if config.max_batch_size > 1 and section.max_queue_delay_microseconds:
        batching["max_delay_ms"] = section.max_queue_delay_microseconds / 1000
    _queue(section.default_queue_policy, batching)
    yield from _queue_notes("dynamic_batching.default_queue_policy", section.default_queue_policy)
    if section.preferred_batch_size and list(section.preferred_batch_size) != [config.max_batch_size]:
        yield "dynamic_batching.preferred_batch_size"
    if section.preserve_ordering:
        yield "dynamic_batching.preserve_ordering"
    if section.priority_queue_policy:
        yield "dynamic_batching.priority_queue_policy"
    if section.default_priority_level and section.default_priority_level != (section.priority_levels + 1) // 2:
        yield "dynamic_batching.default_priority_level"


def _queue(policy: Any, batching: dict[str, Any]) -> None:
    if policy.max_queue_size:
        batching["max_queue_requests"] = policy.max_queue_size
    if policy.default_timeout_microseconds:
        batching["timeout_ms"] = policy.default_timeout_microseconds / 1000


def _queue_notes(at: str, policy: Any) -> Iterator[str]:
    if policy.timeout_action:
        yield f"{at}.timeout_action"
    if policy.default_timeout_microseconds and not policy.allow_timeout_override:
        yield f"{at}.allow_timeout_override"


def _instance_group(config: Any, model: dict[str, Any]) -> Iterator[str]:
    groups = list(config.instance_group)
    kinds = {type(g).Kind.Name(g.kind) for g in groups}
    model["replicas"] = sum(max(1, g.count) * max(1, len(g.gpus)) for g in groups)
    if "KIND_GPU" in kinds or any(g.gpus for g in groups):
        model["resources"]["gpus"] = 1.0
    if len(kinds) > 1:
        yield "instance_group.kind (several)"
    elif kinds == {"KIND_MODEL"}:
        yield "instance_group.kind KIND_MODEL"
    for name in ("gpus", "secondary_devices", "profile", "passive", "host_policy", "rate_limiter"):
        if any(_is_set(g, name) for g in groups):
            yield f"instance_group.{name}"


def _model_warmup(config: Any, model: dict[str, Any]) -> Iterator[str]:
    sizes = sorted({w.batch_size for w in config.model_warmup if 0 < w.batch_size <= config.max_batch_size})
    if sizes:
        model["warm_up"] = {"batch_sizes": sizes}
    if any(i.WhichOneof("input_data_type") not in (None, "zero_data") for w in config.model_warmup for i in w.inputs.values()):
        yield "model_warmup.inputs (zeros are run)"
    if any(w.count > 1 for w in config.model_warmup):
        yield "model_warmup.count"


def _parameters(config: Any, model: dict[str, Any]) -> Iterator[str]:
    """Parameters of a Python class become its options (`repository.py`); of the others onnxruntime's threads are known."""
    for key, value in sorted(config.parameters.items()):
        if key == "intra_op_thread_count" and value.string_value.isdigit() and int(value.string_value):
            model["resources"]["threads"] = int(value.string_value)
        elif config.backend != "python":
            yield f"parameters '{key}'"


def _response_cache(config: Any, model: dict[str, Any]) -> Iterator[str]:
    if config.response_cache.enable:
        yield "response_cache"


def _optimization(config: Any, model: dict[str, Any]) -> Iterator[str]:
    for field, _ in config.optimization.ListFields():
        yield f"optimization.{field.name}"


def _sequence_batching(config: Any, model: dict[str, Any]) -> Iterator[str]:
    section = config.sequence_batching
    idle_us = section.max_sequence_idle_microseconds or 1_000_000  # Triton's default
    model["sequence"] = {"max_idle_s": idle_us / 1e6}
    if section.oldest.max_candidate_sequences:
        model["sequence"]["max_sequences"] = section.oldest.max_candidate_sequences
    if section.oldest.max_queue_delay_microseconds and config.max_batch_size > 1:
        model["batching"]["max_delay_ms"] = section.oldest.max_queue_delay_microseconds / 1000
    for name in ("control_input", "state", "iterative_sequence", "generative_sequence"):
        if name in section.DESCRIPTOR.fields_by_name and _is_set(section, name):
            yield f"sequence_batching.{name}"


def _transaction(config: Any, model: dict[str, Any]) -> Iterator[str]:
    if config.model_transaction_policy.decoupled and config.backend == "python":
        model["decoupled"] = True
    elif config.model_transaction_policy.decoupled:
        yield "model_transaction_policy.decoupled"


_SECTIONS: dict[str, Callable[[Any, dict[str, Any]], Iterator[str]]] = {
    "dynamic_batching": _dynamic_batching,
    "sequence_batching": _sequence_batching,
    "instance_group": _instance_group,
    "model_warmup": _model_warmup,
    "parameters": _parameters,
    "response_cache": _response_cache,
    "optimization": _optimization,
    "model_transaction_policy": _transaction,
}


def _is_set(message: Any, name: str) -> bool:
    return any(field.name == name for field, _ in message.ListFields())
