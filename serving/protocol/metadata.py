"""JSON bodies of the health and metadata calls, and texts that clients compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from serving.tensor import Signature, TensorSpec

EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "sequence",
    "statistics",
    "trace",
)
"""Extensions of the protocol that this server has: clients switch features on by this list."""

SHARED_MEMORY: Final = ("system_shared_memory",)
"""Where clients may have tensors in shared memory."""

NOT_FOUND: Final = "Not Found"
METHOD_NOT_ALLOWED: Final = "Method Not Allowed"
SERVER_NOT_READY: Final = "Server not ready"
SERVER_STOPPING: Final = "Server is stopping, scheduler for model has stopped accepting new inference requests"
MODEL_NOT_READY: Final = "Model version not ready"
QUEUE_FULL: Final = "Exceeds maximum queue size"
QUEUE_TIMEOUT: Final = "Request timeout expired"
DEADLINE_EXCEEDED: Final = "Deadline Exceeded"


def not_at_ready_state(model: str, version: str) -> str:
    """Return the text for an infer call to a version that is loading or gone for the moment."""
    return f"Request for unknown model: '{model}' version {version} is not at ready state"


def live(value: bool) -> bytes:
    """Return the body of GET v2/health/live."""
    return b'{"live":true}' if value else b'{"live":false}'


def ready(value: bool) -> bytes:
    """Return the body of GET v2/health/ready."""
    return b'{"ready":true}' if value else b'{"ready":false}'


def model_ready(model: str, value: bool) -> bytes:
    """Return the body of GET v2/models/M/ready."""
    return orjson.dumps({"name": model, "ready": value})


def server(name: str, version: str, extensions: Sequence[str] = EXTENSIONS) -> bytes:
    """Return the body of GET v2."""
    return orjson.dumps({"name": name, "version": version, "extensions": extensions})


def model(name: str, versions: Sequence[str], platform: str, signature: Signature) -> bytes:
    """Return the body of GET v2/models/M: shapes as clients see them, with a leading -1 where the model takes batches."""

    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": s.name, "datatype": s.dtype.label, "shape": signature.wire_shape(s)} for s in specs]

    return orjson.dumps(
        {
            "name": name,
            "versions": versions,
            "platform": platform,
            "inputs": tensors(signature.inputs),
            "outputs": tensors(signature.outputs),
        }
    )
