"""Workload: one model's request in the forms that the protocols want, and what the model answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import grpc
import numpy as np
import numpy.typing as npt
import orjson
import torch
from tritonclient.grpc import service_pb2

from benchmarks.ask import Ask, WrongAnswer
from benchmarks.models.echo import Echo
from benchmarks.models.mlp import Mlp
from benchmarks.models.resnet import ResNet
from serving.bench.answers import AnswerCheck, Expected
from serving.bench.request import GRPC_INFER, grpc_body
from serving.tensor import DType

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Workload:
    """A model by name, its class, and the shape of one row."""

    model: str
    cls: type[torch.nn.Module]
    row: tuple[int, ...]

    @cached_property
    def x(self) -> Array:
        return np.random.default_rng(5).random((1, *self.row), dtype=np.float32)

    @cached_property
    def y(self) -> Array:
        """The model's own answer."""
        with torch.inference_mode():
            answer: Array = self.cls().eval()(torch.from_numpy(self.x)).numpy()
        return answer

    @property
    def path(self) -> str:
        return f"/v2/models/{self.model}/infer"

    @cached_property
    def _rest(self) -> tuple[bytes, int]:
        raw = self.x.tobytes()
        head = orjson.dumps(
            {
                "inputs": [{"name": "x", "datatype": "FP32", "shape": list(self.x.shape), "parameters": {"binary_data_size": len(raw)}}],
                "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
            }
        )
        return head + raw, len(head)

    @property
    def rest_body(self) -> bytes:
        return self._rest[0]

    @property
    def rest_headers(self) -> dict[str, str]:
        return {"content-type": "application/octet-stream", "inference-header-content-length": str(self._rest[1])}

    @cached_property
    def grpc_message(self) -> bytes:
        request = service_pb2.ModelInferRequest(model_name=self.model)
        x = request.inputs.add(name="x", datatype="FP32")
        x.shape.extend(self.x.shape)
        request.outputs.add(name="y")
        request.raw_input_contents.append(self.x.tobytes())
        return bytes(request.SerializeToString())

    @property
    def expected(self) -> tuple[Expected, ...]:
        return (Expected("y", DType.FP32, self.y.shape, self.y),)

    def rest(self) -> Ask:
        """The protocol's binary REST."""
        return Ask("rest", self.model, self.path, self.rest_body, AnswerCheck("rest", self.expected), self.rest_headers)

    def grpc(self, address: str) -> Ask:
        """A unary call, tried once. Raises WrongAnswer or grpc.RpcError."""
        check = AnswerCheck("grpc", self.expected)
        with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            answer = grpc_body(channel.unary_unary(GRPC_INFER)(self.grpc_message, timeout=10))
        if wrong := check(answer):
            raise WrongAnswer(f"{self.model} over gRPC: {wrong}")
        # Ray Serve takes the application from the header.
        return Ask("grpc", self.model, GRPC_INFER, grpc_body(self.grpc_message), check, {"application": "default"}, len(answer))


ECHO = Workload("echo", Echo, (16,))
MLP = Workload("mlp", Mlp, (64,))
RESNET = Workload("resnet", ResNet, (3, 224, 224))
ECHO_IMAGE = Workload("echo_image", Echo, (3, 224, 224))
WORKLOADS = {w.model: w for w in (ECHO, MLP, RESNET)}
"""What every peer serves."""
