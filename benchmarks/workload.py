"""Workload: one model's request in the forms that the protocols want, and the check that an answer is right."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import orjson
import torch
from tritonclient.grpc import service_pb2

from benchmarks.models.echo import Echo
from benchmarks.models.mlp import Mlp
from benchmarks.models.resnet import ResNet

Array = npt.NDArray[np.float32]
INFER = "/inference.GRPCInferenceService/ModelInfer"


class WrongAnswer(Exception):
    """A server answered, but not what the model says."""


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
    def grpc_body(self) -> bytes:
        return struct.pack(">BI", 0, len(self.grpc_message)) + self.grpc_message

    def check_rest(self, address: str) -> None:
        """One prediction over REST; raises WrongAnswer or httpx.HTTPError."""
        headers = {**self.rest_headers, "accept-encoding": "identity"}
        answer = httpx.post(f"http://{address}{self.path}", content=self.rest_body, headers=headers, timeout=10, trust_env=False)
        if answer.status_code != 200:
            raise WrongAnswer(f"{self.model} over REST: {answer.status_code} {answer.text[:300]}")
        head = int(answer.headers["inference-header-content-length"])
        output = orjson.loads(answer.content[:head])["outputs"][0]
        self._compare(output["name"], output["shape"], answer.content[head:])

    def check_grpc(self, address: str) -> int:
        """One prediction over gRPC; returns the bytes of the answer with its prefix. Raises WrongAnswer or grpc.RpcError."""
        with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            call = channel.unary_unary(INFER)
            raw = call(self.grpc_message, timeout=10)
        answer = service_pb2.ModelInferResponse.FromString(raw)
        self._compare(answer.outputs[0].name, list(answer.outputs[0].shape), answer.raw_output_contents[0])
        return len(raw) + 5

    def _compare(self, name: str, shape: list[int], data: bytes) -> None:
        if name != "y" or shape != list(self.y.shape):
            raise WrongAnswer(f"{self.model} answered {name} {shape}, not y {list(self.y.shape)}")
        got = np.frombuffer(data, np.float32).reshape(self.y.shape)
        if not np.allclose(got, self.y, rtol=1e-4, atol=1e-5):
            raise WrongAnswer(f"{self.model} answered other numbers: {got.ravel()[:5]} for {self.y.ravel()[:5]}")


ECHO = Workload("echo", Echo, (16,))
MLP = Workload("mlp", Mlp, (64,))
RESNET = Workload("resnet", ResNet, (3, 224, 224))
ECHO_IMAGE = Workload("echo_image", Echo, (3, 224, 224))
WORKLOADS = {w.model: w for w in (ECHO, MLP, RESNET)}
"""What every peer serves."""
