"""A version's ModelConfig, as Triton's clients ask for it: made from what replicas describe.

What the version does not have is left unset, not filled with defaults: perf_analyzer reads the mere presence of
`dynamic_batching` or `sequence_batching` as a way of serving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from serving.protocol.proto_json import to_plain
from serving.protocol.schema import ModelConfig, ModelConfigResponse
from serving.tensor import DType, Signature

PRIORITY_LEVELS: Final = 255
DEFAULT_PRIORITY: Final = 128
_BACKENDS: Final = {"torch": "pytorch", "onnx": "onnxruntime"}
"""Our runtimes under the names that Triton has for them; others keep their own."""


def make(model: str, signature: Signature, platform: str, details: Mapping[str, Any], versions: Sequence[str], instances: int) -> Any:
    """Return the ModelConfig message.

    details    what a replica says of the version in HELLO: runtime, file, device, max_delay_us, timeout_us, max_queue_requests, sequence
    versions   all that clients can call; instances: replicas that serve this one
    """
    config = ModelConfig(name=model, platform=platform, max_batch_size=signature.max_batch_size)
    if details.get("decoupled"):
        config.model_transaction_policy.decoupled = True
    runtime = str(details.get("runtime", ""))
    config.backend = _BACKENDS.get(runtime, runtime)
    config.default_model_filename = str(details.get("file", ""))
    config.version_policy.specific.versions.extend(int(v) for v in versions)
    for spec in signature.inputs:
        layout = f"FORMAT_{spec.layout or 'NONE'}"
        config.input.add(name=spec.name, data_type=_data_type(spec.dtype), format=layout, dims=spec.shape, optional=spec.optional)
    for spec in signature.outputs:
        config.output.add(name=spec.name, data_type=_data_type(spec.dtype), dims=spec.shape)
    gpu = details.get("device") == "cuda"
    config.instance_group.add(name=model, kind="KIND_GPU" if gpu else "KIND_CPU", count=instances)
    sequence = details.get("sequence")
    if sequence:
        config.sequence_batching.max_sequence_idle_microseconds = round(float(sequence["max_idle_s"]) * 1e6)
        config.sequence_batching.oldest.max_candidate_sequences = int(sequence["max_sequences"])
        config.sequence_batching.oldest.max_queue_delay_microseconds = int(details.get("max_delay_us", 0))
    elif signature.batched:
        _batching(config.dynamic_batching, details)
    return config


def as_json(config: Any) -> bytes:
    """Return the body of GET v2/models/M/config."""
    return orjson.dumps(to_plain(config))


def as_message(config: Any) -> bytes:
    """Return a ModelConfigResponse."""
    return bytes(ModelConfigResponse(config=config).SerializeToString())


def _batching(batching: Any, details: Mapping[str, Any]) -> None:
    batching.SetInParent()
    batching.max_queue_delay_microseconds = int(details.get("max_delay_us", 0))
    batching.priority_levels = PRIORITY_LEVELS
    batching.default_priority_level = DEFAULT_PRIORITY
    queue = batching.default_queue_policy
    queue.timeout_action = queue.REJECT
    queue.allow_timeout_override = True
    queue.default_timeout_microseconds = int(details.get("timeout_us", 0))
    queue.max_queue_size = int(details.get("max_queue_requests", 0))


def _data_type(dtype: DType) -> str:
    return "TYPE_STRING" if dtype is DType.BYTES else f"TYPE_{dtype.label}"
