"""Inputs to Requests: REST with binary tensors, REST with JSON, gRPC. What is sent is made once, here, and then sent over and over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import orjson

from serving.bench.answers import AnswerCheck, Expected
from serving.bench.inputs import Sample, Tensor
from serving.bench.request import GRPC_INFER, Request, grpc_body
from serving.bench.target import ModelInfo, ServerAddress
from serving.protocol import json_tensor
from serving.protocol.protobuf import field
from serving.protocol.schema import ModelInferRequest
from serving.tensor import DType, encode_bytes_tensor

Encoding = Literal["binary", "json"]
"""How tensors travel over REST; gRPC has binary ones only."""

_RAW_INPUT_CONTENTS = 7
Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of a model.

    name      its row in the report
    headers   given by the user, such as an authorization
    outputs   asked for by name; (): whatever the server gives
    """

    info: ModelInfo
    name: str
    encoding: Encoding = "binary"
    headers: tuple[Header, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """One request to send over and over, whatever the driver: its inputs, and what its answer should hold."""

    order: Order
    sample: Sample
    expected: tuple[Expected, ...]
    weight: float

    @property
    def name(self) -> str:
        return self.order.name


def request(address: ServerAddress, work: Work) -> Request:
    """Return the bytes of one request, with the check of its answer. Raises InvalidArgument for what the encoding cannot say."""
    path, headers, body = encode(address, work.order, work.sample)
    check = AnswerCheck(address.protocol, work.expected)
    return Request(work.name, path, headers + work.order.headers, body, work.weight, check)


def encode(address: ServerAddress, order: Order, sample: Sample) -> tuple[str, tuple[Header, ...], bytes]:
    """Return path, headers and body of one request."""
    if address.protocol == "grpc":
        return GRPC_INFER, (), grpc_body(infer_message(order, sample))
    path = infer_path(address.prefix, order.info)
    if order.encoding == "json":
        return path, (("content-type", "application/json"),), _json_body(order, sample)
    head, raws = _binary_parts(order, sample)
    headers = (("content-type", "application/octet-stream"), ("inference-header-content-length", str(len(head))))
    return path, headers, b"".join((head, *raws))


def infer_path(prefix: str, info: ModelInfo) -> str:
    """Return the path of predictions over REST."""
    return f"{prefix}/v2/models/{quote(info.name)}{f'/versions/{quote(info.version)}' if info.version else ''}/infer"


def wire_bytes(tensor: Tensor) -> bytes:
    """Return a tensor as the protocol has it: little-endian, row by row; BYTES with their lengths."""
    if tensor.dtype is DType.BYTES:
        return encode_bytes_tensor(tensor.array)
    return np.ascontiguousarray(tensor.array).tobytes()


def infer_message(order: Order, sample: Sample, parameters: dict[str, bool] | None = None) -> bytes:
    """Return a ModelInferRequest with raw tensors."""
    message = ModelInferRequest(model_name=order.info.name, model_version=order.info.version)
    for tensor in sample:
        message.inputs.add(name=tensor.name, datatype=tensor.dtype.label, shape=tensor.array.shape)
    for name in order.outputs:
        message.outputs.add(name=name)
    for key, value in (parameters or {}).items():
        message.parameters[key].bool_param = value
    return b"".join((message.SerializeToString(), *(field(_RAW_INPUT_CONTENTS, wire_bytes(t)) for t in sample)))


def _binary_parts(order: Order, sample: Sample) -> tuple[bytes, list[bytes]]:
    """Return the JSON and the tensors that stand behind it."""
    raws = [wire_bytes(tensor) for tensor in sample]
    inputs = [_described(t) | {"parameters": {"binary_data_size": len(raw)}} for t, raw in zip(sample, raws, strict=True)]
    body: dict[str, Any] = {"inputs": inputs}
    if order.outputs:
        body["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in order.outputs]
    else:
        body["parameters"] = {"binary_data_output": True}
    return orjson.dumps(body), raws


def _json_body(order: Order, sample: Sample) -> bytes:
    inputs = []
    for tensor in sample:
        if tensor.dtype.label in json_tensor.BINARY_ONLY:
            raise json_tensor.binary_only_input(tensor.dtype.label, tensor.name)
        data = json_tensor.encode(tensor.dtype, wire_bytes(tensor), tensor.name)
        # The list is JSON already, with literals such as NaN that orjson would not write.
        inputs.append(orjson.dumps(_described(tensor))[:-1] + b',"data":' + data + b"}")
    outputs = orjson.dumps([{"name": name, "parameters": {"binary_data": False}} for name in order.outputs])
    return b'{"inputs":[' + b",".join(inputs) + b"]" + (b',"outputs":' + outputs if order.outputs else b"") + b"}"


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.dtype.label, "shape": list(tensor.array.shape)}
