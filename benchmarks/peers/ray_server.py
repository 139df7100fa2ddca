"""The Ray Serve side of `ray_serve.py`, as Ray's documentation would write it: a Starlette handler, a gRPC method, `@serve.batch`."""

from __future__ import annotations

import signal
import sys
from typing import Any

import numpy as np
import ray
import torch
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation, gRPCOptions
from starlette.requests import Request
from starlette.responses import Response
from tritonclient.grpc import service_pb2

from benchmarks.peers import oip
from benchmarks.workload import WORKLOADS

_SERVICER = "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"


@serve.deployment(max_ongoing_requests=256)
class Predictor:
    def __init__(self, model: str) -> None:
        torch.set_num_threads(1)
        self.name = model
        self.model = WORKLOADS[model].cls().eval()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0)
    async def predict(self, inputs: list[oip.Array]) -> list[oip.Array]:
        with torch.inference_mode():
            y = self.model(torch.from_numpy(np.concatenate(inputs))).numpy()
        return list(np.split(y, np.cumsum([len(x) for x in inputs])[:-1]))

    async def __call__(self, request: Request) -> Response:
        x = oip.decode(await request.body(), int(request.headers["inference-header-content-length"]))
        body, headers = oip.encode(self.name, await self.predict(x))
        return Response(body, headers=headers)

    async def ModelInfer(self, request: Any) -> Any:
        x = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tuple(request.inputs[0].shape))
        y = await self.predict(x)
        answer = service_pb2.ModelInferResponse(model_name=self.name, model_version="1")
        output = answer.outputs.add(name="y", datatype="FP32")
        output.shape.extend(y.shape)
        answer.raw_output_contents.append(y.tobytes())
        return answer


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Empty:
    async def __call__(self) -> None:
        return None


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    directory, kind, *rest = sys.argv[1:]
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, _temp_dir=directory)
    try:
        if kind == "model":
            model, http_port, grpc_port = rest
            serve.start(
                http_options=HTTPOptions(host="127.0.0.1", port=int(http_port)),
                grpc_options=gRPCOptions(port=int(grpc_port), grpc_servicer_functions=[_SERVICER]),
            )
            serve.run(Predictor.bind(model), name="default")  # type: ignore[attr-defined]
        else:
            serve.start(proxy_location=ProxyLocation.Disabled)
            empty = Empty.options(num_replicas=int(rest[0]))  # type: ignore[attr-defined]
            serve.run(empty.bind(), name="default", route_prefix=None)
        print("serving", flush=True)
        signal.pause()
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


if __name__ == "__main__":
    main()
