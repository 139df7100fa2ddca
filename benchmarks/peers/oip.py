"""The binary form of an infer request, as plainly as someone would write it by hand: one FP32 input x, one output y."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import orjson

Array = npt.NDArray[np.float32]


def decode(body: bytes, header_length: int) -> Array:
    head = orjson.loads(body[:header_length])
    return np.frombuffer(body, np.float32, offset=header_length).reshape(head["inputs"][0]["shape"])


def encode(model: str, y: Array) -> tuple[bytes, dict[str, str]]:
    """The answer's body and its headers."""
    output = {"name": "y", "datatype": "FP32", "shape": list(y.shape), "parameters": {"binary_data_size": y.nbytes}}
    head = orjson.dumps({"model_name": model, "model_version": "1", "outputs": [output]})
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return head + y.tobytes(), headers
