"""Signatures and requests that the protocol tests share."""

from __future__ import annotations

import json
from typing import Any

from serving.inference import InferRequest, InferResponse, Layout, TensorLayout
from serving.protocol.grpc import GrpcCodec
from serving.protocol.grpc_head import Splitter
from serving.protocol.rest import RestCodec
from serving.protocol.schema import ModelInferRequest
from serving.tensor import DType, Signature, TensorSpec

SIMPLE = Signature(
    (TensorSpec("INPUT0", DType.INT32, (16,)), TensorSpec("INPUT1", DType.INT32, (16,))),
    (TensorSpec("OUTPUT0", DType.INT32, (16,)), TensorSpec("OUTPUT1", DType.INT32, (16,))),
    8,
)
OPTIONAL = Signature(
    (*(TensorSpec(f"INPUT{i}", DType.FP32, (2,)) for i in range(3)), TensorSpec("EXTRA", DType.FP32, (2,), optional=True)),
    (TensorSpec("OUTPUT0", DType.FP32, (2,)),),
)
STRINGS = Signature((TensorSpec("INPUT0", DType.BYTES, (-1,)),), (TensorSpec("OUTPUT0", DType.BYTES, (-1,)),))
ROWS = bytes(64)


def signature(dtype: DType, shape: tuple[int, ...] = (-1,), max_batch_size: int = 0) -> Signature:
    """One input x, one output y."""
    return Signature((TensorSpec("x", dtype, shape),), (TensorSpec("y", dtype, shape),), max_batch_size)


def tensor(name: str = "INPUT0", datatype: str = "INT32", shape: Any = (1, 16), size: Any = 64, **more: Any) -> dict[str, Any]:
    """An input of a REST request; binary unless size is None."""
    parameters = {} if size is None else {"parameters": {"binary_data_size": size}}
    return {"name": name, "datatype": datatype, "shape": list(shape) if isinstance(shape, tuple) else shape, **parameters, **more}


def body(document: Any, tail: bytes = b"") -> tuple[bytes, int]:
    """A body and its header length."""
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    return head + tail, len(head)


def message(*inputs: dict[str, Any], raws: list[bytes] | None = None, **fields: Any) -> Any:
    """A ModelInferRequest; each input a dict of the fields of InferInputTensor."""
    built = ModelInferRequest(model_name="simple", **fields)
    for item in inputs:
        built.inputs.add(**item)
    built.raw_input_contents.extend(raws or [])
    return built


def declared(name: str = "INPUT0", datatype: str = "INT32", shape: tuple[int, ...] = (1, 16), **contents: Any) -> dict[str, Any]:
    """An input of a gRPC request."""
    return {"name": name, "datatype": datatype, "shape": shape, **({"contents": contents} if contents else {})}


def decode_rest(signature: Signature, data: bytes, header_length: int | None, model: str = "simple") -> InferRequest:
    return RestCodec(model, "1", signature).decode(data, header_length)[0]


def decode_grpc(signature: Signature, data: bytes, model: str = "simple") -> InferRequest:
    return GrpcCodec(model, "1", signature).decode(Splitter().split(memoryview(data)))[0]


def payload(request: InferRequest) -> bytes:
    return b"".join(bytes(p) for p in request.payload)


def response(*tensors: tuple[str, DType, tuple[int, ...], bytes], **fields: Any) -> InferResponse:
    """An answer with these tensors."""
    layout = Layout(tuple(TensorLayout(n, d, s, len(b)) for n, d, s, b in tensors), **fields)
    return InferResponse("simple", "1", layout, b"".join(b for _, _, _, b in tensors))
